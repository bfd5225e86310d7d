"""The comparison as tables and as a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from qrt_tn.studies.benchmarks.sheets import Sheet, grouped, markdown, seconds, spread
from qrt_tn.studies.report.style import FIGURE_SETTINGS, INK, MUTED, PAPER, RULE, plain

Rows = Sequence[Mapping[str, Any]]


# colour and marker of every contender, in the order of the legend; colours are Okabe and Ito's, darkened
LOOKS = {
    "cotengra": ("#b84a00", "s"),
    "opt_einsum": ("#00795a", "^"),
    "cuTensorNet": ("#a84484", "P"),
    "quimb, a loop": ("#767676", "x"),
    "cotengra, a loop": ("#b84a00", "D"),
    "cotengra, as long": ("#b84a00", "s"),
    "opt_einsum auto": ("#00795a", "^"),
    "cotengra greedy": ("#b84a00", "v"),
    "reconfigured, 8": ("#b84a00", "<"),
    "reconfigured, 10": ("#b84a00", ">"),
    "tensordot": ("#00795a", "^"),
    "matmul": ("#b84a00", "s"),
}


def sheets(result: Mapping[str, Any]) -> list[Sheet]:
    """All tables of a result, as `run.measure` gives it."""
    return [
        Sheet(
            "Plans",
            "log10 of the flops of one contraction, and the seconds of the search; a multiplication and an "
            "addition are two. cotengra's hyper-optimiser got as long as our search; reconfigured: "
            "cotengra's greedy path with its subtrees of so many tensors improved.",
            ("network", "tensors", "method", "log10 flops", "seconds"),
            tuple(grouped([_plan_cells(row) for row in (*result["quality"], *result["chains"])], 2)),
        ),
        Sheet(
            "Contracting one plan many times",
            "Seconds of a call; how long others take as a multiple of ours (median, least and greatest of "
            "paired runs); the share of the highest measured rate of matrix products (GEMM) or copies, "
            "whichever is nearer; predicted over measured seconds.",
            ("network", "method", "time", "× ours", "of the rate", "pred."),
            tuple(grouped([cells for row in result["speed"] for cells in _speed_cells(row)], 1)),
            whole=("× ours",),
        ),
        Sheet(
            "Small steps",
            "Seconds of a step in a chain of small matrices, and how many times a bare call of NumPy on the "
            "same matrices that is (median, least and greatest of paired runs).",
            ("network", "a step", "over tensordot", "over matmul", "of the rate", "pred."),
            tuple(_overhead_cells(row) for row in result["overhead"]),
            whole=("over tensordot", "over matmul"),
        ),
    ]


def as_markdown(result: Mapping[str, Any]) -> str:
    """All tables as Markdown, with what was measured on above them."""
    return markdown("The contraction engine, compared", result, sheets(result))


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw plans, contractions and small steps, one panel below the other, as SVG.

    Args:
        result: as `run.measure` gives it.
        path: the file.
    """
    panels = [panel for panel in (_plans(result), _speeds(result), _overheads(result)) if panel.names]
    row, head, foot = 0.25, 0.68, 0.6  # inches
    heights = [head + row * len(panel.names) + foot for panel in panels]
    whole = sum(heights)
    with matplotlib.rc_context(FIGURE_SETTINGS):
        figure = Figure(figsize=(8.2, whole))
        top = whole
        for panel, height in zip(panels, heights, strict=True):
            bottom = top - height + foot
            axes = figure.add_axes((0.38, bottom / whole, 0.59, row * len(panel.names) / whole))
            panel.draw(figure, axes)
            top -= height
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})


