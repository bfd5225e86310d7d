"""Operands on a device, scaled by powers of two to norm 1: one scale for each element of a batch.

Scales are int64 exponents with one axis for each batch index, in the batch's order, of extent 1 where a
tensor does not hold the index. An element that is exactly zero has the exponent `NOTHING`. So the scale of a
product is the sum of its factors' scales, and `NOTHING` or less (of many zeros) marks a zero.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt_tn.engine.exponents import real_bytes
from qrt_tn.engine.tree import Index, Term

ALIGNMENT = 256  # bytes; operands start at multiples, as allocations of their own would
NOTHING = -(2**40)  # far below any sum of real exponents, and int64 holds the sum of millions


def padded(shape: Sequence[int], dtype: Any) -> int:
    """Entries that a tensor takes in a buffer: its own, up to the next aligned place."""
    unit = ALIGNMENT // np.dtype(dtype).itemsize
    return -(-math.prod(shape) // unit) * unit


class Batch:
    """The batch indices, and how the norms of its elements are found and divided out.

    Args:
        xp: the device's namespace.
        dtype: of the operands.
        indices: the batch indices.
    """

    def __init__(self, xp: Any, dtype: np.dtype, indices: tuple[Index, ...]):
        self.xp, self.dtype, self.indices = xp, dtype, indices
        self.real = np.dtype(f"f{real_bytes(dtype)}")

    def unscaled(self) -> Any:
        """The scale of a product without factors."""
        return self.xp.zeros((1,) * len(self.indices), dtype=np.int64)

    def parts(self, array: Any) -> Any:
        """A contiguous array as real numbers, the real and the imaginary part along a last axis."""
        return array.reshape((*array.shape, 1)).view(self.real)

    def peak(self, array: Any, term: Term) -> Any:
        """The largest real or imaginary part of every batch element of one tensor; axes as for scales."""
        parts = self.parts(array)[None]
        return self._per_element(self._peaks(parts, self._within(term, parts)), term)[0]

    def balance(self, source: Any, target: Any, term: Term) -> tuple[Any, Any]:
        """Copy tensors with the Frobenius norm of every batch element brought to [1/2, 1).

        Args:
            source: real numbers; a first axis over tensors, then those of `term`, then the parts.
            target: the same axes; may be the source.
            term: the indices.

        Returns:
            (exponents, peaks): what was divided out, and the largest part before; a first axis over tensors,
            then as for scales.
        """
        xp, within = self.xp, self._within(term, source)
        peak = self._peaks(source, within)
        first = self._exponents(peak)
        squares = xp.ldexp(source, -first)
        xp.multiply(squares, squares, out=squares)
        norm = xp.sqrt(squares.sum(axis=within, keepdims=True, dtype=np.float64))
        del squares
        exponent = first + self._exponents(norm)
        xp.ldexp(source, -exponent, out=target)
        scale = xp.where(peak == 0, NOTHING, exponent.astype(np.int64))
        return self._per_element(scale, term), self._per_element(peak, term)

    def cut(self, scale: Any, values: Mapping[Index, int]) -> Any:
        """The part of a scale at these values of some indices; their axes stay, with extent 1."""
        return scale[
            tuple(
                slice(values[index], values[index] + 1) if index in values and extent > 1 else slice(None)
                for index, extent in zip(self.indices, scale.shape, strict=True)
            )
        ]

    def spread(self, scale: Any, output: Term, left: Term) -> Any:
        """A scale, zeros taken out, with axes to multiply an array by.

        Args:
            scale: a scale.
            output: the indices of the result; all batch indices are among them.
            left: those that the array has; the scale has extent 1 in the others.
        """
        held = [index for index in output if index in self.indices]
        scale = self.xp.where(scale > NOTHING // 2, scale, 0)
        scale = scale.transpose(tuple(self.indices.index(index) for index in held))
        extents = dict(zip(held, scale.shape, strict=True))
        return scale.reshape(tuple(extents.get(index, 1) for index in left))

    def _within(self, term: Term, source: Any) -> tuple[int, ...]:
        """The axes within a batch element."""
        kept = {0} | {axis for axis, index in enumerate(term, start=1) if index in self.indices}
        return tuple(axis for axis in range(source.ndim) if axis not in kept)

    def _peaks(self, source: Any, axes: tuple[int, ...]) -> Any:
        # no array of moduli in between
        return self.xp.maximum(source.max(axis=axes, keepdims=True), -source.min(axis=axes, keepdims=True))

    def _exponents(self, values: Any) -> Any:
        usual = self.xp.logical_and(values > 0, self.xp.isfinite(values))
        return self.xp.where(usual, self.xp.frexp(values)[1], 0).astype(np.int32)

    def _per_element(self, values: Any, term: Term) -> Any:
        held = {i: values.shape[axis] for axis, i in enumerate(term, start=1) if i in self.indices}
        order = [list(held).index(index) + 1 for index in self.indices if index in held]
        values = values.reshape((len(values), *held.values())).transpose((0, *order))
        return values.reshape((len(values), *(held.get(index, 1) for index in self.indices)))


class Stack:
    """Tensors of one shape side by side in one device array, so that one kernel serves them all.

    Args:
        batch: how they are balanced.
        numbers: the tensors' numbers.
        term: the indices of the first; the others' batch and sliced indices lie on the same axes.
        shape: the extents.
    """

    def __init__(self, batch: Batch, numbers: Sequence[int], term: Term, shape: tuple[int, ...]):
        self.numbers, self.term, self.shape = tuple(numbers), term, shape
        self._batch, self._entries = batch, math.prod(shape)
        self._flat = batch.xp.zeros((len(self.numbers), padded(shape, batch.dtype)), dtype=batch.dtype)
        parts = batch.dtype.itemsize // batch.real.itemsize
        rows = self._flat.view(batch.real)[:, : self._entries * parts]
        self._real = rows.reshape((len(self.numbers), *shape, parts))
        assert batch.xp.may_share_memory(self._real, self._flat)  # else balancing would change a copy

    def operand(self, place: int) -> Any:
        """One tensor as cuTensorNet sees it; a scalar has one axis of extent 1."""
        return self._flat[place, : self._entries].reshape(self.shape or (1,))

    def fill(self, arrays: Sequence[Any]) -> Any:
        """Take these arrays, cast and balanced; the sum of their scales.

        Raises:
            ValueError: NaN or infinity, seen where looking costs nothing: on the host.
        """
        xp, dtype = self._batch.xp, self._batch.dtype
        if any(isinstance(array, xp.ndarray) for array in arrays):
            for place, array in enumerate(arrays):
                self._flat[place, : self._entries] = xp.asarray(array).reshape(-1)
        else:
            staged = np.zeros(self._flat.shape, dtype=dtype)
            with np.errstate(over="ignore"):
                for row, array in zip(staged, arrays, strict=True):
                    row[: self._entries] = array.reshape(-1)
            if not np.isfinite(staged).all():
                number = self.numbers[int(np.argmin(np.isfinite(staged).all(axis=1)))]
                raise ValueError(f"array {number} holds NaN, infinity, or more than {dtype} does; mend it")
            self._flat.set(staged)
        return self._balanced(self._real)[0].sum(axis=0)

    def cut(self, source: "Stack", where: tuple[Any, ...]) -> Any:
        """Take a part of every tensor of another stack, balanced; the sum of the scales.

        Args:
            source: the tensors with all their axes.
            where: an index into each of them.
        """
        self._real[...] = source._real[(slice(None), *where)]
        return self._balanced(self._real)[0].sum(axis=0)

    def take(self, result: Any) -> tuple[Any, Any]:
        """Take one tensor, balanced; its scale, and the peaks before."""
        scales, peaks = self._balanced(self._batch.parts(result)[None])
        return scales[0], peaks[0]

    def _balanced(self, source: Any) -> tuple[Any, Any]:
        return self._batch.balance(source, self._real, self.term)
