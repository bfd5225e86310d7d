"""The file of a benchmark, read into figures that know what they are of."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrt_tn.studies.benchmarks.compare.forms import FORMS, Form, Measure, Section

FORMAT = re.compile(r"qrt-tn\.bench-(?P<name>[a-z-]+)")  # of benchmarks that write a folder
VERSION = 1  # of their files
NAMED_BY = "method"  # in lists within a row
SAMPLES = "samples"
Key = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Quantity:
    """One figure of a run.

    Attributes:
        section: the list that its row is in.
        row: what the row is of: names and values.
        path: the figure's place within the row.
        measure: what it is.
        value: the figure, a median where there are rounds.
        rounds: the figure of each round; empty where the file does not tell.
        span: the least and greatest of the rounds, where it tells that alone.
    """

    section: str
    row: Key
    path: tuple[str, ...]
    measure: Measure
    value: float
    rounds: tuple[float, ...] = ()
    span: tuple[float, float] | None = None

    @property
    def key(self) -> tuple[str, Key, tuple[str, ...]]:
        """The same for the same figure of another run."""
        return self.section, self.row, self.path


@dataclass(frozen=True, eq=False)
class BenchmarkRun:
    """What one file holds.

    Attributes:
        source: its path.
        benchmark: the benchmark's name.
        quantities: its figures.
        about: everything else: machine, versions, commit, threads, date.
    """

    source: str
    benchmark: str
    quantities: tuple[Quantity, ...]
    about: Mapping[str, Any]


def read_run(path: str | Path) -> BenchmarkRun:
    """Read what `qrt-tn bench` wrote.

    Args:
        path: a JSON file, or the folder of a benchmark that writes one.

    Raises:
        ValueError: no such file, not JSON, not the file of a benchmark that is known here, rows that are
            none, or rounds that are not finite figures above 0.
    """
    place = _file(Path(path))
    try:
        result = json.loads(place.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{place} is not text; give the JSON file that qrt-tn bench wrote") from None
    except OSError as error:
        raise ValueError(f"cannot read {place} ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON: {error}; run the benchmark again") from None
    name = _benchmark(result, place)
    form = FORMS[name]
    quantities = [one for section in form.sections for one in _section(result, section, form, place)]
    if not quantities:
        raise ValueError(f"{place} has no figures of the benchmark {name}; run it again")
    return BenchmarkRun(str(path), name, tuple(quantities), result)


def _file(path: Path) -> Path:
    if path.is_dir():
        held = sorted(path.glob("*.json"))
        if len(held) != 1:
            raise ValueError(f"{path} is a folder with {len(held)} JSON files; give the file itself")
        return held[0]
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give what qrt-tn bench wrote with --out")
    return path


def _benchmark(result: Any, place: Path) -> str:
    """The name of the benchmark that wrote a file."""
    known = f"known are {', '.join(FORMS)}"
    if not isinstance(result, Mapping):
        raise ValueError(f"{place} is not the file of a benchmark; {known}")
    written = FORMAT.fullmatch(str(result.get("format", "")))
    name = written["name"] if written else result.get("benchmark")
    if name is None:
        raise ValueError(f"{place} does not say which benchmark wrote it; {known}")
    if name not in FORMS:
        raise ValueError(f"{place} is of {name!r}, which is not compared; {known}")
    version = result.get("version", VERSION)
    if written and version != VERSION:
        raise ValueError(
            f"{place} has version {version} of its format, this program knows {VERSION}; take a newer program"
        )
    return str(name)


def _section(result: Mapping[str, Any], section: Section, form: Form, place: Path) -> Iterator[Quantity]:
    """The figures of one list of rows."""
    rows = result.get(section.place, [])
    if not (isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)):
        raise ValueError(f"{place}: {section.place} is no list of rows; run the benchmark again")
    shared = [(name, result[name]) for name in form.shared if name in result]
    seen: dict[str, int] = {}
    for row in rows:
        own = [(name, row[name]) for name in section.identity if row.get(name) is not None]
        text = repr(own)
        seen[text] = seen.get(text, 0) + 1
        again = [("row", seen[text])] * (seen[text] > 1)
        key = tuple((name, _plain(value)) for name, value in (*shared, *own, *again))
        for path, leaf, samples in _leaves(row, (), ()):
            measure = section.measure(row, path)
            if measure is not None:
                found = _quantity((section.place, key), path, measure, leaf, samples, place)
                if found is not None:
                    yield found


def _leaves(
    node: Any, path: tuple[str, ...], samples: tuple[Any, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Every figure within a row: its path, itself, and its rounds where `samples` has them.

    A mapping's `samples` have the names of the figures below it.
    """
    if isinstance(node, Mapping) and "median" not in node:
        held = (*samples, node.get(SAMPLES))
        for name, child in node.items():
            if name != SAMPLES:
                below = tuple(one.get(name) if isinstance(one, Mapping) else None for one in held)
                yield from _leaves(child, (*path, name), below)
    elif isinstance(node, list):
        for child in node:
            if isinstance(child, Mapping) and NAMED_BY in child:
                yield from _leaves(child, (*path, str(child[NAMED_BY])), ())
    else:
        yield path, node, next((one for one in samples if isinstance(one, list)), None)


def _quantity(
    of: tuple[str, Key], path: tuple[str, ...], measure: Measure, leaf: Any, samples: Any, place: Path
) -> Quantity | None:
    """A figure; None where it was not measured, or is 0, over which there is no ratio."""
    span = None
    if isinstance(leaf, Mapping):
        samples = leaf.get("rounds", samples)
        ends: list[Any] = [leaf.get("min"), leaf.get("max")]
        if all(map(_is_figure, ends)) and min(ends) > 0:
            span = min(ends), max(ends)
        leaf = leaf["median"]
    if not _is_figure(leaf) or leaf <= 0:
        return None
    rounds = tuple(samples or ())
    if not all(_is_figure(one) and one > 0 for one in rounds):
        raise ValueError(f"{place}: the rounds of {'.'.join(path)} are {samples}; run the benchmark again")
    return Quantity(*of, path, measure, float(leaf), rounds, span)


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """A value of an identity that can be compared and hashed."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, sort_keys=True)


def row_text(row: Sequence[tuple[str, Any]]) -> str:
    """What a row is of, for people: texts by themselves, numbers with their names."""
    return ", ".join(value if isinstance(value, str) else f"{name}={value}" for name, value in row)