@dataclass(frozen=True)
class _Panel:
    """Points with ranges beside the names of networks.

    Attributes:
        title: what it shows.
        label: of the horizontal axis.
        names: of the networks, from top to bottom.
        points: (method, place among the names, value, least, greatest).
        even: the value at which both are equal.
        logarithmic: whether the axis is.
    """

    title: str
    label: str
    names: tuple[str, ...]
    points: tuple[tuple[str, int, float, float, float], ...]
    even: float
    logarithmic: bool

    def draw(self, figure: Figure, axes: Axes) -> None:
        methods = [method for method in LOOKS if any(point[0] == method for point in self.points)]
        axes.axvline(self.even, color=INK, linewidth=0.9, zorder=1)
        for number, method in enumerate(methods):
            colour, marker = LOOKS[method]
            # side by side within a row, so that none hides another
            offset = (number - (len(methods) - 1) / 2) * 0.62 / max(1, len(methods) - 1)
            own = [point for point in self.points if point[0] == method]
            places = [place + offset for _, place, *_ in own]
            axes.hlines(places, [point[3] for point in own], [point[4] for point in own], color=colour, lw=1)
            axes.plot(
                [point[2] for point in own],
                places,
                linestyle="none",
                marker=marker,
                markersize=5.5,
                color=colour,
                markeredgecolor=colour if marker == "x" else PAPER,
                markeredgewidth=1.3 if marker == "x" else 0.5,
                label=method,
            )
        if self.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: plain(value))
            axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.set_yticks(range(len(self.names)), self.names)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(self.names) - 0.45, -0.55)
        axes.grid(axis="x", color=RULE, linewidth=0.7)
        axes.hlines(
            [place + 0.5 for place in range(len(self.names) - 1)],
            0,
            1,
            color=RULE,
            linewidth=0.4,
            transform=axes.get_yaxis_transform(),
            zorder=0,
        )
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(self.label)
        # title and legend begin at the left edge, where there is room for all names
        inch = 1 / figure.get_figheight()
        top = axes.get_position().y1
        figure.text(0.012, top + 0.36 * inch, self.title, weight="bold", color=INK)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.003, top + 0.02 * inch),
            bbox_transform=figure.transFigure,
            ncols=6,
            frameon=False,
            fontsize=8.6,
            handletextpad=0.1,
            columnspacing=1.3,
            borderaxespad=0.2,
            labelcolor=MUTED,
        )


def _plans(result: Mapping[str, Any]) -> _Panel:
    ours = {row["network"]: row for row in result["quality"] if row["method"] == "qrt-tn"}
    names = tuple(ours)
    points = []
    for row in result["quality"]:
        if row["method"] != "qrt-tn" and row["log10_flops"] is not None:
            own = ours[row["network"]]["log10_flops"]
            factor = 10 ** (row["log10_flops"] - own)
            points.append((row["method"], names.index(row["network"]), factor, factor, factor))
    return _Panel(
        "Plans", "flops over those of qrt-tn; right of 1 ours are fewer", names, tuple(points), 1, True
    )


def _speeds(result: Mapping[str, Any]) -> _Panel:
    names: list[str] = []
    points: list[tuple[str, int, float, float, float]] = []
    for row in result["speed"]:
        backend = row["method"].removeprefix("qrt-tn").strip()
        name = f"{row['network']} ({backend})" if backend else row["network"]
        for other in row["against"]:
            ratio = other["ratio"]
            points.append((other["method"], len(names), ratio["median"], ratio["min"], ratio["max"]))
        names.append(name)
    return _Panel(
        "Contracting one plan many times",
        "seconds over those of qrt-tn; right of 1 ours is faster",
        tuple(names),
        tuple(points),
        1,
        True,
    )


def _overheads(result: Mapping[str, Any]) -> _Panel:
    points = []
    for place, row in enumerate(result["overhead"]):
        for name, over in row["over"].items():
            ratio = over["ratio"]
            points.append((name, place, ratio["median"], ratio["min"], ratio["max"]))
    names = tuple(row["network"] for row in result["overhead"])
    label = "seconds of a step of qrt-tn over a bare call of NumPy"
    return _Panel("Small steps", label, names, tuple(points), 1, False)


def _plan_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    flops = row["note"] if row["log10_flops"] is None else f"{row['log10_flops']:.2f}"
    return row["network"], str(row["tensors"]), row["method"], flops, f"{row['seconds']:.2f}"


def _speed_cells(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    predicted = row["predicted_over_measured"]
    predicted = "" if predicted is None else f"{predicted:.2f}"
    name = row["network"]
    cells: list[tuple[str, ...]] = [
        (name, row["method"], seconds(row["seconds"]), "1", _reached(row), predicted)
    ]
    for other in row["against"]:
        cells.append((name, other["method"], seconds(other["seconds"]), spread(other["ratio"]), "", ""))
    return cells


def _overhead_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    over = (spread(row["over"][name]["ratio"]) for name in ("tensordot", "matmul"))
    predicted = f"{row['predicted_over_measured']:.2f}"
    return row["network"], seconds(row["seconds"]), *over, _reached(row), predicted


def _reached(row: Mapping[str, Any]) -> str:
    return "" if row["bound"] is None else f"{100 * row['share']:.2g}% of {row['bound']}"
