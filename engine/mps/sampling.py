"""Exact sampling of right-canonical states, all rows of a batch together.

With unit row vectors x left of a site, value u has probability p_u = |x A_u|^2. Two algorithms:

- the *sweep*: the branches x A_u of all values, 4 chi^2 P real multiply-adds in one matrix product, on any
  device;
- the *search* (`engine.mps.search`), on the host: down running sums of A_u A_u^dagger to the value, about
  chi^2 log2 P multiply-adds, then the branch of that value alone.

Both pick by the same uniform along running sums over the values, so they draw the same samples but where a
uniform is within rounding of where two values meet: rounding moves the probability of a value by the
precision's epsilon, a few times over. Log-probabilities are those of the branches taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.mps.canonical import Cores
from qrt_tn.engine.mps.search import Tables, search, tables
from qrt_tn.engine.progress import shown
from qrt_tn.engine.threads import threads_for, workers

Method = Literal["sweep", "search"]
METHODS: tuple[Method, ...] = ("sweep", "search")
_CACHED = 2**20  # elements of the branches that a pass of the sweep takes along on the host
_DEVICE = 2**26  # elements of the same on a device
_TABLES = 2**22  # numbers of the tables that are made ahead of the rows (16 MiB in float32)
_ROWS = 4096  # rows that one thread takes along a segment of sites


def sample(
    cores: Cores, count: int, rng: np.random.Generator, *, method: Method | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw sites s ~ |<s|psi>|^2 from a right-canonical state, exactly, all `count` samples together.

    Args:
        cores: right-canonical, as `right_canonical` returns them.
        count: the number of samples N.
        rng: draws N * L uniforms on the host, so that a seed means the same samples on every device and
            in blocks of any size (but for uniforms within rounding of where two values meet).
        method: "sweep", or "search" for complex cores on the host. Left out, the quicker for every site
            (`best_method`).

    Returns:
        (sites, log_probability): int64 of shape (N, L), and float64 of shape (N,).

    Raises:
        ValueError: an unknown method, or a search of real cores or on a device.
    """
    xp = array_module(cores[0])
    dtype = np.result_type(*(core.dtype for core in cores))
    if method is not None and method not in METHODS:
        raise ValueError(f"method is {method!r}; choose sweep or search, or leave it out")
    if method == "search" and (xp is not np or dtype.kind != "c"):
        raise ValueError("the search takes complex cores on the host; choose the sweep")
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
            walks = [_Walk(xp, dtype, part) for part in parts]
            for segment in _segments(cores, len(uniforms), method):
                ready = list(run(_site, *zip(*segment, strict=True)))
                list(run(_Walk.along, walks, [ready] * len(walks)))
                done += len(segment)
                progress(done, steps)
            sites[rows] = np.concatenate([walk.sites() for walk in walks])
            log_probability[rows] = np.concatenate([walk.log_probability() for walk in walks])
    return sites, log_probability


def best_method(left: int, extent: int, right: int, count: int) -> Method:
    """The quicker method for a complex core on the host.

    Time over that of the matrix product (N x chi) @ (chi x P chi), on two cores of a server CPU (OpenBLAS,
    complex64):

    ====  ====  =====  =====  ======
    chi   P     N      sweep  search
    ====  ====  =====  =====  ======
    4     31    4096   4.7    1.7
    16    3     4096   4.0    4.5
    16    7     4096   3.0    2.1
    16    31    64     2.4    2.3
    16    31    256    2.5    1.1
    16    31    4096   2.4    0.71
    16    127   4096   2.2    0.21
    50    3     4096   1.8    3.1
    50    13    4096   1.8    1.2
    64    31    256    1.5    1.5
    64    31    1024   1.5    0.75
    64    127   1024   1.4    0.43
    128   127   1024   1.3    0.52
    256   31    1024   1.4    1.3
    256   127   1024   2.1    0.85
    ====  ====  =====  =====  ======
    """
    costs = {method: _site_cost(left, extent, right, count, method) for method in METHODS}
    return min(METHODS, key=costs.__getitem__)


def _site_cost(left: int, extent: int, right: int, count: int, method: Method) -> float:
    """What a site takes, all passes priced in real multiply-adds of a large matrix product (fitted)."""
    if method == "sweep":
        return count * extent * right * (5.6 * left + 50)
    made = extent * left**2 * (4 * right + 600)
    squares = left**2 * (float(np.log2(extent)) + 4)
    return made + count * (2.6 * (squares + 4 * left * right) + 7000)


