"""The tables of a ticket report: states, time, selection, scores, versions."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from qrt_tn.studies.report.comparison import label, measured
from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.html import MISSING, facts, number, span, table


def states(entries: Sequence[dict[str, Any]]) -> str:
    """Bonds and truncation error of every state, against the tolerance that was asked for."""
    rows = []
    for state in entries:
        bonds, error, tolerance = (
            state.get(key) for key in ("bond_dimensions", "truncation_error", "tolerance")
        )
        kept = MISSING if error is None or tolerance is None else "yes" if error <= tolerance else "no"
        rows.append(
            [
                number(state.get("smoothing")),
                number(state.get("seed")),
                number(state.get("site_dimension")),
                number(max(bonds)) if bonds else MISSING,
                number(bonds[len(bonds) // 2]) if bonds else MISSING,
                number(error, 2),
                number(tolerance),
                kept,
            ]
        )
    head = ["w", "seed", "site<br>dimension", "largest<br>bond", "middle<br>bond", "truncation<br>error"]
    return table([*head, "tolerance", "tolerance<br>kept"], rows)


def timings(stages: dict[str, float], total: float | None) -> str:
    """Seconds by stage, as bars."""
    if not stages:
        return ""
    longest = max(1e-9, *(float(seconds) for seconds in stages.values()))
    rows = ""
    for name, seconds in stages.items():
        bar = f'<div style="width:{100 * float(seconds) / longest:.1f}%"></div>'
        cells = (
            f"<td class=text>{escape(str(name))}</td><td class=bar>{bar}</td><td>{float(seconds):.1f} s</td>"
        )
        rows += f"<tr>{cells}</tr>\n"
    if total is not None:
        rows += f"<tr class=total><td class=text>in all</td><td></td><td>{float(total):.1f} s</td></tr>\n"
    return f'<h3>Where the time went</h3>\n<table class="bars"><tbody>\n{rows}</tbody></table>'


def chosen(results: TicketFolder) -> str:
    """Settings of every method and seed that chose any."""
    rows = [
        [
            escape(label(str(entry["method"]), results)),
            number(int(entry["seed"])),
            escape(str(entry["quantizer"])),
            number(int(entry["levels"])),
            number(float(entry["smoothing"])),
            number(entry["beta"]),
        ]
        for entry in results.manifest.get("chosen") or []
    ]
    return table(["method", "seed", "quantiser", "levels", "w", "beta"], rows, texts=1) if rows else ""


def means(results: TicketFolder) -> str:
    """Every method, training and node count: means over seeds, and the range of the test score."""
    rows = []
    for method, training, nodes, found in measured(results):
        row = [escape(label(method, results)), escape(training), number(nodes)]
        row.append(f"{number(found.mean, 3)}<small>{span(found.low, found.high)}</small>")
        for column, digits in (("rmse", 3), ("seconds", 2), ("parameters", None)):
            values = list(results.values(method, training, nodes, column).values())
            row.append(number(float(np.mean(values)), digits) if values else MISSING)
        rows.append(row)
    head = ["method", "training", "nodes", "test score", "root mean<br>square error", "seconds", "parameters"]
    return table(head, rows, texts=2)


def runs(results: TicketFolder) -> str:
    """Every row of metrics.parquet."""
    metrics = results.metrics
    rows = [
        [
            escape(label(str(metrics["method"][k]), results)),
            escape(str(metrics["training"][k])),
            *(number(_whole(metrics[name][k])) for name in ("nodes", "seed")),
            number(metrics["smoothing"][k]),
            number(metrics["beta"][k]),
            number(metrics["score"][k], 4),
            number(metrics["rmse"][k], 4),
            number(metrics["seconds"][k], 2),
            number(_whole(metrics["parameters"][k])),
        ]
        for k in range(len(metrics["seed"]))
    ]
    head = ["method", "training", "nodes", "seed", "w", "beta", "test score", "root mean<br>square error"]
    return table([*head, "seconds", "parameters"], rows, texts=2)


def _whole(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None


def origin(manifest: Mapping[str, Any]) -> str:
    """Date, commit and machine of a run in a line; nothing where the manifest tells none of them."""
    pairs = [("date", escape(str(manifest["date"])[:16].replace("T", " ")))] if manifest.get("date") else []
    if manifest.get("commit"):
        commit = str(manifest["commit"])
        pairs.append(("commit", escape(commit[:12] + "+" * commit.endswith("+"))))
    for name, value in (manifest.get("machine") or {}).items():
        if value is not None:
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            pairs.append((escape(str(name).replace("_gib", " (GiB)").replace("_", " ")), escape(shown)))
    return facts(pairs) if pairs else ""


def versions(found: dict[str, Any]) -> str:
    """Names and versions of what ran."""
    if not found:
        return ""
    return table([], [[escape(str(name)), escape(str(value))] for name, value in found.items()], texts=2)
