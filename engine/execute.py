"""Runs a program pair by pair on NumPy or CuPy arrays, each step one matrix product, scales kept apart."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module
from qrt_tn.engine.cost import program_slices
from qrt_tn.engine.exponents import SAFE, SLACK, Part, add, peaks, powers
from qrt_tn.engine.program import Leaf, Measure, Program, Step

_LOW, _HIGH = 2.0**-SLACK, 2.0**SLACK
_LOW_SQUARE, _HIGH_SQUARE = _LOW**2, _HIGH**2


State = tuple[Any, Any]  # the exponent taken out so far; whether all measured peaks were safe


class FadedError(ArithmeticError):
    """A measured peak is not where it shows that nothing was lost."""


class PairwiseExpression:
    """One program on one backend, with the operands that stay the same already worked in.

    Args:
        program: what to run.
        xp: numpy or cupy.
        dtype: what every operand is cast to.
        constants: operands by number that are the same in every call; steps among them run here, once.
        careful: makes the program that takes over for good where this one's scales leave the safe range; left
            out, nothing does.

    Raises:
        ValueError: NaN or infinity in a constant.
    """

    def __init__(
        self,
        program: Program,
        xp: Any,
        dtype: Any,
        constants: Mapping[int, Any],
        careful: Callable[[], Program] | None = None,
    ) -> None:
        self.program = program
        self._xp = xp
        self._dtype = np.dtype(dtype)
        self._constants = constants
        self._careful = careful
        self._instead: PairwiseExpression | None = None
        count = len(program.leaves)
        self._live: list[Any] = [None] * (count + len(program.steps))
        varying = [number for number in range(count) if number not in constants]
        fixed = set(constants)
        once: list[Step] = []
        each: list[Step] = []
        for step in program.steps:
            ready = step.left in fixed and step.right in fixed and not step.sliced
            (once if ready else each).append(step)
            if ready:
                fixed.add(step.target)
        self._call_steps = [step for step in each if not step.sliced]
        self._slice_steps = [step for step in each if step.sliced]
        taken = {number for step in once for number in (step.left, step.right)}
        state = self._run(once, self._live, (0, True), constants)
        self._state = self._load_all(sorted(set(constants) - taken), self._live, state, constants)
        taken = {number for step in self._call_steps for number in (step.left, step.right)}
        # operands are made ready when they are needed, while they are near; some need nothing
        self._as_given = [number for number in varying if number in taken and program.leaves[number].plain]
        self._before_slices = [number for number in varying if number not in taken]

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
        if self._instead is not None:
            return self._instead.shares(arrays)
        try:
            live, state = self._begun(arrays)
            if not self.program.slices:
                whole = self._finished(live, state, owned=bool(self._call_steps))
                return lambda chosen: whole
        except FadedError:
            return self._turned().shares(arrays)
        share: Callable[[range], Part] | None = None

        def contract(chosen: range) -> Part:
            nonlocal share
            if share is None:
                try:
                    return self._slices(live, state, chosen)
                except FadedError:
                    share = self._turned().shares(arrays)
            return share(chosen)

        return contract

    def _turned(self) -> "PairwiseExpression":
        """The careful program, from now on."""
        assert self._careful is not None
        if self._instead is None:
            self._instead = self._anew(self._careful())
            self._live = []
        return self._instead

    def _anew(self, program: Program) -> "PairwiseExpression":
        return PairwiseExpression(program, self._xp, self._dtype, self._constants)

    def _begun(self, arrays: Sequence[Any]) -> tuple[list[Any], State]:
        """What comes before any slice: the arrays by SSA number, and their state."""
        live = list(self._live)
        for number in self._as_given:
            live[number] = self._xp.asarray(arrays[number], dtype=self._dtype)
        state = self._run(self._call_steps, live, self._state, arrays)
        return live, self._load_all(self._before_slices, live, state, arrays)

    def _slices(self, live: list[Any], state: State, chosen: range) -> Part:
        program = self.program
        exponent, fine = state
        total = self._slice_sum()
        for values in assignments(program.slices, chosen):
            held = list(live)
            for number, leaf in enumerate(program.leaves):
                if leaf.sliced:
                    held[number] = self._cut_leaf(held[number], leaf, values)
            begun = exponent
            if np.ndim(exponent):
                begun = exponent[grid_at(program, exponent.shape, values)]
            after = self._run(self._slice_steps, held, (begun, fine), ())
            total.add(values, self._finished(held, after, owned=True))
        return total.part()

    def _run(self, steps: Sequence[Step], live: list[Any], state: State, given: Any) -> State:
        """Carry out steps on `live`; operands that are not there yet are made ready from `given`."""
        with np.errstate(over="ignore", invalid="ignore"):
            return run_steps(steps, live, state, self._xp, lambda number: self._load(number, given[number]))

    def _load_all(self, numbers: Sequence[int], live: list[Any], state: State, given: Any) -> State:
        exponent, fine = state
        with np.errstate(over="ignore", invalid="ignore"):
            for number in numbers:
                live[number], taken = self._load(number, given[number])
                exponent = exponent + taken
        return exponent, fine

    def _load(self, number: int, array: Any) -> Part:
        leaf = self.program.leaves[number]
        if number in self._constants and not leaf.checked:
            leaf = replace(leaf, checked=True)  # once is cheap
        return self._prepared(leaf, self._xp.asarray(array, dtype=self._dtype), number)

    def _finished(self, live: list[Any], state: State, *, owned: bool) -> Part:
        exponent, fine = state
        self._check(fine)
        mantissa = self._xp.asarray(live[-1]).transpose(self.program.order)
        grid = self._spread(self._xp.asarray(exponent, dtype=np.int64))
        return mantissa if owned else mantissa.copy(), grid

    def _spread(self, grid: Any) -> Any:
        """Exponents over the batch, in a shape that broadcasts to the output of one slice."""
        program = self.program
        if not program.whole_grid:
            return grid
        return array_module(grid).broadcast_to(grid, program.grid).reshape(program.spread)

    def _check(self, fine: Any) -> None:
        # on a device this is the one moment that waits for it
        if self._careful is not None and not bool(fine):
            raise FadedError

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
    exponent: Any = 0
    if leaf.checked:
        array, exponent, peak = balanced(array, leaf.measure, xp, owned=False)
        if xp is np and peak is not None and not np.isfinite(peak).all():
            raise ValueError(f"array {number} holds NaN or infinity; mend it before contracting")
    return array.astype(dtype, copy=False), exponent


def balanced(array: Any, measure: Measure, xp: Any, *, owned: bool) -> tuple[Any, Any, Any]:
    """(array, exponent, peaks) with every element of a batch within [2**-5, 2**5], or zero.

    On the host nothing is touched where nothing needs to be, and the peaks are None where one look shows them
    in range. On a device no value is fetched to decide. An `owned` array may be written over.
    """
    if xp is np:
        if _in_range(array, measure):
            return array, 0, None
        peak = peaks(array, measure.axes, np)
        if ((peak >= _LOW) & (peak <= _HIGH)).all():
            return array, 0, None
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
    return array, exponent, peak


def _in_range(array: Any, measure: Measure) -> bool:
    """Whether one pass by BLAS shows the peaks to be in range: the mean square bounds them on both sides."""
    if not measure.grid:
        flat = array.reshape(-1)
        square = np.vdot(flat, flat).real
        return array.size * _LOW_SQUARE <= square <= _HIGH_SQUARE
    if not measure.rows or not array.flags.c_contiguous:
        return False
    rows = array.reshape(measure.rows, -1)
    if rows.dtype.kind == "c":
        rows = rows.view(rows.real.dtype)  # the same sum, in real arithmetic
    squares = np.vecdot(rows, rows)
    low = rows.shape[1] * _LOW_SQUARE
    return bool(np.minimum.reduce(squares) >= low and np.maximum.reduce(squares) <= _HIGH_SQUARE)


def run_steps(  # noqa: PLR0912 - in one piece: a call costs as much as a small product
    steps: Sequence[Step],
    live: list[Any],
    state: State,
    xp: Any,
    load: Callable[[int], Part] | None = None,
) -> State:
    """Carry out steps on the arrays in `live` (by SSA number), which gives up what is used up.

    Args:
        steps: the products.
        live: arrays by number; None for an operand to be loaded.
        state: (the exponent taken out so far, whether all measured peaks were safe).
        xp: the arrays' namespace.
        load: makes an operand ready.

    Returns:
        The state with what the steps took out of their results added.
    """
    exponent, fine = state
    products = (xp.dot, xp.matmul, xp.multiply)
    on_host = xp is np
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
            if on_host and not measure.grid:
                # as `balanced` begins, without two calls that cost as much as a small product
                square = np.vdot(product, product).real
                if product.size * _LOW_SQUARE <= square <= _HIGH_SQUARE:
                    live[target] = product
                    continue
            product, taken, peak = balanced(xp.asarray(product), measure, xp, owned=True)
            if peak is not None:
                exponent = exponent + taken
                low, high = SAFE[peak.dtype.itemsize]
                # not true of NaN either
                fine = fine & ((peak >= low) & (peak <= high)).all()
        live[target] = product
    return exponent, fine