@dataclass(frozen=True)
class _Branches:
    """A core made ready for the sweep: A_u^T one below the other, shape (extent * right, left)."""

    matrix: Any
    extent: int


class _Walk:
    """Rows on their way along the chain: their vectors, and what they have picked so far."""

    def __init__(self, xp: Any, dtype: np.dtype, uniforms: np.ndarray) -> None:
        count, length = uniforms.shape
        self._xp = xp
        self._uniforms = uniforms
        # the sweep has columns, so that element-wise passes run along rows of the batch; the search has rows
        self._columns: Any = xp.ones((1, count), dtype=dtype)
        self._rows: Any = None
        self._picked = xp.empty((length, count), dtype=np.int32)
        self._logs = xp.zeros(count)
        self._done = 0

    def sites(self) -> np.ndarray:
        """The values picked, shape (rows, sites)."""
        return to_host(self._picked).T

    def log_probability(self) -> np.ndarray:
        """Log of the probability of the values picked, by row."""
        return to_host(self._logs)

    def along(self, segment: "list[_Branches | Tables]") -> None:
        """Go on over some sites."""
        stop = self._done + len(segment)
        uniforms = self._xp.asarray(np.ascontiguousarray(self._uniforms[:, self._done : stop].T))
        for own, site in zip(uniforms, segment, strict=True):
            if isinstance(site, Tables):
                if self._rows is None:
                    self._rows = np.ascontiguousarray(self._columns.T)
                self._rows, values, weights = search(site, self._rows, own)
                self._columns = None
            else:
                if self._columns is None:
                    self._columns = np.ascontiguousarray(self._rows.T)
                self._columns, values, weights = _swept(site, self._columns, own)
                self._rows = None
            self._picked[self._done] = values
            self._logs = self._logs + self._xp.log(weights)
            self._done += 1


def _swept(site: _Branches, vectors: Any, uniforms: Any) -> tuple[Any, Any, Any]:
    """(unit vectors, values, weights) after one site, by the branches of all values."""
    xp = array_module(vectors)
    count = vectors.shape[1]
    height = len(site.matrix)
    columns = max(16, (_CACHED if xp is np else _DEVICE) // (2 * height))
    right = height // site.extent
    after = xp.empty((right, count), dtype=vectors.dtype)
    values = xp.empty(count, dtype=np.int64)
    weights = xp.empty(count)
    scratch = xp.empty(height * min(columns, count), dtype=vectors.dtype)
    for start in range(0, count, columns):
        rows = slice(start, min(start + columns, count))
        branches = scratch[: height * (rows.stop - start)].reshape(height, -1)
        xp.matmul(site.matrix, vectors[:, rows], out=branches)
        branches = branches.reshape(site.extent, right, -1)
        after[:, rows], values[rows], weights[rows] = _picked(branches, _squares(branches), uniforms[rows])
    return after, values, weights


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
    # only cores that are not canonical leave a row without weight
    scale = 1 / xp.sqrt(xp.where(kept > 0, kept, 1.0))
    return branch * scale.astype(branches.real.dtype), values, kept


def _site(core: Any, method: Method) -> _Branches | Tables:
    """A core (left, extent, right) made ready."""
    if method == "search":
        return tables(core)
    left, extent, right = core.shape
    return _Branches(core.reshape(left, extent * right).T, extent)


def _segments(cores: Cores, count: int, method: Method | None) -> Iterator[list[tuple[Any, Method]]]:
    """Consecutive cores with the method of each, as many at once as their tables leave room for."""
    searchable = array_module(cores[0]) is np and cores[0].dtype.kind == "c"
    segment: list[tuple[Any, Method]] = []
    held = 0
    for core in cores:
        left, extent, right = core.shape
        own: Method = "sweep"
        if method is not None:
            own = method
        elif searchable:
            own = best_method(left, extent, right, count)
        segment.append((core, own))
        held += (0 if own == "sweep" else extent * left * (left + 2 * right)) + count
        if held > _TABLES:
            yield segment
            segment, held = [], 0
    if segment:
        yield segment
