"""Dot products over Z_P as floating-point matrix products, exactly."""

from typing import Any, NamedTuple

import numpy as np

from qrt_tn.engine.backends import array_module
from qrt_tn.field import centred

_CACHED = 2**17  # sums reduced at once, so that they stay in a core's cache
_SHORTEST = 64  # coordinates that are worth a single-precision product of their own


class Factors(NamedTuple):
    """Frequencies made ready to multiply: their columns (D, N), and what the points' shift takes off."""

    columns: Any
    offset: Any


class ModularProduct:
    """(u, x) -> u . x mod P for blocks of points and batches of frequencies, one GEMM a block.

    Both factors are centred, frequencies about 0 and points about the middle of the levels they take, so
    every product is at most (P/2) reach. Integers are exact in float32 below 2^24 (D = 784 at P = 257 over
    all levels) and in float64 below 2^53. Where D coordinates exceed that they are split, and reduced mod P
    in between; where even short pieces exceed float32 (P above some 1,000), float64 is taken. Type and
    pieces follow from the bound, never from hope.

    Args:
        modulus: P.
        dim: D.
        low: the smallest coordinate of any point.
        high: the largest; P - 1 where None.

    Attributes:
        dtype: of the product, float32 or float64.
        span: how many coordinates are multiplied at once.

    Raises:
        ValueError: one product of two coordinates may exceed 2^53.
    """

    def __init__(self, modulus: int, dim: int, low: int = 0, high: int | None = None) -> None:
        self.modulus = modulus
        self.dim = dim
        high = modulus - 1 if high is None else high
        self._shift = (low + high) // 2
        reach = max(high - self._shift, 1)  # the other way it is no more
        term = (modulus // 2) * reach
        self.dtype: np.dtype = np.dtype(np.float32)
        self.span = (2**24 - 2 * modulus - 1) // term
        if self.span < min(dim, _SHORTEST):
            self.dtype = np.dtype(np.float64)
            self.span = (2**53 - 2 * modulus - 1) // term
        if self.span < 1:
            raise ValueError(f"products at P = {modulus} exceed 2^53; use a smaller modulus")
        pieces = -(-dim // self.span)
        self.span = -(-dim // pieces)
        self._whole = np.dtype(np.int32 if self.dtype == np.float32 else np.int64)

    def factors(self, u: np.ndarray, xp: Any = np) -> Factors:
        """Frequencies of shape (N, D), int in 0..P-1, ready for `residues` in the array module `xp`."""
        balanced = centred(u, self.modulus)
        offset = (self._shift * (balanced.sum(axis=1) % self.modulus)) % self.modulus
        return Factors(xp.asarray(balanced.astype(self.dtype)).T, xp.asarray(offset.astype(self.dtype)))

    def residues(self, points: Any, factors: Factors, out: Any = None) -> Any:
        """Products u . x mod P.

        Args:
            points: int in low..high, shape (B, D), in the array module of the factors.
            factors: of N frequencies.
            out: where to write; an array of unsigned integers that hold P - 1.

        Returns:
            In 0..P-1, shape (B, N); int32 or int64 where `out` is None.
        """
        xp = array_module(factors.columns)
        if out is None:
            out = xp.empty((len(points), factors.columns.shape[1]), dtype=self._whole)
        carry = None
        for start in range(0, self.dim, self.span):
            piece = slice(start, start + self.span)
            left = points[:, piece].astype(self.dtype)
            left -= self.dtype.type(self._shift)
            sums = left @ factors.columns[piece]
            rows = max(1, _CACHED // sums.shape[1]) if xp is np else len(sums)
            for first in range(0, len(sums), rows):
                some = slice(first, first + rows)
                total = sums[some] + (factors.offset if carry is None else out[some])
                out[some] = reduced(total.astype(self._whole), self.modulus)
            carry = out
        return out


def reduced(values: Any, modulus: int) -> Any:
    """Integers mod P, in 0..P-1; division by one scalar is quick where NumPy's remainder is not."""
    xp = array_module(values)
    multiples = xp.floor_divide(values, values.dtype.type(modulus))
    multiples *= values.dtype.type(modulus)
    return values - multiples
