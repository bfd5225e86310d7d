"""What a program costs, known before anything is computed: operations, memory, time on a device."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from qrt_tn.engine.program import Program, Step
from qrt_tn.engine.roofline import Device

_GRIDS = 6  # arrays of exponents held at once, each counted as one of the network's numbers


@dataclass(frozen=True)
class Cost:
    """The cost of a program.

    Attributes:
        flops: operations over all slices, as opt_einsum counts them (a multiply and an add are two, real or
            complex alike); what no slice changes counts once.
        largest: elements of the largest intermediate of one slice.
        peak: elements of all that is held at the worst moment: the operands as given and as made ready,
            intermediates, and the copies that layout and measuring make.
    """

    flops: int
    largest: int
    peak: int


def cost_of(program: Program) -> Cost:
    """The cost of a program; see `Cost`."""
    count = program_slices(program)
    flops = sum(step.flops * (count if step.sliced else 1) for step in program.steps)
    flops += sum(2 * leaf.given for leaf in program.leaves if leaf.summed)
    largest = max((step.size for step in program.steps), default=program.leaves[0].size)
    count_leaves = len(program.leaves)
    made_ready = [leaf.size for leaf in program.leaves]
    held = [0] * (count_leaves + len(program.steps))
    sliced = [leaf.sliced for leaf in program.leaves] + [step.sliced for step in program.steps]
    # exponents and what measuring makes of them: a few arrays of whole numbers over the batch
    grid = _GRIDS * math.prod(program.whole_grid) if program.whole_grid else 0
    alive = sum(leaf.given for leaf in program.leaves) + grid
    peak = alive + max(leaf.given for leaf in program.leaves)
    size = math.prod(program.shape)
    for repeated in (False, True):
        if repeated and program.slices:
            # the sum so far, and that of the present group of slices
            alive += 2 * size
            # what slices take is made ready before them and stays
            for step in program.steps:
                for operand in (step.left, step.right) if step.sliced else ():
                    if operand < count_leaves:
                        alive += made_ready[operand]
        for step in program.steps:
            if step.sliced is not repeated:
                continue
            copies = step.rows.copied + step.columns.copied
            for operand in (step.left, step.right):
                copies += made_ready[operand] if operand < count_leaves and not repeated else 0
            peak = max(peak, alive + copies + step.size)
            for operand in (step.left, step.right):
                if operand >= count_leaves and (not repeated or sliced[operand]):
                    alive -= held[operand]
            alive += step.size
            held[step.target] = step.size
    if program.slices:
        # a term of each while they are added
        peak = max(peak, alive + 2 * size + _GRIDS * math.prod(program.whole_spread))
    return Cost(flops, largest, max(peak, alive))


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
