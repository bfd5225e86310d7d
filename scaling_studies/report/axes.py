"""Axes and lines that the panels of several reports share: shares, accuracies, named ends of lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from qrt_tn.studies.report.style import METHODS, MethodStyle, method_style, plain

SHARE_TICKS = (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # in percent
LINE_HEIGHT = 11.8  # points that a name takes


@dataclass(frozen=True)
class Line:
    """One line of a panel with the range it lies in.

    Attributes:
        name: what is written at its end.
        style: its colour, dashes and marker.
        x: shape (n,).
        low: shape (n,).
        middle: shape (n,).
        high: shape (n,).
        dot: one place to mark, such as where training is stopped.
    """

    name: str
    style: MethodStyle
    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    dot: tuple[float, float] | None = None


def method_line(method: str, x: Any, low: Any, middle: Any, high: Any) -> Line:
    """A line in the style and with the name of a method."""
    style = method_style(method)
    x, low, middle, high = (np.asarray(part, dtype=np.float64) for part in (x, low, middle, high))
    return Line(style.label, style, x, low, middle, high)


def draw(axes: Axes, lines: Sequence[Line], *, markers: bool = True) -> None:
    """Draw each line over a band from its lowest to its highest value."""
    for line in lines:
        style = line.style
        if (line.high > line.low).any():
            axes.fill_between(line.x, line.low, line.high, color=style.colour, alpha=0.13, linewidth=0)
        axes.plot(
            line.x,
            line.middle,
            color=style.colour,
            linestyle=style.dashes,
            linewidth=style.width,
            marker=style.marker if markers else "",
            markersize=3.4,
            zorder=4 if style.width > 2 else 3,
        )
        if line.dot is not None:
            axes.plot(*([x] for x in line.dot), "o", color=style.colour, markersize=5.5, zorder=5)


def share_axis(axes: Axes, shares: np.ndarray) -> None:
    """Share of weights left in percent: logarithmic, and falling to the right as in the paper."""
    smallest = float(shares.min())
    axes.set_xscale("log")
    axes.set_xlim(1.12, min(smallest, 0.6) / 1.12)
    axes.xaxis.set_major_locator(FixedLocator([tick / 100 for tick in SHARE_TICKS]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("% of weights left")


def percent_axis(axes: Axes, lines: Sequence[Line], reference: float | None) -> None:
    """Accuracy in percent, over the range in which the networks compare.

    Past some sparsity accuracies fall to chance. An axis that held all of that would flatten the part
    that matters, so it reaches below `reference` by six times what is gained above it, at least by two
    points, and lines leave it downwards.

    Args:
        axes: with lines drawn.
        lines: what was drawn.
        reference: accuracy of the dense network, if known.
    """
    highest = max(float(line.high.max()) for line in lines)
    lowest = min(float(line.middle.min()) for line in lines)
    top = highest if reference is None else max(highest, reference)
    bottom = lowest
    if reference is not None:
        bottom = max(lowest, min(reference - max(0.02, 6 * (top - reference)), _best_of_worst(lines)))
    room = max(0.07 * (top - bottom), 0.001)
    axes.set_ylim(max(bottom - room, -0.02), min(top + room, 1.0 + room / 2))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}"))


def _best_of_worst(lines: Sequence[Line]) -> float:
    """The best accuracy of the worst line: no line is to stay off the panel altogether."""
    return min(float(line.middle.max()) for line in lines)


def error_axis(axes: Axes, most: float) -> None:
    """For test errors: logarithmic and upside down, named by accuracies in percent.

    Args:
        axes: with errors, 1 - accuracy, drawn.
        most: the largest error to show.
    """
    axes.set_yscale("log")
    least, most = min(*axes.get_ylim(), most), most * 1.05
    axes.set_ylim(most, least)
    ticks = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
    axes.yaxis.set_major_locator(FixedLocator([1 - tick for tick in ticks if least <= 1 - tick <= most]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * (1 - y):.4g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def log_axis(axis: Any, name: Callable[[float], str] = plain) -> None:
    """Plain numbers on a logarithmic axis: at powers of ten, and between them where those are few.

    Args:
        axis: the x or y axis of a panel, its limits set.
        name: how a number is written.
    """
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    subs = (
        (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.6 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    )
    axis.set_major_locator(LogLocator(subs=subs, numticks=7 * len(subs)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: name(float(value))))
    axis.set_minor_locator(NullLocator())


def thousands(axes: Axes) -> None:
    """Iterations on the horizontal axis: 500, 2K, 50K."""
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousand(x)))
    axes.set_xlabel("iterations")


def thousand(value: float) -> str:
    """A number of iterations in short: 0, 500, 2K, 12.5K."""
    return f"{value / 1000:.4g}K" if value >= 1000 else f"{value:.4g}"


def name_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Name each line at its right end, the names moved apart as little as keeps them from touching.

    With the names in order, least squares under y_{i+1} - y_i >= gap is isotonic regression of y_i - i gap.
    A line that leaves the panel downwards is named at the bottom, and only lines that end near the right
    are joined to their names.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for line in lines:
        # to the right is what the axes draw to the right, whichever way numbers run
        at = to_axes.transform(np.column_stack([line.x, line.middle]))
        end = at[int(np.argmax(at[:, 0]))]
        joined = 0 <= end[1] <= 1 and end[0] > 0.85
        ends.append((float(np.clip(end[1], 0, 1)), float(end[0]), joined, line))
    ends.sort(key=lambda entry: (entry[0], entry[3].name))
    if not ends:
        return
    height = axes.get_position().height * float(axes.get_figure(root=True).get_figheight())  # type: ignore[union-attr]
    tall = np.array([end[3].name.count("\n") + 1 for end in ends])  # lines of each name
    steps = LINE_HEIGHT / (72 * height) * (np.cumsum(tall) - (tall + tall[0]) / 2)
    apart = np.asarray(isotonic_regression(np.array([end[0] for end in ends]) - steps).x)
    placed = np.clip(apart, 0.01, max(0.01, 0.985 - float(steps[-1]))) + steps
    for (y, x, joined, line), level in zip(ends, placed, strict=True):
        arrow = {"arrowstyle": "-", "color": line.style.colour, "lw": 0.6, "alpha": 0.55}
        arrow["relpos"] = (0, 0.5)  # from the name's left end, not through it
        axes.annotate(
            line.name,
            xy=(x, y),
            xycoords="axes fraction",
            xytext=(1.045, float(level)),
            textcoords="axes fraction",
            color=line.style.colour,
            va="center",
            fontsize=8.8,
            fontweight="bold" if line.style.width > 2 else "normal",
            arrowprops=arrow | {"shrinkA": 0, "shrinkB": 3} if joined else None,
            annotation_clip=False,
        )


def form_style(form: str) -> MethodStyle:
    """How a form of a pruned network is drawn: in colours that no method beside it has."""
    place = FORMS.get(form)
    return MethodStyle(form, *PLAIN[1:3]) if place is None else _renamed(form, METHODS[place])


PLAIN = ("", "#656c76", "#9aa3ae")
FORMS = {
    "dense": "dense",
    "dense with mask": "uniform",
    "compacted": "random-features",
    "BCOO": "qrt",
    "BCSR": "qrt-unsmoothed",
    # files
    "dense, gzip": "uniform",
    "mask and values": "random-features",
    "mask and values, gzip": "filter",
    "COO": "qrt",
    "CSR": "qrt-unsmoothed",
}


def _renamed(label: str, style: MethodStyle) -> MethodStyle:
    return MethodStyle(label, style.colour, style.dark, style.dashes, style.marker, 1.5)
