"""f^(v a) of a matrix product state for many harmonics v of every a, which share their work.

Where a_i != 0, v -> v a_i permutes Z_P: at every site the vectors of one a, one for each v, use each matrix
A_u exactly once. Held by u instead of v they multiply in P perfect batches, and going to the next site only
permutes them, by a_i / a_{i+1}. Where sites keep few u, or the ridgelet has few harmonics, most pairs (a, v)
have no amplitude, which their places tell without arithmetic; the few that are left are evaluated one by one.

Nothing of size N x P x D is formed.
"""

from typing import Any

import numpy as np

from qrt_tn.engine import mps
from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.compiled import compiled
from qrt_tn.engine.progress import shown
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.threads import threads_for, workers
from qrt_tn.field import inverses

BLOCK = 2**16  # elements of the vectors of one block of nodes, so that a few such arrays stay in L2 (512 KiB)
DEVICE_BLOCK = 2**25  # the same on a device (256 MiB)
SMALL = 32  # bonds up to which compiled steps are quicker than array code (measured: 1.1 to 2.7 times)
LEAST = 128  # nodes of a block of compiled steps, if there are as many
SPREAD = 2**20  # and if their vectors have no more elements
_PAIRS = 2**19  # pairs (a, v) whose places are looked up at once
FEWEST = 1024  # pairs with amplitude that go along the chain together, whatever the bond: each block reads it
_FLOOR = 1e-16  # squared norms below are brought back to 1
_VANISHING = 1e-30  # squared norms below may have lost digits, or all of them, in single precision


