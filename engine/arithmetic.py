"""How the numbers of a contraction are held: as they are, with a scale for all, with an exponent for each.

`qrt_tn.engine.execute` tells when each of them is used, and what it is sure of.
"""

# ruff: noqa: D102 - the methods are described once, in Arithmetic

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt_tn.engine import wide
from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.exponents import SETTLED, Part, least, peaks, powers, real_bytes, settled
from qrt_tn.engine.layout import MULTIPLY
from qrt_tn.engine.program import Leaf, Measure, Program, Step
from qrt_tn.engine.underflow import (
    THREADED,
    THREADED_VECTOR,
    checked_matmul,
    flagged_matmul,
    flags_work,
    has_digits,
)
from qrt_tn.engine.wide import WideArray

_NEAR = 5  # bits that an array may be off 1 and is left as it is
_FACTORS = {4: 8, 8: 48}  # of a plain product, between two looks at its scale


class State:
    """What one call, or one slice of it, has come to beside its arrays.

    Attributes:
        exponent: of two, taken out so far; an int or a grid over the batch.
        raised: whether an underflow flag was raised that nobody has looked into.
        lost: whether an entry may have lost digits to underflow.
        growth: bits by which what was lost may have grown, beside arrays that are kept near 1.
    """

    def __init__(self, lost: bool) -> None:
        self.exponent: Any = 0
        self.raised = False
        self.lost: Any = lost
        self.growth: Any = 0.0

    def note(self, error: str, flags: int) -> None:
        """What NumPy calls when an underflow flag is raised."""
        self.raised = True


class Arithmetic:
    """How numbers are held and multiplied.

    `after`, where there is one, takes (product, its measure, the state, both operands, terms in its sums).

    Args:
        dtype: what every operand is cast to.
    """

    after: Callable[[Any, Measure, State, Any, Any, int], Any] | None = None

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def state(self) -> State:
        """The state to begin with."""
        return State(lost=False)

    def errors(self, state: State) -> Any:
        """The context for all work on a state: what the flags of the hardware lead to."""
        return np.errstate(all="ignore")

    def measured(self, program: Program) -> Sequence[Step]:
        """The steps after which `after` is called: all, unless there is no such thing."""
        return program.steps if self.after is not None else ()

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        """What multiplies the two operands of a step."""
        raise NotImplementedError

    def take(self, leaf: Leaf, array: Any) -> Any:
        """An operand, its diagonals taken and its lone indices summed; no copy where there are none."""
        raise NotImplementedError

    def scale(self, array: Any, measure: Measure, number: int, state: State) -> Any:
        """An operand that was taken, or its part in one slice, made ready."""
        return array

    def result(self, value: Any, state: State, program: Program, owned: bool) -> Part:
        """The last array in the output's order; a copy unless it is `owned`."""
        raise NotImplementedError


class Plain(Arithmetic):
    """On the host; the first flag, or a result that is not finite, is a FloatingPointError.

    Args:
        dtype: what every operand is cast to.
        entrywise: whether a result may have an exponent for every entry.
    """

    def __init__(self, dtype: np.dtype, entrywise: bool) -> None:
        super().__init__(dtype)
        self._entrywise = entrywise
        self.after = self._settled

    def errors(self, state: State) -> Any:
        return np.errstate(under="raise", over="raise", invalid="raise")

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        if step.kind == MULTIPLY:
            return np.multiply
        return checked_matmul if _uses_threads(step) else np.matmul

    def take(self, leaf: Leaf, array: Any) -> Any:
        array = np.asarray(array, dtype=self.dtype)
        if leaf.diagonals or leaf.summed:
            array = reduced(leaf, array, np).astype(self.dtype)
        return array

    def measured(self, program: Program) -> Sequence[Step]:
        most = _FACTORS[real_bytes(self.dtype)]
        factors = [1] * len(program.leaves)  # since the last look
        found = []
        for step in program.steps:
            factors.append(factors[step.left] + factors[step.right])
            if factors[-1] > most:
                found.append(step)
                factors[-1] = 1
        return found

    def _settled(self, array: Any, measure: Measure, state: State, *operands: Any) -> Any:
        """A product brought near 1 where it is not."""
        array, bits = np.asarray(array), SETTLED[real_bytes(self.dtype)]
        with np.errstate(all="ignore"):
            if in_range(array, measure, bits):
                return array
            peak = peaks(array, measure.axes, np)
            if not np.isfinite(peak).all():
                raise FloatingPointError("a product is not finite")
            if ((peak == 0) | ((peak >= 2.0**-bits) & (peak <= 2.0**bits))).all():
                return array
            small = least(array, measure.axes, np)
        array, exponent = scaled_by(array, peak, measure, np, small)
        state.exponent = state.exponent + exponent
        return array

    def result(self, value: Any, state: State, program: Program, owned: bool) -> Part:
        value = np.asarray(value)
        with np.errstate(all="ignore"):
            near = np.ndim(state.exponent) == 0 == state.exponent and in_range(
                value, program.measure, SETTLED[real_bytes(self.dtype)]
            )
            if not near and not np.isfinite(value).all():
                raise FloatingPointError("a product is not finite")
        part = value.transpose(program.order), spread(state.exponent, program, np)
        if not near:
            spread_to = program.spread if program.whole_grid else ()
            part = settled(part, spread_to, self.dtype, entries=self._entrywise)
        return part if owned else (part[0].copy(), part[1])


