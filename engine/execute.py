"""Runs a program pair by pair on NumPy or CuPy arrays, each step one matrix product, scales kept apart."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from engine.backends import array_module
from engine.cost import program_slices
from engine.exponents import SLACK, Part, add, peaks, powers
from engine.program import Leaf, Measure, Program, Step

_LOW, _HIGH = 2.0**-SLACK, 2.0**SLACK


class PairwiseExpression:
    """One program on one backend, with the operands that stay the same already worked in.

    Args:
        program: what to run.
        xp: numpy or cupy.
        dtype: what every operand is cast to.
        constants: operands by number that are the same in every call; steps among them run here, once.

    Raises:
        ValueError: NaN or infinity in a constant.
    """

    def __init__(self, program: Program, xp: Any, dtype: Any, constants: Mapping[int, Any]) -> None:
        self.program = program
        self._xp = xp
        self._dtype = np.dtype(dtype)
        count = len(program.leaves)
        self._live: list[Any] = [None] * (count + len(program.steps))
        self._exponent: Any = 0
        self._varying = [number for number in range(count) if number not in constants]
        self._plain = [xp is np and leaf.plain for leaf in program.leaves]
        self._later: list[int] = []
        fixed = set(constants)
        once: list[Step] = []
        each: list[Step] = []
        for step in program.steps:
            ready = step.left in fixed and step.right in fixed and not step.sliced
            (once if ready else each).append(step)
            if ready:
                fixed.add(step.target)
        self._exponent = self._run(once, self._live, 0, constants)
        self._call_steps = [step for step in each if not step.sliced]
        self._slice_steps = [step for step in each if step.sliced]
        used = {number for step in once for number in (step.left, step.right)}
        self._later = sorted(set(constants) - used)
        self._exponent = self._load_rest(constants, self._live, self._exponent)
        used |= {number for step in self._call_steps for number in (step.left, step.right)}
        self._later = [number for number in self._varying if number not in used]

    def __call__(self, arrays: Sequence[Any]) -> Part:
        """Contract these operands; entries of constants are not looked at.

        Raises:
            ValueError: NaN or infinity in an operand on the host.
        """
        return self.shares(arrays)(range(program_slices(self.program)))

    def shares(self, arrays: Sequence[Any]) -> Callable[[range], Part]:
        """What contracts a range of slices: their sum, as (mantissa, exponent) of the whole output's shape.

        What no slice changes is done here, once.
        """
        live = list(self._live)
        given = {number: arrays[number] for number in self._varying}
        exponent = self._run(self._call_steps, live, self._exponent, given)
        exponent = self._load_rest(given, live, exponent)
        if not self.program.slices:
            whole = self._finished(live, exponent, owned=bool(self._call_steps))
            return lambda chosen: whole
        return lambda chosen: self._slices(live, exponent, chosen)

    def _slices(self, live: list[Any], exponent: Any, chosen: range) -> Part:
        program = self.program
        total = self._slice_sum()
        for values in assignments(program.slices, chosen):
            held = list(live)
            for number, leaf in enumerate(program.leaves):
                if leaf.sliced:
                    held[number] = self._cut_leaf(held[number], leaf, values)
            begun = exponent
            if np.ndim(exponent):
                begun = exponent[grid_at(program, exponent.shape, values)]
            begun = self._run(self._slice_steps, held, begun, {})
            total.add(values, self._finished(held, begun, owned=bool(self._slice_steps)))
        return total.part()

    def _run(self, steps: Sequence[Step], live: list[Any], exponent: Any, given: Mapping[int, Any]) -> Any:
        """Carry out steps; operands are made ready as they are needed, while they are near."""
        return run_steps(steps, live, exponent, self._xp, lambda number: self._load(number, given[number]))

    def _load_rest(self, given: Mapping[int, Any], live: list[Any], exponent: Any) -> Any:
        """Make ready the operands that later stages take."""
        for number in self._later:
            if number in given:
                live[number], taken = self._load(number, given[number])
                exponent = exponent + taken
        return exponent

    def _load(self, number: int, array: Any) -> Part:
        if self._plain[number]:
            array = np.asarray(array, dtype=self._dtype)
            square = np.vdot(array, array).real
            # as `balanced` begins, for what most operands are: nothing to take out, and in range
            if array.size * _LOW**2 <= square <= _HIGH**2:
                return array, 0
        given = self._xp.asarray(array, dtype=self._dtype)
        return self._prepared(self.program.leaves[number], given, number)

    def _finished(self, live: list[Any], exponent: Any, *, owned: bool) -> Part:
        mantissa = self._xp.asarray(live[-1]).transpose(self.program.order)
        grid = self._spread(self._xp.asarray(exponent, dtype=np.int64))
        return mantissa if owned else mantissa.copy(), grid

    def _spread(self, grid: Any) -> Any:
        """Exponents over the batch, in a shape that broadcasts to the output of one slice."""
        program = self.program
        if not program.whole_grid:
            return grid
        return array_module(grid).broadcast_to(grid, program.grid).reshape(program.spread)

    def _prepared(self, leaf: Leaf, array: Any, number: int) -> Part:
        return prepared(leaf, array, number, self._xp)

    def _cut_leaf(self, array: Any, leaf: Leaf, values: tuple[int, ...]) -> Any:
        return array[at(leaf.cut, values)]

    def _slice_sum(self) -> "SliceSum":
        return SliceSum(self.program, self._xp, self._dtype)


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


def prepared(leaf: Leaf, array: Any, number: int, xp: Any) -> Part:
    """An operand with its diagonals taken, its lone indices summed, and its scale apart.

    Raises:
        ValueError: NaN or infinity, seen where looking costs nothing: on the host.
    """
    dtype = array.dtype
    for first, second in leaf.diagonals:
        array = xp.diagonal(array, axis1=first, axis2=second)
    if leaf.summed:
        # in double precision, where a sum of large single numbers does not overflow
        wide = np.result_type(dtype, np.float64)
        array = xp.asarray(array.sum(axis=leaf.summed, dtype=wide))
    array, exponent = balanced(array, leaf.measure, xp, owned=False)
    if array is None:
        raise ValueError(f"array {number} holds NaN or infinity; mend it before contracting")
    return array.astype(dtype, copy=False), exponent


def balanced(array: Any, measure: Measure, xp: Any, *, owned: bool) -> tuple[Any, Any]:
    """(array, exponent) with every element of a batch within [2**-5, 2**5], or zero.

    On the host nothing is touched where nothing needs to be, and a value that is not finite gives None for
    the array. On a device no value is fetched to decide. An `owned` array may be written over.
    """
    if xp is np:
        if _in_range(array, measure):
            return array, 0
        peak = peaks(array, measure.axes, np)
        if not np.isfinite(peak).all():
            return None, 0
        if ((peak >= _LOW) & (peak <= _HIGH) | (peak == 0)).all():
            return array, 0
    else:
        peak = peaks(array, measure.axes, xp)
    factor, exponent = powers(peak, xp)
    factor = factor.reshape(measure.keep) if measure.grid else factor
    if xp is np and owned:
        np.multiply(array, factor, out=array)
    else:
        array = array * factor
    if measure.grid:
        exponent = exponent.transpose(measure.order).reshape(measure.grid)
    return array, exponent


def _in_range(array: Any, measure: Measure) -> bool:
    """Whether one pass by BLAS shows the peaks to be in range: the mean square bounds them on both sides."""
    if not measure.grid:
        flat = array.reshape(-1)
        square = np.vdot(flat, flat).real
        return array.size * _LOW**2 <= square <= _HIGH**2
    count = array.ndim - len(measure.axes)
    if measure.axes[:1] != (count,) or not array.flags.c_contiguous:
        return False  # the batch does not come first
    rows = array.reshape(math.prod(array.shape[:count]), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vecdot(rows, rows).real
    return bool(((squares >= rows.shape[1] * _LOW**2) & (squares <= _HIGH**2)).all())


def run_steps(
    steps: Sequence[Step],
    live: list[Any],
    exponent: Any,
    xp: Any,
    load: Callable[[int], Part] | None = None,
) -> Any:
    """Carry out steps on the arrays in `live` (by SSA number), which gives up what is used up.

    Args:
        steps: the products.
        live: arrays by number; None for an operand to be loaded.
        exponent: what was taken out so far.
        xp: the arrays' namespace.
        load: makes an operand ready.

    Returns:
        The exponent with what the steps took out of their results added.
    """
    products = (xp.dot, xp.matmul, xp.multiply)
    for kind, first, second, target, rows, columns, shape, measure, _, _ in steps:
        left, right = live[first], live[second]
        if left is None:
            left, taken = load(first)  # type: ignore[misc]
            exponent = exponent + taken
        if right is None:
            right, taken = load(second)  # type: ignore[misc]
            exponent = exponent + taken
        live[first] = live[second] = None
        # the views are taken apart here: a call for each costs as much as a small product
        order, matrix, swap, _ = rows
        if order is not None:
            left = left.transpose(order)
        if matrix is not None:
            left = left.reshape(matrix)
        if swap is not None:
            left = left.transpose(swap)
        order, matrix, swap, _ = columns
        if order is not None:
            right = right.transpose(order)
        if matrix is not None:
            right = right.reshape(matrix)
        if swap is not None:
            right = right.transpose(swap)
        product = products[kind](left, right)
        if shape is not None:
            product = product.reshape(shape)
        if measure is not None:
            product, taken = balanced(xp.asarray(product), measure, xp, owned=True)
            exponent = exponent + taken
        live[target] = product
    return exponent
