"""Draws from discrete distributions, one for every row of a batch."""

from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module


def draw(weights: Any, uniforms: Any) -> Any:
    """One index per row, with probability proportional to the row's weights.

    Args:
        weights: non-negative, shape (N, K), each row with a positive sum.
        uniforms: in [0, 1), shape (N,).

    Returns:
        int64, shape (N,); never an index of weight 0.
    """
    xp = array_module(weights)
    running = xp.cumsum(weights, axis=1)
    chosen = (running <= (uniforms * running[:, -1])[:, None]).sum(axis=1)
    # a uniform that rounds up to the total would run past the last entry with weight
    last = weights.shape[1] - 1 - xp.argmax(weights[:, ::-1] > 0, axis=1)
    return xp.minimum(chosen, last)


def draw_running(running: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Indices drawn from one distribution for all, given the running sums of its weights.

    Args:
        running: running sums of non-negative weights, their last positive, shape (K,).
        uniforms: in [0, 1), any shape.

    Returns:
        int64, the shape of `uniforms`; never an index of weight 0.
    """
    target = uniforms * running[-1]
    # a target that rounds up to the total would run past the last entry with weight
    last = np.searchsorted(running, running[-1])
    return np.minimum(np.searchsorted(running, target, side="right"), last)
