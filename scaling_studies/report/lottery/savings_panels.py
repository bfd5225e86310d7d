"""What a pruned network really takes: bytes and time of its forms, relative to the dense network."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from qrt_tn.studies.report.axes import Line, draw, form_style, log_axis, name_lines, share_axis
from qrt_tn.studies.report.lottery.folder import LotteryFolder
from qrt_tn.studies.report.style import INK, panel

DENSE = "dense"
TITLES = {
    "disk_bytes": "Bytes on disk, dense = 1",
    "memory_bytes": "Bytes in memory, dense = 1",
    "flops": "Operations an example, dense = 1",
    "seconds": "Time of a batch, dense = 1",
}


@dataclass(frozen=True)
class Cost:
    """One form of a ticket measured with one batch size.

    Attributes:
        level: rounds of pruning.
        remaining: share of the weights left.
        form: how the network is held and run.
        batch: examples in a batch.
        values: disk_bytes, memory_bytes, flops and seconds; medians where it was measured more than once.
        relative: the same over those of the dense form; NaN where that was not measured.
    """

    level: int
    remaining: float
    form: str
    batch: int
    values: dict[str, float]
    relative: dict[str, float]


def costs(results: LotteryFolder) -> list[Cost]:
    """Every form at every level and batch size, in the order of the file within each."""
    rows = results.savings
    if rows is None:
        return []
    forms = list(dict.fromkeys(rows["form"].tolist()))
    found = []
    for batch in np.unique(rows["batch"]):
        for level in np.unique(rows["level"][rows["batch"] == batch]):
            same = (rows["batch"] == batch) & (rows["level"] == level)
            own = {form: _medians(rows, same & (rows["form"] == form)) for form in forms}
            # a dense network costs the same at every level; a file may hold it once
            dense = own.get(DENSE) or _medians(rows, (rows["batch"] == batch) & (rows["form"] == DENSE))
            for form, values in own.items():
                if values:
                    share = float(rows["remaining"][same].mean())
                    found.append(Cost(int(level), share, form, int(batch), values, _ratios(values, dense)))
    return found


def _medians(rows: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, float]:
    if not chosen.any():
        return {}
    values = {name: rows[name][chosen][np.isfinite(rows[name][chosen])] for name in TITLES}
    return {name: float(np.median(part)) if len(part) else float("nan") for name, part in values.items()}


def _ratios(values: dict[str, float], dense: dict[str, float]) -> dict[str, float]:
    return {
        name: value / dense[name] if dense.get(name, 0) > 0 else float("nan")
        for name, value in values.items()
    }


def batches(results: LotteryFolder) -> list[int]:
    """The batch sizes that were measured, ascending."""
    return sorted({cost.batch for cost in costs(results)})


def timing_noise(results: LotteryFolder, batch: int) -> float:
    """How far apart the times of equal work lie: the largest difference from 1 of the ratio of two of them.

    Compacted networks that have lost nothing do what dense ones do.
    """
    same = [cost for cost in costs(results) if (cost.form, cost.batch) == ("compacted", batch)]
    equal = [cost.relative["seconds"] for cost in same if cost.relative["flops"] == 1]
    return max((abs(ratio - 1) for ratio in equal), default=0.0)


def against_share(results: LotteryFolder, column: str, batch: int) -> Figure | None:
    """A cost relative to the dense network against the share of weights left, a line a form.

    Args:
        results: the run.
        column: one of TITLES.
        batch: the batch size.
    """
    everything = [cost for cost in costs(results) if cost.batch == batch and cost.form != DENSE]
    lines = []
    for form in dict.fromkeys(cost.form for cost in everything):
        own = [cost for cost in everything if cost.form == form and cost.relative[column] > 0]
        if own:
            x, y = (
                np.array(part) for part in zip(*((c.remaining, c.relative[column]) for c in own), strict=True)
            )
            lines.append(Line(form, form_style(form), x, y, y, y))
    return _panel(lines, TITLES[column])


def files(results: LotteryFolder) -> Figure | None:
    """The bytes of each kind of file relative to the dense one, against the share of weights left."""
    rows = results.files
    if rows is None:
        return None
    lines = []
    for name in dict.fromkeys(rows["file"].tolist()):
        x, y = file_sizes(results, name)
        if name != DENSE and len(x):
            lines.append(Line(name, form_style(name), x, y, y, y))
    return _panel(lines, "Bytes of a file, dense = 1")


def file_sizes(results: LotteryFolder, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Shares of weights, and the bytes of one kind of file over those of the dense one at the same level."""
    rows = results.files
    assert rows is not None
    chosen = rows["file"] == name
    ratios = [file_ratios(results, int(level))[name] for level in rows["level"][chosen]]
    return rows["remaining"][chosen], np.array(ratios)


def file_ratios(results: LotteryFolder, level: int) -> dict[str, float]:
    """The bytes of each kind of file at one level over those of the dense one; empty if none was written."""
    rows = results.files
    if rows is None:
        return {}
    here = rows["level"] == level
    sizes = dict(zip(rows["file"][here], rows["bytes"][here], strict=True))
    dense = sizes.get(DENSE, 0)
    return {name: size / dense for name, size in sizes.items()} if dense > 0 else {}


def _panel(lines: list[Line], title: str) -> Figure | None:
    if not lines:
        return None
    figure, axes = panel(left=0.135, right=0.69)
    axes.axhline(1, color=INK, linewidth=0.9, zorder=2)
    draw(axes, lines)
    share_axis(axes, np.concatenate([line.x for line in lines]))
    axes.set_yscale("log")
    low = min(1.0, *(float(line.middle.min()) for line in lines))
    high = max(1.0, *(float(line.middle.max()) for line in lines))
    axes.set_ylim(low / 1.25, high * 1.25)
    log_axis(axes.yaxis)
    axes.set_title(title)
    name_lines(axes, lines)
    return figure
