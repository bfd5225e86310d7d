"""Accuracy against experts pruned, and the criteria ranked by how far they are from random pruning."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qrt_tn.studies.report.axes import Line, draw, name_lines
from qrt_tn.studies.report.html import number
from qrt_tn.studies.report.moe.comparison import ACCURACY, Cell, best_overall
from qrt_tn.studies.report.moe.folder import MoeFolder
from qrt_tn.studies.report.moe.names import CHANGE, MODES, RANDOM, criterion_style
from qrt_tn.studies.report.style import INK, METHODS, MUTED, RULE, panel

_ROW = 0.205  # inches that a criterion takes in a ranking


def against_pruned(results: MoeFolder, group: list[Cell], column: str = ACCURACY) -> Figure:
    """Accuracy against experts pruned in each layer: a line a criterion, medians over the seeds.

    Router change and the best criterion have bands from the smallest to the largest; random has its band
    over seeds and draws, and every draw as a thin line. Lines begin at the unpruned networks, which are
    also the dashed line across; after fine-tuning they begin where something was fine-tuned.

    Args:
        results: the study.
        group: the cells of one router kind and mode.
        column: what to draw, as the cells were made for.
    """
    router, mode = group[0].router, group[0].mode
    whole = list(results.whole(router).values())
    start = (min(whole), float(np.median(whole)), max(whole)) if column == ACCURACY else None
    lines = [*_criteria(group, start), *_random(group, start)]
    figure, axes = panel(left=0.12, right=0.715)
    # as tall as the names beside it need
    figure.set_size_inches(4.4, max(3.4, 1.1 + 0.19 * len(lines)))
    height = float(figure.get_figheight())
    axes.set_position((0.12, 0.5 / height, 0.595, 1 - 0.88 / height))
    _draws(axes, results, group, column)
    draw(axes, lines)
    dense = METHODS["dense"]
    axes.axhline(float(np.median(whole)), color=dense.colour, linestyle=dense.dashes, linewidth=1, zorder=2)
    experts = results.experts(router)
    axes.set_xlabel(
        f"experts pruned of {experts} in each layer" if experts else "experts pruned in each layer"
    )
    axes.set_xlim(0, max(cell.pruned for cell in group) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}"))
    axes.set_title(f"Accuracy, %: {MODES.get(mode, mode)}")
    name_lines(axes, lines)
    return figure


def _criteria(group: list[Cell], start: tuple[float, float, float] | None) -> list[Line]:
    best = best_overall(group)
    lines = []
    for name in dict.fromkeys(name for cell in group for name in cell.accuracies):
        found = [(cell.pruned, cell.accuracies[name]) for cell in group if name in cell.accuracies]
        values = [(sample.low, sample.median, sample.high) for _, sample in found]
        lines.append(_line(name, best, [pruned for pruned, _ in found], values, start))
    return lines


def _random(group: list[Cell], start: tuple[float, float, float] | None) -> list[Line]:
    drawn = [cell for cell in group if cell.draws]
    if not drawn:
        return []
    values = []
    for cell in drawn:
        every = [value for draws in cell.draws for value in draws]
        middle = float(np.median([np.mean(draws) for draws in cell.draws]))
        values.append((min(every), middle, max(every)))
    return [_line(RANDOM, None, [cell.pruned for cell in drawn], values, start)]


def _line(
    name: str,
    best: str | None,
    places: list[int],
    values: list[tuple[float, float, float]],
    start: tuple[float, float, float] | None,
) -> Line:
    if start is not None:
        places, values = [0, *places], [start, *values]
    low, middle, high = np.array(values).T
    if name not in (CHANGE, RANDOM, best):
        low = high = middle  # fifteen bands would hide each other
    style = criterion_style(name, best)
    return Line(style.label, style, np.array(places, dtype=float), low, middle, high)


def _draws(axes: Axes, results: MoeFolder, group: list[Cell], column: str) -> None:
    """Every random draw of every seed as a thin line."""
    colour = criterion_style(RANDOM).colour
    lines: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for row in results.pruned:
        at = (row["router"], row["mode"], row["criterion"]) == (group[0].router, group[0].mode, RANDOM)
        if at and row["pruned"] and row[column] is not None:
            lines.setdefault((row["seed"], row["draw"]), []).append((row["pruned"], row[column]))
    for (seed, _), found in lines.items():
        start = [(0, results.whole(group[0].router)[seed])] if column == ACCURACY else []
        x, y = zip(*start, *sorted(found), strict=True)
        axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.3, zorder=1.5)


def ranking(cell: Cell) -> Figure | None:
    """Criteria by their median paired difference from random pruning: a dot, a bar over the seeds' range.

    Each seed is a faint tick. The grey band is the range of random's own draws about their mean.

    Args:
        cell: one router kind, mode and number of pruned experts.

    Returns:
        The panel; None where random was not measured.
    """
    ranked = cell.ranked()
    if not ranked:
        return None
    height = 1.0 + _ROW * len(ranked)
    figure = Figure(figsize=(4.4, height))
    axes = figure.add_axes((0.3, 0.52 / height, 0.66, 1 - 0.9 / height))
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.axvspan(*cell.noise, color=criterion_style(RANDOM).colour, alpha=0.14, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.9, zorder=2)
    best = ranked[0][0] if cell.best() else None
    for place, (name, paired) in enumerate(ranked):
        style = criterion_style(name, best)
        axes.plot([paired.low, paired.high], [place, place], color=style.colour, linewidth=1.4, zorder=3)
        if paired.count > 1:
            axes.plot(paired.values, [place] * paired.count, "|", color=style.colour, markersize=5, zorder=3)
        axes.plot([paired.median], [place], "o", color=style.colour, markersize=5, zorder=4)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    labels = [criterion_style(name, best) for name, _ in ranked]
    axes.set_yticks(range(len(ranked)), [style.label for style in labels])
    for tick, (name, _), style in zip(axes.get_yticklabels(), ranked, labels, strict=True):
        tick.set_color(style.colour if style.colour != MUTED else INK)
        tick.set_fontweight("bold" if name in (CHANGE, best) else "normal")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(round(100 * x, 6), signed=True)))
    axes.set_xlabel("points of accuracy above random")
    axes.spines["left"].set_visible(False)
    axes.set_title(f"{cell.pruned} pruned, {100 * cell.ratio:.3g} % of the experts")
    return figure
