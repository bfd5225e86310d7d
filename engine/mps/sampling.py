"""Exact sampling of right-canonical states, all rows of a batch together.

With unit row vectors x left of a site, value u has probability p_u = |x A_u|^2. Three algorithms, which
differ only in how many values share a *group*:

- one group of all P values, the *sweep*: the branches x A_u of all values, chi^2 P complex multiply-adds;
- groups of one value, *Gram tables*: p_u = <A_u A_u^dagger, x^dagger x>, a real matrix product of the chi^2
  independent real numbers of x^dagger x with a table, chi^2 P real multiply-adds and so a quarter of the
  arithmetic, then the branch x A_u of the picked value alone;
- groups in between, a tree of two levels: sums of A_u A_u^dagger over each group pick the group, and the
  branches of its values pick the value.

Tables hold running sums over the groups, so that their product with x^dagger x is what an inverse-CDF pick
compares with. A pick is checked by its branches' own weight: where that is no larger than what rounding
leaves of a table's sums, the row is drawn again, by the sweep and with the same uniform. What is left of
rounding moves the probability of a value by the precision's epsilon, a few times over; log-probabilities are
those of the branches taken, and do not depend on the algorithm.

Vectors are columns, (bond, rows), so that element-wise passes run along rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.backends import array_module, to_host
from engine.mps.canonical import Cores
from engine.progress import shown
from engine.threads import threads_for, workers

_CACHED = 2**20  # elements of the branches that a pass of the sweep takes along on the host
_SLAB = 2**18  # elements of outer products made at a time there (1 MiB in float32)
_COLUMNS = 2048  # rows of the batch that they are made for; fewer, and threads wait for Python's lock
_DEVICE = 2**26  # elements of the same on a device
_TABLES = 2**21  # real numbers of the tables that are made ahead of the rows (8 MiB in float32)
_ROWS = 4096  # rows that one thread takes along a segment of sites
_NOISE = 64  # weights of a group below so many roundings are not trusted


def sample(
    cores: Cores, count: int, rng: np.random.Generator, *, group: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw sites s ~ |<s|psi>|^2 from a right-canonical state, exactly, all `count` samples together.

    Args:
        cores: right-canonical, as `right_canonical` returns them.
        count: the number of samples N.
        rng: draws N * L uniforms on the host, so that a seed means the same samples on every device and
            in blocks of any size (but for uniforms within rounding of where two values meet).
        group: values of a site that share a group: 1 for Gram tables, the largest extent or more for the
            sweep, between for two levels. Left out, the cheapest for every site (`best_group`).

    Returns:
        (sites, log_probability): int64 of shape (N, L), and float64 of shape (N,).
    """
    xp = array_module(cores[0])
    sites = np.empty((count, len(cores)), dtype=np.int64)
    log_probability = np.empty(count)
    threads = threads_for(cores[0], 4 * count * sum(core.size for core in cores) / len(cores))
    # uniforms of as many rows as there are results in memory anyway, at most 256 MiB at once
    chunk = max(threads, min(count, threads * _ROWS, max(1, 2**25 // len(cores))))
    if xp is not np:
        chunk = min(count, max(1, 2**25 // len(cores)))
    steps = -(-count // chunk) * len(cores)
    with workers(threads) as run, shown(None, steps, "sites") as progress:
        done = 0
        for start in range(0, count, chunk):
            rows = slice(start, min(start + chunk, count))
            uniforms = rng.random((rows.stop - rows.start, len(cores)))
            parts = [part for part in np.array_split(uniforms, threads) if len(part)]
            walks = [_Walk(xp, cores[0].dtype, part) for part in parts]
            for segment in _segments(cores, len(uniforms), group):
                ready = list(run(_site, *zip(*segment, strict=True)))
                list(run(_Walk.along, walks, [ready] * len(walks)))
                done += len(segment)
                progress(done, steps)
            sites[rows] = np.concatenate([walk.sites() for walk in walks])
            log_probability[rows] = np.concatenate([walk.log_probability() for walk in walks])
    return sites, log_probability


def best_group(left: int, extent: int, right: int, count: int, *, device: bool = False) -> int:
    """How many values to put into a group, for the least time of a site.

    Measured on one core of a server CPU (OpenBLAS, complex64, all bonds chi), time over that of the matrix
    product (N x chi) @ (chi x P chi):

    ====  ====  =====  =====  =====  =====  =====  =====
    chi   P     N      g = 1  g = 2  g = 5  g = 8  sweep
    ====  ====  =====  =====  =====  =====  =====  =====
    4     31    4096   1.2    1.8    2.1    2.4    3.4
    4     127   4096   0.65   0.59   0.55   0.65   3.2
    16    7     4096   1.7    2.4    3.1           2.2
    16    31    64     4.0    3.3    3.0    2.8    2.1
    16    31    1024   0.96   0.94   0.92   1.1    1.9
    16    31    4096   0.65   0.70   0.83   0.95   1.8
    16    127   64     3.1    2.5    1.7    1.5    2.3
    16    127   1024   0.56   0.39   0.31   0.32   1.9
    64    7     1024   1.4    1.5    1.9           1.2
    64    31    64     3.5    2.5    2.0    1.9    1.4
    64    31    1024   0.75   0.61   0.56   0.64   1.2
    64    127   64     3.5    2.2    1.5    1.4    1.2
    64    127   1024   0.48   0.31   0.25   0.26   1.1
    ====  ====  =====  =====  =====  =====  =====  =====

    So: the sweep where values or rows are few (tables and Python's steps through the groups are not paid
    back); Gram tables for a few tens of values; beyond, groups of sqrt(P / 5), where P / g sums at one
    multiply-add for each element of x^dagger x balance g branches at four and the passes over them.
    """
    group = 1 if extent < 50 else round((extent / 5) ** 0.5)
    few_rows = count < max(4 * extent // group, 2 * left)
    # on a device every group is a launch, and the sweep has none
    return extent if device or extent < 12 or few_rows else group


@dataclass(frozen=True)
class _Site:
    """A core made ready for sampling.

    Attributes:
        branches: A_u^T one below the other, shape (extent * right, left).
        running: running sums over groups of A_u A_u^dagger, as rows that multiply the columns of
            an outer product, shape (groups, left^2); None where all values are one group.
        extent: the number of values.
        group: how many of them share a group, the last group what is left.
    """

    branches: Any
    running: Any
    extent: int
    group: int


class _Walk:
    """Rows on their way along the chain: their vectors, and what they have picked so far.

    Rows are put in a new order at every site, equal picks side by side; `_rows` tells whose column is where.
    """

    def __init__(self, xp: Any, dtype: np.dtype, uniforms: np.ndarray) -> None:
        count, length = uniforms.shape
        self._xp = xp
        self._uniforms = uniforms
        self._vectors = xp.ones((1, count), dtype=dtype)
        self._rows = xp.arange(count)
        self._picked = xp.empty((length, count), dtype=np.int32)
        self._logs = xp.zeros(count)
        self._done = 0

    def sites(self) -> np.ndarray:
        """The values picked, shape (rows, sites)."""
        return to_host(self._picked).T

    def log_probability(self) -> np.ndarray:
        """Log of the probability of the values picked, by row."""
        result = np.empty(len(self._logs))
        result[to_host(self._rows)] = to_host(self._logs)
        return result

    def along(self, segment: list[_Site]) -> None:
        """Go on over some sites."""
        stop = self._done + len(segment)
        uniforms = self._xp.asarray(np.ascontiguousarray(self._uniforms[:, self._done : stop].T))
        for place, site in enumerate(segment):
            own = uniforms[place][self._rows]
            if site.running is None:
                self._vectors, values, weights = _swept(site, self._vectors, own)
            else:
                order, self._vectors, values, weights = _grouped(site, self._vectors, own)
                self._rows, self._logs = self._rows[order], self._logs[order]
            self._picked[self._done, self._rows] = values
            self._logs = self._logs + self._xp.log(weights)
            self._done += 1


def _swept(site: _Site, vectors: Any, uniforms: Any) -> tuple[Any, Any, Any]:
    """(unit vectors, values, weights) after one site, by the branches of all values."""
    xp = array_module(vectors)
    count = vectors.shape[1]
    columns = max(16, (_CACHED if xp is np else _DEVICE) // (2 * len(site.branches)))
    right = len(site.branches) // site.extent
    after = xp.empty((right, count), dtype=vectors.dtype)
    values = xp.empty(count, dtype=np.int64)
    weights = xp.empty(count)
    scratch = xp.empty(len(site.branches) * min(columns, count), dtype=vectors.dtype)
    for start in range(0, count, columns):
        rows = slice(start, min(start + columns, count))
        branches = scratch[: len(site.branches) * (rows.stop - start)].reshape(len(site.branches), -1)
        xp.matmul(site.branches, vectors[:, rows], out=branches)
        branches = branches.reshape(site.extent, right, -1)
        after[:, rows], values[rows], weights[rows] = _picked(branches, _squares(branches), uniforms[rows])
    return after, values, weights


def _grouped(site: _Site, vectors: Any, uniforms: Any) -> tuple[Any, Any, Any, Any]:
    """(order of the rows, unit vectors, values, weights) after one site, group first, value then."""
    xp = array_module(vectors)
    groups, left_over = _groups(site, vectors, uniforms)
    order = xp.argsort(groups, kind="stable")
    vectors = vectors[:, order]
    ends = np.cumsum(to_host(xp.bincount(groups, minlength=len(site.running)))).tolist()
    right = len(site.branches) // site.extent
    branches = xp.empty((site.group * right, len(order)), dtype=vectors.dtype)
    step = site.group * right
    whole = len(site.branches) // step
    for group, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if end > start:
            matrix = site.branches[group * step : (group + 1) * step]
            if group < whole:
                xp.matmul(matrix, vectors[:, start:end], out=branches[:, start:end])
            else:
                branches[: len(matrix), start:end] = matrix @ vectors[:, start:end]
                branches[len(matrix) :, start:end] = 0  # the last group has fewer values
    branches = branches.reshape(site.group, right, len(order))
    weights = _squares(branches)
    after, values, kept = _picked(branches, weights, left_over[order])
    values = values + groups[order].astype(np.int64) * site.group
    # vectors and canonical cores have norm 1, so weights compare with 1
    doubtful = xp.flatnonzero(weights.sum(axis=0) < _NOISE * float(np.finfo(branches.dtype).eps))
    if len(doubtful):
        again = _swept(site, vectors[:, doubtful], uniforms[order[doubtful]])
        after[:, doubtful], values[doubtful], kept[doubtful] = again
    return order, after, values, kept


def _groups(site: _Site, vectors: Any, uniforms: Any) -> tuple[Any, Any]:
    """The group that each row picks, and the uniform that is left for the pick inside it."""
    xp = array_module(vectors)
    count = vectors.shape[1]
    columns = _COLUMNS if xp is np else max(1, _DEVICE // len(vectors) ** 2)
    # NumPy sorts 16 bits by radix
    groups = xp.empty(count, dtype=np.int16 if len(site.running) < 2**15 else np.int32)
    left_over = xp.empty(count)
    slab = len(vectors) if xp is not np else max(1, _SLAB // (len(vectors) * columns))
    scratch = xp.empty((2, slab * len(vectors) * min(columns, count)), dtype=vectors.real.dtype)
    for start in range(0, count, columns):
        rows = slice(start, min(start + columns, count))
        running = _running_sums(site.running, vectors[:, rows], slab, scratch)
        reached = uniforms[rows] * running[-1]
        chosen = (running <= reached.astype(running.dtype)).sum(axis=0)
        chosen = xp.minimum(chosen, len(running) - 1)
        groups[rows] = chosen
        if site.group > 1:
            each = xp.arange(len(chosen))
            below = xp.where(chosen > 0, running[chosen - 1, each], 0)
            width = (running[chosen, each] - below).astype(np.float64)
            inside = (reached - below) / xp.where(width > 0, width, 1.0)
            left_over[rows] = xp.clip(inside, 0.0, 1 - 2.0**-53)
    return groups, left_over


def _running_sums(table: Any, vectors: Any, slab: int, scratch: Any) -> Any:
    """Running sums of the groups' probabilities, shape (groups, rows).

    They are x G x^dagger = sum_ij (Re G - Im G)_ij W_ij for Hermitian G, where the real square
    W = Re(x^dagger x) + Im(x^T x^*) holds the outer product's symmetric and antisymmetric part at once.
    `slab` rows of W are made at a time, in `scratch`.
    """
    xp = array_module(vectors)
    left, count = vectors.shape
    real, imaginary = xp.ascontiguousarray(vectors.real), None
    first = real
    if vectors.dtype.kind == "c":
        imaginary = xp.ascontiguousarray(vectors.imag)
        first, second = real + imaginary, imaginary - real
    total = None
    for start in range(0, left, slab):
        stop = min(start + slab, left)
        outer, other = (
            part[: (stop - start) * left * count].reshape(-1, left, count)
            for part in (scratch[0], scratch[1])
        )
        xp.multiply(first[start:stop, None], real, out=outer)
        if imaginary is not None:
            xp.multiply(second[start:stop, None], imaginary, out=other)
            xp.add(outer, other, out=outer)
        part = table[:, start * left : stop * left] @ outer.reshape(-1, count)
        total = part if total is None else total + part
    return total


def _squares(branches: Any) -> Any:
    """Squared norms over the middle axis, float64, shape (values, rows)."""
    if branches.dtype.kind == "c":
        pairs = branches.view(branches.real.dtype)
        sums = (pairs * pairs).sum(axis=1)
        sums = sums[:, ::2] + sums[:, 1::2]
    else:
        sums = (branches * branches).sum(axis=1)
    return sums.astype(np.float64)


def _picked(branches: Any, weights: Any, uniforms: Any) -> tuple[Any, Any, Any]:
    """(unit vectors, values, weights of the values): one branch per row, never one of weight 0."""
    xp = array_module(branches)
    if len(weights) == 1:
        values = xp.zeros(weights.shape[1], dtype=np.int64)
        branch, kept = branches[0], weights[0]
    else:
        running = xp.cumsum(weights, axis=0)
        values = (running <= uniforms * running[-1]).sum(axis=0)
        # a uniform that rounds up to the total would run past the last value with weight
        last = len(weights) - 1 - xp.argmax(weights[::-1] > 0, axis=0)
        values = xp.minimum(values, last)
        each = xp.arange(len(values))
        branch, kept = branches[values, :, each].T, weights[values, each]
    # rows of weight 0 are the caller's to draw again
    scale = 1 / xp.sqrt(xp.where(kept > 0, kept, 1.0))
    return branch * scale.astype(branches.real.dtype), values, kept


def _site(core: Any, group: int) -> _Site:
    """A core (left, extent, right) made ready for groups of so many values."""
    xp = array_module(core)
    left, extent, right = core.shape
    branches = core.reshape(left, extent * right).T
    if group >= extent:
        return _Site(branches, None, extent, extent)
    sums = []
    whole = extent - extent % group
    for start, size in ((0, group), (whole, extent - whole)):
        if size:
            stop = whole if start == 0 else extent
            matrices = core[:, start:stop].reshape(left, -1, size * right).transpose(1, 0, 2)
            sums.append(xp.matmul(matrices, matrices.conj().transpose(0, 2, 1)))
    gram = xp.concatenate(sums)
    table = gram.real - gram.imag if gram.dtype.kind == "c" else gram
    running = xp.cumsum(table.reshape(len(table), -1), axis=0, dtype=np.float64)
    return _Site(branches, running.astype(core.real.dtype), extent, group)


def _segments(cores: Cores, count: int, group: int | None) -> Iterator[list[tuple[Any, int]]]:
    """Consecutive cores with the group of each, as many at once as their tables leave room for."""
    device = array_module(cores[0]) is not np
    segment: list[tuple[Any, int]] = []
    held = 0
    for core in cores:
        left, extent, right = core.shape
        own = best_group(left, extent, right, count, device=device) if group is None else group
        segment.append((core, own))
        held += (0 if own >= extent else left**2 * -(-extent // own)) + count
        if held > _TABLES:
            yield segment
            segment, held = [], 0
    if segment:
        yield segment
