"""The tables of a lottery report: levels, layers, savings, shallow networks."""

from html import escape

import numpy as np

from qrt_tn.studies.report.html import MISSING, amount, number, span, table
from qrt_tn.studies.report.lottery.folder import LotteryFolder
from qrt_tn.studies.report.lottery.savings_panels import costs
from qrt_tn.studies.report.lottery.series import Point
from qrt_tn.studies.report.lottery.shallow_panels import sizes
from qrt_tn.studies.report.style import METHODS, method_style


def levels(results: LotteryFolder) -> str:
    """Every method at every level: means over the trials and ranges, as the panels show them."""
    order = {name: place for place, name in enumerate(METHODS)}
    rows = []
    for method in sorted(results.methods(), key=lambda name: order.get(name, len(order))):
        names = ("early_iteration", "early_test_accuracy", "final_test_accuracy", "final_train_loss", "kept")
        columns = {name: results.points(method, name) for name in names}
        own = (results.runs["method"] == method).nonzero()[0]
        for level in sorted({int(level) for level in results.runs["level"][own]}):
            here = own[results.runs["level"][own] == level]
            stop, early, final, loss, kept = (columns[name].get(level) for name in names)
            rows.append(
                [
                    escape(method_style(method).label),
                    number(level),
                    f"{100 * float(results.runs['remaining'][here].mean()):.3g}",
                    MISSING if kept is None else number(round(kept.mean)),
                    number(len(here)),
                    _whole(stop),
                    _percent(early),
                    _percent(final),
                    MISSING if loss is None else number(loss.mean, 3),
                ]
            )
    head = ["method", "level", "% left", "weights", "runs", "early stop", "accuracy there", "at the end"]
    return table([*head, "train loss<br>at the end"], rows)


def _whole(point: Point | None) -> str:
    if point is None:
        return MISSING
    wide = f"<small>{point.low:,.0f}–{point.high:,.0f}</small>" if point.low != point.high else ""
    return f"{point.mean:,.0f}{wide}"


def _percent(point: Point | None) -> str:
    if point is None:
        return MISSING
    wide = f"<small>{100 * point.low:.2f}–{100 * point.high:.2f}</small>" if point.low != point.high else ""
    return f"{100 * point.mean:.2f}{wide}"


def layers(results: LotteryFolder) -> str:
    """Weights left in each layer at each level, of tickets; empty where the run did not count them."""
    entries = sorted(results.manifest.get("layers") or [], key=lambda entry: entry["level"])
    names = list(dict.fromkeys(name for entry in entries for name in entry["kept"]))
    if not names:
        return ""
    whole = entries[0]["kept"] if entries[0]["level"] == 0 else {}
    rows = []
    for entry in entries:
        cells = []
        for name in names:
            kept = entry["kept"].get(name)
            share = f"<small>{100 * kept / whole[name]:.3g} %</small>" if kept and whole.get(name) else ""
            cells.append(number(kept) + share)
        rows.append([number(entry["level"]), *cells, number(sum(entry["kept"].values()))])
    return table(["level", *map(escape, names), "in all"], rows)


def savings(results: LotteryFolder, level: int | None = None) -> str:
    """Bytes, operations and time of every form, beside each what part of the dense network's it is.

    Args:
        results: the run.
        level: the one level to list; left out, all of them.
    """
    found = costs(results)
    batches = sorted({cost.batch for cost in found})
    rows = []
    for key in sorted({(cost.level, -cost.remaining) for cost in found if level in (None, cost.level)}):
        for form in dict.fromkeys(cost.form for cost in found):
            own = {c.batch: c for c in found if c.form == form and (c.level, -c.remaining) == key}
            if not own:
                continue
            some = own[max(own)]
            cells = [
                _amount(some.values["disk_bytes"], some.relative["disk_bytes"], "B"),
                _amount(some.values["memory_bytes"], some.relative["memory_bytes"], "B"),
                _amount(some.values["flops"], some.relative["flops"], ""),
            ]
            for batch in batches:
                cost = own.get(batch)
                cells.append(
                    _amount(cost.values["seconds"], cost.relative["seconds"], "s") if cost else MISSING
                )
            first = [] if level is not None else [f"{100 * some.remaining:.3g}"]
            rows.append([*first, escape(form), *cells])
    if not rows:
        return ""
    times = [f"time, batch<br>of {number(batch)}" for batch in batches]
    head = ["form", "on disk", "in memory", "operations<br>an example", *times]
    return table(head if level is not None else ["% left", *head], rows, texts=1 if level is not None else 2)


def files(results: LotteryFolder) -> str:
    """Bytes of every kind of file at every level, beside each what part of the dense one's it is."""
    rows = results.files
    if rows is None:
        return ""
    names = list(dict.fromkeys(rows["file"].tolist()))
    lines = []
    for level in np.unique(rows["level"]):
        here = rows["level"] == level
        size = {name: float(rows["bytes"][here & (rows["file"] == name)].mean()) for name in names}
        share = f"{100 * float(rows['remaining'][here].mean()):.3g}"
        lines.append([share, *(_amount(size[name], size[name] / size[names[0]], "B") for name in names)])
    return table(["% left", *map(escape, names)], lines)


def _amount(value: float, ratio: float, unit: str) -> str:
    """A value with a prefix and, small beside it, its ratio to the dense network's."""
    beside = f"<small>{ratio:.2g} ×</small>" if np.isfinite(value) and np.isfinite(ratio) else ""
    return f"{amount(value, unit)}{beside}"


def shallow(results: LotteryFolder) -> str:
    """Shallow networks by method and node count, medians over the seeds, ranges of the test accuracy."""
    rows = []
    for size in sizes(results):
        scores = size.columns["test_accuracy"][np.isfinite(size.columns["test_accuracy"])]
        wide = f"<small>{span(float(scores.min()), float(scores.max()))}</small>" if len(scores) > 1 else ""
        rows.append(
            [
                escape(method_style(size.method).label),
                escape(size.training),
                number(size.nodes),
                number(round(size.median("parameters"))),
                number(size.median("test_accuracy"), 3) + wide,
                number(size.median("test_risk"), 3),
                _amount(size.median("flops"), float("nan"), ""),
                number(size.median("seconds"), 2),
            ]
        )
    head = [
        "method",
        "training",
        "nodes",
        "parameters",
        "test accuracy",
        "test risk",
        "operations",
        "seconds",
    ]
    return table(head, rows, texts=2) if rows else ""
