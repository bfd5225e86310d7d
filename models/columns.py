"""Columns of a table as the coordinates of points, by name or position, the same way for every table."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qrt_tn.models.delimited import shown
from qrt_tn.models.tables import kind_of

if TYPE_CHECKING:
    import pandas as pd

Encode = Literal["onehot", "ordinal"]
ENCODE = ("onehot", "ordinal")
MISSING = "(missing)"  # how a coordinate's name spells the category of missing values


@dataclass(frozen=True)
class Column:
    """A column that is a feature.

    Attributes:
        name: its name in the table.
        categories: its values as text, None among them for missing ones; None for a column of numbers.
        encode: "onehot" for a coordinate of 0 or 1 for each category, "ordinal" for one with the
            category's number; None for a column of numbers.

    Raises:
        ValueError: categories without an encoding, the other way round, or one twice.
    """

    name: str
    categories: tuple[str | None, ...] | None = None
    encode: Encode | None = None

    def __post_init__(self) -> None:
        known = self.categories or ()
        if bool(known) != (self.encode is not None) or self.encode not in (*ENCODE, None):
            raise ValueError(f"column {self.name!r} has encode {self.encode!r}; give it with categories")
        if len(set(known)) != len(known):
            raise ValueError(f"column {self.name!r} has categories {shown(known)}; give each once")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its coordinates: "colour=red" in one-hot."""
        if self.encode != "onehot" or self.categories is None:
            return (self.name,)
        return tuple(f"{self.name}={MISSING if value is None else value}" for value in self.categories)

    def coordinates(self, values: "pd.Series") -> np.ndarray:
        """Turn the column's M values into coordinates, shape (M, coordinates), float64.

        A missing number or ordinal is NaN; a category that was never seen is zeros in one-hot.

        Raises:
            ValueError: text among numbers, infinity, or a category never seen where the encoding is
                ordinal.
        """
        if self.categories is None:
            return as_numbers(values, self.name)[:, None]
        place = {value: i for i, value in enumerate(self.categories)}
        texts = as_texts(values)
        codes = np.array([place.get(text, -1) for text in texts], dtype=np.int64)
        if self.encode == "onehot":
            return (codes[:, None] == np.arange(len(place))).astype(np.float64)
        unseen = np.flatnonzero((codes < 0) & values.notna().to_numpy())
        if len(unseen):
            raise ValueError(
                f"column {shown([self.name])} holds {shown([texts[unseen[0]]])} in row {unseen[0]}, which was"
                f" not among the categories learnt ({shown(self.categories)}); correct or remove such rows"
            )
        return np.where(codes < 0, np.nan, codes)[:, None]


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are the features, and how they become coordinates.

    Attributes:
        features: the columns, in the order of the coordinates.
        target: the name of the target's column.
        header: whether columns are found by name; else by position: "column 3" is the fourth.
        width: how many columns the table had; where they are found by position, a table has as many, or
            one fewer without the target.

    Raises:
        ValueError: no features, or two of one name.
    """

    features: tuple[Column, ...]
    target: str
    header: bool
    width: int | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.features]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"features are {shown(names)}; give one or more, each once")
        if not self.header:
            for name in (*names, self.target):
                _position(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the D coordinates of a point."""
        return tuple(name for column in self.features for name in column.names)

    def matrix(self, frame: "pd.DataFrame") -> np.ndarray:
        """Turn a table into points; columns may be in any order, and others are ignored.

        Args:
            frame: of M rows.

        Returns:
            Shape (M, D), float64; missing values are NaN.

        Raises:
            ValueError: missing columns, or values that `Column.coordinates` refuses.
        """
        at = self._positions(_names(frame))
        parts = [column.coordinates(frame.iloc[:, i]) for column, i in zip(self.features, at, strict=True)]
        return np.hstack(parts)

    def ignored(self, frame: "pd.DataFrame") -> tuple[str, ...]:
        """The names of the columns that are neither features nor the target."""
        names = _names(frame)
        used = set(self._positions(names))
        if self.header:
            used |= {i for i, name in enumerate(names) if name == self.target}
        elif len(names) == self.width:
            used.add(_position(self.target))
        return tuple(name for i, name in enumerate(names) if i not in used)

    def text_positions(self, names: list[str]) -> list[int]:
        """Where in a table the columns of categories are: `read_table` would take "007" for a number."""
        at = self._positions(names)
        return [i for column, i in zip(self.features, at, strict=True) if column.encode is not None]

    def unseen(self, frame: "pd.DataFrame") -> dict[str, tuple[str, int]]:
        """The columns that hold categories never seen, with the first of them and the number of rows."""
        found = {}
        for column, i in zip(self.features, self._positions(_names(frame)), strict=True):
            known = column.categories
            new = [text for text in as_texts(frame.iloc[:, i]) if text not in known] if known else []
            if new:
                found[column.name] = (MISSING if new[0] is None else new[0], len(new))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, from which `from_json` makes an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Columns":
        """Columns from what `to_json` gave; anything else is a ValueError that names what is wrong."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(Columns).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            place, found = ".".join(map(str, first["loc"])) or "it", str(first["input"])[:60]
            raise ValueError(f"columns: {place}: {first['msg']} (found {found!r})") from error

    def _positions(self, names: list[str]) -> list[int]:
        """Where in a table with columns of these names each feature is."""
        features = [column.name for column in self.features]
        if self.header:
            lacking = [name for name in features if name not in names]
            if lacking:
                s = "s" * (len(lacking) > 1)
                raise ValueError(
                    f"the table lacks the column{s} {shown(lacking, 20)}; it has {shown(names, 20)}"
                )
            return list(map(names.index, features))
        if names == features:
            return list(range(len(names)))
        at, target = [_position(name) for name in features], _position(self.target)
        width = max(*at, target) + 1 if self.width is None else self.width
        if len(names) == width - 1:
            return [i - (i > target) for i in at]
        if len(names) != width:
            raise ValueError(
                f"the table has {len(names)} columns without names; give {width} as in the table learnt"
                f" from, or {width - 1} without the target"
            )
        return at


def as_numbers(values: "pd.Series", name: str) -> np.ndarray:
    """The numbers of a column, float64, shape (M,); NaN where missing, booleans as 0 and 1.

    Raises:
        ValueError: text, dates or infinity, naming the first.
    """
    import pandas as pd

    kind = kind_of(values)
    if kind in ("numbers", "booleans"):
        numbers = values.astype("Float64" if kind == "booleans" else values.dtype)
        numbers = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    elif kind == "dates":
        numbers = np.where(values.isna(), np.nan, np.inf)
    else:
        numbers = pd.to_numeric(values.astype(object), errors="coerce").to_numpy(dtype=np.float64)
        numbers = np.where(values.notna() & np.isnan(numbers), np.inf, numbers)
    wrong = np.flatnonzero(np.isinf(numbers))
    if len(wrong):
        value = values.iloc[wrong[0]]
        what, kind = (float(value), "finite number") if isinstance(value, float) else (str(value), "number")
        raise ValueError(
            f"column {shown([name])} holds {shown([what])} in row {wrong[0]}, not a {kind}; correct or remove"
            " such rows"
        )
    return numbers


def as_texts(values: "pd.Series") -> np.ndarray:
    """A column's values as text, object, shape (M,); None where missing.

    A category that is a number is spelt the same whatever else is in its column: 1 and 1.0 are "1".
    """
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    texts = np.array(list(map(str, whole)), dtype=object)
    texts[values.isna().to_numpy()] = None
    return texts


def _names(frame: "pd.DataFrame") -> list[str]:
    return [str(name) for name in frame.columns]


def _position(name: str) -> int:
    word, _, number = name.partition(" ")
    if word != "column" or not number.isdecimal():
        raise ValueError(f"{shown([name])} is no position; without a header columns are 'column 0', ...")
    return int(number)
