"""Run a program step by step on NumPy or CuPy: each step one matrix product, and no entry lost silently.

A contraction is done in the first of three ways that is sure of its result.

*Plain*, on the host: numbers are multiplied as they are. Floating-point hardware notes every result that is
too large, or too small to keep its digits (the overflow and underflow flags of IEEE 754), and NumPy reads the
flags after each product. As long as none is raised, every entry is what rounding alone makes of it. Threads
of BLAS keep their flags to themselves, so products large enough for threads are checked by their entries. The
result is looked at once, and brought near 1 by powers of two.

*Rescaled*: every operand and every product is measured by its largest modulus, per element of a batch, and
brought near 1 by a power of two, for operands one that keeps their smallest entry normal where there is one.
Nothing was lost if no flag was raised. Otherwise (and on a device, which has no flags) a result counts only
if every measured peak lies in `SAFE`, so that what underflow took from a product is less than what rounding
took from its largest entry; and if every entry of the result is large enough to be sure of, or zero by the
zeros of the operands. So it is where parts of very different size are added up in the end, as in a sum over a
hyperindex whose terms differ by thousands of orders of magnitude.

*Wide* (`qrt_tn.engine.wide`): an exponent for every entry, on the host. Far slower, and never unsure.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np

from qrt_tn.engine import wide
from qrt_tn.engine.backends import to_host
from qrt_tn.engine.cost import program_slices
from qrt_tn.engine.exponents import Part, add, least, peaks, powers, real_bytes
from qrt_tn.engine.layout import MULTIPLY
from qrt_tn.engine.program import Leaf, Measure, Program, Step
from qrt_tn.engine.underflow import THREADED, THREADED_VECTOR, checked_matmul, flags_work
from qrt_tn.engine.wide import WideArray

# peaks of products of arrays with peaks in [2**-5, 2**5]: in here, underflow took less than rounding
SAFE = {4: (2.0**-40, 2.0**100), 8: (2.0**-500, 2.0**1000)}
_LOSS = {4: 2.0**-80, 8: 2.0**-900}  # entries of a result from here on are sure, beside a peak near 1
_DRIFT = {4: -60, 8: -800}  # bits by which peaks may fall in all once something was lost
_NEAR = {4: 5, 8: 5}  # bits that an array may be off 1 and is left as it is
_SETTLED = {4: 12, 8: 60}  # likewise for a plain result
_MOST = 2**34  # products of two numbers that the wide way is taken for: minutes


class PrecisionLossError(ArithmeticError):
    """Entries of a contraction lie further apart than its numbers hold."""


class PairwiseExpression:
    """One program on one backend, with the operands that stay the same already worked in.

    Args:
        program: what to run.
        xp: numpy or cupy.
        dtype: what every operand is cast to.
        constants: operands by number that are the same in every call; steps among them run once.
        entrywise: whether entries count that are negligible beside the largest of their batch element; if
            not, they may become 0, and a result has one exponent for each element in any case.

    Raises:
        ValueError: NaN or infinity in a constant.
    """

    def __init__(
        self,
        program: Program,
        xp: Any,
        dtype: Any,
        constants: Mapping[int, Any],
        *,
        entrywise: bool = True,
    ) -> None:
        self.program = program
        self._xp, self._dtype = xp, np.dtype(dtype)
        self._constants = constants
        self._entrywise = entrywise
        self._ways: list[Callable[[], _Arithmetic]] = [
            partial(_Plain, self._dtype),
            partial(_Rescaled, xp, self._dtype, entrywise),
            partial(_Wide, self._dtype),
        ]
        self._executors: list[_Executor | None] = [None] * len(self._ways)
        self._first = 0 if xp is np and flags_work() else 1
        self._pattern: _Executor | None = None
        if self._first == 0:
            try:
                self._executor(0)
            except FloatingPointError:
                self._first = 1
        if self._first == 1:
            self._executor(1)

    def __call__(self, arrays: Sequence[Any]) -> Part:
        """Contract these operands; entries of constants are not looked at.

        Raises:
            ValueError: NaN or infinity in an operand on the host.
            PrecisionLossError: entries lie further apart than the numbers hold, and there are too many
                products for the wide way.
        """
        return self.shares(arrays)(range(program_slices(self.program)))

    def shares(self, arrays: Sequence[Any]) -> Callable[[range], Part]:
        """What contracts a range of slices: their sum, as (mantissa, exponent) of the whole output's shape.

        What no slice changes is done here, once.
        """
        program, begun = self.program, {}  # type: ignore[var-annotated]
        if not program.slices:
            whole = self._contract(arrays, (), begun)
            return lambda chosen: whole

        def contract(chosen: range) -> Part:
            total = SliceSum(program, self._xp, self._dtype)
            for values in assignments(program.slices, chosen):
                total.add(values, self._contract(arrays, values, begun))
            return total.part()

        return contract

    def _executor(self, way: int) -> "_Executor":
        found = self._executors[way]
        if found is None:
            found = self._executors[way] = _Executor(self.program, self._constants, self._ways[way]())
        return found

    def _contract(self, arrays: Sequence[Any], values: tuple[int, ...], begun: dict[int, Any]) -> Part:
        """One slice, or all where there are none; `begun` keeps what slices share, by the way it is done."""
        for way in range(self._first, 2):
            try:
                executor = self._executor(way)
                if way not in begun:
                    begun[way] = None  # so that a way that fails before any slice is not tried again
                    begun[way] = executor.begin(arrays)
                if begun[way] is None:
                    continue
                part, state = executor.finish(begun[way], values)
            except FloatingPointError:
                if not self.program.slices:
                    self._first = 1  # later calls begin there
                continue
            if way == 0 or self._is_sure(part, state, arrays, values):
                return part
        if not self._entrywise:
            raise PrecisionLossError("a contraction left the range of its numbers; contract in float64")
        return self._widely(arrays, values, begun)

    def _is_sure(self, part: Part, state: "_State", arrays: Sequence[Any], values: tuple[int, ...]) -> bool:
        """Whether a rescaled result has all its entries; on a device this waits for it."""
        xp, mantissa = self._xp, part[0]
        sizes = xp.abs(mantissa)
        if not bool(xp.isfinite(sizes).all()):
            return False
        if not (state.lost and self._entrywise):
            return True
        size = real_bytes(mantissa.dtype)
        if not bool(state.fine) or state.drift < _DRIFT[size]:
            return False
        small = to_host(sizes) < _LOSS[size]
        if not small.any():
            return True
        if self._pattern is None:
            self._pattern = _Executor(self.program, self._constants, _Pattern(xp))
        reached, _ = self._pattern.finish(self._pattern.begin(arrays), values)
        return not bool((small & (to_host(reached[0]) > 0)).any())

    def _widely(self, arrays: Sequence[Any], values: tuple[int, ...], begun: dict[int, Any]) -> Part:
        if sum(math.prod(step.dims) for step in self.program.steps) > _MOST:
            raise PrecisionLossError(
                "entries of this contraction lie further apart than its numbers hold, and it is too large to "
                "give every entry an exponent; contract in double precision, or let output indices number a "
                "batch (batch_inds)"
            )
        if 2 not in begun:
            begun[2] = self._executor(2).begin(arrays)
        (mantissa, exponent), _ = self._executor(2).finish(begun[2], values)
        return self._xp.asarray(mantissa), self._xp.asarray(exponent)


class _State:
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


class _Executor:
    """A program in one kind of arithmetic."""

    def __init__(self, program: Program, constants: Mapping[int, Any], arithmetic: "_Arithmetic") -> None:
        self._program, self._arithmetic = program, arithmetic
        count = len(program.leaves)
        fixed = set(constants)
        once: list[Step] = []
        each: list[Step] = []
        for step in program.steps:
            ready = step.left in fixed and step.right in fixed and not step.sliced
            (once if ready else each).append(step)
            if ready:
                fixed.add(step.target)
        self._call_steps = self._prepared([step for step in each if not step.sliced])
        self._slice_steps = self._prepared([step for step in each if step.sliced])
        self._live: list[Any] = [None] * (count + len(program.steps))
        self._state = arithmetic.state()
        taken = {number for step in once for number in (step.left, step.right)}
        with arithmetic.errors(self._state):
            self._run(self._prepared(once), self._live, self._state, constants)
            self._load_all(sorted(set(constants) - taken), self._live, self._state, constants)
        taken = {number for step in each if not step.sliced for number in (step.left, step.right)}
        # operands are made ready when they are needed, while they are near
        self._before_slices = [n for n in range(count) if n not in constants and n not in taken]

    def begin(self, arrays: Sequence[Any]) -> tuple[list[Any], _State]:
        """What comes before any slice: the arrays by SSA number, and their state."""
        live, state = list(self._live), copy(self._state)
        with self._arithmetic.errors(state):
            self._run(self._call_steps, live, state, arrays)
            self._load_all(self._before_slices, live, state, arrays)
        return live, state

    def finish(self, begun: tuple[list[Any], _State], values: tuple[int, ...]) -> tuple[Part, _State]:
        """The result at these values of the sliced indices, in the output's order, and how sure it is."""
        program, (live, state) = self._program, begun
        if program.slices:
            live, state = list(live), copy(state)
            for number, leaf in enumerate(program.leaves):
                if leaf.sliced:
                    live[number] = live[number][at(leaf.cut, values)]
            if np.ndim(state.exponent):
                state.exponent = state.exponent[grid_at(program, state.exponent.shape, values)]
        with self._arithmetic.errors(state):
            self._run(self._slice_steps, live, state, ())
            owned = bool(self._slice_steps or self._call_steps)
            return self._arithmetic.result(live[-1], state, program, owned), state

    def _prepared(self, steps: Sequence[Step]) -> list[tuple[Any, ...]]:
        """Steps with all that a loop needs side by side: attributes cost as much as a small product."""
        product = self._arithmetic.product
        return [
            (product(s), s.left, s.right, s.target, *s.rows[:3], *s.columns[:3], s.shape, s.measure)
            for s in steps
        ]

    def _load_all(self, numbers: Sequence[int], live: list[Any], state: _State, given: Any) -> None:
        for number in numbers:
            live[number] = self._arithmetic.load(self._program.leaves[number], given[number], number, state)

    def _run(self, steps: Sequence[tuple[Any, ...]], live: list[Any], state: _State, given: Any) -> None:
        """Carry out steps on `live`, which gives up what is used up; operands are made ready from `given`."""
        load, leaves, after = self._arithmetic.load, self._program.leaves, self._arithmetic.after
        for (
            product,
            first,
            second,
            target,
            order,
            matrix,
            swap,
            order2,
            matrix2,
            swap2,
            shape,
            measure,
        ) in steps:
            left, right = live[first], live[second]
            if left is None:
                left = load(leaves[first], given[first], first, state)
            if right is None:
                right = load(leaves[second], given[second], second, state)
            live[first] = live[second] = None
            if order is not None:
                left = left.transpose(order)
            if matrix is not None:
                left = left.reshape(matrix)
            if swap is not None:
                left = left.transpose(swap)
            if order2 is not None:
                right = right.transpose(order2)
            if matrix2 is not None:
                right = right.reshape(matrix2)
            if swap2 is not None:
                right = right.transpose(swap2)
            made = product(left, right)
            if shape is not None:
                made = made.reshape(shape)
            live[target] = made if after is None else after(made, measure, state)


