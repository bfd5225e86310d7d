"""Sums over consecutive runs of rows, for many columns at once."""

from typing import Any

import numpy as np
import scipy.sparse

from qrt_tn.engine.backends import array_module


class Runs:
    """Runs of consecutive rows of an array (K, W), to be summed.

    On the host a sparse matrix sums them: it adds whole rows, in the array's own precision, and lets other
    threads run. On a device, which has no such matrix in plain CuPy, they are counted into bins.

    Args:
        starts: first row of every run, increasing, starts[0] = 0; shape (G,).
        length: the number K of rows.
        weights: real factors of the rows, shape (K,); None for ones.
        dtype: of the sums' real parts, float32 or float64.
        xp: numpy or cupy.
    """

    def __init__(
        self,
        starts: np.ndarray,
        length: int,
        weights: np.ndarray | None = None,
        dtype: Any = np.float64,
        xp: Any = np,
    ) -> None:
        self.count = len(starts)
        self.length = length
        ends = np.append(starts, length)
        data = np.ones(length, dtype=dtype) if weights is None else weights.astype(dtype)
        self._matrix: Any = None
        if xp is np:
            self._matrix = scipy.sparse.csr_array(
                (data, np.arange(length), ends), shape=(len(starts), length)
            )
        else:
            self._labels = xp.asarray(np.repeat(np.arange(len(starts)), np.diff(ends)))
            self._weights = None if weights is None else xp.asarray(data)[:, None]

    def sums(self, terms: Any) -> Any:
        """Sums of the terms (K, W), real or complex, over each run; shape (G, W), of the same type."""
        if self._matrix is not None:
            real = terms.view(terms.real.dtype) if terms.dtype.kind == "c" else terms
            return (self._matrix @ real).view(terms.dtype)
        xp = array_module(terms)
        if self._weights is not None:
            terms = terms * self._weights
        width = terms.shape[1]
        return binned(self._labels[:, None] * width + xp.arange(width), terms, self.count * width).reshape(
            self.count, width
        )


def binned(keys: Any, values: Any, size: int) -> Any:
    """Sums of values by key, shape (size,), of the values' type."""
    xp = array_module(values)
    if values.dtype.kind == "c":
        both = binned(keys, values.real, size) + 1j * binned(keys, values.imag, size)
        return both.astype(values.dtype)
    counted = xp.bincount(keys.reshape(-1), weights=values.reshape(-1), minlength=size)
    return counted.astype(values.dtype)


def squares(values: Any) -> Any:
    """|z|^2, without the square root that abs takes."""
    return values.real**2 + values.imag**2 if values.dtype.kind == "c" else values**2
