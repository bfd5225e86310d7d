"""Data sets: scikit-learn's handwritten digits, or the user's own file, and their splits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import sklearn.datasets
from sklearn.model_selection import train_test_split

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.models.npz import read_npz

# More distinct whole numbers than this are a quantity to predict, not labels.
MOST_CLASSES = 100
# The digits' split in use: 1,797 points into 1,200 for training, 237 for validation, 360 for the test.
VALIDATION_SHARE = 237 / 1797
TEST_SHARE = 360 / 1797


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points with labels or real targets.

    Attributes:
        x: features, shape (M, D), float64.
        y: labels 0 .. C-1, shape (M,), int64; or real targets, shape (M, C), float64.
        name: what to call the data set in a report.
        classes: the names of the C labels, or None for real targets.
        image_shape: (height, width) if a point is an image of D pixels, else None.

    Raises:
        ValueError: empty, mismatched shapes, NaN or infinity, labels outside 0..C-1, or constant data.
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    classes: tuple[str, ...] | None = None
    image_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        x, y = np.asarray(self.x), np.asarray(self.y)
        if x.ndim != 2 or x.size == 0:
            raise ValueError(f"{self.name}: x has shape {x.shape}; it must be (points, features), not empty")
        if len(y) != len(x):
            raise ValueError(f"{self.name}: {len(x)} points but {len(y)} targets; give one target a point")
        x = _finite(x, f"{self.name}: x")
        if (x == x[0]).all():
            raise ValueError(f"{self.name}: constant data: all {len(x)} points are the same")
        if self.classes is None:
            y = _finite(y, f"{self.name}: y")
            if y.ndim != 2:
                raise ValueError(f"{self.name}: real targets have shape {y.shape}; give (points, outputs)")
        else:
            if y.ndim != 1 or y.dtype.kind not in "iu":
                raise ValueError(
                    f"{self.name}: labels have shape {y.shape}, {y.dtype}; give (points,) integers"
                )
            if y.min() < 0 or y.max() >= len(self.classes):
                wrong = y.min() if y.min() < 0 else y.max()
                raise ValueError(f"{self.name}: label {wrong} is outside 0..{len(self.classes) - 1}")
            y = y.astype(np.int64)
        if (y == y[0]).all():
            raise ValueError(
                f"{self.name}: constant data: all {len(y)} targets are the same; give two or more"
            )
        if self.image_shape is not None and np.prod(self.image_shape) != x.shape[1]:
            raise ValueError(f"{self.name}: images of {self.image_shape} pixels but {x.shape[1]} features")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dim(self) -> int:
        """The number D of features."""
        return self.x.shape[1]

    @property
    def outputs(self) -> int:
        """How many outputs a network for this data has: one a class, or one a real target."""
        return self.y.shape[1] if self.classes is None else len(self.classes)


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the points for training, for choosing settings, and for the test; each is sorted."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def load_digits() -> Dataset:
    """Scikit-learn's 1,797 handwritten digits: 8 x 8 pixels of 17 grey levels, 0 .. 16."""
    bunch = sklearn.datasets.load_digits()
    classes = tuple(str(name) for name in bunch.target_names)
    return Dataset(bunch.data, bunch.target, "digits", classes, (8, 8))


def load_file(path: str | Path, target: str | None = None) -> Dataset:
    """Read points and targets from an npz, csv or parquet file.

    An npz file holds the features in array `x`, shape (M, D) or (M, height, width), and the targets in
    array `y`. A csv file (with or without a header line) or a parquet file holds a column for each
    feature and one for the target.

    Text, booleans, and whole numbers with at most 100 distinct values are labels; other numbers are real
    targets.

    Args:
        path: the file; its suffix tells the format.
        target: the name of the target's array or column. Left out: `y` in an npz file, the last column
            of a table.

    Raises:
        ValueError: no such file, an unknown suffix, malformed content, no such target, features that are
            not numbers, NaN or infinity, empty or constant data, or mismatched lengths.
    """
    source = Path(path)
    reader = READERS.get(source.suffix.lower())
    if reader is None:
        raise ValueError(f"{source} has suffix {source.suffix!r}; give a file of {', '.join(READERS)}")
    if not source.is_file():
        raise ValueError(f"no file {source}; give the path of a data file")
    x, y, image_shape = reader(source, target)
    targets, classes = _targets(y, source.name)
    return Dataset(x, targets, source.stem, classes, image_shape)


def split(
    dataset: Dataset,
    seed: Seed,
    validation: int | float = VALIDATION_SHARE,
    test: int | float = TEST_SHARE,
) -> Split:
    """Split at random into training, validation and test points, stratified by label where there are labels.

    Args:
        dataset: the data.
        seed: an int or a Generator.
        validation: how many points, or their share if below 1. The default shares split the digits into
            1,200, 237 and 360.
        test: likewise.

    Raises:
        ValueError: no points left for training, or too few points of a class to have it in every part.
    """
    points = len(dataset)
    sizes = {"validation": validation, "test": test}
    for name, size in sizes.items():
        if not size > 0 or (size > 1 and size != int(size)):
            raise ValueError(f"{name} is {size}; give a number of points, or a share between 0 and 1")
    counts = {name: round(size * points) if size < 1 else int(size) for name, size in sizes.items()}
    counts["train"] = points - sum(counts.values())
    fewest, strata = 1, None
    if dataset.classes is not None:
        strata = dataset.y
        labels, members = np.unique(strata, return_counts=True)
        fewest = len(labels)
        if members.min() < 3:
            name = dataset.classes[labels[members.argmin()]]
            raise ValueError(
                f"class {name!r} has {members.min()} points; a stratified split needs 3 or more of each class"
            )
    for name in ("train", "validation", "test"):
        if counts[name] < fewest:
            raise ValueError(
                f"{counts[name]} of {points} points would be left for {name}; it needs {fewest} or more"
                f" (validation={validation}, test={test})"
            )
    random_state = int(generator(seed).integers(2**31))
    rest, test_index = train_test_split(
        np.arange(points), test_size=counts["test"], stratify=strata, random_state=random_state
    )
    train_index, validation_index = train_test_split(
        rest,
        test_size=counts["validation"],
        stratify=None if strata is None else strata[rest],
        random_state=random_state,
    )
    return Split(np.sort(train_index), np.sort(validation_index), np.sort(test_index))


