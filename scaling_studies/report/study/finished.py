"""The finished points of a study as columns, so that a hundred thousand of them are grouped in one go."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.studies.config import Study

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A parameter, or the seed, of all points of a study.

    Attributes:
        name: of the parameter.
        values: the distinct ones: ascending if they are numbers, else in the study's order.
        codes: places in `values`, one a point, shape (points,).
        numbers: the values as float64, or None where one is no number.
    """

    name: str
    values: tuple[Any, ...]
    codes: np.ndarray
    numbers: np.ndarray | None


class Finished:
    """The finished points.

    Attributes:
        study: whose they are.
        records: one a finished point, in the study's order, whatever order they came in.
        places: of these points in `study.points`, shape (n,).
        earlier: how many records belong to no point of the study, but to an earlier version of it.
    """

    def __init__(self, study: Study, records: Sequence[Record]) -> None:
        place_of = {point.id: place for place, point in enumerate(study.points)}
        found: dict[int, Record] = {}
        self.earlier = 0
        for record in records:
            place = place_of.get(record["id"])
            if place is None:
                self.earlier += 1
            else:
                found[place] = record
        order = sorted(found)
        self.study = study
        self.records = [found[place] for place in order]
        self.places = np.array(order, dtype=np.int64)
        self._columns: dict[str, Column] = {}
        self._kinds: dict[str, Column] = {}
        self._figures: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.records)

    def column(self, name: str) -> Column:
        """A parameter, or "seed", of every point of the study, finished or not."""
        if name not in self._columns:
            points = self.study.points
            given = [point.seed if name == "seed" else point.parameters[name] for point in points]
            self._columns[name] = column(name, given)
        return self._columns[name]

    def codes(self, name: str) -> np.ndarray:
        """Places in `column(name).values`, one a finished point, shape (n,)."""
        return self.column(name).codes[self.places]

    def kinds(self, name: str, kind: Callable[[Record], Any]) -> Column:
        """What a function tells of each finished point, as a column of these points, kept under a name."""
        if name not in self._kinds:
            self._kinds[name] = column(name, [kind(record) for record in self.records])
        return self._kinds[name]

    def is_column(self, name: str) -> bool:
        """Whether a name is a parameter or the seed, and not what a point brought out."""
        return name == "seed" or name in self.study.experiment.settings.model_fields

    def figures(self, name: str) -> np.ndarray:
        """A metric, a recorded figure or a parameter as float64, shape (n,); NaN where there is none."""
        if name not in self._figures:
            self._figures[name] = self._read(name)
        return self._figures[name]

    def _read(self, name: str) -> np.ndarray:
        metrics = self.study.experiment.metrics
        if name in metrics:
            part = "measured" if metrics[name].measured else "metrics"
            return _floats([(record.get(part) or {}).get(name) for record in self.records])
        if self.is_column(name):
            numbers = self.column(name).numbers
            return np.full(len(self), np.nan) if numbers is None else numbers[self.codes(name)]
        return _floats([record.get(name) for record in self.records])

    def matching(self, conditions: Mapping[str, Any], *, several: bool = True) -> np.ndarray:
        """Which points of the study, finished or not, have these values of their parameters.

        Args:
            conditions: by parameter, a value or, where `several`, a list of them.
            several: whether a list means any of its values; a list that is itself the value fits too.

        Returns:
            Booleans, shape (points,).
        """
        fit = np.ones(len(self.study.points), dtype=bool)
        for name, wanted in conditions.items():
            here = self.column(name)
            choices = [wanted, *wanted] if several and isinstance(wanted, list) else [wanted]
            ok = np.array([any(same(value, one) for one in choices) for value in here.values], dtype=bool)
            fit &= ok[here.codes]
        return fit


def column(name: str, given: Sequence[Any]) -> Column:
    """Values as a column: each distinct one once, and places among them."""
    seen: dict[str, int] = {}
    first: list[Any] = []
    codes = np.empty(len(given), dtype=np.int64)
    for place, value in enumerate(given):
        key = repr(value)
        code = seen.get(key)
        if code is None:
            code = seen[key] = len(first)
            first.append(value)
        codes[place] = code
    if not first or not all(_is_number(value) for value in first):
        return Column(name, tuple(first), codes, None)
    numbers = np.array([float(value) for value in first])
    order = np.argsort(numbers, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Column(name, tuple(first[place] for place in order), rank[codes], numbers[order])


def same(one: Any, other: Any) -> bool:
    """Whether two values of a parameter are the same; numbers as nearly as a file gives them."""
    if _is_number(one) and _is_number(other):
        return one == other or math.isclose(one, other, rel_tol=1e-9)
    return type(one) is type(other) and one == other


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _floats(values: Sequence[Any]) -> np.ndarray:
    try:
        found = np.array(values, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError, OverflowError):
        found = np.array(
            [float(v) if isinstance(v, int | float) and abs(v) < 1e300 else np.nan for v in values]
        )
    found[~np.isfinite(found)] = np.nan
    return found
