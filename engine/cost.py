"""What a program costs, known before anything is computed: operations, memory, time on a device."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from qrt_tn.engine.program import Leaf, Program, Step
from qrt_tn.engine.roofline import Device

# arrays held at once, of about the size of one of the network's: of exponents,
_GRIDS = 6
_LOADED = 1.25  # beside an operand while it is measured,
_RESULT = 4  # and beside the result


@dataclass(frozen=True)
class Cost:
    """The cost of a program.

    Attributes:
        flops: operations over all slices, as opt_einsum counts them (a multiply and an add are two, real or
            complex alike); what no slice changes counts once.
        largest: elements of the largest intermediate of one slice.
        peak: elements of all that is held at the worst moment: the operands as given and as made ready,
            intermediates, and the copies that layout and rescaling make. A contraction in single precision
            that has to be repeated in double precision takes twice as much.
    """

    flops: int
    largest: int
    peak: int


def cost_of(program: Program) -> Cost:
    """The cost of a program; see `Cost`."""
    count, leaves = program_slices(program), len(program.leaves)
    flops = sum(step.flops * (count if step.sliced else 1) for step in program.steps)
    flops += sum(2 * leaf.given for leaf in program.leaves if leaf.summed)
    largest = max((step.size for step in program.steps), default=program.leaves[0].size)
    # of an operand, its part in one slice
    sizes = [*map(_part, program.leaves, [program.slices] * leaves), *(step.size for step in program.steps)]
    sliced = [*(leaf.sliced for leaf in program.leaves), *(step.sliced for step in program.steps)]
    given = [leaf.given for leaf in program.leaves]
    alive = sum(given) + (_GRIDS * math.prod(program.whole_grid) if program.whole_grid else 0)
    alive += sum(2 * leaf.size for leaf in program.leaves if leaf.summed and program.slices)
    peak: float = alive + _LOADED * max(given)
    result = math.prod(program.shape)
    for repeated in (False, True) if program.slices else (False,):
        if repeated:
            # what slices share is held plain and once more rescaled
            taken = {number for step in program.steps if step.sliced for number in (step.left, step.right)}
            alive += sum(sizes[number] for number in taken if number >= leaves and not sliced[number])
            alive += 2 * result  # the sum so far, and that of the present group of slices
        for step in program.steps:
            if step.sliced is not repeated:
                continue
            operands = [number for number in (step.left, step.right) if number < leaves]
            ready = sum(sizes[number] for number in operands)
            # operands are measured; then they are multiplied, and the product is rescaled
            loading = _LOADED * max((sizes[number] for number in operands), default=0)
            multiplying = step.rows.copied + step.columns.copied + 2 * step.size
            peak = max(peak, alive + ready + max(loading, multiplying))
            for number in (step.left, step.right):
                if number >= leaves and (not repeated or sliced[number]):
                    alive -= sizes[number]
            alive += step.size
    # a slice's result is measured and added to the others
    peak = max(peak, alive + _RESULT * result)
    if program.slices:
        peak = max(peak, alive + 2 * result + _GRIDS * math.prod(program.whole_spread))
    return Cost(flops, largest, math.ceil(peak))


def _part(leaf: Leaf, extents: Sequence[int]) -> int:
    return leaf.size // math.prod(extents[place] for place in leaf.cut if place is not None)


def program_slices(program: Program) -> int:
    """How many slices a program has; 1 without slicing."""
    return math.prod(program.slices)


def repeated_flops(program: Program, constants: Collection[int]) -> int:
    """The operations of one call when steps among these operands are done beforehand."""
    count = program_slices(program)
    fixed = set(constants)
    flops = 0
    for step in program.steps:
        if step.left in fixed and step.right in fixed and not step.sliced:
            fixed.add(step.target)
        else:
            flops += step.flops * (count if step.sliced else 1)
    return flops


def predicted_seconds(program: Program, dtype: str, device: Device) -> float:
    """What the steps take on a device, by its roofline; leaves and slices' sums are not counted.

    Args:
        program: what to run.
        dtype: the name of its numbers' type.
        device: a calibrated device.
    """
    if not program.steps:
        return 0.0
    itemsize = np.dtype(dtype).itemsize
    batch, rows, inner, columns = np.array([step.dims for step in program.steps], dtype=np.float64).T
    moved = batch * (rows * inner + inner * columns + rows * columns) * itemsize
    permuted = 2.0 * itemsize * np.array([step.rows.copied + step.columns.copied for step in program.steps])
    seconds = device.seconds(batch, rows, inner, columns, dtype, moved, permuted)
    return float(seconds @ _repeats(program.steps, program_slices(program)))


def _repeats(steps: Sequence[Step], count: int) -> np.ndarray:
    return np.array([float(count) if step.sliced else 1.0 for step in steps])