def one_hot(y: np.ndarray, classes: int, centre: bool = True) -> np.ndarray:
    """Labels as unit vectors, minus their mean: targets for a state.

    Centred targets sum to zero over the points, so that f^(0) = 0 and no node is drawn at a = 0. A
    network with a bias can be fitted to the plain unit vectors.

    Args:
        y: labels in 0 .. classes-1, shape (M,).
        classes: the number of classes C.
        centre: whether to subtract the mean over the points given.

    Returns:
        Targets, shape (M, C), float64.

    Raises:
        ValueError: not one-dimensional integers, or outside 0 .. classes-1.
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.size == 0:
        raise ValueError(f"y has shape {labels.shape}, {labels.dtype}; give labels of shape (points,)")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"y holds {wrong}; labels must lie in 0..{classes - 1}")
    targets = np.eye(classes)[labels]
    return targets - targets.mean(axis=0) if centre else targets


Contents = tuple[np.ndarray, np.ndarray, tuple[int, int] | None]


def _read_npz(source: Path, target: str | None) -> Contents:
    name = "y" if target is None else target
    arrays, present = read_npz(source, lambda _: ("x", name))
    known = ", ".join(present) or "none"
    for key in ("x", name):
        if key not in arrays:
            raise ValueError(f"{source} has no array {key!r}; it holds {known}")
    x = arrays["x"]
    image_shape = None
    if x.ndim == 3:
        image_shape = (x.shape[1], x.shape[2])
        x = x.reshape(len(x), -1)
    return x, arrays[name], image_shape


def _read_csv(source: Path, target: str | None) -> Contents:
    try:
        with source.open(encoding="utf-8") as opened:
            first = opened.readline().strip().split(",")
        options = pa.csv.ReadOptions(autogenerate_column_names=all(_is_number(cell) for cell in first))
        table = pa.csv.read_csv(source, read_options=options)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not a whole csv table ({_line(error)})") from error
    return _from_table(table, source, target)


def _read_parquet(source: Path, target: str | None) -> Contents:
    try:
        table = pa.parquet.read_table(source)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{source} is not a whole parquet file ({_line(error)})") from error
    return _from_table(table, source, target)


READERS: dict[str, Callable[[Path, str | None], Contents]] = {
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _from_table(table: Any, source: Path, target: str | None) -> Contents:
    """Features, targets and no image shape of a pyarrow table."""
    names = list(table.column_names)
    if target is not None and target not in names:
        raise ValueError(f"{source} has no column {target!r}; it holds {', '.join(map(str, names))}")
    if len(names) < 2 or table.num_rows == 0:
        raise ValueError(
            f"{source} is empty or has no features ({table.num_rows} rows, {len(names)} columns); it needs a"
            " column for each feature, one for the target, and a row for each point"
        )
    position = len(names) - 1 if target is None else names.index(target)
    columns = []
    for i, (name, column) in enumerate(zip(names, table.columns, strict=True)):
        plain = pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
        if plain.null_count:
            raise ValueError(f"{source}: column {name!r} has {plain.null_count} missing values; fill them in")
        if i != position and not (pa.types.is_integer(plain.type) or pa.types.is_floating(plain.type)):
            raise ValueError(f"{source}: column {name!r} holds {plain.type}, not numbers; encode or drop it")
        columns.append(plain.to_numpy())
    y = columns.pop(position)
    return np.column_stack(columns).astype(np.float64), y, None


def _targets(y: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels 0 .. C-1 and their names, or real targets (M, C) and None."""
    if y.dtype == object and y.size and all(isinstance(value, str) for value in y.flat):
        y = y.astype(np.str_)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.size == 0 or y.dtype.kind not in "biufU":
        raise ValueError(
            f"{name}: targets of shape {y.shape}, {y.dtype}; give labels or numbers, (points,), not empty"
        )
    if y.dtype.kind in "iuf":
        numbers = _finite(y, f"{name}: the target")
        if y.ndim == 2:
            return numbers, None
        whole = (numbers == np.round(numbers)).all()
        if not whole or len(np.unique(numbers)) > MOST_CLASSES:
            return numbers[:, None], None
        if np.abs(numbers).max() < 2**53:
            y = numbers.astype(np.int64)
    if y.ndim == 2:
        raise ValueError(f"{name}: labels of shape {y.shape}; give one label a point")
    classes, labels = np.unique(y, return_inverse=True)
    return labels.astype(np.int64), tuple(str(label) for label in classes)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {values.dtype}; give real numbers")
    numbers = values.astype(np.float64)
    bad = numbers[~np.isfinite(numbers)]
    if bad.size:
        raise ValueError(f"{name} holds {bad[0]}; every value must be finite (fill in or drop such points)")
    return numbers


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _line(error: Exception) -> str:
    """The first line of an error, short enough for one line of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
