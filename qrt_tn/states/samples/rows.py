"""Data points as they lie in memory or on disk, read in blocks."""

from typing import Any

import numpy as np

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
