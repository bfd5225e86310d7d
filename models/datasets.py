"""Data sets: scikit-learn's handwritten digits, or the user's own table or arrays."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from qrt_tn.models.array_files import read_npz
from qrt_tn.models.columns import Columns, Encode
from qrt_tn.models.features import choose_columns
from qrt_tn.models.tables import check_memory, check_source, read_table, shown, suffix_of
from qrt_tn.models.targets import CLASSIFICATION, REGRESSION, TASKS, Targets, check_labels, read_targets

Impute = Literal["mean", "median", "most_frequent"]
ImageShape = tuple[int, int] | tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points with labels or real targets: finite, of matching lengths, and not constant.

    Attributes:
        x: features, shape (M, D), float64; NaN where missing, which only `impute` allows.
        y: labels 0 .. C-1, shape (M,), int64; or real targets, shape (M, C), float64.
        classes: the names of the C labels, or None for real targets.
        image_shape: (height, width) or (height, width, 3) if a point is an image of D values, else None.
        columns: where the features are in a table, or None.
        left_out: (name, reason) of the table's columns that are neither features nor the target.
        class_values: the C classes as in the file, text, numbers or booleans, or None.
        impute: how missing features are to be filled in: "mean", "median" or "most_frequent" of the
            training points, by whoever splits the data; None where none may be missing.
        how: what of the reading of its file is worth telling, such as "decimal commas".
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    classes: tuple[str, ...] | None = None
    image_shape: ImageShape | None = None
    columns: Columns | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    class_values: tuple[Any, ...] | None = None
    target: str = "y"
    impute: Impute | None = None
    how: str = ""

    def __post_init__(self) -> None:
        name = self.name
        x = _finite(self.x, f"{name}: x", gaps=self.impute is not None)
        if x.ndim != 2 or x.size == 0:
            raise ValueError(f"{name}: x has shape {x.shape}; it must be (points, features), not empty")
        if len(self.y) != len(x):
            raise ValueError(f"{name}: {len(x)} points but {len(self.y)} targets; give one target a point")
        if self.classes is not None:
            y = check_labels(f"{name}: y", self.y, len(self.classes))
        else:
            y = _finite(self.y, f"{name}: y")
            if y.ndim != 2:
                raise ValueError(f"{name}: real targets have shape {y.shape}; give (points, outputs)")
        if self.image_shape is not None and np.prod(self.image_shape) != x.shape[1]:
            raise ValueError(f"{name}: images of {self.image_shape} pixels but {x.shape[1]} features")
        for what, values in (("points", x), *(("targets", column) for column in np.atleast_2d(y.T))):
            if np.array_equal(values, np.broadcast_to(values[0], values.shape), equal_nan=True):
                raise ValueError(f"{name}: constant data: all {len(x)} {what} are the same; give others")
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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the D coordinates of a point, from the table or by their place in an image."""
        if self.columns is not None:
            return self.columns.names
        if self.image_shape is None:
            return tuple(f"x{i}" for i in range(self.dim))
        return tuple(f"pixel {place}" for place in np.ndindex(self.image_shape))

    def describe(self) -> str:
        """What the data set was taken for, in a line."""
        what = f"{len(self)} points, {self.dim} feature{'s' if self.dim > 1 else ''}"
        if self.image_shape is not None:
            what = f"{len(self)} images of {' x '.join(map(str, self.image_shape))}"
        task = f"classification, {self.outputs} classes" if self.classes else "regression"
        if self.classes is None and self.outputs > 1:
            task += f", {self.outputs} outputs"
        told = [f"{what}, target {shown([self.target])}, {task}"]
        if gaps := int(np.isnan(self.x).sum()):
            told.append(f"{gaps} missing value{'s' if gaps > 1 else ''}, filled in by {self.impute}")
        features = self.columns.features if self.columns else ()
        named = [column.name for column in features if None in (column.categories or ())]
        told += [f"missing values of {shown(named)} are a category"] if named else []
        told += [f"read with {self.how}"] if self.how else []
        left_out = ", ".join(f"{shown([name])} ({why})" for name, why in self.left_out)
        return "; ".join([*told, f"left out: {left_out}"] if left_out else told)


def load_digits() -> Dataset:
    """Scikit-learn's 1,797 handwritten digits: 8 x 8 pixels of 17 grey levels, 0 .. 16."""
    import sklearn.datasets  # takes a second to import

    bunch = sklearn.datasets.load_digits()
    classes = tuple(str(name) for name in bunch.target_names)
    values = tuple(int(value) for value in bunch.target_names)
    return Dataset(bunch.data, bunch.target, "digits", classes, (8, 8), class_values=values, target="digit")


