"""Where a study's results came from: machines, commits, versions, and what they took."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from qrt_tn.studies.report.html import MISSING, details, facts, join, number, section, table
from qrt_tn.studies.report.study.finished import Column, Finished
from qrt_tn.studies.report.study.groups import mixes
from qrt_tn.studies.report.study.plots import Plot
from qrt_tn.studies.report.study.quantities import said, with_unit

MOST_ROWS = 100
MOST_NAMED = 4


def mixtures(finished: Finished, plot: Plot, *, timed: bool) -> list[str]:
    """What the points of one figure do not have in common but should, as HTML.

    Args:
        finished: all finished points.
        plot: the figure.
        timed: whether it shows times, rates or memory, which differ between machines.
    """
    found = []
    for name, kind, what in KINDS:
        if name == "machine" and not timed:
            continue
        column = finished.kinds(name, kind)
        codes = column.codes[plot.rows]
        counts = Counter({column.values[code]: n for code, n in enumerate(np.bincount(codes).tolist()) if n})
        if len(counts) > 1:
            within = " within one line" if mixes(plot.curve_of, codes) else ", one to each line"
            said_so = f": {_named(counts)}" if name == "machine" else ""
            found.append(f"{len(counts)} {what}{within}{said_so}")
    return found


def machine(record: Mapping[str, Any]) -> str:
    """What a point ran on: processor and GPU, whichever host of that kind it was."""
    device = record.get("device") or {}
    parts = (device.get("processor") or "unknown processor", device.get("gpu"))
    return " with ".join(said(part) for part in parts if part)


def differing(kinds: Mapping[tuple[tuple[str, str], ...], int]) -> list[str]:
    """The packages whose versions differ: "jax 0.10.0 and 0.10.1"."""
    tables = [dict(kind) for kind in kinds]
    names = dict.fromkeys(name for one in tables for name in one)
    found = []
    for name in names:
        values = list(dict.fromkeys(one.get(name, "none") for one in tables))
        if len(values) > 1:
            found.append(f"{said(name)} {' and '.join(map(said, values))}")
    more = len(found) - MOST_NAMED
    return [*found[:MOST_NAMED], f"{more} more"] if more > 0 else found


def origin(finished: Finished, latest: str | None) -> str:
    """The section on machines, commits, versions, times and memory.

    Args:
        finished: all finished points.
        latest: when the last of them ended, or None.
    """
    if not len(finished):
        return ""
    records = finished.records
    wall, peak = finished.figures("wall_seconds"), finished.figures("peak_bytes")
    base = np.array([float(record.get("baseline_bytes") or 0) for record in records])
    pairs = [
        ("wall time of all points", _of(wall, np.nansum, "s")),
        ("median of a point", _of(wall, np.nanmedian, "s")),
        ("longest", _of(wall, np.nanmax, "s")),
        ("peak memory, median", _of(peak, np.nanmedian, "B")),
        ("greatest", _of(peak, np.nanmax, "B")),
        ("of it before the point began, median", _of(base, np.nanmedian, "B")),
    ]
    again = sum(int(record.get("attempt") or 1) > 1 for record in records)
    if again:
        pairs.append(("done at a second attempt or later", number(again)))
    if latest:
        pairs.append(("last one finished", escape(said(latest)[:16].replace("T", " ")) + " UTC"))
    kinds, commits, versions = (_counted(finished.kinds(name, kind)) for name, kind, _ in KINDS)
    beware = []
    if len(kinds) > 1:
        beware.append(
            f"{len(kinds)} kinds of machines took part: times and memory do not compare between them"
        )
    if len(commits) > 1:
        beware.append(f"points come from {len(commits)} commits")
    if len(versions) > 1:
        beware.append(f"versions differ: {escape(join(differing(versions)))}")
    warning = f"<p class=beware>Beware: {'; '.join(beware)}. Figures that mix them say so.</p>"
    return section(
        "origin",
        "Where it ran",
        facts(pairs),
        warning if beware else "",
        _machines(records),
        _commits(commits),
        details("Versions", "of what ran", _version_table(versions)),
    )


def _counted(column: Column) -> Counter[Any]:
    counts = np.bincount(column.codes, minlength=len(column.values)).tolist()
    return Counter(dict(zip(column.values, counts, strict=True)))


def _of(values: np.ndarray, function: Any, unit: str) -> str:
    return MISSING if np.isnan(values).all() else with_unit(float(function(values)), unit)


def _machines(records: Sequence[Mapping[str, Any]]) -> str:
    keys: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        device = record.get("device") or {}
        memory = device.get("memory_gib")
        key = (
            said(device.get("processor") or MISSING),
            said(device.get("gpu") or MISSING),
            number(device.get("cores")),
            MISSING if memory is None else f"{memory:.0f} GiB",
        )
        keys.setdefault(key, []).append(float(record.get("wall_seconds") or 0))
    rows = [
        [*map(escape, key), number(len(walls)), with_unit(sum(walls), "s")]
        for key, walls in sorted(keys.items(), key=lambda item: -len(item[1]))
    ]
    head = ["processor", "GPU", "cores", "memory", "points", "wall time"]
    return table(head, rows[:MOST_ROWS], texts=2) + _more(len(rows) - MOST_ROWS, "machines")


def _commits(found: Counter[str]) -> str:
    rows = [[escape(commit), number(count)] for commit, count in found.most_common()]
    return table(["commit", "points"], rows[:MOST_ROWS]) + _more(len(rows) - MOST_ROWS, "commits")


def _version_table(found: Counter[tuple[tuple[str, str], ...]]) -> str:
    """A column for each set of versions, what is the same in all of them once."""
    sets = [dict(kind) for kind, _ in found.most_common(MOST_NAMED)]
    if not any(sets):
        return ""
    names = sorted({name for one in sets for name in one})
    rows = [[escape(said(name)), *(escape(said(one.get(name, MISSING))) for one in sets)] for name in names]
    counts = [f"{number(count)} points" for _, count in found.most_common(MOST_NAMED)]
    return table(["package", *counts], rows, texts=1 + len(sets)) + _more(len(found) - MOST_NAMED, "sets")


def _more(count: int, what: str) -> str:
    return f'<p class="note">{number(count)} more {what} are not shown.</p>' if count > 0 else ""


def _named(kinds: Mapping[str, int]) -> str:
    shown = [f"{escape(name)} ({number(count)} points)" for name, count in list(kinds.items())[:MOST_NAMED]]
    more = len(kinds) - MOST_NAMED
    return join([*shown, f"{more} more"] if more > 0 else shown)


def _commit(record: Mapping[str, Any]) -> str:
    commit = record.get("commit")
    if not commit:
        return "unknown"
    # a "+" says that the tree had changes
    return said(f"{commit[:12]}+" if commit.endswith("+") else commit[:12])


def _versions(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(name), str(value)) for name, value in (record.get("versions") or {}).items()))


KINDS = (
    ("machine", machine, "kinds of machines"),
    ("commit", _commit, "commits"),
    ("versions", _versions, "sets of versions"),
)
