"""Scores against node count: a line of medians a method, a band over its seeds, a name at the line's end."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from qrt_tn.studies.report.folder import Band, TicketFolder
from qrt_tn.studies.report.style import INK, MUTED, method_style, panel, plain, training_name

ACCURACY_TICKS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


def scores(results: TicketFolder, bands: dict[str, Band], training: str, column: str) -> Figure:
    """An accuracy (axis logarithmic in the error) or a risk (axis logarithmic) against node count.

    Args:
        results: the run, for its test points and classes.
        bands: what to draw, by method.
        training: how the networks were trained, for the title.
        column: the metrics column that the bands hold.
    """
    figure, axes = panel(right=0.69)
    accuracy = column.endswith("accuracy")
    # An error of 0 has no place on a logarithmic axis: it is drawn at half a test point.
    floor = 0.5 / max(int(results.manifest["dataset"].get("test") or 500), 1)
    ends = []
    for method, band in bands.items():
        style = method_style(method)
        low, middle, high = (
            _height(values, accuracy, floor) for values in (band.low, band.median, band.high)
        )
        if band.seeds > 1:
            axes.fill_between(band.nodes, low, high, color=style.colour, alpha=0.16, linewidth=0)
        axes.plot(
            band.nodes,
            middle,
            color=style.colour,
            linestyle=style.dashes,
            linewidth=style.width,
            marker=style.marker,
            markersize=3.6,
            zorder=4 if style.width > 2 else 3,
        )
        ends.append((float(band.nodes[-1]), float(middle[-1]), method))
    _node_axis(axes, np.unique(np.concatenate([band.nodes for band in bands.values()])))
    (_accuracy_axis if accuracy else _risk_axis)(axes)
    if accuracy and results.class_count:
        chance = float(_height(np.array([1 / results.class_count]), True, floor)[0])
        axes.axhline(chance, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    axes.set_title(f"Test {'accuracy' if accuracy else 'risk'}, {training_name(training)}")
    _name_lines(axes, ends)
    return figure


def gain(results: TicketFolder, band: Band) -> Figure:
    """What the QRT gains over its filter, seed by seed; for risks, what it saves."""
    figure, axes = panel(left=0.14)
    style = method_style("qrt-broad")
    sign = 1 if results.classification else -1
    low, high = sorted((sign * band.low, sign * band.high), key=lambda values: float(values.sum()))
    if band.seeds > 1:
        axes.fill_between(band.nodes, low, high, color=style.colour, alpha=0.16, linewidth=0)
    axes.plot(
        band.nodes, sign * band.median, color=style.colour, linewidth=style.width, marker="o", markersize=3.6
    )
    axes.axhline(0, color=INK, linewidth=0.9)
    _node_axis(axes, band.nodes)
    reach = max(float(np.abs([low, high]).max()), 1e-12)
    axes.set_ylim(min(-0.12 * reach, 1.25 * float(low.min())), max(0.12 * reach, 1.15 * float(high.max())))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+.3g}".replace("-", "−") if y else "0"))
    axes.set_title(
        "Accuracy gained over the filter" if results.classification else "Risk saved over the filter"
    )
    return figure


def _height(values: np.ndarray, accuracy: bool, floor: float) -> np.ndarray:
    return -np.log10(np.maximum(1 - values, floor)) if accuracy else np.log10(np.maximum(values, 1e-12))


def _node_axis(axes: Axes, nodes: np.ndarray) -> None:
    """A base-2 logarithmic axis that names the node counts that were run, at most nine of them."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(nodes[:: -(-len(nodes) // 9)].tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("hidden nodes")
    axes.margins(x=0.04)


def _accuracy_axis(axes: Axes) -> None:
    low, high = axes.get_ylim()
    bottom = max(low, 0.0) if low > 0.3 else -0.02
    ticks = [t for t in ACCURACY_TICKS if bottom <= -np.log10(1 - t) <= high]
    axes.yaxis.set_major_locator(FixedLocator([float(-np.log10(1 - t)) for t in ticks]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{1 - 10**-y:.4g}"))
    axes.set_ylim(bottom, high)


def _risk_axis(axes: Axes) -> None:
    """Ticks at 1, 2, 5 of each decade, thinned where there are many decades."""
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high - low < 2.2 else (1, 3) if high - low < 4 else (1,)
    decades = range(int(np.floor(low)) - 1, int(np.ceil(high)) + 1)
    inside = [s * 10.0**k for k in decades for s in steps if low <= np.log10(s * 10.0**k) <= high]
    if len(inside) < 2:  # a range within one step: round numbers from inside it
        inside = [float(f"{value:.2g}") for value in 10 ** np.linspace(low, high, 5)[1:-1]]
    axes.yaxis.set_major_locator(FixedLocator([float(np.log10(value)) for value in inside]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(10**y)))
    axes.set_ylim(low, high)


def _name_lines(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
    """Name each line at its right end, the names moved apart as little as keeps them from touching.

    With the names in order, least squares under y_{i+1} - y_i >= gap is isotonic regression of y_i - i gap.
    """
    ends = sorted(ends, key=lambda end: end[1])
    low, high = axes.get_ylim()
    # in points: the axes are 0.745 of the figure's height, and a line of text takes 11.8
    gap = 11.8 / (0.745 * float(axes.get_figure(root=True).get_figheight()) * 72)  # type: ignore[union-attr]
    steps = gap * np.arange(len(ends))
    wanted = np.array([(y - low) / (high - low) for _, y, _ in ends])
    placed = np.asarray(isotonic_regression(wanted - steps).x) + steps
    placed += max(0.0, 0.01 - float(placed[0]))
    placed -= max(0.0, float(placed[-1]) - 0.985)
    for (x, y, method), level in zip(ends, placed, strict=True):
        style = method_style(method)
        axes.annotate(
            style.label,
            xy=(x, y),
            xytext=(1.045, float(level)),
            textcoords="axes fraction",
            color=style.colour,
            va="center",
            fontsize=8.8,
            fontweight="bold" if style.width > 2 else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": style.colour,
                "lw": 0.6,
                "alpha": 0.55,
                "shrinkA": 0,
                "shrinkB": 3,
            },
            annotation_clip=False,
        )