class _Arithmetic:
    """How numbers are held and multiplied: plain ones.

    Args:
        dtype: what every operand is cast to.
    """

    after: Callable[[Any, Measure, _State], Any] | None = None  # what becomes of a product

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def state(self) -> _State:
        return _State(lost=False)

    def errors(self, state: _State) -> Any:
        return np.errstate(all="ignore")

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        raise NotImplementedError

    def load(self, leaf: Leaf, array: Any, number: int, state: _State) -> Any:
        raise NotImplementedError

    def result(self, value: Any, state: _State, program: Program, owned: bool) -> Part:
        raise NotImplementedError


class _Plain(_Arithmetic):
    """On the host; the first flag, or a result that is not finite, is a FloatingPointError."""

    def errors(self, state: _State) -> Any:
        return np.errstate(under="raise", over="raise", invalid="raise")

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        if step.kind == MULTIPLY:
            return np.multiply
        _, rows, inner, columns = step.dims
        threaded = rows * inner * columns > (THREADED if min(rows, columns) > 1 else THREADED_VECTOR)
        return checked_matmul if threaded else np.matmul

    def load(self, leaf: Leaf, array: Any, number: int, state: _State) -> Any:
        array = np.asarray(array, dtype=self.dtype)
        if leaf.diagonals or leaf.summed:
            array = reduced(leaf, array, np).astype(self.dtype)
        return array

    def result(self, value: Any, state: _State, program: Program, owned: bool) -> Part:
        value = np.asarray(value)
        measure = program.measure
        with np.errstate(all="ignore"):
            exponent: Any = 0
            if not _in_range(value, measure, _SETTLED[real_bytes(self.dtype)]):
                peak = peaks(value, measure.axes, np)
                if not np.isfinite(peak).all():
                    raise FloatingPointError
                low, high = 2.0 ** -_SETTLED[real_bytes(self.dtype)], 2.0 ** _SETTLED[real_bytes(self.dtype)]
                if not ((peak == 0) | ((peak >= low) & (peak <= high))).all():
                    value, exponent = _scaled(value, peak, measure, np, least(value, measure.axes, np))
                    owned = True
        value = value.transpose(program.order)
        return value if owned else value.copy(), spread(exponent, program, np)


