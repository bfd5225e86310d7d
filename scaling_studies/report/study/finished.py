"""The finished points of a study, or the rows of one of its tables, as columns that are grouped in one go."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.studies.config import Study

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A parameter, or the seed, of all points of a study; or a key of all rows of a table.

    Attributes:
        name: of the parameter or key.
        values: the distinct ones: ascending if they are numbers, else in the order in which they come.
        codes: places in `values`, one a point, shape (points,); of a key one a row.
        numbers: the values as float64, or None where one is no number.
    """

    name: str
    values: tuple[Any, ...]
    codes: np.ndarray
    numbers: np.ndarray | None


class Finished:
    """The finished points, or rows: those of one of the tables that the points gave.

    Args:
        study: whose they are.
        records: of finished points, in any order.
        table: whose rows are wanted; None for one row a point, without keys and metrics.

    Attributes:
        study: whose they are.
        keys: of the table.
        records: one a row, in the study's order.
        places: of the rows' points in `study.points`, shape (n,).
        earlier: how many records belong to no point of the study, but to an earlier version of it.
    """

    def __init__(self, study: Study, records: Sequence[Record], table: str | None = None) -> None:
        place_of = {point.id: place for place, point in enumerate(study.points)}
        found: dict[int, Record] = {}
        self.earlier = 0
        for record in records:
            place = place_of.get(record["id"])
            if place is None:
                self.earlier += 1
            else:
                found[place] = record
        self.study = study
        self.keys = study.experiment.tables[table].keys if table else ()
        rows = [
            (place, found[place], row)
            for place in sorted(found)
            for row in (found[place]["tables"][table] if table else [{}])
        ]
        self.records = [record for _, record, _ in rows]
        self.places = np.array([place for place, _, _ in rows], dtype=np.int64)
        self._rows: list[Record] = [row for _, _, row in rows]
        self._all = records
        self._tables: dict[str, Finished] = {}
        self._columns: dict[str, Column] = {}
        self._kinds: dict[str, Column] = {}
        self._figures: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.records)

    def of(self, table: str) -> "Finished":
        """The rows of a table."""
        if table not in self._tables:
            self._tables[table] = Finished(self.study, self._all, table)
        return self._tables[table]

    @property
    def varied(self) -> tuple[str, ...]:
        """Parameters that differ between points, and the keys of the table."""
        return (*self.study.varied, *self.keys)

    def column(self, name: str) -> Column:
        """A parameter, or "seed", of every point of the study, finished or not; or a key of every row."""
        if name not in self._columns and name in self.keys:
            self._columns[name] = column(name, [row[name] for row in self._rows])
        elif name not in self._columns:
            points = self.study.points
            given = [point.seed if name == "seed" else point.parameters[name] for point in points]
            self._columns[name] = column(name, given)
        return self._columns[name]

    def codes(self, name: str) -> np.ndarray:
        """Places in `column(name).values`, one a row, shape (n,)."""
        codes = self.column(name).codes
        return codes if name in self.keys else codes[self.places]

    def value(self, name: str, row: int) -> Any:
        """A parameter or key of one row."""
        return self.column(name).values[self.codes(name)[row]]

    def kinds(self, name: str, kind: Callable[[Record], Any]) -> Column:
        """What a function tells of the record of each row, as a column of these rows, kept under a name."""
        if name not in self._kinds:
            self._kinds[name] = column(name, [kind(record) for record in self.records])
        return self._kinds[name]

    def is_column(self, name: str) -> bool:
        """Whether a name is a parameter, a key or the seed, and not what a point brought out."""
        return name == "seed" or name in self.keys or name in self.study.experiment.settings.model_fields

    def figures(self, name: str) -> np.ndarray:
        """A metric, a recorded figure or a parameter as float64, shape (n,); NaN where there is none."""
        if name not in self._figures:
            self._figures[name] = self._read(name)
        return self._figures[name]

    def _read(self, name: str) -> np.ndarray:
        if name in self.study.experiment.metrics:
            return _floats([row.get(name) for row in self._rows])
        if self.is_column(name):
            numbers = self.column(name).numbers
            return np.full(len(self), np.nan) if numbers is None else numbers[self.codes(name)]
        return _floats([record.get(name) for record in self.records])

    def matching(self, conditions: Mapping[str, Any], *, several: bool = True) -> np.ndarray:
        """Which points of the study, finished or not, have these values of their parameters.

        Args:
            conditions: by parameter, a value or, where `several`, a list of them; those on keys do not count.
            several: whether a list means any of its values; a list that is itself the value fits too.

        Returns:
            Booleans, shape (points,).
        """
        fit = np.ones(len(self.study.points), dtype=bool)
        for name, wanted in conditions.items():
            if name not in self.keys:
                fit &= self._fit(name, wanted, several)
        return fit

    def rows_matching(self, conditions: Mapping[str, Any], *, several: bool = True) -> np.ndarray:
        """Which rows have these values of their parameters and keys: booleans, shape (n,)."""
        fit = self.matching(conditions, several=several)[self.places]
        for name, wanted in conditions.items():
            if name in self.keys:
                fit &= self._fit(name, wanted, several)
        return fit

    def _fit(self, name: str, wanted: Any, several: bool) -> np.ndarray:
        here = self.column(name)
        choices = [wanted, *wanted] if several and isinstance(wanted, list) else [wanted]
        ok = np.array([any(same(value, one) for one in choices) for value in here.values], dtype=bool)
        return ok[here.codes]


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
