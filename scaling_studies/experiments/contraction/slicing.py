"""A plan cut into so many slices that ranks have something to share."""

import math
from collections.abc import Sequence
from dataclasses import replace

from qrt_tn.engine import Plan
from qrt_tn.engine.network import Index
from qrt_tn.engine.tree import Pair, contraction_tree


def in_slices(plan: Plan, least: int, first: Sequence[Index] = ()) -> Plan:
    """The plan along the same path in at least so many slices.

    `engine.plan` slices to fit a memory limit, and then as little as it can; here the number of slices is
    asked for. Of the indices of the costliest step the one is taken that adds the fewest operations, again
    and again.

    Args:
        plan: without slices.
        least: how many slices.
        first: indices to divide before all others.

    Raises:
        ValueError: the network has too few indices for so many slices.
    """
    for index in first:
        if plan.slice_count < least:
            plan = replace(plan, slices=(*plan.slices, index))
    pairs = contraction_tree(plan.inputs, plan.output, plan.path).pairs
    while plan.slice_count < least:
        steps = sorted(pairs, key=lambda pair: -_size(plan, _indices(pair)))
        choices = next(filter(None, ([i for i in _indices(step) if _free(plan, i)] for step in steps)), None)
        if choices is None:
            raise ValueError(
                f"slices is {least}, and the network has {plan.slice_count} at most; ask for fewer, or take "
                "a larger network"
            )
        plan = min((replace(plan, slices=(*plan.slices, index)) for index in choices), key=_flops)
    return plan


def _indices(step: Pair) -> tuple[Index, ...]:
    return (*step.term, *step.summed)


def _free(plan: Plan, index: Index) -> bool:
    return plan.sizes[index] > 1 and index not in plan.slices


def _size(plan: Plan, indices: Sequence[Index]) -> int:
    """Products of a step within one slice."""
    return math.prod(plan.sizes[index] for index in indices if index not in plan.slices)


def _flops(plan: Plan) -> int:
    return plan.flops