class _Rescaled(_Arithmetic):
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

    def state(self) -> _State:
        # without flags nobody can tell that nothing was lost
        return _State(lost=self._xp is not np or not flags_work())

    def errors(self, state: _State) -> Any:
        return np.errstate(over="ignore", invalid="ignore", under="call", call=state.note)

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        if step.kind == MULTIPLY:
            return self._xp.multiply
        return self._xp.matmul

    def load(self, leaf: Leaf, array: Any, number: int, state: _State) -> Any:
        xp = self._xp
        array = reduced(leaf, xp.asarray(array, dtype=self.dtype), xp)
        if xp is np and _in_range(array, leaf.measure, _NEAR[4]):
            return array.astype(self.dtype, copy=False)
        peak = peaks(array, leaf.measure.axes, xp)
        if xp is np and not np.isfinite(peak).all():
            raise ValueError(f"array {number} holds NaN or infinity; replace it before contracting")
        small = least(array, leaf.measure.axes, xp) if self._entrywise else None
        array, exponent = _scaled(array, peak, leaf.measure, xp, small)
        state.exponent = state.exponent + exponent
        return array.astype(self.dtype, copy=False)

    def _measured(self, array: Any, measure: Measure, state: _State) -> Any:
        xp = self._xp
        if xp is np and _in_range(array, measure, _NEAR[4]):
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

    def result(self, value: Any, state: _State, program: Program, owned: bool) -> Part:
        value = self._xp.asarray(value).transpose(program.order)
        return value if owned else value.copy(), spread(state.exponent, program, self._xp)


