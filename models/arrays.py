"""Points and targets in the arrays of an npz file."""

from pathlib import Path

import numpy as np

from qrt_tn.models.array_files import read_npz
from qrt_tn.models.tables import memory_limit
from qrt_tn.models.targets import CLASSIFICATION, REGRESSION, Targets, check_task, read_targets

ImageShape = tuple[int, int] | tuple[int, int, int]


def read_arrays(
    source: Path, target: str | None = None, task: str | None = None, gaps: bool = False
) -> tuple[np.ndarray, Targets, ImageShape | None]:
    """Read points and targets from an npz file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder) / "two.npz", x=np.zeros((2, 4, 3)), y=np.eye(2))
    ...     x, targets, image_shape = read_arrays(Path(folder) / "two.npz")
    >>> x.shape, targets.classes, image_shape
    ((2, 12), ('0', '1'), (4, 3))

    Args:
        source: holds `x` or `X`, (M, D), or images (M, height, width) or (M, height, width, 3); and targets:
            (M,), or one-hot or real (M, C).
        target: the name of the targets' array; None for `y`.
        task: "classification", "regression", or None to find out; one-hot rows are classes.
        gaps: whether x may hold NaN.

    Returns:
        The points, shape (M, D), float64; the targets; and the images' shape if they are images.

    Raises:
        ValueError: as `read_npz` and `read_targets`; no such arrays, or other shapes or types.
    """
    check_task(task)
    name = "y" if target is None else target
    arrays, present = read_npz(source, lambda names: ["x" if "x" in names else "X", name])
    known = ", ".join(present) or "none"
    points = arrays.get("x", arrays.get("X"))
    if points is None:
        raise ValueError(f"{source} has no array 'x'; it holds {known}")
    if name not in arrays:
        raise ValueError(f"{source} has no array {name!r}; it holds {known}")
    y = arrays[name]
    if points.dtype.kind not in "biuf":
        raise ValueError(f"{source}: x has dtype {points.dtype}; give real numbers")
    if (
        points.ndim not in (2, 3, 4)
        or points.size == 0
        or (points.ndim == 4 and points.shape[3] not in (1, 3))
    ):
        raise ValueError(
            f"{source}: x has shape {points.shape}; give (points, features), (points, height, width) or"
            " (points, height, width, 3), not empty"
        )
    if len(points) != len(np.atleast_1d(y)):
        raise ValueError(
            f"{source}: {len(points)} points but {len(np.atleast_1d(y))} targets; give one target a point"
        )
    limit = memory_limit()
    if 8 * points.size > limit:
        raise ValueError(
            f"{source}: x of shape {points.shape} takes {points.size / 2**17:.0f} MiB as float64, more than"
            f" {limit / 2**20:.0f} MiB, a quarter of the free memory; give fewer points"
        )
    shape: ImageShape | None = None
    if points.ndim > 2:
        shape = tuple(points.shape[1:3] if points.shape[3:] in ((), (1,)) else points.shape[1:])
    x = points.reshape(len(points), -1).astype(np.float64)
    _check_points(x, source, gaps)
    return x, _read_targets(y, f"{source}: target {name!r}", task), shape


def _check_points(x: np.ndarray, source: Path, gaps: bool) -> None:
    rows, columns = np.nonzero(np.isinf(x))
    if len(rows):
        raise ValueError(
            f"{source}: x holds {x[rows[0], columns[0]]} in row {rows[0]}; every value must be finite (remove"
            " such rows)"
        )
    missing = int(np.isnan(x).sum())
    if missing and not gaps:
        raise ValueError(
            f"{source}: x holds nan, a missing value, {missing} times; say --impute mean, median or"
            " most_frequent, or remove these rows"
        )


def _read_targets(y: np.ndarray, what: str, task: str | None) -> Targets:
    import pandas as pd

    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.size == 0 or y.dtype.kind not in "biufU":
        raise ValueError(
            f"{what} has shape {y.shape}, {y.dtype}; give labels or numbers, one a point, not empty"
        )
    if y.ndim == 1:
        return read_targets(pd.Series(y), what, task)
    if y.dtype.kind == "U":
        raise ValueError(f"{what} has shape {y.shape}, {y.dtype}; give one label a point")
    numbers = y.astype(np.float64)
    if not np.isfinite(numbers).all():
        wrong = numbers[~np.isfinite(numbers)][0]
        raise ValueError(f"{what} holds {wrong}; every value must be finite (remove such rows)")
    onehot = bool(np.isin(numbers, (0, 1)).all() and (numbers.sum(axis=1) == 1).all())
    if task == CLASSIFICATION and not onehot:
        raise ValueError(
            f"{what} has shape {y.shape} and rows that are not one 1 among 0; give one label a point, or"
            " leave out --task classification"
        )
    if task == REGRESSION or not onehot:
        return Targets(numbers)
    values = tuple(range(y.shape[1]))
    return Targets(numbers.argmax(axis=1).astype(np.int64), tuple(map(str, values)), values)
