"""Arrays with an exponent for every entry: slow, and no entry is ever too small or too large.

An entry is mantissa * 2**exponent with a mantissa in [1/2, 1) and an int64 exponent, so a product of two
arrays loses nothing but what rounding takes from each of its entries. It is what a contraction comes to where
one power of two cannot hold all entries of an intermediate.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

NOTHING = -(2**40)  # the exponent of zero: far below any sum of real ones
_BLOCK = 2**20  # terms of a sum that are held at once


class WideArray:
    """An array of numbers of any size, with as much of NumPy's interface as a contraction takes.

    Args:
        mantissa: float64 or complex128.
        exponent: int64 of the same shape; `NOTHING` where the mantissa is 0.
    """

    def __init__(self, mantissa: np.ndarray, exponent: np.ndarray) -> None:
        self.mantissa, self.exponent = mantissa, exponent

    @classmethod
    def of(cls, array: Any, exponent: Any = 0) -> "WideArray":
        """Array * 2**exponent, which broadcasts to it."""
        array = np.asarray(array)
        array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        if array.dtype.kind == "c":
            taken = np.frexp(np.maximum(np.abs(array.real), np.abs(array.imag)))[1]
            mantissa = np.empty_like(array)
            mantissa.real, mantissa.imag = np.ldexp(array.real, -taken), np.ldexp(array.imag, -taken)
        else:
            mantissa, taken = np.frexp(array)
        return cls(mantissa, np.where(mantissa == 0, NOTHING, taken.astype(np.int64) + exponent))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both arrays."""
        return self.mantissa.shape

    def transpose(self, order: Sequence[int]) -> "WideArray":
        """As NumPy's."""
        return WideArray(self.mantissa.transpose(order), self.exponent.transpose(order))

    def reshape(self, shape: Sequence[int]) -> "WideArray":
        """As NumPy's."""
        return WideArray(self.mantissa.reshape(shape), self.exponent.reshape(shape))

    def diagonal(self, first: int, second: int) -> "WideArray":
        """As `numpy.diagonal`."""
        return WideArray(
            self.mantissa.diagonal(axis1=first, axis2=second),
            self.exponent.diagonal(axis1=first, axis2=second),
        )

    def sum(self, axes: tuple[int, ...]) -> "WideArray":
        """The sum over some axes, each at the scale of its largest term."""
        top = self.exponent.max(axis=axes, keepdims=True)
        total = (self.mantissa * _power(self.exponent - top)).sum(axis=axes)
        return WideArray.of(total, np.squeeze(top, axes))

    def __getitem__(self, where: Any) -> "WideArray":
        return WideArray(np.asarray(self.mantissa[where]), np.asarray(self.exponent[where]))


def multiply(left: WideArray, right: WideArray) -> WideArray:
    """The product of entries, which broadcast."""
    return WideArray.of(left.mantissa * right.mantissa, left.exponent + right.exponent)


def matmul(left: WideArray, right: WideArray) -> WideArray:
    """As `numpy.matmul` of arrays with up to one axis of batch elements."""
    rows, columns = left.shape[:-1][-1:], right.shape[1:][-1:] if len(right.shape) > 1 else ()
    batch, inner = left.shape[:-2], left.shape[-1]
    # (batch, rows, inner, 1) times (batch, 1, inner, columns)
    one = left.reshape((*batch, *(rows or (1,)), inner, 1))
    two = right.reshape((*batch, 1, inner, *(columns or (1,))))
    shape = (*batch, *(rows or (1,)), *(columns or (1,)))
    total = np.zeros(shape, dtype=np.result_type(left.mantissa, right.mantissa))
    top = np.full(shape, NOTHING)
    step = max(1, _BLOCK // max(1, math.prod(shape)))
    for start in range(0, inner, step):
        block = (..., slice(start, start + step), slice(None))
        exponent = one.exponent[block] + two.exponent[block]
        higher = np.maximum(top, exponent.max(axis=-2))
        terms = one.mantissa[block] * two.mantissa[block] * _power(exponent - higher[..., None, :])
        total = total * _power(top - higher) + terms.sum(axis=-2)
        top = higher
    return WideArray.of(total, top).reshape((*batch, *rows, *columns))


def _power(exponent: np.ndarray) -> np.ndarray:
    """2**exponent for exponents of at most 0; what is below the range is nothing beside a term of 2**0."""
    return np.ldexp(1.0, np.maximum(exponent, -1100))