class _Wide(_Arithmetic):
    """An exponent for every entry; results in the dtype, of whatever size."""

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        return wide.multiply if step.kind == MULTIPLY else wide.matmul

    def load(self, leaf: Leaf, array: Any, number: int, state: _State) -> Any:
        array = WideArray.of(to_host(array))
        for first, second in leaf.diagonals:
            array = array.diagonal(first, second)
        return array.sum(leaf.summed) if leaf.summed else array

    def result(self, value: Any, state: _State, program: Program, owned: bool) -> Part:
        value = value.transpose(program.order)
        return value.mantissa.astype(self.dtype), np.where(value.mantissa == 0, 0, value.exponent)


class _Pattern(_Arithmetic):
    """1 where an entry can be other than zero, by where the operands are not zero; else 0."""

    def __init__(self, xp: Any) -> None:
        super().__init__(np.dtype(np.float32))
        self._xp = xp
        self.after = lambda array, measure, state: self._ones(array)

    def _ones(self, array: Any) -> Any:
        return (self._xp.asarray(array) != 0).astype(self.dtype)

    def product(self, step: Step) -> Callable[[Any, Any], Any]:
        return self._xp.multiply if step.kind == MULTIPLY else self._xp.matmul

    def load(self, leaf: Leaf, array: Any, number: int, state: _State) -> Any:
        return self._ones(reduced(leaf, self._ones(array), self._xp))

    def result(self, value: Any, state: _State, program: Program, owned: bool) -> Part:
        return self._xp.asarray(value).transpose(program.order), 0


