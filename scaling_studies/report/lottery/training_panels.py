"""Test accuracy along training at several levels of pruning, as the paper's third figure has it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qrt_tn.studies.report.axes import Line, draw, name_lines, thousands
from qrt_tn.studies.report.lottery.folder import LotteryFolder
from qrt_tn.studies.report.lottery.series import curve
from qrt_tn.studies.report.style import METHODS, MethodStyle, panel

# Shares of weights that the paper's figure shows, and those whose tickets it sets beside fresh weights.
SHOWN = (0.513, 0.211, 0.07, 0.029)
BESIDE_FRESH = (0.513, 0.211)
# Middle tones, legible on light and dark alike, from few rounds of pruning to many.
TONES = ("#b87410", "#d2552f", "#c8397d", "#8a5bd6")


def nearest_levels(results: LotteryFolder, shares: Sequence[float]) -> list[int]:
    """The levels with curves that are nearest to some shares of weights, each once, ascending."""
    found = {results.level_near(share) for share in shares}
    measured = {int(level) for level in results.curves["level"][results.curves["method"] == "imp"]}
    return sorted(level for level in found if level in measured and level is not None)


def tickets(results: LotteryFolder) -> Figure | None:
    """The dense network and tickets of several levels along training."""
    lines = [_line(results, "imp", level, tone) for level, tone in _toned(results, SHOWN)]
    return _panel(results, [_line(results, "dense", 0, METHODS["dense"].colour), *lines], "Tickets")


def against_fresh(results: LotteryFolder) -> Figure | None:
    """Tickets of two levels, and beside each the same mask with fresh weights."""
    lines = []
    for level, tone in _toned(results, BESIDE_FRESH):
        fresh = _line(results, "reinit", level, tone)
        if fresh is not None:
            lines += [_line(results, "imp", level, tone), fresh]
    if not lines:
        return None
    dense = _line(results, "dense", 0, METHODS["dense"].colour)
    return _panel(results, [dense, *lines], "Tickets against fresh weights")


def _toned(results: LotteryFolder, shares: Sequence[float]) -> list[tuple[int, str]]:
    """Levels with the tones they have in all panels."""
    tones = dict(zip(nearest_levels(results, SHOWN), TONES, strict=False))
    return [(level, tones[level]) for level in nearest_levels(results, shares) if level in tones]


def _line(results: LotteryFolder, method: str, level: int, tone: str) -> Line | None:
    found = curve(results.curves, method, level, "test_accuracy")
    if found is None:
        return None
    share = f"{100 * results.share(level):.3g} %"
    name = {"dense": "dense", "reinit": f"{share}, fresh"}.get(method, share)
    dashes = METHODS[method].dashes if method != "imp" else "-"
    style = MethodStyle(name, tone, tone, dashes, "", 1.4)
    stop = results.points(method, "early_iteration").get(level)
    dot = None
    if stop is not None:
        dot = (stop.mean, float(np.interp(stop.mean, found.iteration, found.mean)))
    return Line(name, style, found.iteration, found.low, found.mean, found.high, dot)


def _panel(results: LotteryFolder, wanted: Sequence[Line | None], title: str) -> Figure | None:
    lines = [line for line in wanted if line is not None]
    if not any(line.name != "dense" for line in lines):
        return None
    figure, axes = panel(left=0.135, right=0.76)
    end = shown_until(results)
    lines = [_until(line, end) for line in lines]
    draw(axes, lines, markers=False)
    axes.set_xlim(0, end)
    thousands(axes)
    top = max(float(line.high.max()) for line in lines)
    ends = min(float(line.middle[-1]) for line in lines)
    # the first steep rise from chance would flatten all that follows
    bottom = max(min(float(line.middle.min()) for line in lines), ends - 1.5 * max(top - ends, 0.005))
    room = max(0.05 * (top - bottom), 0.001)  # all may be equally right
    axes.set_ylim(bottom if bottom < top else bottom - room, top + room)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}"))
    axes.set_title(f"{title}: test accuracy, %")
    name_lines(axes, lines)
    return figure


def shown_until(results: LotteryFolder) -> float:
    """The last iteration that is drawn: twice the latest mean early stop, if training goes on for longer."""
    levels = nearest_levels(results, SHOWN)
    stops = [results.points(name, "early_iteration") for name in ("dense", "imp", "reinit")]
    latest = max(
        (found[level].mean for found in stops for level in (0, *levels) if level in found), default=0
    )
    iterations = results.curves["iteration"]
    whole = float(iterations.max(initial=1))
    return 2 * latest if 0 < 2 * latest < 0.75 * whole else whole


def _until(line: Line, end: float) -> Line:
    keep = line.x <= end
    keep[0] = True
    parts = {name: getattr(line, name)[keep] for name in ("x", "low", "middle", "high")}
    return replace(line, **parts)
