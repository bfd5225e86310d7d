"""Dot products over Z_P as floating-point matrix products, exactly."""

import copy
from types import ModuleType
from typing import Any

import numpy as np

from engine.backends import array_module, to_host
from qrt_tn.field import centred


class ModularProduct:
    """u -> u . x_m mod P for a fixed set of points, one GEMM a batch.

    Centred representatives keep every sum within D (P/2)^2. Integers are exact in float32 below 2^24
    (D = 784 at P = 257) and in float64 below 2^53; the type is chosen by that bound, never by hope.

    Args:
        points: int, shape (M, D), in 0..P-1.
        modulus: P.

    Raises:
        ValueError: the sums would exceed 2^53.
    """

    def __init__(self, points: np.ndarray, modulus: int) -> None:
        self.modulus = modulus
        bound = points.shape[1] * (modulus // 2) ** 2 + modulus
        if bound >= 2**53:
            raise ValueError(
                f"sums over D = {points.shape[1]} at P = {modulus} exceed 2^53; use a smaller modulus"
            )
        self.dtype = np.dtype(np.float32 if bound < 2**24 else np.float64)
        self._columns: Any = np.ascontiguousarray(centred(points, modulus).T, dtype=self.dtype)

    def on(self, xp: ModuleType) -> "ModularProduct":
        """A copy that multiplies in the array module `xp`, numpy or cupy."""
        moved = copy.copy(self)
        moved._columns = xp.asarray(to_host(self._columns))
        return moved

    def sums(self, u: np.ndarray, coordinates: slice = slice(None)) -> np.ndarray:
        """Integers congruent to u . x_m, in floating point.

        Args:
            u: int in 0..P-1, shape (N, coordinates).
            coordinates: the coordinates of the points that `u` stands for.

        Returns:
            Shape (N, M), in `dtype`, on the host.
        """
        xp = array_module(self._columns)
        left = xp.asarray(centred(u, self.modulus).astype(self.dtype))
        return to_host(left @ self._columns[coordinates])

    def step(self, values: np.ndarray, coordinate: int) -> np.ndarray:
        """What one coordinate adds to `sums`: u_i x_mi for u_i of shape (N,), shape (N, M), on the host."""
        column = to_host(self._columns[coordinate])
        return np.multiply.outer(centred(values, self.modulus).astype(self.dtype), column)

    def reduce(self, sums: np.ndarray) -> np.ndarray:
        """Representatives mod P in -P..P-1, as intp: indices that wrap right into a table of length P.

        The nearest multiple of P is subtracted; where rounding picks a neighbour of it the result is
        another representative, still exact.
        """
        multiples = np.rint(sums * sums.dtype.type(1 / self.modulus))
        multiples *= -self.modulus
        multiples += sums
        return multiples.astype(np.intp)
