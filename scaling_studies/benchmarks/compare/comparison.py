"""Run B over run A, figure by figure, with an interval and a verdict for each."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qrt_tn.studies.benchmarks.compare.intervals import Interval, ratio_interval
from qrt_tn.studies.benchmarks.compare.reading import BenchmarkRun, Quantity

Verdict = Literal["worse", "better", "even", "unknown"]
THRESHOLD = 1.05
CONFIDENCE = 0.95
ALIKE = 0.05  # relative difference of memory that is still the same machine
BUSY = 1.0  # load for each core above which timings wait for others


@dataclass(frozen=True)
class Line:
    """One figure in both runs.

    Attributes:
        a: in run A.
        b: in run B.
        ratio: B over A.
        interval: of the ratio: from all rounds, else the range that older files tell; None without either.
        factor: how many times as bad B is, above 1 where it is slower (or takes more memory, or has a lower
            rate).
        verdict: "worse" or "better" where the factor passes the threshold and the interval leaves 1 out;
            "unknown" without an interval. Memory, which hardly varies, has its verdict without.
    """

    a: Quantity
    b: Quantity
    ratio: float
    interval: Interval | None
    factor: float
    verdict: Verdict

    @property
    def word(self) -> str:
        """The verdict for people."""
        if self.verdict in ("even", "unknown"):
            return "" if self.verdict == "even" else "?"
        memory = self.a.measure.kind == "memory"
        return {"worse": "more" if memory else "slower", "better": "less" if memory else "faster"}[
            self.verdict
        ]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs side by side.

    Attributes:
        a: the earlier run.
        b: the later one.
        threshold: the factor from which a difference counts.
        lines: the figures of both, the worst first.
        only_a: the rows (or single figures of a row) that B lacks, in words.
        only_b: those that A lacks.
        differences: what differs in origin: name, and the values of A and B.
        warnings: why the ratios may say nothing of the program.
    """

    a: BenchmarkRun
    b: BenchmarkRun
    threshold: float
    lines: tuple[Line, ...]
    only_a: tuple[Quantity, ...]
    only_b: tuple[Quantity, ...]
    differences: tuple[tuple[str, Any, Any], ...]
    warnings: tuple[str, ...]

    def chosen(self, verdict: Verdict, *, memory: bool = False, reference: bool = False) -> list[Line]:
        """The lines of a verdict: of times, rates and ratios, or of memory; of ours, or of references."""
        return [
            line
            for line in self.lines
            if line.verdict == verdict
            and (line.a.measure.kind == "memory") is memory
            and line.a.measure.reference is reference
        ]

    @property
    def slower(self) -> list[Line]:
        """What of ours is slower beyond the threshold and its interval."""
        return self.chosen("worse")

    @property
    def reference_factor(self) -> float | None:
        """The median factor of what ours is set against: how much slower the machine was in B."""
        factors = [line.factor for line in self.lines if line.a.measure.reference]
        return statistics.median(factors) if factors else None


def compare(a: BenchmarkRun, b: BenchmarkRun, *, threshold: float = THRESHOLD) -> Comparison:
    """Put two runs of one benchmark side by side; rows are matched by what they are of, not by place.

    Args:
        a: the run to compare with.
        b: the run that is judged.
        threshold: the factor from which a difference counts, at least 1.

    Raises:
        ValueError: a threshold below 1, runs of different benchmarks, or no figure that both have.
    """
    if not (math.isfinite(threshold) and threshold >= 1):
        raise ValueError(f"threshold is {threshold}; give a factor of at least 1, such as 1.05")
    if a.benchmark != b.benchmark:
        raise ValueError(
            f"{a.source} is of the benchmark {a.benchmark}, {b.source} of {b.benchmark}; give two of one"
        )
    first, second = ({one.key: one for one in run.quantities} for run in (a, b))
    lines = [_line(first[key], second[key], threshold) for key in first if key in second]
    if not lines:
        raise ValueError(
            f"{a.source} and {b.source} have no figure in common; run the benchmark {a.benchmark} with the"
            " same sizes"
        )
    lines.sort(key=lambda line: -line.factor)
    differences = tuple(_differences(a.about, b.about))
    return Comparison(
        a,
        b,
        threshold,
        tuple(lines),
        tuple(one for key, one in first.items() if key not in second),
        tuple(one for key, one in second.items() if key not in first),
        differences,
        tuple(_warnings(a, b, differences)),
    )


