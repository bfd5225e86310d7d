"""A comparison for people, and as JSON."""

from collections.abc import Iterable, Sequence
from typing import Any

from qrt_tn.studies.benchmarks.compare.comparison import CONFIDENCE, Comparison, Line
from qrt_tn.studies.benchmarks.compare.intervals import Interval
from qrt_tn.studies.benchmarks.compare.reading import Key, Quantity, row_text
from qrt_tn.studies.benchmarks.sheets import Sheet, seconds

FORMAT = "qrt-tn.bench-compare"
VERSION = 1


def sheets(found: Comparison) -> list[Sheet]:
    """The figures, and what differs between the runs' origins."""
    common = _common(found)
    all_of = f"All of {row_text(common)}. " if common else ""
    tables = [
        Sheet(
            f"{found.a.benchmark}: B over A",
            f"{all_of}Worst first. Marked is what differs by the threshold or more and whose interval leaves "
            f"1 out. Intervals: {CONFIDENCE:.0%} from all rounds, exact by order statistics (or what few "
            "rounds allow); the range, in double brackets, where a file tells no more; none where a figure "
            "was measured once. They hold what varies within a run; on a busy machine two runs of one "
            "program differ by more, ratios of what ran in turn excepted.",
            ("of", "figure", "A", "B", "B / A", "interval", ""),
            tuple(_cells(line, common) for line in found.lines),
            whole=("A", "B", "B / A", "interval", ""),
        )
    ]
    if found.differences:
        rows = tuple((name, _said(old), _said(new)) for name, old, new in found.differences)
        tables.append(Sheet("What differs", "A is the first file, B the second.", ("", "A", "B"), rows))
    return tables


def sentences(found: Comparison) -> list[str]:
    """Warnings, what only one run has, and last the summary."""
    said = list(found.warnings)
    for name, run in (("A", found.a), ("B", found.b)):
        if not any(one.rounds for one in run.quantities):
            said.append(f"{name} tells no rounds, as older files do not: intervals are ranges at best.")
    for name, other, lacking in (("A", "B", found.only_a), ("B", "A", found.only_b)):
        if lacking:
            said.append(f"Only in {name}, and not compared: {_listed(lacking, found, other)}.")
    factor = found.reference_factor
    if factor is not None:
        said.append(
            f"What ours is set against takes {factor:.2f} times as long in B (median): as much is the"
            " machine's, not this program's."
        )
    return [*said, summary(found)]


def summary(found: Comparison) -> str:
    """How many figures of ours are slower, faster, and without an interval."""
    timed = [line for line in found.lines if line.a.measure.kind != "memory" and not line.a.measure.reference]
    judged = [line for line in timed if line.interval is not None]
    slower, faster = (len(found.chosen(verdict)) for verdict in ("worse", "better"))
    parts = [f"{slower} of {len(judged)} slower beyond their intervals", f"{faster} faster"]
    more = len(found.chosen("worse", memory=True))
    if any(line.a.measure.kind == "memory" for line in found.lines):
        parts.append(f"{more} with more memory")
    if len(timed) > len(judged):
        parts.append(f"{len(timed) - len(judged)} without an interval")
    exact = [line.interval.confidence for line in judged if line.interval and line.interval.confidence]
    if exact:
        chance = sum((1 - confidence) / 2 for confidence in exact)
        parts.append(f"by chance {chance:.1f} would leave theirs on the slow side")
    threshold = f" (threshold {found.threshold:g})"
    return "; ".join(parts) + threshold + "."


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON can hold it."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "benchmark": found.a.benchmark,
        "a": found.a.source,
        "b": found.b.source,
        "threshold": found.threshold,
        "slower": len(found.slower),
        "faster": len(found.chosen("better")),
        "summary": summary(found),
        "reference_factor": found.reference_factor,
        "warnings": list(found.warnings),
        "differences": [{"what": name, "a": old, "b": new} for name, old, new in found.differences],
        "only_in_a": [_about(one) for one in found.only_a],
        "only_in_b": [_about(one) for one in found.only_b],
        "rows": [_row(line) for line in found.lines],
    }


def _about(one: Quantity) -> dict[str, Any]:
    return {"section": one.section, "of": dict(one.row), "figure": ".".join(one.path)}


def _row(line: Line) -> dict[str, Any]:
    interval = line.interval
    return {
        **_about(line.a),
        "kind": line.a.measure.kind,
        "unit": line.a.measure.unit,
        "larger_is_better": line.a.measure.larger_is_better,
        "reference": line.a.measure.reference,
        "a": line.a.value,
        "b": line.b.value,
        "rounds": [len(line.a.rounds), len(line.b.rounds)],
        "ratio": line.ratio,
        "interval": None if interval is None else [interval.low, interval.high],
        "confidence": None if interval is None else interval.confidence,
        "verdict": line.verdict,
    }


def _common(found: Comparison) -> Key:
    """What all rows of both runs are of."""
    rows = {one.row for run in (found.a, found.b) for one in run.quantities}
    first, *others = rows
    return tuple(pair for pair in first if others and all(pair in row for row in others))


def _cells(line: Line, common: Key) -> tuple[str, ...]:
    name = ": ".join(line.a.path) + (" (reference)" if line.a.measure.reference else "")
    values = (_value(one) for one in (line.a, line.b))
    row = row_text([pair for pair in line.a.row if pair not in common])
    return row, name, *values, f"{line.ratio:.3f}", _ends(line.interval), line.word


def _value(one: Quantity) -> str:
    unit = one.measure.unit
    if unit in ("s", "ms"):
        return seconds(one.value * (1e-3 if unit == "ms" else 1))
    if unit == "B":
        return f"{one.value / 2**20:.4g} MiB"
    return f"{one.value:.4g}{' ' if unit else ''}{unit}"


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return "none"
    text = f"{interval.low:.3f}, {interval.high:.3f}"
    if interval.confidence is None:
        return f"[[{text}]]"
    few = "" if interval.confidence >= CONFIDENCE else f" {interval.confidence:.0%}"
    return f"[{text}]{few}"


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _listed(lacking: Sequence[Quantity], found: Comparison, other: str) -> str:
    """Rows that the other run has nothing of, by name; and how many single figures of rows that it has."""
    run = found.a if other == "A" else found.b
    present = {(one.section, one.row) for one in run.quantities}
    rows = _once(row_text(one.row) for one in lacking if (one.section, one.row) not in present)
    figures = [one for one in lacking if (one.section, one.row) in present]
    parts = [f"{row or 'one row'}" for row in rows]
    parts += _once(f"{': '.join(one.path)} of {row_text(one.row)}" for one in figures)
    return "; ".join(parts)


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
