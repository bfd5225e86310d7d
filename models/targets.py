"""What a target is: labels of classes, or numbers to predict; where it could be both, the user is asked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qrt_tn.models.tables import kind_of, shown

if TYPE_CHECKING:
    import pandas as pd

TASKS = CLASSIFICATION, REGRESSION = "classification", "regression"
# Whole numbers are classes if they are this few and each is there this often.
_MOST_CLASSES = 20
_MEMBERS = 3


@dataclass(frozen=True, eq=False)
class Targets:
    """One target for each point.

    Attributes:
        y: labels 0 .. C-1, shape (M,), int64; or numbers, shape (M, outputs), float64.
        class_values: the classes as in the file, text, whole numbers, numbers or booleans; None for numbers.
    """

    y: np.ndarray
    class_values: tuple[Any, ...] | None = None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The C classes as text, or None for numbers."""
        return None if self.class_values is None else tuple(map(str, self.class_values))

    def describe(self) -> str:
        """The task in words, such as "classification, 2 classes (no, yes)"."""
        if self.classes is None:
            return f"regression ({len(self.y)} values from {self.y.min():g} to {self.y.max():g})"
        some = [name if len(name) <= 20 else f"{name[:17]}..." for name in self.classes[:6]]
        more = ["..."] * (len(self.classes) > 6)
        return f"classification, {len(self.classes)} classes ({', '.join(some + more)})"


def read_targets(values: "pd.Series", what: str, task: str | None = None) -> Targets:
    """Turn a target column into labels or numbers.

    Left to find out the task, text, booleans and categories are classes. Numbers are quantities if some
    are not whole, or if at least half of the distinct ones are there fewer than 3 times; they are classes
    if 2 to 20 are distinct and each is there 3 times or more.

    >>> import pandas as pd
    >>> read_targets(pd.Series([7, 7, 7, 9, 9, 9]), "the target").class_values
    (7, 9)
    >>> read_targets(pd.Series([7, 7, 7, 9, 9, 9]), "the target", "regression").y.T
    array([[7., 7., 7., 9., 9., 9.]])

    Args:
        values: of length M.
        what: what errors call it.
        task: "classification", "regression", or None to find out.

    Raises:
        ValueError: missing or infinite values, numbers that could be both, or regression on text.
    """
    missing = int(values.isna().sum())
    if missing:
        raise ValueError(f"{what} is missing in {missing} of {len(values)} rows; remove these rows")
    kind = kind_of(values)
    if kind != "numbers":
        if task == REGRESSION:
            raise ValueError(f"{what} holds {kind} ({shown(values[:1])}); regression needs numbers")
        return _labels(values, kind)
    numbers = values.to_numpy(dtype=np.float64)
    if np.isinf(numbers).any():
        raise ValueError(f"{what} holds {numbers[np.isinf(numbers)][0]}; remove such rows")
    if (task or _task_of(numbers, what)) == REGRESSION:
        return Targets(numbers[:, None])
    return _labels(values, kind)


def reading(values: "pd.Series", task: str | None = None) -> str:
    """What a column would be as the target, or why it cannot be, in words."""
    try:
        return read_targets(values, "it", task).describe()
    except ValueError as error:
        return str(error)


def _task_of(numbers: np.ndarray, what: str) -> str:
    distinct, counts = np.unique(numbers, return_counts=True)
    whole = (distinct == np.round(distinct)).all()
    if not whole and (len(distinct) > 2 or len(numbers) <= 2):
        return REGRESSION
    if whole and len(distinct) <= _MOST_CLASSES and counts.min() >= _MEMBERS:
        return CLASSIFICATION
    if whole and 2 * (counts < _MEMBERS).sum() >= len(distinct):
        return REGRESSION
    kind = "whole numbers" if whole else "numbers"
    some = ", ".join(f"{value:g}" for value in distinct[:3])
    raise ValueError(
        f"{what} holds {len(distinct)} different {kind}, which could be classes or quantities; say"
        f" --task classification ({some}, ...) or --task regression ({len(numbers)} values from"
        f" {distinct[0]:g} to {distinct[-1]:g})"
    )


def _labels(values: "pd.Series", kind: str) -> Targets:
    """Labels of the sorted classes."""
    if kind == "categories" and kind_of(values.cat.categories.to_series()) == "numbers":
        values, kind = values.astype(values.cat.categories.dtype), "numbers"
    if kind == "numbers":
        plain = values.to_numpy()
        if plain.dtype.kind not in "iu":
            plain = plain.astype(np.float64)
            # a file may spell the class 1 as 1.0
            if (plain == np.round(plain)).all() and np.abs(plain).max() < 2**53:
                plain = plain.astype(np.int64)
    else:
        plain = np.array([value if kind == "booleans" else str(value) for value in values])
    distinct, labels = np.unique(plain, return_inverse=True)
    return Targets(labels.astype(np.int64), tuple(distinct.tolist()))


def check_labels(name: str, y: np.ndarray, classes: int) -> np.ndarray:
    """Labels 0 .. classes-1, shape (M,), as int64; a ValueError for anything else."""
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.size == 0:
        raise ValueError(f"{name} has shape {labels.shape}, {labels.dtype}; give integer labels, (points,)")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ValueError(f"{name} holds label {wrong[0]}, outside 0..{classes - 1}")
    return labels.astype(np.int64)
