"""How the numbers of a contraction are held: as they are, with a scale for all, with an exponent for each.

`qrt_tn.engine.execute` tells when each of them is used, and what it is sure of.
"""

# ruff: noqa: D102 - the methods are described once, in Arithmetic

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt_tn.engine import wide
from qrt_tn.engine.backends import to_host
from qrt_tn.engine.exponents import Part, least, peaks, powers, real_bytes
from qrt_tn.engine.layout import MULTIPLY
from qrt_tn.engine.program import Leaf, Measure, Program, Step
from qrt_tn.engine.underflow import THREADED, THREADED_VECTOR, checked_matmul, flags_work
from qrt_tn.engine.wide import WideArray

# peaks of products of arrays with peaks in [2**-5, 2**5]: in here, underflow took less than rounding
SAFE = {4: (2.0**-40, 2.0**100), 8: (2.0**-500, 2.0**1000)}
_NEAR = 5  # bits that an array may be off 1 and is left as it is
_FACTORS = {4: 8, 8: 48}  # of a plain product, between two looks at its scale
_SETTLED = {4: 12, 8: 60}  # likewise for a plain result


class State:
    """What one call, or one slice of it, has come to beside its arrays.

    Attributes:
        exponent: of two, taken out so far; an int or a grid over the batch.
        lost: whether an entry may have been lost to underflow.
        fine: whether all measured peaks were safe.
        drift: bits by which peaks have fallen since something was lost.
    """

    def __init__(self, lost: bool) -> None:
        self.exponent: Any = 0
        self.lost = lost
        self.fine: Any = True
        self.drift = 0

    def note(self, error: str, flags: int) -> None:
        """What NumPy calls when an underflow flag is raised."""
        self.lost = True


class Arithmetic:
    """How numbers are held and multiplied; `after`, where there is one, takes each product.

    Args:
        dtype: what every operand is cast to.
    """

    after: Callable[[Any, Measure, State], Any] | None = None

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

    def load(self, leaf: Leaf, array: Any, number: int, state: State) -> Any:
        """Make an operand ready."""
        raise NotImplementedError

    def result(self, value: Any, state: State, program: Program, owned: bool) -> Part:
        """The last array in the output's order; a copy unless it is `owned`."""
        raise NotImplementedError


class Plain(Arithmetic):
    """On the host; the first flag, or a result that is not finite, is a FloatingPointError.

    Args:
        dtype: what every operand is cast to.
    """

    def __init__(self, dtype: np.dtype) -> None:
        super().__init__(dtype)
        self.after = self._settled

    def errors(self, state: State) -> Any:
        return np.errstate(under="raise", over="raise", invalid="raise")

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        if step.kind == MULTIPLY:
            return np.multiply
        _, rows, inner, columns = step.dims
        threaded = rows * inner * columns > (THREADED if min(rows, columns) > 1 else THREADED_VECTOR)
        return checked_matmul if threaded else np.matmul

    def load(self, leaf: Leaf, array: Any, number: int, state: State) -> Any:
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

    def _settled(self, array: Any, measure: Measure, state: State) -> Any:
        """A product brought near 1 where it is not."""
        array, bits = np.asarray(array), _SETTLED[real_bytes(self.dtype)]
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
        settled = self._settled(value, program.measure, state)
        owned = owned or settled is not value
        settled = settled.transpose(program.order)
        return settled if owned else settled.copy(), spread(state.exponent, program, np)


class Rescaled(Arithmetic):
    """Arrays near 1 and exponents beside them.

    Args:
        xp: numpy or cupy.
        dtype: what every operand is cast to.
        entrywise: whether operands keep their smallest entries rather than come near 1.
    """

    def __init__(self, xp: Any, dtype: np.dtype, entrywise: bool) -> None:
        super().__init__(dtype)
        self._xp, self._entrywise = xp, entrywise
        self.after = self._measured

    def state(self) -> State:
        # without flags nobody can tell that nothing was lost
        return State(lost=self._xp is not np or not flags_work())

    def errors(self, state: State) -> Any:
        return np.errstate(over="ignore", invalid="ignore", under="call", call=state.note)

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        if step.kind == MULTIPLY:
            return self._xp.multiply
        return self._xp.matmul

    def load(self, leaf: Leaf, array: Any, number: int, state: State) -> Any:
        xp = self._xp
        array = reduced(leaf, xp.asarray(array, dtype=self.dtype), xp)
        if xp is np and in_range(array, leaf.measure, _NEAR):
            return array.astype(self.dtype, copy=False)
        peak = peaks(array, leaf.measure.axes, xp)
        if xp is np and not np.isfinite(peak).all():
            raise ValueError(f"array {number} holds NaN or infinity; replace it before contracting")
        small = least(array, leaf.measure.axes, xp) if self._entrywise else None
        array, exponent = scaled_by(array, peak, leaf.measure, xp, small)
        state.exponent = state.exponent + exponent
        return array.astype(self.dtype, copy=False)

    def _measured(self, array: Any, measure: Measure, state: State) -> Any:
        xp = self._xp
        if xp is np and in_range(array, measure, _NEAR):
            return array
        array = xp.asarray(array)
        peak = peaks(array, measure.axes, xp)
        low, high = SAFE[peak.dtype.itemsize]
        safe = xp.logical_or(peak == 0, xp.logical_and(peak >= low, peak <= high))  # not so for NaN
        state.fine = state.fine & safe.all()
        factor, exponent = powers(peak, xp)
        if state.lost and xp is np:
            state.drift += int(np.min(exponent))
        factor, exponent = _laid_out(factor, exponent, measure)
        state.exponent = state.exponent + exponent
        return array * factor

    def result(self, value: Any, state: State, program: Program, owned: bool) -> Part:
        value = self._xp.asarray(value).transpose(program.order)
        return value if owned else value.copy(), spread(state.exponent, program, self._xp)


class Wide(Arithmetic):
    """An exponent for every entry; results in the dtype, of whatever size."""

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        return wide.multiply if step.kind == MULTIPLY else wide.matmul

    def load(self, leaf: Leaf, array: Any, number: int, state: State) -> Any:
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
        self.after = lambda array, measure, state: self._ones(array)

    def _ones(self, array: Any) -> Any:
        return (self._xp.asarray(array) != 0).astype(self.dtype)

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        return self._xp.multiply if step.kind == MULTIPLY else self._xp.matmul

    def load(self, leaf: Leaf, array: Any, number: int, state: State) -> Any:
        return self._ones(reduced(leaf, self._ones(array), self._xp))

    def result(self, value: Any, state: State, program: Program, owned: bool) -> Part:
        return self._xp.asarray(value).transpose(program.order), 0


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
