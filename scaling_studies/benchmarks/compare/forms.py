"""What the files of each benchmark hold: what a row is of, and which of its figures can be compared.

A new benchmark needs a `Form` here, and `samples` in its rows (see qrt_tn.studies.benchmarks.record).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

Path = tuple[str, ...]
Kind = Literal["time", "rate", "ratio", "memory"]


@dataclass(frozen=True)
class Measure:
    """Figures of one kind.

    Attributes:
        path: names on the way to them within a row, patterns such as "*" included.
        kind: "time", "rate" (of work), "ratio" (of times, paired) or "memory".
        larger_is_better: whether it is; not so for times and memory.
        unit: "s", "ms", "B", or "" for a pure number.
        reference: whether they are of what ours is set against, and tell of the machine, not of this program.
    """

    path: Path
    kind: Kind
    larger_is_better: bool = False
    unit: str = ""
    reference: bool = False

    def fits(self, path: Path) -> bool:
        """Whether a figure's place within a row is of these."""
        same = len(path) == len(self.path)
        return same and all(fnmatchcase(name, wanted) for name, wanted in zip(path, self.path, strict=True))


@dataclass(frozen=True)
class Section:
    """One list of rows.

    Attributes:
        place: its name in the file.
        identity: fields that tell what a row is of; a row need not have all.
        measures: of its figures; the first that fits counts, others than these are not compared.
        ours: a field and a pattern that it has in rows of ours; all figures of other rows are references.
    """

    place: str
    identity: tuple[str, ...]
    measures: tuple[Measure, ...]
    ours: tuple[str, str] | None = None

    def measure(self, row: Mapping[str, Any], path: Path) -> Measure | None:
        """What a figure at a place within a row is, or None."""
        found = next((measure for measure in self.measures if measure.fits(path)), None)
        if found is not None and self.ours is not None:
            field, pattern = self.ours
            if not fnmatchcase(str(row.get(field)), pattern):
                return replace(found, reference=True)
        return found


@dataclass(frozen=True)
class Form:
    """The files of one benchmark.

    Attributes:
        sections: their lists.
        shared: fields of the whole file that tell what all its rows are of.
    """

    sections: tuple[Section, ...]
    shared: tuple[str, ...] = ()


def _time(*path: str, unit: str = "s", reference: bool = False) -> Measure:
    return Measure(path, "time", unit=unit, reference=reference)


def _theirs(*path: str, unit: str = "s") -> Measure:
    return _time(*path, unit=unit, reference=True)


def _ratio(*path: str, ours_below: bool) -> Measure:
    """A ratio of ours to others' times, or the other way round (which is the better the larger it is)."""
    return Measure(path, "ratio", larger_is_better=ours_below)


def _engine() -> Form:
    plans = ("network", "batch", "tensors", "method")
    searches, ours = (_time("seconds"),), ("method", "qrt-tn*")
    return Form(
        (
            Section("quality", plans, searches, ours),
            Section("chains", plans, searches, ours),
            Section(
                "speed",
                ("network", "dtype", "batch", "method"),
                (
                    _time("seconds"),
                    _theirs("against", "*", "seconds"),
                    _ratio("against", "*", "ratio", ours_below=True),
                ),
            ),
            Section(
                "overhead",
                ("network",),
                (
                    _time("seconds"),
                    _theirs("over", "*", "seconds"),
                    _ratio("over", "*", "ratio", ours_below=False),
                ),
            ),
        )
    )


def _sample_mps() -> Form:
    measures = (
        _theirs("seconds", "products*"),
        _theirs("seconds", "quimb"),
        _time("seconds", "*"),
        _ratio("to_products", "*", ours_below=False),
        _ratio("to_quimb", "*", ours_below=True),
        _theirs("gpu", "seconds", "products"),
        _time("gpu", "seconds", "*"),
        _ratio("gpu", "to_products", ours_below=False),
        _ratio("gpu", "to_host", ours_below=True),
        _theirs("gpu", "networkstate", "seconds"),
        _time("gpu", "networkstate", "own_seconds"),
        _ratio("gpu", "networkstate", "ratio", ours_below=True),
    )
    return Form((Section("rows", ("dim", "modulus", "bond", "nodes", "quimb_shots"), measures),))


def _moe() -> Form:
    measures = (
        _theirs("milliseconds", "bare", unit="ms"),
        _theirs("milliseconds", "einsum*", unit="ms"),
        _time("milliseconds", "*", unit="ms"),
        _time("milliseconds", unit="ms"),
        _ratio("einsum_over_*", ours_below=True),
        _ratio("gather_over_bare", ours_below=False),
        _ratio("over_whole", ours_below=False),
    )
    identity = ("measured", "router", "mode", "experts", "left", "images", "tokens", "group")
    return Form((Section("rows", identity, measures),), shared=("device",))


FORMS: Mapping[str, Form] = {
    "engine": _engine(),
    "states": Form(
        (
            Section(
                "rows",
                ("kind", "dim", "nodes"),
                (
                    _time("seconds"),
                    _time("build_seconds"),
                    _time("total_seconds"),
                    Measure(("bytes",), "memory", unit="B"),
                ),
            ),
        ),
        shared=("modulus", "activation"),
    ),
    "sample_state": Form(
        (
            Section(
                "rows",
                ("points", "dim", "outputs", "modulus", "levels", "nodes", "dtype"),
                (
                    _time("sampling_seconds"),
                    _time("build_seconds"),
                    _theirs("product_seconds"),
                    _ratio("ratio", ours_below=False),
                ),
            ),
        )
    ),
    "gpu": Form(
        (
            Section(
                "rows",
                ("part", "what", "points", "dim", "modulus", "bond", "nodes", "tensors"),
                (_time("seconds"), _time("first_seconds"), _theirs("host_seconds")),
            ),
        ),
        shared=("backend",),
    ),
    "sample_mps": _sample_mps(),
    "smoothed_images": Form(
        (
            Section(
                "rows",
                ("points", "dim", "classes", "smoothing", "tolerance", "nodes"),
                (
                    _time("build_seconds"),
                    _time("draw_seconds"),
                    Measure(("peak_bytes",), "memory", unit="B"),
                ),
            ),
        ),
        shared=("data", "modulus", "levels", "activation", "ridge"),
    ),
    "lottery": Form(
        (
            Section(
                "rows",
                (
                    *("architecture", "batch_size", "iterations", "trials_together"),
                    *("evaluated_points", "evaluate_every"),
                ),
                (
                    Measure(("iterations_per_second",), "rate", True, "1/s"),
                    Measure(("iterations_per_second_plain",), "rate", True, "1/s", reference=True),
                    _ratio("plain_over_ours", ours_below=True),
                    _ratio("together_over_*", ours_below=False),
                ),
            ),
        )
    ),
    "moe": _moe(),
    "checkpoints": Form(
        (
            Section(
                "rows",
                ("measured", "bytes", "shards"),
                (_time("seconds"), Measure(("peak_bytes",), "memory", unit="B")),
            ),
        )
    ),
}