class Rescaled(Arithmetic):
    """Arrays near 1 and exponents beside them.

    Args:
        xp: numpy or cupy.
        dtype: what every operand is cast to.
        entrywise: whether operands keep their smallest entries rather than come near 1.
        checked: whether losses are looked for in the operands of every product, where there are no flags.
    """

    def __init__(self, xp: Any, dtype: np.dtype, entrywise: bool, *, checked: bool = False) -> None:
        super().__init__(dtype)
        self._xp, self._entrywise, self._checked = xp, entrywise, checked
        self._near = _NEAR if xp is np else 0  # bits by which arrays may be above 1
        self._flags = xp is np and flags_work() and not checked
        self.after = self._measured

    def state(self) -> State:
        # without flags nobody can tell that nothing was lost
        return State(lost=not (self._flags or (self._checked and self._entrywise)))

    def errors(self, state: State) -> Any:
        if not self._flags:
            return np.errstate(all="ignore")
        return np.errstate(over="ignore", invalid="ignore", under="call", call=state.note)

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        if step.kind == MULTIPLY:
            return self._xp.multiply
        return flagged_matmul if self._flags and _uses_threads(step) else self._xp.matmul

    def take(self, leaf: Leaf, array: Any) -> Any:
        return reduced(leaf, self._xp.asarray(array, dtype=self.dtype), self._xp)

    def scale(self, array: Any, measure: Measure, number: int, state: State) -> Any:
        xp = self._xp
        if xp is np and in_range(array, measure, _NEAR):
            return array.astype(self.dtype, copy=False)
        peak = peaks(array, measure.axes, xp)
        if xp is np and not np.isfinite(peak).all():
            raise FloatingPointError(f"array {number}, or a sum over an index of it alone, is not finite")
        small = least(array, measure.axes, xp) if self._entrywise else None
        factor, exponent = powers(peak, xp, small, real_bytes(self.dtype))
        if self._entrywise:
            above = (xp.frexp(peak)[1] - exponent).max() - self._near
            state.growth = state.growth + xp.maximum(above, 0)
        factor, exponent = _laid_out(factor, exponent, measure)
        state.exponent = state.exponent + exponent
        return (array * factor).astype(self.dtype, copy=False)

    def _measured(self, array: Any, measure: Measure, state: State, left: Any, right: Any, terms: int) -> Any:
        xp = self._xp
        made = array = xp.asarray(array)
        lowest, fall = 1.0, 0  # the least factor, and the bits by which it falls least
        if not (xp is np and in_range(array, measure, _NEAR)):
            factor, exponent = powers(peaks(array, measure.axes, xp), xp)
            lowest, fall = factor.min(), -exponent.min()
            factor, exponent = _laid_out(factor, exponent, measure)
            state.exponent = state.exponent + exponent
            array = array * factor
        if not self._entrywise:
            return array
        if self._checked:
            # no product of two entries, nor what it is scaled to, is too small
            sizes = [least(x, tuple(range(x.ndim)), xp).astype(np.float64) for x in (left, right)]
            tiny = float(np.finfo(self.dtype).tiny)
            faint = sizes[0] * sizes[1] * xp.minimum(lowest, 1) < tiny
            state.lost = xp.logical_or(state.lost, faint)
        elif state.raised:
            state.lost = state.lost or not (has_digits(made, terms) and has_digits(array, terms))
            state.raised = False
        if xp is not np or state.lost:
            state.growth = state.growth + xp.maximum(math.log2(2 * terms) + self._near + fall, 0)
        return array

    def result(self, value: Any, state: State, program: Program, owned: bool) -> Part:
        value = self._xp.asarray(value).transpose(program.order)
        return value if owned else value.copy(), spread(state.exponent, program, self._xp)


