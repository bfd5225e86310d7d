"""What failed in a study and why, and what could not run where it was tried."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from qrt_tn.studies.config import Study
from qrt_tn.studies.report.html import details, number, section
from qrt_tn.studies.report.study.quantities import said

MOST_REASONS = 40
MOST_LINES = 15  # of a traceback
_KINDS = {
    "error": "raised an error",
    "timeout": "ran out of time",
    "killed": "was killed",
    "metrics": "gave no usable metrics",
}
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Reason:
    """Failures for one reason.

    Attributes:
        kind: "error", "unavailable", "timeout", "killed" or "metrics".
        example: the first of them, in the study's order.
        count: of points.
        alike: whether all say the same to the letter; else they differ in numbers.
    """

    kind: str
    example: Mapping[str, Any]
    count: int
    alike: bool


class Failed:
    """The points that failed and were not done since.

    Attributes:
        records: one a point, in the study's order.
        earlier: how many failures belong to an earlier version of the study.
    """

    def __init__(self, study: Study, failures: Sequence[Mapping[str, Any]], done: set[str]) -> None:
        places = {point.id: place for place, point in enumerate(study.points)}
        found = {record["id"]: record for record in failures if record["id"] in places}
        self.earlier = sum(record["id"] not in places for record in failures)
        kept = (record for name, record in found.items() if name not in done)
        self.records = sorted(kept, key=lambda record: places[record["id"]])

    def reasons(self, *, unavailable: bool) -> list[Reason]:
        """Failures by reason, the most frequent first; reasons that differ only in numbers are one."""
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for record in self.records:
            kind = str(record.get("kind"))
            if (kind == "unavailable") == unavailable:
                said_so = _NUMBERS.sub("#", str(record.get("reason") or ""))
                groups.setdefault((kind, said_so), []).append(record)
        found = [
            Reason(kind, group[0], len(group), len({str(one.get("reason")) for one in group}) == 1)
            for (kind, _), group in groups.items()
        ]
        return sorted(found, key=lambda reason: -reason.count)

    def count(self, *, unavailable: bool) -> int:
        """How many points failed, or could not run."""
        return sum((record.get("kind") == "unavailable") == unavailable for record in self.records)


def failures(study: Study, failed: Failed) -> str:
    """The section on what failed; empty where nothing did."""
    reasons = failed.reasons(unavailable=False)
    if not reasons:
        return ""
    count = failed.count(unavailable=False)
    again = "After a mend they can be run again, by a command at the end of this page."
    text = f"<p>{_points(count)} failed. {again}</p>"
    return section("failed", "What failed, and why", text, *_listed(study, reasons))


def unavailable(study: Study, failed: Failed) -> str:
    """The section on what could not run; empty where everything could."""
    reasons = failed.reasons(unavailable=True)
    if not reasons:
        return ""
    count = failed.count(unavailable=True)
    text = f"<p>{_points(count)} could not run on the machines that tried: something was missing there.</p>"
    return section("unavailable", "What could not run here", text, *_listed(study, reasons))


def _listed(study: Study, reasons: Sequence[Reason]) -> list[str]:
    shown = [_reason(study, reason) for reason in reasons[:MOST_REASONS]]
    more = len(reasons) - MOST_REASONS
    if more > 0:
        left = sum(reason.count for reason in reasons[MOST_REASONS:])
        shown.append(
            f'<p class="note">{number(more)} more reasons, of {_points(left).lower()}, are not shown.</p>'
        )
    return shown


def _reason(study: Study, reason: Reason) -> str:
    record = reason.example
    said_so = escape(said(str(record.get("reason") or "no reason given"), 400))
    kind = _KINDS.get(reason.kind, "") if reason.kind != "unavailable" else ""
    named = f"<b>{_points(reason.count)}</b>" + (f", {kind}" if kind else "")
    others = "" if reason.alike else "<small>the others say the same with other numbers</small>"
    lines = [f'<div class="reason"><p>{named}: {said_so} {others}</p>']
    parameters = record.get("parameters") or {}
    # all that differs between points; where nothing does, the seed alone
    told = ", ".join(f"{name} = {said(parameters.get(name))}" for name in study.varied)
    told = ", ".join(part for part in (told, f"seed = {said(record.get('seed'))}") if part)
    lines.append(f'<p class="note">For example {escape(told)}{_where(record)}.</p>')
    trace = str(record.get("traceback") or "").rstrip().splitlines()
    if trace:
        cut = len(trace) > MOST_LINES
        text = "\n".join((["…"] if cut else []) + trace[-MOST_LINES:])
        aside = f"its last {MOST_LINES} lines" if cut else ""
        lines.append(details("Traceback", aside, f"<pre>{escape(text)}</pre>"))
    return "\n".join(lines) + "</div>"


def _where(record: Mapping[str, Any]) -> str:
    parts = []
    if int(record.get("attempt") or 1) > 1:
        parts.append(f" at attempt {number(int(record['attempt']))}")
    if record.get("log"):
        parts.append(f"; log in <code>{escape(said(record['log'], 120))}</code>")
    return "".join(parts)


def _points(count: int) -> str:
    return "One point" if count == 1 else f"{number(count)} points"
