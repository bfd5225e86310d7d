"""Scores against node count: a line of means a method, a band over its seeds, a name at the line's end."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from qrt_tn.studies.report.axes import draw, method_line, name_lines
from qrt_tn.studies.report.folder import Band, TicketFolder
from qrt_tn.studies.report.style import MUTED, panel, training_name

TICKS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999, 0.99999)


def scores(
    results: TicketFolder, bands: dict[str, Band], training: str, levels: dict[str, float] | None = None
) -> Figure:
    """Scores against node count, the axis logarithmic in the error.

    Args:
        results: the run, for its test points and classes.
        bands: errors by method.
        training: how the networks were trained, for the title.
        levels: errors of methods without nodes.
    """
    figure, axes = panel(right=0.69)
    # An error of 0 has no place on a logarithmic axis: it is drawn at half a test point.
    floor = (
        0.5 / max(int(results.manifest["dataset"].get("test") or 500), 1) if results.classification else 1e-6
    )
    lines = [
        method_line(method, band.nodes, *(_height(part, floor) for part in (band.high, band.mean, band.low)))
        for method, band in bands.items()
    ]
    nodes = np.unique(np.concatenate([band.nodes for band in bands.values()]))
    flat = []
    for method, error in (levels or {}).items():
        level = np.full(2, _height(np.array(error), floor))
        flat.append(method_line(method, nodes[[0, -1]], level, level, level))
    draw(axes, lines)
    draw(axes, flat, markers=False)
    _node_axis(axes, nodes)
    _score_axis(axes)
    chance = results.manifest["dataset"].get("chance")
    if chance is not None:
        axes.axhline(
            float(_height(np.array(1 - chance), floor)),
            color=MUTED,
            linewidth=0.8,
            linestyle=(0, (1, 2)),
            zorder=1,
        )
    what = "accuracy" if results.classification else "R²"
    axes.set_title(f"Test {what}, {training_name(training)}")
    name_lines(axes, [*lines, *flat])
    return figure


def _height(errors: np.ndarray, floor: float) -> np.ndarray:
    return -np.log10(np.clip(errors, floor, 2.0))


def _node_axis(axes: Axes, nodes: np.ndarray) -> None:
    """A base-2 logarithmic axis that names the node counts that were run, at most nine of them."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(nodes[:: -(-len(nodes) // 9)].tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("hidden nodes")
    axes.margins(x=0.04)


def _score_axis(axes: Axes) -> None:
    low, high = axes.get_ylim()
    # a few bad R^2 take no room from good ones
    bottom = max(low, -0.02) if high > 0.3 else low
    ticks = [t for t in TICKS if bottom <= -np.log10(1 - t) <= high]
    if len(ticks) < 2:  # a range within one step: round numbers from inside it
        digits = 2 if bottom > 2 else 3  # of the error, so that labels stay short
        ticks = [1 - float(f"{10**-y:.{digits}g}") for y in np.linspace(bottom, high, 5)[1:-1]]
    axes.yaxis.set_major_locator(FixedLocator([float(-np.log10(1 - t)) for t in ticks]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{1 - 10**-y:.6g}".replace("-", "−")))
    axes.set_ylim(bottom, high)
