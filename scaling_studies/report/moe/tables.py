"""The tables of a mixture-of-experts report: networks, cells, savings, theory, ridgelets."""

from collections.abc import Sequence
from html import escape

import numpy as np

from qrt_tn.studies.report.html import MISSING, amount, number, table
from qrt_tn.studies.report.moe import ridgelet_panels, savings_panels, theory_panels
from qrt_tn.studies.report.moe.comparison import FINETUNED, Sample, cells
from qrt_tn.studies.report.moe.folder import MoeFolder, Row
from qrt_tn.studies.report.moe.names import (
    CHANGE,
    CRITERIA,
    SHORT_MODES,
    percent,
    points,
    router_name,
    span_of_points,
)

PRUNERS = {"none": "whole", "change": "by change", "mass": "by mass", "random": "at random"}


def networks(results: MoeFolder) -> str:
    """The unpruned networks of every router kind: medians over the seeds, and ranges."""
    rows = []
    for router in results.routers:
        own = [row for row in results.networks if row["router"] == router]
        before = [row["pretrained_accuracy"] for row in own if row["pretrained_accuracy"] is not None]
        seconds = [row["seconds"] for row in own if row["seconds"] is not None]
        rows.append(
            [
                escape(router_name(router)),
                number(len(own)),
                _percents(Sample(tuple(before)) if before else None),
                _percents(Sample(tuple(row["accuracy"] for row in own))),
                number(int(np.median([row["parameters"] for row in own]))),
                number(float(np.median(seconds)), 1) if seconds else MISSING,
            ]
        )
    head = ["router", "seeds", "pre-trained,<br>on its own set, %", "fine-tuned, %", "parameters"]
    return table([*head, "seconds of<br>training"], rows)


def best(results: MoeFolder) -> str:
    """The best criterion of every cell, and the place of router change among all."""
    rows = []
    for cell in cells(results):
        ranked = cell.ranked()
        if not ranked:
            continue
        names = [escape(CRITERIA.get(name, name)) for name in cell.best()]
        own = cell.differences.get(CHANGE)
        # ties share the better place
        place = None if own is None else 1 + sum(pair.median > own.median + 1e-9 for _, pair in ranked)
        rows.append(
            [
                escape(router_name(cell.router)),
                escape(SHORT_MODES.get(cell.mode, cell.mode)),
                number(cell.pruned),
                ", ".join(names) or "none above random",
                _points(ranked[0][1]),
                _points(own),
                MISSING if place is None else f"{place} of {len(ranked)}",
            ]
        )
    head = ["router", "mode", "pruned", "best criterion", "its points<br>above random"]
    return table([*head, "router change’s", "its place"], rows, texts=2) if rows else ""


def accuracies(results: MoeFolder, router: str) -> str:
    """Every mode, number of pruned experts and criterion of a router kind: medians and ranges."""
    tuned = {(c.mode, c.pruned): c for c in cells(results, FINETUNED) if c.router == router}
    rows = []
    for cell in (cell for cell in cells(results) if cell.router == router):
        after = tuned.get((cell.mode, cell.pruned))
        drawn = [Sample(draws) for draws in cell.draws]
        first = [escape(SHORT_MODES.get(cell.mode, cell.mode)), number(cell.pruned)]
        if drawn:
            tuned_draws = [Sample(draws) for draws in after.draws] if after else []
            rows.append([*first, CRITERIA["random"], _drawn(drawn), MISSING, _drawn(tuned_draws)])
        for name, sample in cell.accuracies.items():
            rows.append(
                [
                    *first,
                    escape(CRITERIA.get(name, name)),
                    _percents(sample),
                    _points(cell.differences.get(name)),
                    _percents(after.accuracies.get(name) if after else None),
                ]
            )
    head = ["mode", "pruned", "criterion", "accuracy, %", "points above<br>random", "fine-tuned, %"]
    return table(head, rows, texts=1) if rows else ""


def _drawn(draws: Sequence[Sample]) -> str:
    """The median over seeds of the mean over draws, and the range of all draws."""
    if not draws:
        return MISSING
    middle = percent(float(np.median([np.mean(part.values) for part in draws])))
    low, high = min(part.low for part in draws), max(part.high for part in draws)
    return f"{middle}<small>{percent(low)}–{percent(high)}</small>"


