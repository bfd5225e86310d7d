"""One site of `harmonics` for all harmonics of many nodes, compiled for the host.

The array code is a dozen calls a site, between which threads would wait for Python's lock. Vectors are pairs
of real ones here, (real | imaginary), since small real products are quicker than complex ones.
"""

from typing import Any

import numpy as np

from qrt_tn.engine.compiled import compiled


@compiled
def _paired(core: Any, value: int, matrix: Any) -> None:
    """A_u^T as a real matrix (2 right, 2 left) that multiplies pairs from the right."""
    left, _, right = core.shape
    for row in range(left):
        for place in range(right):
            element = core[row, value, place]
            matrix[place, row] = element.real
            matrix[right + place, row] = -element.imag
            matrix[place, left + row] = element.imag
            matrix[right + place, left + row] = element.real


@compiled
def _squared_norm(vector: Any) -> Any:
    total = vector[0] * vector[0]
    for place in range(1, vector.size):
        total += vector[place] * vector[place]
    return total


@compiled
def _normalise(vector: Any) -> float:
    """Bring a vector to norm 1; the log of the norm it had, 0 where it is 0."""
    peak = 0.0
    for place in range(vector.size):
        peak = max(peak, abs(vector[place]))
    if not peak > 0:
        return 0.0
    # first by the peak: squares may underflow where entries do not
    square = 0.0
    for place in range(vector.size):
        square += (vector[place] / peak) ** 2
    size = np.sqrt(square)
    for place in range(vector.size):
        vector[place] = vector[place] / peak / size
    return np.log(peak) + np.log(size)


@compiled
def step(
    core: Any, column: Any, ratio: Any, pairs: Any, log_scale: Any, floor: float, after: Any, log_after: Any
) -> None:
    """Take the vectors of all slots through a site.

    Args:
        core: complex, (left, P, right).
        column: a_i of every node, shape (N,).
        ratio: slot u has the vector that slot u * ratio had at the site before; 1 where a_i is 0; shape (N,).
        pairs: the vectors by slot and node, real, shape (P - 1, N, 2 right).
        log_scale: of the vectors, shape (P - 1, N).
        floor: vectors of a squared norm below are brought to norm 1.
        after: where the vectors go, shape (P - 1, N, 2 left).
        log_after: and their log-scales, shape (P - 1, N).
    """
    left, modulus, right = core.shape
    count = column.size
    gathered = np.empty((count, 2 * right), pairs.dtype)
    matrix = np.empty((2 * right, 2 * left), pairs.dtype)
    staying = np.flatnonzero(column == 0)
    turned = np.zeros(count, np.int64)
    still = np.empty((2 * right, 2 * left), pairs.dtype)
    _paired(core, 0, still)
    for slot in range(modulus - 1):
        for node in range(count):
            turned[node] += ratio[node]
            if turned[node] >= modulus:
                turned[node] -= modulus
            source = turned[node] - 1
            log_after[slot, node] = log_scale[source, node]
            for place in range(2 * right):
                gathered[node, place] = pairs[source, node, place]
        _paired(core, slot + 1, matrix)
        np.dot(gathered, matrix, after[slot])
        for stayed in staying:
            # v 0 = 0: every harmonic goes through A_0 and keeps its slot
            for row in range(2 * left):
                after[slot, stayed, row] = 0
            for place in range(2 * right):
                for row in range(2 * left):
                    after[slot, stayed, row] += pairs[slot, stayed, place] * still[place, row]
        for node in range(count):
            if _squared_norm(after[slot, node]) < floor:
                log_after[slot, node] += _normalise(after[slot, node])
