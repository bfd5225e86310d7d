"""Hands a plan to cuTensorNet: the same path and slices, contracted by NVIDIA's library.

cuTensorNet has no exponents of its own. The operands are balanced beforehand, each to a largest
modulus of 1, and the scales added up; a network whose result lies outside the dtype's range all the
same needs the "cupy" backend, which rescales between steps.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.scaled import Scaled

if TYPE_CHECKING:
    from engine.plan import Plan


def interleaved(operands: list[Any], plan: "Plan") -> list[Any]:
    """Operands and integer index labels in turn, then the output's: cuTensorNet's interleaved format.

    String equations break at about 5,600 indices; labels do not.
    """
    labels = {index: number for number, index in enumerate(plan.sizes)}
    arguments: list[Any] = []
    for number, (array, term) in enumerate(zip(operands, plan.inputs, strict=True)):
        if term:
            arguments += [array, [labels[index] for index in term]]
        else:
            # the library refuses tensors without indices: a scalar gets one of extent 1, summed
            arguments += [array.reshape(1), [len(labels) + number]]
    return [*arguments, [labels[index] for index in plan.output]]


def pairwise_path(plan: "Plan") -> list[tuple[int, int]]:
    """The plan's path with every step a pair, as cuTensorNet wants it.

    Steps on one tensor only move it to the end of the list and are left out; steps on three or more
    become pairs from the left.
    """
    position = [
        [number] for number in range(len(plan.inputs))
    ]  # a cell per live tensor, shared by both lists
    theirs, ours = list(position), list(position)
    pairs: list[tuple[int, int]] = []
    for step in plan.path:
        chosen = [ours[place] for place in step]
        for place in sorted(step, reverse=True):
            del ours[place]
        joined = chosen[0]
        for other in chosen[1:]:
            first, second = (next(i for i, cell in enumerate(theirs) if cell is c) for c in (joined, other))
            pairs.append((min(first, second), max(first, second)))
            for place in sorted((first, second), reverse=True):
                del theirs[place]
            joined = [-1]
            theirs.append(joined)
        ours.append(joined)
    return pairs


def contract_network(operands: list[Any], plan: "Plan") -> Scaled:
    """Contract CuPy operands along the plan with cuTensorNet."""
    import cupy
    from cuquantum import tensornet

    log_scale = cupy.zeros(())
    balanced = []
    for array in operands:
        peak = cupy.abs(array).max()
        peak = cupy.where(peak > 0, peak, 1)
        balanced.append(array / peak)
        log_scale = log_scale + cupy.log(peak.astype(np.float64))
    labels = {index: number for number, index in enumerate(plan.sizes)}
    optimize = {
        "path": pairwise_path(plan),
        "slicing": [(labels[index], 1) for index in plan.slices],  # a prime extent slices only to 1
    }
    if not math.prod(plan.sizes[index] for index in plan.output):
        raise ValueError("an output index has extent 0")
    return Scaled(tensornet.contract(*interleaved(balanced, plan), optimize=optimize), log_scale)
