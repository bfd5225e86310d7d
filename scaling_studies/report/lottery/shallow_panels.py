"""Panels of shallow networks, nodes drawn against nodes and weights pruned, at equal size or equal cost."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qrt_tn.studies.report.axes import (
    Line,
    draw,
    error_axis,
    log_axis,
    method_line,
    name_lines,
    thousand,
)
from qrt_tn.studies.report.lottery.folder import LotteryFolder
from qrt_tn.studies.report.style import INK, METHODS, MUTED, RULE, method_style, panel, plain

METHODS_SHOWN = (
    *("qrt-smoothed", "qrt-teacher", "qrt-ridge", "filter", "leverage", "uniform"),
    *("imp-nodes", "imp-nodes-rewound", "imp-nodes-random", "imp-weights"),
)
NOTHING_LEARNT = 0.5  # a test error above which a method is not a rival
COSTS = {
    "parameters": "parameters held",
    "flops": "operations, all training included",
    "seconds": "seconds, all training included",
}


@dataclass(frozen=True)
class Size:
    """The networks of one method at one node count compared at, trained in the way that validates best.

    Attributes:
        method: name of the method.
        training: "fitted" or "trained".
        budget: the node count; pruned weights hold as many numbers as a ridge network of so many nodes.
        columns: the rows of these networks, one a seed, by column.
    """

    method: str
    training: str
    budget: int
    columns: dict[str, np.ndarray]

    @property
    def nodes(self) -> int:
        """Median of the hidden nodes that are alive."""
        return round(self.median("nodes"))

    def median(self, column: str) -> float:
        """Median over the seeds, missing numbers left out; NaN where there are none."""
        values = self.columns[column][np.isfinite(self.columns[column])]
        return float(np.median(values)) if len(values) else float("nan")


def sizes(results: LotteryFolder) -> list[Size]:
    """Every method and node count with its best way of training, chosen on the validation split.

    Methods are in the order of METHODS_SHOWN, others after them; node counts ascend.
    """
    rows = results.shallow
    if rows is None:
        return []
    order = {name: place for place, name in enumerate(METHODS_SHOWN)}
    names = list(dict.fromkeys(rows["method"].tolist()))
    found = []
    for method in sorted(names, key=lambda name: order.get(name, len(order))):
        for budget in np.unique(rows["budget"][rows["method"] == method]):
            here = (rows["method"] == method) & (rows["budget"] == budget)
            ways = [
                Size(
                    method,
                    training,
                    int(budget),
                    {name: values[here & (rows["training"] == training)] for name, values in rows.items()},
                )
                for training in dict.fromkeys(rows["training"][here].tolist())
            ]
            found.append(max(ways, key=lambda way: np.nan_to_num(way.median("validation_accuracy"), nan=-1)))
    return found


def scores(results: LotteryFolder, cost: str, score: str) -> Figure | None:
    """Accuracy or risk on the test split against what a network costs, both axes logarithmic.

    Args:
        results: the run.
        cost: one of COSTS.
        score: "test_accuracy", drawn as the error, or "test_risk".
    """
    lines = []
    everything = sizes(results)
    for method in dict.fromkeys(size.method for size in everything):
        own = [size for size in everything if size.method == method and _drawn(size, cost, score)]
        if own:
            lines.append(_line(method, own, cost, score))
    if not lines:
        return None
    figure, axes = panel(left=0.135, right=0.67)
    draw(axes, lines)
    axes.set_xscale("log")
    log_axis(axes.xaxis, thousand if cost == "parameters" else plain)
    if score == "test_accuracy":
        # one that learns nothing would flatten all others; it leaves the panel downwards
        learnt = [line for line in lines if float(line.middle.min()) < NOTHING_LEARNT] or lines
        error_axis(axes, max(float(line.middle.max()) for line in learnt))
        axes.set_title("Test accuracy, %")
    else:
        axes.set_yscale("log")
        log_axis(axes.yaxis)
        axes.set_title("Test risk")
    axes.set_xlabel(COSTS[cost])
    name_lines(axes, lines)
    return figure


def _drawn(size: Size, cost: str, score: str) -> bool:
    x, y = size.median(cost), size.median(score)
    return bool(np.isfinite(x) and np.isfinite(y) and x > 0 and (y > 0 or score == "test_accuracy"))


def _line(method: str, own: list[Size], cost: str, score: str) -> Line:
    own = sorted(own, key=lambda size: size.median(cost))
    turn: Callable[[float], float] = (lambda y: max(1 - y, 1e-4)) if score == "test_accuracy" else float
    parts = [
        [turn(reduce(size.columns[score])) for size in own] for reduce in (np.nanmax, np.nanmedian, np.nanmin)
    ]
    return method_line(method, [size.median(cost) for size in own], *parts)


def overlap_measures(results: LotteryFolder) -> list[str]:
    """The measures of overlap that were taken, in the order of the file."""
    return [] if results.overlap is None else list(dict.fromkeys(results.overlap["measure"].tolist()))


@dataclass(frozen=True)
class Overlap:
    """How far the survivors of one group lie along the nodes drawn, and how far chance does.

    Attributes:
        group: what is compared with what.
        nodes: survivors.
        value: median over the seeds.
        null_low: smallest lower end of the null over the seeds.
        null_high: largest upper end.
        sides: of each seed: 1 above its own null, -1 below, 0 within.
    """

    group: str
    nodes: int
    value: float
    null_low: float
    null_high: float
    sides: tuple[int, ...]

    @property
    def side(self) -> int:
        """1 above the null, -1 below it, 0 within."""
        return int(self.value > self.null_high) - int(self.value < self.null_low)


def overlaps(results: LotteryFolder, measure: str) -> list[Overlap]:
    """Every group and node count of one measure, seeds taken together; rows without a value left out."""
    rows = results.overlap
    if rows is None:
        return []
    whole = np.isfinite(rows["value"]) & np.isfinite(rows["null_low"]) & np.isfinite(rows["null_high"])
    mine = (rows["measure"] == measure) & whole
    found = []
    for group in dict.fromkeys(rows["group"][mine].tolist()):
        for nodes in np.unique(rows["nodes"][mine & (rows["group"] == group)]):
            here = mine & (rows["group"] == group) & (rows["nodes"] == nodes)
            found.append(
                Overlap(
                    group,
                    int(nodes),
                    float(np.median(rows["value"][here])),
                    float(rows["null_low"][here].min()),
                    float(rows["null_high"][here].max()),
                    tuple(
                        int(value > high) - int(value < low)
                        for value, low, high in zip(
                            *(rows[name][here] for name in ("value", "null_low", "null_high")), strict=True
                        )
                    ),
                )
            )
    return found


def overlap(results: LotteryFolder, measure: str) -> Figure | None:
    """One row a group and node count: a dot for the survivors, a grey bar for the null."""
    rows = overlaps(results, measure)
    if not rows:
        return None
    figure = Figure(figsize=(4.4, max(1.6, 0.95 + 0.235 * (len(rows) + len({row.group for row in rows})))))
    height = figure.get_figheight()
    axes = figure.add_axes((0.2, 0.5 / height, 0.75, 1 - 0.95 / height))
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    place, ticks = 0, []
    for group in dict.fromkeys(row.group for row in rows):
        name = method_style(group).label
        axes.text(0, place, name, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=INK)
        for row in (row for row in rows if row.group == group):
            place += 1
            axes.plot(
                [row.null_low, row.null_high], [place, place], color=MUTED, alpha=0.35, linewidth=7,
                solid_capstyle="butt",
            )  # fmt: skip
            style = METHODS["imp-nodes"]
            fill = style.colour if row.side else "none"
            axes.plot([row.value], [place], "o", color=style.colour, markerfacecolor=fill, markersize=5.5)
            ticks.append((place, f"{row.nodes} nodes"))
        place += 1
    axes.set_ylim(place - 0.3, -0.7)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.set_title(measure[:1].upper() + measure[1:])
    return figure
