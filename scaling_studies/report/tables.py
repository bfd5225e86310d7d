"""The tables of a ticket report: states, time, selection, scores, versions."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.html import MISSING, facts, number, span, table
from qrt_tn.studies.report.style import METHODS, method_style


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
                _width(state.get("smoothing")),
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
    return table([*head, "tolerance", "kept"], rows)


def diagnosis(found: dict[str, Any]) -> str:
    """How far the distribution of drawn weights is from uniform and from its filter; empty where unknown."""
    if not found:
        return ""

    def log10(key: str) -> str:
        entry = found.get(key)
        if not entry:
            return MISSING
        value, error = (part / np.log(10) for part in (entry["value"], entry["error"]))
        return f"10<sup>{number(value, 2)} ± {number(error, 2)}</sup>"

    most = found["dim"] * np.log(found["modulus"])
    entropy = found["entropy"]
    rows = [
        ["entropy, in nats", f"{number(entropy['value'], 2)} ± {number(entropy['error'], 2)}"],
        ["the same of uniform weights", number(float(most), 2)],
        ["participation 1 / Σ p²", log10("log_participation")],
        ["effective sample size of one uniform node", log10("log_ess_uniform")],
        ["effective sample size of one node of the filter", log10("log_ess_filter")],
    ]
    title = f"<h3>The distribution of weights <i>p</i>(<i>a</i>), from {number(found['nodes'])} draws</h3>"
    return title + table([], rows)


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


def selection(manifest: dict[str, Any]) -> str:
    """Mean validation score of every setting that was tried, what was chosen at each node count in bold."""
    tried = manifest.get("selection") or []
    key = next((name for name in tried[0] if name.startswith("validation")), None) if tried else None
    if key is None:
        return ""
    counts = sorted({int(entry["nodes"]) for entry in tried})
    means = {(*_setting(entry), int(entry["nodes"])): float(np.mean(entry[key])) for entry in tried}
    chosen = {(*_setting(entry), int(entry["nodes"])) for entry in manifest.get("chosen") or []}
    rows = []
    for method, activation, width, bandwidth in dict.fromkeys(map(_setting, tried)):
        cells = []
        for nodes in counts:
            place = (method, activation, width, bandwidth, nodes)
            cell = number(means.get(place), 3)
            cells.append(f"<b>{cell}</b>" if place in chosen else cell)
        names = (method_style(method).label if method else MISSING, activation or MISSING)
        rows.append([*map(escape, map(str, names)), _width(width), number(bandwidth), *cells])
    head = ["method", "activation", "w", "bandwidth", *(f"{nodes} nodes" for nodes in counts)]
    marks = " What was chosen is bold." if chosen else ""
    text = f"Mean {escape(key.replace('_', ' '))} over the seeds, output weights fitted.{marks}"
    return f"<p>{text} The test split took no part.</p>" + table(head, rows, texts=2)


def _setting(entry: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    return (entry.get("method"), entry.get("activation"), entry.get("smoothing"), entry.get("bandwidth"))


def medians(results: TicketFolder) -> str:
    """Every method, training and node count: medians over seeds, and the range of the test score."""
    columns = _score_columns(results)
    score = results.score("test")
    order = {name: place for place, name in enumerate(METHODS)}
    rows = []
    for method in sorted(results.methods(), key=lambda name: order.get(name, len(order))):
        for training in results.trainings(method):
            tested = results.band(method, training, score)
            if tested is None:
                continue
            bands = {
                name: results.band(method, training, name) for name in (*columns, "seconds", "parameters")
            }
            for nodes in tested.nodes.tolist():
                row = [escape(method_style(method).label), escape(training), number(nodes)]
                for name, band in bands.items():
                    here = None if band is None else band.at(nodes)
                    if here is None:
                        row.append(MISSING)
                    elif name == "parameters":
                        row.append(number(int(here[1])))
                    else:
                        wide = f"<small>{span(here[0], here[2])}</small>" if name == score else ""
                        row.append(number(here[1], 2 if name == "seconds" else 3) + wide)
                rows.append(row)
    head = ["method", "training", "nodes", *_broken(columns), "seconds", "parameters"]
    return table(head, rows, texts=2)


def runs(results: TicketFolder) -> str:
    """Every row of metrics.parquet."""
    metrics = results.metrics
    columns = _score_columns(results)
    rows = []
    for k in range(len(metrics["nodes"])):
        size = metrics["parameters"][k]
        rows.append(
            [
                escape(str(metrics["method"][k])),
                escape(str(metrics["training"][k])),
                number(int(metrics["nodes"][k])),
                str(int(metrics["seed"][k])),
                number(metrics["smoothing"][k]),
                *(number(metrics[name][k], 4) for name in columns),
                number(metrics["seconds"][k], 2),
                number(int(size)) if np.isfinite(size) else MISSING,
            ]
        )
    head = ["method", "training", "nodes", "seed", "w", *_broken(columns), "seconds", "parameters"]
    return table(head, rows, texts=2)


def origin(manifest: Mapping[str, Any]) -> str:
    """Date, commit and machine of a run in a line; nothing where the manifest tells none of them."""
    pairs = [("date", escape(str(manifest["date"])[:16].replace("T", " ")))] if manifest.get("date") else []
    if manifest.get("commit"):
        pairs.append(("commit", escape(str(manifest["commit"])[:12])))
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


def _score_columns(results: TicketFolder) -> list[str]:
    kinds = ("accuracy", "risk") if results.classification else ("risk",)
    return [f"{split}_{kind}" for kind in kinds for split in ("train", "validation", "test")]


def _broken(columns: Sequence[str]) -> list[str]:
    return [name.replace("_", "<br>") for name in columns]


def _width(smoothing: float | None) -> str:
    return "none" if smoothing is None else number(float(smoothing))
