"""A plan brought under a memory limit: what slicing asks of a plan, and what it answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qrt_tn.engine.cost import cost_of
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.program import compile_program
from qrt_tn.engine.slicing import slice_to_limit


def within(plan: Plan, memory_limit: int, seed: int, *, may_change_path: bool, beside: int = 0) -> Plan:
    """The plan with indices sliced so that it takes at most `memory_limit` bytes.

    Args:
        plan: what to slice; slices it already has are dropped.
        memory_limit: bytes, operands included.
        seed: makes the search repeatable.
        may_change_path: whether another path may be taken.
        beside: bytes that something else takes meanwhile, out of the same limit.

    Raises:
        ValueError: the limit cannot be met; the message says the least that would do.
    """
    itemsize = np.dtype(plan.dtype).itemsize

    def cost(path: Sequence[Sequence[int]], slices: Sequence[Any]) -> tuple[int, int]:
        terms = (plan.inputs, plan.output, plan.sizes, path, tuple(slices), plan.batch)
        found = cost_of(compile_program(*terms))
        return found.flops, found.peak * itemsize + beside

    path, slices = slice_to_limit(
        plan.inputs,
        plan.output,
        plan.sizes,
        plan.path,
        cost,
        memory_limit,
        seed,
        may_change_path,
        itemsize=itemsize,
    )
    return replace(plan, path=tuple(map(tuple, path)), slices=tuple(slices))