def reduced(leaf: Leaf, array: Any, xp: Any) -> Any:
    """An operand with its diagonals taken and its lone indices summed, in double precision."""
    for first, second in leaf.diagonals:
        array = xp.diagonal(array, axis1=first, axis2=second)
    if leaf.summed:
        # where a sum of large single numbers does not overflow
        array = xp.asarray(array.sum(axis=leaf.summed, dtype=np.result_type(array.dtype, np.float64)))
    return array


def _scaled(array: Any, peak: Any, measure: Measure, xp: Any, small: Any) -> Part:
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


def _in_range(array: Any, measure: Measure, bits: int) -> bool:
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


class SliceSum:
    """Adds up slices: those of a summed index onto each other, those of an output index side by side."""

    def __init__(self, program: Program, xp: Any, dtype: Any) -> None:
        self._cut = program.output_cut
        self._beside = any(place is not None for place in self._cut)
        self._total: Part | None = None
        if self._beside:
            grid = xp.zeros(program.whole_spread, dtype=np.int64)
            self._total = (xp.zeros(program.shape, dtype=dtype), grid)

    def add(self, values: tuple[int, ...], part: Part) -> None:
        """Add the slice at these values of the sliced indices."""
        if self._total is None:
            self._total = part
        elif not self._beside:
            self._total = add(self._total, part)
        else:
            mantissa, grid = self._total
            here = at(self._cut, values)
            held = grid[here]
            total, exponent = add((mantissa[here], held), part)
            if exponent.size > held.size:  # an exponent for every entry
                grid = np.broadcast_to(grid, mantissa.shape).copy()
                self._total, held = (mantissa, grid), grid[here]
            mantissa[here] = total
            grid[here] = exponent.reshape(held.shape)

    def part(self) -> Part:
        """The sum so far."""
        assert self._total is not None
        return self._total


def assignments(extents: Sequence[int], chosen: range) -> Iterator[tuple[int, ...]]:
    """The values of the sliced indices for these slice numbers; the last index runs fastest."""
    for number in chosen:
        values = []
        for extent in reversed(extents):
            number, value = divmod(number, extent)  # noqa: PLW2901
            values.append(value)
        yield tuple(reversed(values))


def at(cut: Sequence[int | None], values: tuple[int, ...]) -> tuple[Any, ...]:
    """Where in an array a slice lies: a place for every sliced axis, everything of the others."""
    return tuple(slice(None) if place is None else values[place] for place in cut)


def grid_at(program: Program, shape: tuple[int, ...], values: tuple[int, ...]) -> tuple[Any, ...]:
    """Where in a grid of exponents a slice lies; every axis stays, with extent 1 where it is sliced."""
    return tuple(
        slice(None) if place is None or extent == 1 else slice(values[place], values[place] + 1)
        for place, extent in zip(program.grid_cut, shape, strict=True)
    )
