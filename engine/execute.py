"""Run a program step by step on NumPy or CuPy: each step one matrix product, and no entry lost silently.

A contraction is done in the first of three ways that is sure of its result.

*Plain*, on the host: numbers are multiplied as they are. Floating-point hardware notes every result that is
too large, or too small to keep its digits (the overflow and underflow flags of IEEE 754), and NumPy reads the
flags after each product. As long as none is raised, every entry is what rounding alone makes of it. Threads
of BLAS keep their flags to themselves, so products large enough for threads are checked by their entries. The
result is looked at once, and brought near 1 by powers of two; so is a product of many factors on the way.

*Rescaled*: every operand and every product is measured by its largest modulus, per element of a batch, and
brought near 1 by a power of two, for operands one that keeps their smallest entry normal where there is one.
Nothing was lost if no flag was raised, or only in products all of whose entries kept their digits. Otherwise
(and on a device, which has no flags) what was lost is bounded: at first it is below the smallest normal
number, and a product makes of it no more than the terms of its sums, the peaks of its operands and the power
of two that brings it near 1 allow. A result counts if each of its entries is so large that the bound is below
its rounding, or zero by the zeros of the operands. A device then looks once more, for the smallest entries of
all operands of products, and the host rescales single precision once more in double precision.

*Wide* (`qrt_tn.engine.wide`): an exponent for every entry, on the host. Far slower, and never unsure.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np

from qrt_tn.engine.arithmetic import Arithmetic, Pattern, Plain, Rescaled, State, Wide, refuse_not_finite
from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.cost import program_slices
from qrt_tn.engine.exponents import Part, add, real_bytes, settled
from qrt_tn.engine.program import Program, Step
from qrt_tn.engine.underflow import flags_work

_LOG = logging.getLogger(__name__)
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
        ways: list[Callable[[], Arithmetic]] = []
        if xp is np and flags_work():
            ways.append(partial(Plain, self._dtype, entrywise))
        ways.append(partial(Rescaled, xp, self._dtype, entrywise))
        if len(ways) == 1:
            ways.append(partial(Rescaled, xp, self._dtype, entrywise, checked=True))
        if xp is np and real_bytes(dtype) == 4:
            ways.append(partial(Rescaled, xp, np.result_type(self._dtype, np.float64), entrywise))
        ways.append(partial(Wide, self._dtype))
        self._ways = ways
        self._executors: dict[int, _Executor] = {}
        self._pattern: _Executor | None = None
        self._first = 0  # where calls begin: 0 or 1, which give the same digits
        try:
            self._executor(0)
        except FloatingPointError:
            self._first = 1

    def __call__(self, arrays: Sequence[Any]) -> Part:
        """Contract these operands; entries of constants are not looked at.

        Raises:
            ValueError: NaN or infinity in an operand; a device may not say so.
            PrecisionLossError: entries lie further apart than the numbers hold, and there are too many
                products for the wide way.
        """
        return self.shares(arrays)(range(program_slices(self.program)))

    def shares(self, arrays: Sequence[Any]) -> Callable[[range], Part]:
        """What contracts a range of slices: their sum, as (mantissa, exponent) of the whole output's shape.

        What no slice changes is done here, once.
        """
        program = self.program
        begun: dict[int, Any] = {}
        if not program.slices:
            whole = self._contract(arrays, (), begun)
            return lambda chosen: whole

        def contract(chosen: range) -> Part:
            total = SliceSum(program, self._xp, self._dtype, entries=self._entrywise)
            for values in assignments(program.slices, chosen):
                total.add(values, self._contract(arrays, values, begun))
            return total.part()

        return contract

    def _executor(self, way: int) -> "_Executor":
        if way not in self._executors:
            self._executors[way] = _Executor(self.program, self._constants, self._ways[way]())
        return self._executors[way]

    def _contract(self, arrays: Sequence[Any], values: tuple[int, ...], begun: dict[int, Any]) -> Part:
        """One slice, or all where there are none; `begun` keeps what slices share, by the way it is done."""
        for way in range(self._first, len(self._ways)):
            is_last = way == len(self._ways) - 1
            if is_last:
                self._check_wide(arrays)
            try:
                executor = self._executor(way)
                if way not in begun:
                    begun[way] = None  # so that a way that fails before any slice is not tried again
                    begun[way] = executor.begin(arrays)
                if begun[way] is None:
                    continue
                part, state = executor.finish(begun[way], values)
            except FloatingPointError:
                continue
            if isinstance(executor.arithmetic, Plain):
                return part
            if is_last or self._is_sure(part, state, arrays, values):
                if not self.program.slices:
                    self._first = min(way, 1)
                break
        return self._narrowed(part)

    def _narrowed(self, part: Part) -> Part:
        """The result in the dtype of the expression, and on the host with a scale that it alone decides.

        So the way that a result was come by leaves no trace, nor do earlier calls.
        """
        xp, (mantissa, exponent) = self._xp, part
        if array_module(mantissa) is np:
            spread = self.program.spread if self.program.whole_grid else ()
            mantissa, exponent = settled(part, spread, self._dtype, entries=self._entrywise)
        return xp.asarray(mantissa), xp.asarray(exponent)

    def _is_sure(self, part: Part, state: State, arrays: Sequence[Any], values: tuple[int, ...]) -> bool:
        """Whether a rescaled result has all its entries; on a device this waits for it."""
        xp, mantissa = self._xp, part[0]
        sizes = xp.abs(mantissa)
        if not bool(xp.isfinite(sizes).all()):
            return False
        if not (state.raised or bool(state.lost)):
            return True
        if self._entrywise:
            # what every step lost is below the smallest normal number times the terms of its sums
            bits = np.log2(4 * (1 + len(self.program.steps)) * float(np.finfo(mantissa.dtype).tiny))
            small = to_host(sizes).astype(np.float64) < 2.0 ** min(bits + float(state.growth), 1000)
        else:  # whole elements alone
            spread = self.program.spread if self.program.whole_grid else (1,) * sizes.ndim
            axes = tuple(axis for axis, extent in enumerate(spread) if extent == 1)
            small = to_host(sizes.max(axis=axes, keepdims=True)) == 0
        if not small.any():
            return True
        if self._pattern is None:
            self._pattern = _Executor(self.program, self._constants, Pattern(xp))
        reached, _ = self._pattern.finish(self._pattern.begin(arrays), values)
        return not bool((small & (to_host(reached[0]) > 0)).any())

    def _check_wide(self, arrays: Sequence[Any]) -> None:
        for number, array in enumerate(arrays):
            refuse_not_finite(self._constants.get(number, array), number)
        if sum(math.prod(step.dims) for step in self.program.steps) > _MOST:
            raise PrecisionLossError(
                "entries of this contraction lie further apart than its numbers hold, and it is too large to "
                "give every entry an exponent; contract in double precision, or let output indices number a "
                "batch (batch_inds)"
            )
        _LOG.info("a contraction gives every entry an exponent of its own, which is slow")


class _Executor:
    """A program in one kind of arithmetic."""

    def __init__(self, program: Program, constants: Mapping[int, Any], arithmetic: Arithmetic) -> None:
        self._program, self.arithmetic = program, arithmetic
        count = len(program.leaves)
        self._measures = {s.target: s.measure for s in arithmetic.measured(program)}
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
        self._constants = constants
        with arithmetic.errors(self._state):
            self._run(self._prepared(once), self._live, self._state, constants)
        taken = {number for step in program.steps if not step.sliced for number in (step.left, step.right)}
        # operands of slices' steps, or the only one: made ready slice by slice, so that no copy is held
        self._late = [number for number in range(count) if number not in taken]

    def begin(self, arrays: Sequence[Any]) -> tuple[list[Any], State, dict[int, Any]]:
        """What comes before any slice: the arrays by SSA number, their state, and operands of slices."""
        live, state = list(self._live), copy(self._state)
        with self.arithmetic.errors(state):
            given: Any = arrays
            if self._constants:
                given = {**dict(enumerate(arrays)), **self._constants}
            self._run(self._call_steps, live, state, given)
            take, leaves = self.arithmetic.take, self._program.leaves
            return live, state, {number: take(leaves[number], given[number]) for number in self._late}

    def finish(
        self, begun: tuple[list[Any], State, dict[int, Any]], values: tuple[int, ...]
    ) -> tuple[Part, State]:
        """The result at these values of the sliced indices, in the output's order, and how sure it is."""
        program, (live, state, late) = self._program, begun
        if program.slices:
            live, state = list(live), copy(state)
            late = {number: array[at(program.leaves[number].cut, values)] for number, array in late.items()}
            if np.ndim(state.exponent):
                state.exponent = state.exponent[grid_at(program, state.exponent.shape, values)]
        with self.arithmetic.errors(state):
            self._run(self._slice_steps, live, state, late, taken=True)
            if not program.steps:
                live[0] = self.arithmetic.scale(late[0], program.leaves[0].measure, 0, state)
            owned = bool(self._slice_steps or self._call_steps)
            return self.arithmetic.result(live[-1], state, program, owned), state

    def _prepared(self, steps: Sequence[Step]) -> list[tuple[Any, ...]]:
        """Steps with all that a loop needs side by side: attributes cost as much as a small product."""
        product, measures = self.arithmetic.product, self._measures
        return [
            (
                product(s),
                s.left,
                s.right,
                s.target,
                *s.rows[:3],
                *s.columns[:3],
                s.shape,
                measures.get(s.target),
                s.dims[2],
            )
            for s in steps
        ]

    def _run(
        self, steps: Sequence[tuple[Any, ...]], live: list[Any], state: State, given: Any, taken: bool = False
    ) -> None:
        """Carry out steps on `live`, which gives up what is used up; operands are made ready from `given`.

        They are made ready when they are needed, while they are near; some have been `taken` already.
        """
        take, scale, leaves = self.arithmetic.take, self.arithmetic.scale, self._program.leaves

        def load(number: int) -> Any:
            leaf, array = leaves[number], given[number]
            return scale(array if taken else take(leaf, array), leaf.measure, number, state)

        after: Any = self.arithmetic.after  # where there is none, nothing is measured
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
            terms,
        ) in steps:
            left, right = live[first], live[second]
            if left is None:
                left = load(first)
            if right is None:
                right = load(second)
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
            live[target] = made if measure is None else after(made, measure, state, left, right, terms)


class SliceSum:
    """Adds up slices: those of a summed index onto each other, those of an output index side by side.

    Args:
        program: whose slices they are.
        xp: numpy or cupy.
        dtype: of the sum.
        entries: as `qrt_tn.engine.exponents.add`.
    """

    def __init__(self, program: Program, xp: Any, dtype: Any, *, entries: bool = True) -> None:
        self._entries = entries
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
            self._total = add(self._total, part, entries=self._entries)
        else:
            mantissa, grid = self._total
            here = at(self._cut, values)
            held = grid[here]
            total, exponent = add((mantissa[here], held), part, entries=self._entries)
            if exponent.size > held.size:  # an exponent for every entry
                grid = array_module(grid).broadcast_to(grid, mantissa.shape).copy()
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
