"""Columns of a table as the coordinates of points, by name or position, the same way for every table."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qrt_tn.models.settings import settings
from qrt_tn.models.tables import Table, kind_of, shown

if TYPE_CHECKING:
    import pandas as pd

Encode = Literal["onehot", "ordinal"]
MISSING = "(missing)"  # how a coordinate's name spells the category of missing values


@settings
class Column:
    """A column that is a feature: of numbers, or of categories with the way they become numbers.

    Attributes:
        categories: its values as text, None among them for missing ones; None for a column of numbers.
        encode: "onehot" for a coordinate of 0 or 1 for each category, "ordinal" for one with the
            category's number; None for a column of numbers.
    """

    name: str
    categories: tuple[str | None, ...] | None = None
    encode: Encode | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its coordinates: "colour=red" in one-hot."""
        if self.encode != "onehot" or self.categories is None:
            return (self.name,)
        return tuple(f"{self.name}={MISSING if value is None else value}" for value in self.categories)

    def coordinates(self, values: "pd.Series") -> np.ndarray:
        """The column's M values as coordinates, shape (M, coordinates), float64.

        A missing number or ordinal is NaN; a category that was never seen is zeros in one-hot, and refused in
        ordinal, as are text among numbers and infinity (ValueError).
        """
        if self.categories is None:
            return _numbers(values, self.name)[:, None]
        place = {value: i for i, value in enumerate(self.categories)}
        texts = as_texts(values)
        codes = np.array([place.get(text, -1) for text in texts], dtype=np.int64)
        if self.encode == "onehot":
            return (codes[:, None] == np.arange(len(place))).astype(np.float64)
        unseen = np.flatnonzero((codes < 0) & values.notna().to_numpy())
        if len(unseen):
            raise ValueError(
                f"column {shown([self.name])} holds {shown([texts[unseen[0]]])} in row {unseen[0]}, none of"
                f" the categories learnt ({shown(self.categories)}); correct or remove such rows"
            )
        return np.where(codes < 0, np.nan, codes)[:, None]


@settings
class Columns:
    """Which columns of a table are the features, and how they become coordinates.

    Attributes:
        features: the columns, in the order of the coordinates.
        target: the name of the target's column.
        header: whether columns are found by name; else by position: "column 3" is the fourth.
        width: how many columns a table without names had; another has as many, or lacks the target.
    """

    features: tuple[Column, ...]
    target: str
    header: bool
    width: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the D coordinates of a point."""
        return tuple(name for column in self.features for name in column.names)

    def matrix(self, frame: "pd.DataFrame") -> np.ndarray:
        """Turn a table of M rows into points, shape (M, D), float64, NaN where missing.

        Columns may be in any order, and others are ignored; missing ones are a ValueError.
        """
        found = self._named(frame)
        return np.hstack([column.coordinates(found[column.name]) for column in self.features])

    def read(self, table: Table) -> "pd.DataFrame":
        """The features of a table as `matrix` takes them: categories as they are written, such as "007"."""
        named = self._named(table.frame)
        places = dict(zip(named, table.frame, strict=True))
        encoded = {column.name: places[column.name] for column in self.features if column.encode}
        texts = table.as_written(list(encoded.values()))
        found = named.assign(**{name: texts[place] for name, place in encoded.items()})
        return found[[column.name for column in self.features]]

    def ignored(self, frame: "pd.DataFrame") -> tuple[str, ...]:
        """The names of the columns that are neither features nor the target."""
        used = {self.target, *(column.name for column in self.features)}
        named = zip(map(str, frame), self._named(frame), strict=True)
        return tuple(name for name, known in named if known not in used)

    def unseen(self, frame: "pd.DataFrame") -> dict[str, tuple[str, int]]:
        """The columns that hold categories never seen, with the first of them and the number of rows."""
        found = {}
        for column in self.features:
            known = column.categories
            new = [text for text in as_texts(frame[column.name]) if text not in known] if known else []
            if new:
                found[column.name] = (MISSING if new[0] is None else new[0], len(new))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, from which `from_json` makes an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Columns":
        """Columns from what `to_json` gave; LookupError, TypeError or ValueError for anything else."""
        return cls(**value | {"features": tuple(Column(**column) for column in value["features"])})

    def _named(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """The table with the names that its columns had when they were learnt."""
        names = list(map(str, frame.columns))
        features = [column.name for column in self.features]
        if not self.header and names != features:
            if len(names) not in (self.width - 1, self.width):
                raise ValueError(
                    f"the table has {len(names)} columns without names; give {self.width} as in the table"
                    f" learnt from, or {self.width - 1} without the target"
                )
            names = [f"column {i}" for i in range(self.width)]
            if len(frame.columns) < self.width:
                names.remove(self.target)
        lacking = [name for name in features if name not in names]
        if lacking:
            raise ValueError(f"the table lacks the columns {shown(lacking, 20)}; it has {shown(names, 20)}")
        return frame.set_axis(names, axis=1)


def as_texts(values: "pd.Series") -> np.ndarray:
    """A column's values as text, object, shape (M,); None where missing.

    A category that is a number is spelt the same whatever else is in its column: 1 and 1.0 are "1".
    """
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    texts = np.array(list(map(str, whole)), dtype=object)
    texts[values.isna().to_numpy()] = None
    return texts


def _numbers(values: "pd.Series", name: str) -> np.ndarray:
    """The numbers of a column, float64, shape (M,); NaN where missing, booleans as 0 and 1."""
    import pandas as pd

    missing = values.isna().to_numpy()
    if kind_of(values) == "dates":
        numbers = np.full(len(values), np.nan)
    elif values.dtype.kind in "biuf":
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        plain = values.astype(object).where(~missing, np.nan)
        numbers = pd.to_numeric(plain, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero((np.isnan(numbers) & ~missing) | np.isinf(numbers))
    if len(wrong):
        raise ValueError(
            f"column {shown([name])} holds {shown([str(values.iloc[wrong[0]])])} in row {wrong[0]}, not a"
            " finite number; correct or remove such rows"
        )
    return numbers