def load_file(
    path: str | Path,
    target: str | None = None,
    *,
    task: str | None = None,
    header: bool | None = None,
    drop: Sequence[str] = (),
    encode: Encode | None = None,
    impute: Impute | None = None,
    command: str = "",
) -> Dataset:
    r"""Read points and targets from a table (csv, tsv, xlsx, parquet) or from arrays (npz).

    An npz file holds `x` or `X`, (M, D), or images (M, height, width) or (M, height, width, 3); and targets:
    (M,), or one-hot or real (M, C). `tables.read_table` says how tables are read, `features.choose_columns`
    how features and target are chosen, `targets.read_targets` what is a class. What is unclear is asked.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "plants.csv"
    ...     size = file.write_text("height,kind\n1.5,fern\n0.2,moss\n0.1,moss\n")
    ...     data = load_file(file)
    >>> data.describe(), data.names, data.class_values
    ("3 points, 1 feature, target 'kind', classification, 2 classes", ('height',), ('fern', 'moss'))

    Args:
        path: the file.
        target: the target's column, by name or position, or the name of its array. Left out: the only
            column named target, label, class or y, else the last; the array `y`.
        task: "classification", "regression", or None to find out.
        header: whether a table's first line names its columns; None to find out.
        drop: columns to leave out, by name or position.
        encode: how text becomes numbers, "onehot" or "ordinal"; None to refuse text.
        impute: how missing numbers will be filled in; None to refuse them. They stay NaN here, so that
            no test point has a say in what fills the training points.
        command: what errors print options behind.

    Raises:
        ValueError: content that is malformed, unclear, missing, infinite, empty or constant, or bad options.
    """
    check_source(path)
    given_options = (("task", task, TASKS), ("impute", impute, get_args(Impute)))
    for option, given, known in (*given_options, ("encode", encode, get_args(Encode))):
        if given not in (None, *known):
            raise ValueError(f"{option} is {given!r}; give {', '.join(known)}, or leave it out")
    source = Path(path)
    suffix = suffix_of(source)
    name = source.name[: -len(suffix)]
    if suffix == ".npz":
        for option, has in (("--drop", drop), ("--encode", encode), ("--header", header is not None)):
            if has:
                raise ValueError(f"{source} holds arrays, which have no columns; leave out {option}")
        target = target or "y"
        x, found, shape = _read_arrays(source, target, task)
        told: dict[str, Any] = {"image_shape": shape, "target": target}
    else:
        table = read_table(source, header)
        command = command or f"qrt-tn ticket --data {shlex.quote(str(source))}"
        asked: dict[str, Any] = {"target": target, "task": task, "drop": drop, "encode": encode}
        chosen = choose_columns(table, **asked, impute=impute is not None, command=command, name=str(source))
        x, found, columns = chosen.x, chosen.targets, chosen.columns
        told = {"columns": columns, "left_out": chosen.left_out, "target": columns.target, "how": table.how}
    return Dataset(x, found.y, name, found.classes, class_values=found.class_values, impute=impute, **told)


def name_of_points(names: list[str]) -> str:
    """The name that points have among those of an npz file: "x", or "X" where only that is there."""
    return "X" if "X" in names and "x" not in names else "x"


def _read_arrays(
    source: Path, target: str, task: str | None
) -> tuple[np.ndarray, Targets, ImageShape | None]:
    """The points of an npz file as they are, the targets, and the images' shape if points are images."""
    arrays = read_npz(source, lambda names: [name_of_points(names), target])
    x, y = arrays[name_of_points(list(arrays))], arrays[target]
    image = x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))
    if x.size == 0 or not (image or x.ndim == 2):
        raise ValueError(
            f"{source}: x has shape {x.shape}; give (M, D), (M, H, W) or (M, H, W, 3), not empty"
        )
    check_memory(f"{source}: x of shape {x.shape} as float64", 8 * x.size)
    shape = tuple(x.shape[1:3] if x.shape[3:] == (1,) else x.shape[1:]) if image else None
    return x.reshape(len(x), -1), _array_targets(y, f"{source}: target {target!r}", task), shape


def _array_targets(y: np.ndarray, what: str, task: str | None) -> Targets:
    import pandas as pd

    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.size == 0 or y.dtype.kind not in ("biufU" if y.ndim == 1 else "biuf"):
        raise ValueError(f"{what} has shape {y.shape}, {y.dtype}; give a label or numbers for each point")
    if y.ndim == 1:
        return read_targets(pd.Series(y), what, task)
    onehot = bool(np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all())
    if task == CLASSIFICATION and not onehot:
        raise ValueError(f"{what} has rows that are not one 1 among 0; give one label a point as classes")
    if task == REGRESSION or not onehot:
        return Targets(y.astype(np.float64))
    return Targets(y.argmax(axis=1), tuple(range(y.shape[1])))


def one_hot(y: np.ndarray, classes: int, centre: bool = True) -> np.ndarray:
    """Labels (M,) as unit vectors, minus their mean over the points: targets (M, C), float64, for a state.

    Centred targets sum to zero, so that f^(0) = 0 and no node is drawn at a = 0. A network with a bias can be
    fitted to the plain unit vectors.

    Raises:
        ValueError: not one-dimensional integers, or outside 0 .. classes-1.
    """
    targets = np.eye(classes)[check_labels("y", y, classes)]
    return targets - targets.mean(axis=0) if centre else targets


def _finite(values: np.ndarray, name: str, gaps: bool = False) -> np.ndarray:
    """Real numbers as float64; NaN is allowed if `gaps` are."""
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {numbers.dtype}; give real numbers")
    numbers = numbers.astype(np.float64, copy=False)
    bad = np.argwhere(np.isinf(numbers) if gaps else ~np.isfinite(numbers))
    if len(bad):
        value, cure = numbers[tuple(bad[0])], "remove such rows"
        if np.isnan(value) and name.endswith("x"):
            cure = f"say --impute {', '.join(get_args(Impute))}, or {cure}"
        raise ValueError(f"{name} holds {value} in row {bad[0][0]}; every value must be finite ({cure})")
    return numbers
