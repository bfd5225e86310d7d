"""Hands a plan to cuTensorNet: the same path and slices, contracted by NVIDIA's library.

cuTensorNet has no exponents of its own. The operands are balanced beforehand, each to a largest
modulus of 1, and the scales added up; a network whose result lies outside the dtype's range all the
same needs the "cupy" backend, which rescales between steps.
"""

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from engine.scaled import Scaled

Index = Hashable
Term = Sequence[Index]


def labels(inputs: Sequence[Term]) -> dict[Index, int]:
    """An integer for every index: string equations break at about 5,600 indices, integers do not."""
    return {index: number for number, index in enumerate(dict.fromkeys(chain(*inputs)))}


def interleaved(operands: Sequence[Any], inputs: Sequence[Term], output: Term) -> list[Any]:
    """Operands and their index labels in turn, then the output's: cuTensorNet's interleaved format."""
    names = labels(inputs)
    arguments: list[Any] = []
    for number, (array, term) in enumerate(zip(operands, inputs, strict=True)):
        if term:
            arguments += [array, [names[index] for index in term]]
        else:
            # the library refuses tensors without indices: a scalar gets one of extent 1, summed
            arguments += [array.reshape(1), [len(names) + number]]
    return [*arguments, [names[index] for index in output]]


def pairwise_path(path: Sequence[Sequence[int]], count: int) -> list[tuple[int, int]]:
    """A linear path over `count` tensors with every step a pair, as cuTensorNet wants it.

    Steps on one tensor only move it to the end of the list and are left out; steps on three or more
    become pairs from the left.
    """
    # a cell stands for a live tensor in both lists: in the order of the path, and in the library's
    ours = [[number] for number in range(count)]
    theirs = list(ours)
    pairs: list[tuple[int, int]] = []
    for step in path:
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


def contract_network(
    operands: Sequence[Any],
    inputs: Sequence[Term],
    output: Term,
    path: Sequence[Sequence[int]],
    slices: Sequence[Index],
) -> Scaled:
    """Contract CuPy operands with cuTensorNet along a linear path, looping over sliced indices.

    Args:
        operands: one array per tensor, of one floating dtype.
        inputs: its indices per tensor.
        output: the indices of the result.
        path: positions per step.
        slices: indices fixed one value at a time (a prime extent slices only to 1).
    """
    import cupy
    from cuquantum import tensornet

    log_scale = cupy.zeros(())
    balanced = []
    for array in operands:
        peak = cupy.abs(array).max()
        peak = cupy.where(peak > 0, peak, 1)
        balanced.append(array / peak)
        log_scale = log_scale + cupy.log(peak.astype(np.float64))
    names = labels(inputs)
    optimize = {
        "path": pairwise_path(path, len(inputs)),
        "slicing": [(names[index], 1) for index in slices],
    }
    return Scaled(tensornet.contract(*interleaved(balanced, inputs, output), optimize=optimize), log_scale)
