"""Points and targets in the arrays of an npz file."""

from pathlib import Path

import numpy as np

from qrt_tn.models.array_files import read_npz
from qrt_tn.models.tables import check_memory
from qrt_tn.models.targets import CLASSIFICATION, REGRESSION, Targets, read_targets

ImageShape = tuple[int, int] | tuple[int, int, int]


def read_arrays(
    source: Path, target: str = "y", task: str | None = None
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
        target: the name of the targets' array.
        task: "classification", "regression", or None to find out; one-hot rows are classes.

    Returns:
        The points, shape (M, D), as they are; the targets; and the images' shape if they are images.

    Raises:
        ValueError: as `read_npz` and `read_targets`; no such arrays, or of other shapes.
    """
    arrays = read_npz(source, lambda names: [name_of_points(names), target])
    x, y = arrays[name_of_points(list(arrays))], arrays[target]
    image = x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))
    if x.size == 0 or not (image or x.ndim == 2):
        raise ValueError(
            f"{source}: x has shape {x.shape}; give (points, features), (points, height, width) or (points,"
            " height, width, 3), not empty"
        )
    check_memory(f"{source}: x of shape {x.shape} as float64", 8 * x.size)
    shape = tuple(x.shape[1:3] if x.shape[3:] == (1,) else x.shape[1:]) if image else None
    return x.reshape(len(x), -1), _read_targets(y, f"{source}: target {target!r}", task), shape


def name_of_points(names: list[str]) -> str:
    """The name that points have among those of an npz file: "x", or "X" where only that is there."""
    return "X" if "X" in names and "x" not in names else "x"


def _read_targets(y: np.ndarray, what: str, task: str | None) -> Targets:
    import pandas as pd

    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.size == 0 or y.dtype.kind not in ("biufU" if y.ndim == 1 else "biuf"):
        raise ValueError(
            f"{what} has shape {y.shape}, {y.dtype}; give a label or numbers for each point, not empty"
        )
    if y.ndim == 1:
        return read_targets(pd.Series(y), what, task)
    onehot = bool(np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all())
    if task == CLASSIFICATION and not onehot:
        raise ValueError(
            f"{what} has shape {y.shape} and rows that are not one 1 among 0; give one label a point, or"
            " leave out --task classification"
        )
    if task == REGRESSION or not onehot:
        return Targets(y.astype(np.float64))
    values = tuple(range(y.shape[1]))
    return Targets(y.argmax(axis=1), tuple(map(str, values)), values)