def harmonics(cores: mps.Cores, places: np.ndarray | None, a: np.ndarray, v: np.ndarray) -> Scaled:
    """Contract a chain from the right at the values v a_i mod P, for every a and every v.

    Args:
        cores: (left, kept frequencies, right), ending in bond 1, one per coordinate; the first left bond
            may be open. Matrices no larger than 1 in norm, as canonical ones.
        places: where a site keeps each frequency, -1 where it does not, shape (D, P); None where all sites
            keep all.
        a: int in 0..P-1, shape (N, D).
        v: the distinct nonzero harmonics, shape (V,).

    Returns:
        Scaled of shape (N, V, left bond) on the host, log-scales of shape (N, V, 1); 0 where a site does
        not keep the frequency.
    """
    modulus = cores[0].shape[1] if places is None else places.shape[1]
    together = places is None and 2 * len(v) >= modulus - 1
    bond = max(max(core.shape[0], core.shape[2]) for core in cores)
    xp = array_module(cores[0])
    size = BLOCK if xp is np else DEVICE_BLOCK
    # where bonds are large, matrix products leave little time beside them
    compiled = together and xp is np and cores[0].dtype.kind == "c" and bond <= SMALL
    if together:
        rows = max(1, size // ((modulus - 1) * bond))
        if compiled:
            # a block makes its matrices ready for itself, and passes over the nodes slot by slot
            rows = max(rows, min(LEAST, -(-len(a) // threads_for(cores[0])), SPREAD // (modulus * bond)))
    else:
        # which pairs have an amplitude shows only later; their blocks are sized then
        rows = max(1, min(_PAIRS // len(v), -(-len(a) // threads_for(cores[0]))))
    alive = max(FEWEST, size // bond)
    starts = range(0, len(a), rows)
    left = cores[0].shape[0]
    mantissa = np.empty((len(a), len(v), left), dtype=cores[0].dtype)
    log_scale = np.empty((len(a), len(v), 1))

    def block(start: int) -> int:
        part = slice(start, start + rows)
        columns = np.ascontiguousarray(a[part].T)
        if together:
            values = (_compiled_harmonics if compiled else _all_harmonics)(cores, columns, v, modulus)
        else:
            values = _each_pair(cores, places, columns, v, modulus, alive)
        mantissa[part], log_scale[part] = values.mantissa, values.log_scale
        return min(rows, len(a) - start)

    work = 4.0 * min(rows, len(a)) * modulus * bond**2
    threads = min(threads_for(cores[0], work), len(starts))
    with workers(threads) as run, shown(None, len(a), "profiles") as progress:
        done = 0
        for first in range(0, len(starts), threads):
            done += sum(run(block, starts[first : first + threads]))
            progress(done, len(a))
    return Scaled(mantissa, log_scale)


def _compiled_harmonics(cores: mps.Cores, columns: np.ndarray, v: np.ndarray, modulus: int) -> Scaled:
    """As `_all_harmonics`, by one compiled call a site."""
    count = columns.shape[1]
    inverse = inverses(modulus)
    pairs = np.zeros((modulus - 1, count, 2), dtype=cores[0].real.dtype)
    pairs[:, :, 0] = 1
    log_scale = np.zeros((modulus - 1, count))
    log_after = np.empty_like(log_scale)
    held = np.ones(count, dtype=np.int64)  # slot u of a node has the harmonic u / held
    for core, column in zip(reversed(cores), columns[::-1], strict=True):
        ratio = np.where(column > 0, held * inverse[column] % modulus, 1)
        after = np.empty((modulus - 1, count, 2 * len(core)), dtype=pairs.dtype)
        _step(np.ascontiguousarray(core), column, ratio, pairs, log_scale, _FLOOR, after, log_after)
        pairs, log_scale, log_after = after, log_after, log_scale
        held = np.where(column > 0, column, held)
    slot, each = (v[:, None] * held) % modulus - 1, np.arange(count)
    chosen = pairs[slot, each].transpose(1, 0, 2)
    left = len(cores[0])
    return Scaled(chosen[..., :left] + 1j * chosen[..., left:], log_scale[slot, each].T[:, :, None])


def _all_harmonics(cores: mps.Cores, columns: np.ndarray, v: np.ndarray, modulus: int) -> Scaled:
    """`harmonics` of one block by batches over u; all sites keep all frequencies."""
    xp = array_module(cores[0])
    count = columns.shape[1]
    slots = modulus - 1
    each, u = xp.arange(count), xp.arange(1, modulus)[:, None]  # slot k holds u = k + 1
    vectors = xp.ones((slots, count, 1), dtype=cores[0].dtype)
    log_scale = xp.zeros((slots, count))
    inverse = inverses(modulus)
    held = np.ones(count, dtype=np.int64)  # slot u of a node has the harmonic u / held
    for core, column in zip(reversed(cores), columns[::-1], strict=True):
        matrices = core.transpose(1, 2, 0)
        moving = np.flatnonzero(column)
        if len(moving) == 0:
            # v 0 = 0: every harmonic goes through A_0 and keeps its slot
            vectors = vectors @ matrices[0]
        else:
            ratio = np.where(column > 0, held * inverse[column] % modulus, 1)
            source = (u * xp.asarray(ratio) % modulus - 1) * count + each
            log_scale = xp.take(log_scale.reshape(-1), source)
            flat = vectors.reshape(slots * count, -1)
            held = np.where(column > 0, column, held)
            after = xp.matmul(xp.take(flat, source, axis=0), matrices[1:])
            if len(moving) < count:
                # the few that stay went along, which costs less than taking the others out
                stays = xp.asarray(np.flatnonzero(column == 0))
                after[:, stays] = vectors[:, stays] @ matrices[0]
            vectors = after
        vectors, log_scale = _renormalised(vectors, log_scale)
    slot = xp.asarray((v[:, None] * held) % modulus - 1)
    values, logs = to_host(vectors[slot, each]), to_host(log_scale[slot, each])
    return Scaled(values.transpose(1, 0, 2), logs.T[:, :, None])


def _renormalised(vectors: Any, log_scale: Any) -> tuple[Any, Any]:
    """Vectors scaled to unit norm, once any of them has become small."""
    xp = array_module(vectors)
    parts = vectors.view(vectors.real.dtype).reshape(log_scale.size, -1)
    squares = (parts * parts) @ xp.ones(parts.shape[1], dtype=parts.dtype)
    if float(squares.min()) > _FLOOR:
        return vectors, log_scale
    size = xp.sqrt(squares)
    weak = xp.flatnonzero(squares < _VANISHING)
    if len(weak):
        # squares may have underflowed, the entries have not
        peak = xp.abs(parts[weak]).max(axis=1)
        size[weak] = xp.where(peak > 0, peak, xp.ones_like(peak))
    vectors = (parts / size[:, None]).view(vectors.dtype).reshape(vectors.shape)
    return vectors, log_scale + xp.log(size.astype(np.float64)).reshape(log_scale.shape)


def _each_pair(
    cores: mps.Cores,
    places: np.ndarray | None,
    columns: np.ndarray,
    v: np.ndarray,
    modulus: int,
    most: int,
) -> Scaled:
    """`harmonics` of one block by the pairs (a, v) that every site keeps, at most `most` of them at once."""
    count = columns.shape[1]
    node, harmonic = np.divmod(np.arange(count * len(v)), len(v))
    if places is not None:
        for place, column in zip(places, columns, strict=True):
            kept = place[v[harmonic] * column[node] % modulus] >= 0
            if not kept.all():
                node, harmonic = node[kept], harmonic[kept]
    left = cores[0].shape[0]
    mantissa = np.zeros((count, len(v), left), dtype=cores[0].dtype)
    log_scale = np.zeros((count, len(v), 1))
    for start in range(0, len(node), most):
        own, factor = node[start : start + most], harmonic[start : start + most]

        def column_of(site: int, own: np.ndarray = own, multiplier: np.ndarray = v[factor]) -> np.ndarray:
            u = multiplier * columns[site][own] % modulus
            return u if places is None else places[site][u]

        values = mps.right_vectors_of(cores, len(own), column_of)
        mantissa[own, factor] = to_host(values.mantissa)
        log_scale[own, factor] = to_host(values.log_scale)
    return Scaled(mantissa, log_scale)


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
def _step(
    core: Any, column: Any, ratio: Any, pairs: Any, log_scale: Any, floor: float, after: Any, log_after: Any
) -> None:
    """Take the vectors of all slots through a site, where array code would be a dozen calls.

    Vectors are pairs of real ones, (real | imaginary): small real products are quicker than complex ones.

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