def savings(results: MoeFolder) -> str:
    """Every measured network: parameters, bytes, operations, latency and its ratio to the unpruned one."""
    found = savings_panels.savings(results)
    several = any(item.experts for item in found)
    rows = []
    listed = set()
    for item in found:
        if not item.pruned and (item.router, item.experts) in listed:
            continue  # the same network under each mode
        listed.add((item.router, item.experts))
        low, high = item.row["latency_low"], item.row["latency_high"]
        wide = f"<small>{low:.3g}–{high:.3g}</small>" if low is not None and high is not None else ""
        ratio = item.relative.get("latency")
        of = f" of {item.experts}" if item.experts else ""
        rows.append(
            [
                escape(router_name(item.router)),
                escape(SHORT_MODES.get(item.mode, item.mode)) if item.pruned else "unpruned",
                f"{item.pruned}{of}",
                number(int(item.row["parameters"])),
                amount(item.row["bytes"], "B") + _times(item, "bytes"),
                amount(item.row["flops"], "") + _times(item, "flops"),
                f"{item.row['latency_ms']:.3g}{wide}",
                MISSING if ratio is None else f"{ratio[1]:.2g}<small>{ratio[0]:.2g}–{ratio[2]:.2g}</small>",
            ]
        )
    head = ["router", "mode", f"pruned{' of experts' if several else ''}", "parameters", "bytes"]
    return table([*head, "operations<br>an image", "latency, ms", "ratio"], rows, texts=2) if rows else ""


def _times(item: savings_panels.Saving, name: str) -> str:
    return f"<small>{item.relative[name][1]:.2g} ×</small>" if name in item.relative else ""


def exponents(results: MoeFolder) -> str:
    """Fitted exponents of the dimension beside those of the theory."""
    rows = []
    for fit in theory_panels.exponents(results):
        wide = f"<small>{fit.low:.2f} to {fit.high:.2f}</small>"
        rows.append(
            [
                theory_panels.QUANTITIES[fit.name][0],
                "0" if fit.name == theory_panels.RELEVANT else "at most −1/2",
                f"{fit.slope:.2f}{wide}".replace("-", "−"),
                f"{fit.dims} × {fit.seeds}",
            ]
        )
    head = ["", "predicted", "fitted, 95 % interval", "dimensions × seeds"]
    return table(head, rows) if rows else ""


def theory(results: MoeFolder) -> str:
    """Accuracy of the theory’s model by order, steps after pruning and ratio."""
    rows = []
    for steps in theory_panels.steps(results):
        for order in dict.fromkeys(row["order"] for row in results.theory_pruning):
            for ratio, sample in theory_panels.curve(results, order, steps).items():
                rows.append(
                    [escape(order), str(steps), f"{ratio:.3g}", number(sample.count), _percents(sample)]
                )
    return table(["order", "steps after", "ratio", "seeds", "accuracy, %"], rows) if rows else ""


def correlations(found: list[Row]) -> str:
    """Every rank correlation with its band, and the p-value within the seeds."""
    rows = []
    for item in ridgelet_panels.correlations(found):
        band = MISSING
        if item.low is not None and item.high is not None:
            band = f"{item.low:+.2f} to {item.high:+.2f}".replace("-", "−")
        words = {1: "above 0", -1: "below 0", 0: "no evidence", None: "not defined"}[item.sign]
        rows.append(
            [
                escape(item.init),
                escape(item.measure),
                number(item.value, 2, signed=True),
                band,
                number(item.p_value, 2),
                f"{item.seeds} × {item.experts}",
                words,
            ]
        )
    head = ["initialisation", "measure", "Spearman", "95 % band", "p, permuted", "seeds × experts", "band"]
    return table(head, rows, texts=2) if rows else ""


def ridgelet_accuracies(results: MoeFolder) -> str:
    """Accuracy of each initialisation before and after training, whole and with experts pruned."""
    groups: dict[tuple[bool, str], dict[str, list[float]]] = {}
    for row in results.ridgelet_accuracy:
        column = groups.setdefault((row["trained"], row["pruned_by"]), {})
        column.setdefault(row["init"], []).append(row["accuracy"])
    order = list(PRUNERS)
    keys = sorted(groups, key=lambda key: (key[0], order.index(key[1]) if key[1] in order else len(order)))
    inits = dict.fromkeys(row["init"] for row in results.ridgelet_accuracy)
    rows = []
    for init in inits:
        found = (groups[key].get(init) for key in keys)
        rows.append([escape(init), *(_percents(Sample(tuple(part)) if part else None) for part in found)])
    head = [
        f"{'trained' if trained else 'untrained'}<br>{escape(PRUNERS.get(by, by))}, %" for trained, by in keys
    ]
    return table(["initialisation", *head], rows) if rows else ""


def _percents(sample: Sample | None) -> str:
    if sample is None:
        return MISSING
    wide = f"<small>{percent(sample.low)}–{percent(sample.high)}</small>" if sample.low < sample.high else ""
    return percent(sample.median) + wide


def _points(paired: Sample | None) -> str:
    if paired is None:
        return MISSING
    wide = f"<small>{span_of_points(paired.low, paired.high)}</small>" if paired.count > 1 else ""
    return points(paired.median) + wide