def _line(a: Quantity, b: Quantity, threshold: float) -> Line:
    ratio, interval = b.value / a.value, _interval(a, b)
    up = not a.measure.larger_is_better
    factor = ratio if up else 1 / ratio
    verdict: Verdict = "even"
    if interval is not None:
        beyond = interval.low > 1 if up else interval.high < 1
        below = interval.high < 1 if up else interval.low > 1
    else:
        beyond = below = a.measure.kind == "memory"
        verdict = "even" if beyond else "unknown"
    if beyond and factor >= threshold and factor > 1:
        verdict = "worse"
    elif below and 1 / factor >= threshold and factor < 1:
        verdict = "better"
    return Line(a, b, ratio, interval, factor, verdict)


def _interval(a: Quantity, b: Quantity) -> Interval | None:
    """From the rounds of both; else from their ranges, where both files tell them."""
    found = ratio_interval(a.rounds, b.rounds, CONFIDENCE)
    if found is not None:
        # the file's own figure may be no median of these rounds, such as a ratio of medians
        middle = b.value / a.value
        return Interval(min(found.low, middle), max(found.high, middle), found.confidence)
    if a.span is None or b.span is None:
        return None
    return Interval(b.span[0] / a.span[1], b.span[1] / a.span[0], None)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs between the origins of two runs, but for the load, which always does."""
    flat = [_origin(about) for about in (a, b)]
    names = list(dict.fromkeys([*flat[0], *flat[1]]))
    pairs = [(name, flat[0].get(name), flat[1].get(name)) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]


def _origin(about: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: about.get(name) for name in ("date", "commit", "device") if about.get(name) is not None}
    for group in ("machine", "versions", "threads"):
        held = about.get(group)
        if isinstance(held, Mapping):
            # the names of libraries change with their versions
            prefix = {"machine": "machine: ", "versions": "", "threads": "threads: "}[group]
            found |= {f"{prefix}{name}": value for name, value in held.items()}
    return found


def _warnings(a: BenchmarkRun, b: BenchmarkRun, differences: Sequence[tuple[str, Any, Any]]) -> list[str]:
    found = []
    machine = []
    for name, old, new in differences:
        if name == "machine: memory_gib" and old and new and abs(old / new - 1) <= ALIKE:
            continue
        if name.startswith("machine: ") and name not in ("machine: load_average", "machine: backend"):
            machine.append(f"{name.removeprefix('machine: ')} is {old} in A and {new} in B")
        if name == "device":
            machine.append(f"device is {old} in A and {new} in B")
    if machine:
        found.append(
            f"The machines differ ({'; '.join(machine)}): times tell of them as much as of the program."
        )
    threads = [max(_table(run, "threads").values(), default=None) for run in (a, b)]
    if threads[0] != threads[1]:
        found.append(f"Linear algebra had {threads[0]} threads in A and {threads[1]} in B.")
    for name, run in (("A", a), ("B", b)):
        held = _table(run, "machine")
        load, cores = held.get("load_average"), held.get("cores")
        if load and cores and load / cores > BUSY:
            found.append(f"Run {name} ended at a load of {load:.1f} on {cores} cores: others ran beside it.")
    return found


def _table(run: BenchmarkRun, name: str) -> Mapping[str, Any]:
    """A table of a run's origin; empty where the file has none."""
    held = run.about.get(name)
    return held if isinstance(held, Mapping) else {}
