"""Data sets: scikit-learn's handwritten digits, or the user's own file."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from qrt_tn.models.columns import ENCODE, Columns, Encode
from qrt_tn.models.delimited import shown
from qrt_tn.models.features import choose_columns
from qrt_tn.models.tables import check_source, read_table, suffix_of
from qrt_tn.models.targets import TASKS, check_labels

Impute = Literal["mean", "median", "most_frequent"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points with labels or real targets.

    Attributes:
        x: features, shape (M, D), float64; NaN where missing, which only `impute` allows.
        y: labels 0 .. C-1, shape (M,), int64; or real targets, shape (M, C), float64.
        name: what to call the data set in a report.
        classes: the names of the C labels, or None for real targets.
        image_shape: (height, width) or (height, width, 3) if a point is an image of D values, else None.
        columns: where the features are in a table, or None.
        left_out: (name, reason) of the table's columns that are neither features nor the target.
        class_values: the C classes as in the file, text, numbers or booleans, or None.
        target: the name of the target.
        impute: how missing features are to be filled in: "mean", "median" or "most_frequent" of the
            training points, by whoever splits the data; None where none may be missing.
        how: what of the reading of its file is worth telling, such as "decimal commas".

    Raises:
        ValueError: empty, mismatched shapes, NaN or infinity, labels outside 0..C-1, or constant data.
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    classes: tuple[str, ...] | None = None
    image_shape: tuple[int, int] | tuple[int, int, int] | None = None
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
        if self.columns is not None and len(self.columns.names) != x.shape[1]:
            raise ValueError(
                f"{name}: columns give {len(self.columns.names)} coordinates, but x has {x.shape[1]}"
            )
        if np.array_equal(x, np.broadcast_to(x[0], x.shape), equal_nan=True):
            raise ValueError(
                f"{name}: constant data: all {len(x)} points are the same; give points that differ"
            )
        constant = np.flatnonzero(np.atleast_1d((y == y[0]).all(axis=0)))
        if len(constant):
            which = f" of output {constant[0]}" if y.ndim == 2 and y.shape[1] > 1 else ""
            raise ValueError(
                f"{name}: constant data: all {len(y)} targets{which} are the same; give two or more"
            )
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
        height, width = self.image_shape[:2]
        colours = ("",) if len(self.image_shape) == 2 else (" red", " green", " blue")
        places = product(range(height), range(width), colours)
        return tuple(f"pixel ({row}, {column}){colour}" for row, column, colour in places)

    def describe(self) -> str:
        """What the data set was taken for, in a line."""
        if self.image_shape is None:
            what = f"{len(self)} points, {self.dim} feature{'s' if self.dim > 1 else ''}"
        else:
            what = f"{len(self)} images of {' x '.join(map(str, self.image_shape))}"
        task = "regression" if self.classes is None else f"classification, {len(self.classes)} classes"
        if self.classes is None and self.outputs > 1:
            task += f", {self.outputs} outputs"
        told = f"{what}, target {shown([self.target])}, {task}"
        if gaps := int(np.isnan(self.x).sum()):
            told += f"; {gaps} missing value{'s' if gaps > 1 else ''}, filled in by {self.impute}"
        features = self.columns.features if self.columns else ()
        named = [column.name for column in features if None in (column.categories or ())]
        if named:
            told += f"; missing values of {shown(named)} are a category"
        if self.how:
            told += f"; read with {self.how}"
        if self.left_out:
            told += "; left out: " + ", ".join(f"{shown([name])} ({why})" for name, why in self.left_out)
        return told


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
    command: str = "qrt-tn ticket --data PATH",
) -> Dataset:
    r"""Read points and targets from a table (csv, tsv, xlsx, parquet) or from arrays (npz).

    `qrt_tn.models.tables.read_table` says how tables are read, `qrt_tn.models.features.choose_columns` how
    features and target are chosen, `qrt_tn.models.targets.read_targets` what is a class, and
    `qrt_tn.models.arrays.read_arrays` what an npz file holds. What is unclear is asked, not guessed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "plants.csv"
    ...     size = file.write_text("height,kind\n1.5,fern\n0.2,moss\n0.1,moss\n")
    ...     data = load_file(file)
    >>> data.describe(), data.names, data.class_values
    ("3 points, 1 feature, target 'kind', classification, 2 classes", ('height',), ('fern', 'moss'))

    Args:
        path: the file; its suffix tells the format.
        target: the target's column, by name or position, or the name of its array. Left out: the only
            column named target, label, class or y, else the last; the array `y`.
        task: "classification", "regression", or None to find out.
        header: whether a table's first line names its columns; None to find out.
        drop: columns to leave out.
        encode: how text becomes numbers, "onehot" or "ordinal"; None to refuse text.
        impute: how missing numbers will be filled in; None to refuse them. They stay NaN here, so that
            no test point has a say in what fills the training points.
        command: what to print options behind; a PATH at its end becomes the path.

    Raises:
        ValueError: no such file, malformed content, no such target, a reading that is unclear, text
            without an encoding, missing values, infinity, empty or constant data, or mismatched lengths.
    """
    check_source(path)
    given_options = (("task", task, TASKS), ("impute", impute, get_args(Impute)), ("encode", encode, ENCODE))
    for option, given, known in given_options:
        if given not in (None, *known):
            raise ValueError(f"{option} is {given!r}; give {', '.join(known)}, or leave it out")
    source = Path(path)
    suffix = suffix_of(source)
    name = source.name[: -len(suffix)]
    if suffix == ".npz":
        from qrt_tn.models.arrays import read_arrays

        for option, has in (("--drop", drop), ("--encode", encode), ("--header", header is not None)):
            if has:
                raise ValueError(f"{source} holds arrays, which have no columns; leave out {option}")
        target = target or "y"
        x, found, shape = read_arrays(source, target, task)
        values = found.class_values
        return Dataset(
            x, found.y, name, found.classes, shape, class_values=values, target=target, impute=impute
        )
    if command.endswith(" PATH"):
        command = f"{command.removesuffix('PATH')}{shlex.quote(str(source))}"
    choose = partial(
        choose_columns,
        task=task,
        drop=drop,
        encode=encode,
        impute=impute is not None,
        command=command,
        name=str(source),
    )
    table = read_table(source, header)
    chosen = choose(table, target=target)
    label = chosen.columns.target
    if label in table.padded and task != "regression":  # 007 and 07 are two labels, and no numbers
        table = read_table(source, header, lambda names: [names.index(label)])
        chosen = choose(table, target=label)
    return Dataset(
        chosen.x,
        chosen.targets.y,
        name,
        chosen.targets.classes,
        columns=chosen.columns,
        left_out=chosen.left_out,
        class_values=chosen.targets.class_values,
        target=label,
        impute=impute,
        how=table.how,
    )


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
