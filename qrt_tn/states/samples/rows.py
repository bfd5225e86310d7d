"""Data points as they lie in memory or on disk: checked, and read in blocks."""

from typing import Any

import numpy as np

from qrt_tn.engine.arguments import as_array

BLOCK = 2**22  # coordinates of points read at once
_SHARED = 8  # blocks to make where each has as many points as
_SHORTEST = 512


class Points:
    """Rows of an array of small integers.

    Args:
        array: shape (M', D); a memory map stays on disk.
        rows: the rows that are points, increasing; None for all.
    """

    def __init__(self, array: Any, rows: np.ndarray | None = None) -> None:
        self.on_disk = isinstance(array, np.memmap)
        self.array = np.asarray(array) if self.on_disk else array
        self.rows = rows
        self.dim = array.shape[1]

    def __reduce__(self) -> tuple[Any, ...]:
        # a copy holds what is on disk here
        return Points, (self.array, self.rows)

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def __getitem__(self, chosen: Any) -> Any:
        """Points by number, (K, D): a slice, or an index array."""
        return self.array[chosen if self.rows is None else self.rows[chosen]]

    def blocks(self, width: int = 0) -> list[slice]:
        """Even slices of points, few enough to work on all coordinates, or `width` numbers each, at once."""
        most = max(1, BLOCK // max(self.dim, width))
        # several where that does not make them short, so that threads share them
        pieces = max(-(-len(self) // most), min(_SHARED, len(self) // _SHORTEST))
        size = -(-len(self) // max(1, pieces))
        return [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]

    def compact(self, largest: int) -> "Points":
        """A copy in the smallest type that holds 0..largest; what is on disk stays there."""
        if self.on_disk:
            return self
        held = np.empty((len(self), self.dim), dtype=np.min_scalar_type(largest))
        for block in self.blocks():
            held[block] = self[block]
        return Points(held)

    def to(self, xp: Any) -> "Points":
        """A copy in the memory of `xp`; what is on disk stays there, and moves block by block."""
        return self if self.on_disk else Points(xp.asarray(self.array), self.rows)


def small_type(modulus: int) -> np.dtype:
    """The smallest unsigned integer that holds 0..P-1."""
    return np.min_scalar_type(modulus - 1)


def check_points(values: Any, modulus: int, name: str = "x") -> tuple[Any, int, int]:
    """Check points of Z_P block by block, without a copy of them.

    Returns:
        (array, low, high): the array as given (a memory map stays one), its smallest and largest value.

    Raises:
        ValueError: not integers, not of shape (M, D), empty, or outside Z_P, with the row.
    """
    array = values if isinstance(values, np.memmap) else as_array(values, name)
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; it must have shape (N, D)")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); give at least one entry")
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has dtype {array.dtype}; give integers in 0..{modulus - 1} (quantise first)"
        )
    points = Points(array)
    low, high = modulus - 1, 0
    for rows in points.blocks():
        block = points[rows]
        least, most = int(block.min()), int(block.max())
        if least < 0 or most >= modulus:
            outside = least if least < 0 else most
            row = rows.start + int(np.argmax((block == outside).any(axis=1)))
            raise ValueError(
                f"{name} holds {outside}, outside Z_{modulus}, in row {row}; "
                f"its values must lie in 0..{modulus - 1}"
            )
        low, high = min(low, least), max(high, most)
    return array, low, high