class Wide(Arithmetic):
    """An exponent for every entry; results in the dtype, of whatever size."""

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        return wide.multiply if step.kind == MULTIPLY else wide.matmul

    def take(self, leaf: Leaf, array: Any) -> Any:
        array = WideArray.of(to_host(array))
        for first, second in leaf.diagonals:
            array = array.diagonal(first, second)
        return array.sum(leaf.summed) if leaf.summed else array

    def result(self, value: Any, state: State, program: Program, owned: bool) -> Part:
        value = value.transpose(program.order)
        return value.mantissa.astype(self.dtype), np.where(value.mantissa == 0, 0, value.exponent)


class Pattern(Arithmetic):
    """1 where an entry can be other than zero, by where the operands are not zero; else 0."""

    def __init__(self, xp: Any) -> None:
        super().__init__(np.dtype(np.float32))
        self._xp = xp
        self.after = lambda array, *others: self._ones(array)

    def _ones(self, array: Any) -> Any:
        return (self._xp.asarray(array) != 0).astype(self.dtype)

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        return self._xp.multiply if step.kind == MULTIPLY else self._xp.matmul

    def take(self, leaf: Leaf, array: Any) -> Any:
        return self._ones(reduced(leaf, self._ones(array), self._xp))

    def result(self, value: Any, state: State, program: Program, owned: bool) -> Part:
        return self._xp.asarray(value).transpose(program.order), 0


def refuse_not_finite(array: Any, number: int) -> None:
    """Refuse NaN and infinity in an operand.

    Raises:
        ValueError: there is one; it names the operand's number.
    """
    if not bool(array_module(array).isfinite(array).all()):
        raise ValueError(f"array {number} holds NaN or infinity; replace it before contracting")


def _uses_threads(step: Step) -> bool:
    _, rows, inner, columns = step.dims
    return rows * inner * columns > (THREADED if min(rows, columns) > 1 else THREADED_VECTOR)


def reduced(leaf: Leaf, array: Any, xp: Any) -> Any:
    """An operand with its diagonals taken and its lone indices summed, in double precision."""
    for first, second in leaf.diagonals:
        array = xp.diagonal(array, axis1=first, axis2=second)
    if leaf.summed:
        # where a sum of large single numbers does not overflow
        array = xp.asarray(array.sum(axis=leaf.summed, dtype=np.result_type(array.dtype, np.float64)))
    return array


def scaled_by(array: Any, peak: Any, measure: Measure, xp: Any, small: Any) -> Part:
    """An array with its peaks brought to [1/2, 1), or as near as keeps its smallest numbers normal."""
    factor, exponent = powers(peak, xp, small)
    factor, exponent = _laid_out(factor, exponent, measure)
    return array * factor, exponent


def _laid_out(factor: Any, exponent: Any, measure: Measure) -> tuple[Any, Any]:
    """Factors in a shape that multiplies the array, and exponents in the batch's."""
    if not measure.grid:
        return factor, exponent
    return factor.reshape(measure.keep), exponent.transpose(measure.order).reshape(measure.grid)


def spread(exponent: Any, program: Program, xp: Any) -> Any:
    """Exponents over the batch, in a shape that broadcasts to the output of one slice."""
    grid = xp.asarray(exponent, dtype=np.int64)
    return xp.broadcast_to(grid, program.grid).reshape(program.spread) if program.whole_grid else grid


def in_range(array: Any, measure: Measure, bits: int) -> bool:
    """Whether one pass by BLAS shows the peaks to be near 1: the mean square bounds them on both sides."""
    if not measure.grid:
        flat = array.reshape(-1)
        square = np.vdot(flat, flat).real
        return array.size * 4.0**-bits <= square <= 4.0**bits
    if not measure.rows or not array.flags.c_contiguous:
        return False
    rows = array.reshape(measure.rows, -1)
    if rows.dtype.kind == "c":
        rows = rows.view(rows.real.dtype)  # the same sum, in real arithmetic
    with np.errstate(all="ignore"):
        squares = np.vecdot(rows, rows)
    low = rows.shape[1] * 4.0**-bits
    return bool(np.minimum.reduce(squares) >= low and np.maximum.reduce(squares) <= 4.0**bits)
