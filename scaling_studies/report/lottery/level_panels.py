"""Scores against the share of weights left: when training stops, how accurate it is then, and at the end."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qrt_tn.studies.report.axes import (
    Line,
    draw,
    log_axis,
    method_line,
    name_lines,
    percent_axis,
    share_axis,
    thousand,
)
from qrt_tn.studies.report.lottery.folder import LotteryFolder
from qrt_tn.studies.report.style import METHODS, panel

TITLES = {
    "early_iteration": "Iteration of early stop",
    "early_test_accuracy": "Test accuracy at early stop, %",
    "final_test_accuracy": "Test accuracy at the end, %",
    "final_train_loss": "Training loss at the end",
}


def levels(results: LotteryFolder, methods: Sequence[str], column: str) -> Figure | None:
    """A column against the share of weights left: a line of means a method, a band from least to most.

    The dense network is a dashed line across the panel, and the beginning of the tickets' line.

    Args:
        results: the run.
        methods: what to draw, where it was run.
        column: one of TITLES.

    Returns:
        The panel; None where only the dense network was measured, or nothing.
    """
    lines = []
    for method in methods:
        found = list(results.points(method, column).values())
        if found:
            parts = ([getattr(point, name) for point in found] for name in ("low", "mean", "high"))
            lines.append(method_line(method, [point.remaining for point in found], *parts))
    if not lines:
        return None
    figure, axes = panel(left=0.135, right=0.69)
    draw(axes, lines)
    share_axis(axes, np.concatenate([line.x for line in lines]))
    dense = results.points("dense", column).get(0)
    across = [_across(axes, dense.low, dense.mean, dense.high)] if dense else []
    if column.endswith("accuracy"):
        percent_axis(axes, [*lines, *across], dense.mean if dense else None)
    elif column == "final_train_loss" and min(float(line.middle.min()) for line in lines) > 0:
        axes.set_yscale("log")
        log_axis(axes.yaxis)
    else:
        axes.set_ylim(0, axes.get_ylim()[1])
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: thousand(y)))
    axes.set_title(TITLES[column])
    name_lines(axes, [*lines, *across])
    return figure


def _across(axes: Axes, low: float, mean: float, high: float) -> Line:
    """The dense network, from one side of the panel to the other."""
    style = METHODS["dense"]
    axes.axhline(mean, color=style.colour, linestyle=style.dashes, linewidth=1.1, zorder=2)
    if high > low:
        axes.axhspan(low, high, color=style.colour, alpha=0.07, linewidth=0)
    return method_line("dense", [axes.get_xlim()[1]], [low], [mean], [high])
