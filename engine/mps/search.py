"""One site of a chain for many rows: a search down the running sums of A_u A_u^dagger, compiled for the host.

With a unit row vector x left of a site, the values up to u have probability x G_u x^dagger for the running
sums G_u of A_u A_u^dagger. That is <T_u, W> for the real square W = Re(x^dagger x) + Im(x^T x^*), which holds
the outer product's symmetric and antisymmetric part at once, and the table T_u = Re G_u - Im G_u. A value is
found by halving: log2 P products of chi^2 real numbers, then the branch x A_u of that value alone, where the
branches of all values take 4 chi^2 P.

A pick is checked by its branch's own weight: where that is no larger than what rounding leaves of a table's
sums, the row is drawn again by the branches of all values, with the same uniform.
"""

from typing import Any, NamedTuple

import numpy as np

from qrt_tn.engine.compiled import compiled

_NOISE = 64  # a branch's weight below so many roundings is not trusted


class Tables(NamedTuple):
    """A complex core made ready for the search.

    Attributes:
        running: T_u by u, shape (extent, left^2).
        real: of A_u, shape (extent, left, right).
        imaginary: likewise.
    """

    running: np.ndarray
    real: np.ndarray
    imaginary: np.ndarray


def tables(core: np.ndarray) -> Tables:
    """The tables of a complex core (left, extent, right)."""
    matrices = np.ascontiguousarray(core.transpose(1, 0, 2))
    gram = np.matmul(matrices, matrices.conj().transpose(0, 2, 1))
    running = np.empty((len(gram), gram[0].size), dtype=core.real.dtype)
    _accumulate(gram.reshape(len(gram), -1), running)
    return Tables(running, np.ascontiguousarray(matrices.real), np.ascontiguousarray(matrices.imag))


def search(
    held: Tables, vectors: np.ndarray, uniforms: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a value for every row.

    Args:
        held: of a site of a right-canonical chain.
        vectors: unit rows, shape (N, left).
        uniforms: in [0, 1), shape (N,).

    Returns:
        (unit vectors (N, right), values int64 (N,), weights float64 (N,)).
    """
    count = len(vectors)
    after = np.empty((count, held.real.shape[2]), dtype=vectors.dtype)
    values = np.empty(count, dtype=np.int64)
    weights = np.empty(count)
    least = _NOISE * float(np.finfo(held.real.dtype).eps)
    _search(held.running, held.real, held.imaginary, vectors, uniforms, least, after, values, weights)
    return after, values, weights


@compiled
def _accumulate(gram: Any, running: Any) -> None:
    total = np.zeros(gram.shape[1])
    for value in range(gram.shape[0]):
        for place in range(gram.shape[1]):
            total[place] += gram[value, place].real - gram[value, place].imag
            running[value, place] = total[place]


@compiled
def _product(left: Any, right: Any) -> Any:
    total = left[0] * right[0]
    for place in range(1, left.size):
        total += left[place] * right[place]
    return total


@compiled
def _branch(real: Any, imaginary: Any, x: Any, y: Any, out: Any) -> Any:
    """(x + iy) A into out[0] + i out[1]; the squared norm."""
    for right in range(real.shape[1]):
        out[0, right] = 0
        out[1, right] = 0
    for left in range(real.shape[0]):
        a, b = x[left], y[left]
        for right in range(real.shape[1]):
            out[0, right] += a * real[left, right] - b * imaginary[left, right]
            out[1, right] += a * imaginary[left, right] + b * real[left, right]
    return _product(out[0], out[0]) + _product(out[1], out[1])


@compiled
def _by_branches(real: Any, imaginary: Any, x: Any, y: Any, uniform: float, out: Any) -> int:
    """The value that the branches of all values pick; never one of weight 0."""
    weights = np.empty(real.shape[0])
    for value in range(real.shape[0]):
        weights[value] = _branch(real[value], imaginary[value], x, y, out)
    target = uniform * weights.sum()
    reached = 0.0
    last = 0
    for value in range(real.shape[0]):
        if weights[value] > 0:
            last = value
            reached += weights[value]
            if reached > target:
                break
    return last


@compiled
def _search(
    running: Any,
    real: Any,
    imaginary: Any,
    vectors: Any,
    uniforms: Any,
    least: float,
    after: Any,
    values: Any,
    weights: Any,
) -> None:
    count, left = vectors.shape
    extent, _, right = real.shape
    x, y = np.empty(left, real.dtype), np.empty(left, real.dtype)
    square = np.empty(left * left, real.dtype)
    out = np.empty((2, right), real.dtype)
    for row in range(count):
        for i in range(left):
            x[i] = vectors[row, i].real
            y[i] = vectors[row, i].imag
        for i in range(left):
            both, apart = x[i] + y[i], y[i] - x[i]
            line = square[i * left : (i + 1) * left]
            for j in range(left):
                line[j] = both * x[j] + apart * y[j]
        target = uniforms[row] * _product(running[extent - 1], square)
        low, high = 0, extent - 1
        while low < high:
            middle = (low + high) // 2
            if _product(running[middle], square) <= target:
                low = middle + 1
            else:
                high = middle
        weight = _branch(real[low], imaginary[low], x, y, out)
        if not weight > least:
            low = _by_branches(real, imaginary, x, y, uniforms[row], out)
            weight = _branch(real[low], imaginary[low], x, y, out)
        scale = 1 / np.sqrt(weight) if weight > 0 else weight
        for place in range(right):
            after[row, place] = complex(out[0, place] * scale, out[1, place] * scale)
        values[row] = low
        weights[row] = weight
