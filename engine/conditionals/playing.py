"""A script bound to arrays, and played for one batch of samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.engine.backends import to_host
from qrt_tn.engine.drawing import draw


@dataclass(frozen=True, eq=False)
class Contracting:
    """Contract arrays that vary, with those that do not already worked in; then let some go."""

    made: int
    contract: Callable[[Sequence[Any]], tuple[Any, Any]]
    slots: list[int]
    done: list[int]


@dataclass(frozen=True, eq=False)
class Picking:
    """Take an array at the values drawn; the axes of these variables come first in it."""

    made: int
    array: Any
    columns: list[int]
    done: list[int]


@dataclass(frozen=True, eq=False)
class Drawing:
    """Draw a variable from weights: those of each sample, or an array that is the same for all."""

    slot: int
    array: Any
    column: int
    done: list[int]


Bound = Contracting | Picking | Drawing


def play(
    bound: Sequence[Bound], uniforms: np.ndarray, xp: Any, done: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Play a bound script for one batch.

    Args:
        bound: its steps.
        uniforms: in [0, 1), shape (samples, variables).
        xp: the arrays' namespace.
        done: called with the number of steps that are done.

    Returns:
        (values, log_probability): int64 of the shape of `uniforms`, and the log of each row's probability.

    Raises:
        FloatingPointError: a row whose probability was lost in rounding.
    """
    size = len(uniforms)
    arrays: dict[int, Any] = {}
    chosen: list[Any] = [None] * uniforms.shape[1]
    logs = xp.zeros(size)
    sound = xp.ones(size, dtype=bool)
    each = xp.arange(size)
    uniforms = xp.asarray(np.ascontiguousarray(uniforms.T))
    for number, step in enumerate(bound):
        if isinstance(step, Contracting):
            # every sample at a scale of its own, of which nothing but ratios is asked
            arrays[step.made] = step.contract([arrays[slot] for slot in step.slots])[0]
        elif isinstance(step, Picking):
            arrays[step.made] = step.array[tuple(chosen[column] for column in step.columns)]
        else:
            weights = arrays[step.slot] if step.array is None else step.array
            weights, total = probabilities(weights, size, xp)
            sound = sound & (total > 0)
            column = draw(weights, uniforms[step.column])
            chosen[step.column] = column
            total = xp.where(total > 0, total, xp.ones_like(total))
            logs = logs + xp.log(xp.maximum(weights[each, column], np.finfo(float).tiny) / total)
        for slot in step.done:
            del arrays[slot]
        done(number + 1)
    if not bool(sound.all()):
        raise FloatingPointError(
            f"{int((~to_host(sound)).sum())} of {size} samples lost all probability to rounding; hold "
            "the network in double precision"
        )
    return to_host(xp.stack(chosen, axis=1)), to_host(logs)


def probabilities(weights: Any, size: int, xp: Any) -> tuple[Any, Any]:
    """(weights free of rounding noise, their sums), float64 of shapes (size, K) and (size,).

    Args:
        weights: shape (size, K), or (K,) where they are the same for all.
        size: rows.
        xp: the array's namespace.
    """
    noise = float(np.finfo(weights.dtype).eps)
    weights = xp.broadcast_to(weights.real.astype(np.float64), (size, weights.shape[-1]))
    # what lies below rounding is nothing: it may be of either sign
    floor = noise * weights.max(axis=1, keepdims=True)
    weights = xp.where(weights > floor, weights, 0.0)
    return weights, weights.sum(axis=1)
