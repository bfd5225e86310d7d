"""Cross interpolation: a function of many sites as a tensor train, from few of its values.

A one-site scheme. Sweeps go along the chain and back; at each site the function is evaluated on a fibre, all
values of the site between a set of heads and a set of tails, and the rows that span the fibre best (maxvol of
its orthonormalised columns) become the heads, or tails, of the next (Oseledets and Tyrtyshnikov, Linear
Algebra Appl. 432 (2010) 70). A sweep takes about D r^2 P evaluations; two-site schemes take D r^2 P^2. A
one-site sweep cannot find a direction that its tails do not show, so before each sweep random points join
them, and the points where the last result was most wrong: bonds grow where the function asks for it.

The error is measured on points drawn afresh, which no fit has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.engine.maxvol import spanning_rows
from qrt_tn.engine.mps import Cores, compress, right_canonical, right_vectors
from qrt_tn.engine.progress import Progress, shown

Function = Callable[[np.ndarray], Any]

_BLOCK = 2**22  # coordinates of the points handed over in one call (32 MiB),
_ROWS = 2**16  # and how many points at most
_TESTS = 1024  # random points after each half sweep
_FINAL = 4096  # random points of the error that is reported
_FIRST = 4  # pivots to start from
_EXTRA = 0.5  # rows beyond those of maxvol, as a share of them
_CUT = 0.1  # what a singular value of a fibre must stand for to be kept, in shares of the tolerance
_SQUEEZE = 0.1  # of the error, or of the tolerance where it was met, goes to smaller bonds in the end
_SAFETY = 0.7  # of the tolerance must be met on a test, so that fresh points find it met too
_PATIENCE = 6  # half sweeps without a better error


@dataclass(frozen=True)
class Interpolation:
    """A function as a tensor train, and how well.

    Attributes:
        cores: (left, site, right); the class core first for a function of several outputs.
        error: ||f - held|| / ||f|| on uniform random points that no fit has seen.
        error_at_points: the same on the caller's own points kept for testing; None without any.
        evaluations: points at which the function was evaluated, tests included.
        reason: why it stopped: "tolerance", "evaluations", "bond" or "stagnation".
    """

    cores: Cores
    error: float
    error_at_points: float | None
    evaluations: int
    reason: str


class _SpentError(Exception):
    """The evaluations are spent."""


class _Evaluator:
    """Calls the function in blocks of bounded size, counts, and refuses what it must not return."""

    def __init__(self, function: Function, extents: Sequence[int], limit: int, tell: Progress) -> None:
        self._function = function
        self._rows = max(1, min(_ROWS, _BLOCK // len(extents)))
        self.limit: int | None = limit
        self._tell = tell
        self.count = 0
        self.shape: tuple[int, ...] | None = None  # of a value; None before the first call
        self.dtype = np.dtype(np.float32)

    @property
    def vector(self) -> bool:
        """Whether the function has an axis of outputs."""
        return bool(self.shape)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Values at points (N, D), shape (N, C)."""
        self._reserve(len(points))
        parts = []
        for start in range(0, len(points), self._rows):
            parts.append(self._checked(points[start : start + self._rows]))
            self.count += len(parts[-1])
            if self.limit is not None:
                self._tell(self.count, self.limit)
        return np.concatenate(parts)

    def on_product(self, heads: np.ndarray, extent: int, tails: np.ndarray) -> np.ndarray:
        """Values on heads x site x tails, shape (heads, extent, tails, C)."""
        shape = (len(heads), extent, len(tails))
        total = int(np.prod(shape))
        self._reserve(total)
        parts = []
        for start in range(0, total, self._rows):
            head, value, tail = np.unravel_index(np.arange(start, min(start + self._rows, total)), shape)
            parts.append(self(np.concatenate([heads[head], value[:, None], tails[tail]], axis=1)))
        return np.concatenate(parts).reshape(*shape, -1)

    def _reserve(self, count: int) -> None:
        if self.limit is not None and self.count + count > self.limit:
            raise _SpentError

    def _checked(self, points: np.ndarray) -> np.ndarray:
        returned = self._function(points.copy())  # which it may change
        if np.ma.isMaskedArray(returned):
            raise ValueError("the function gave a masked array; give its values, filled")
        values = np.asarray(returned)
        found = f"the function gave shape {values.shape} for {len(points)} points"
        if values.ndim not in (1, 2) or len(values) != len(points) or values.size == 0:
            raise ValueError(f"{found}; give (N,) or (N, C), one row per point")
        if values.dtype.kind not in "biufc" or values.dtype.char in "gG":
            raise ValueError(
                f"the function gave dtype {values.dtype}; give numbers, in double precision at most"
            )
        if self.shape is None:
            self.shape = values.shape[1:]
        if values.shape[1:] != self.shape:
            raise ValueError(f"{found}, and values of shape {self.shape} before; give the same every time")
        columns = values.reshape(len(values), -1)
        bad = np.flatnonzero(~np.isfinite(columns).all(axis=1))
        if len(bad):
            raise ValueError(
                f"the function gave {values[bad[0]]} at {points[bad[0]].tolist()}; every value must be finite"
            )
        # whole numbers are exact in double precision; single precision is remembered, not computed in
        given = values.dtype if values.dtype.kind in "fc" else np.dtype(np.float64)
        self.dtype = np.result_type(self.dtype, given)
        return columns.astype(np.complex128 if given.kind == "c" else np.float64)


def interpolate(
    function: Function,
    extents: Sequence[int],
    *,
    tolerance: float,
    max_bond: int,
    max_evaluations: int,
    rng: np.random.Generator,
    points: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Interpolation:
    """Interpolate a function of sites 0..n_i-1.

    Args:
        function: takes int64 points (N, D), gives real or complex values (N,), or (N, C).
        extents: the extents n_i of the D sites.
        tolerance: the relative error to reach, root mean square over uniform points (and over `points`).
        max_bond: the largest bond.
        max_evaluations: of points, but for the tests of what was found at the end.
        rng: draws the test points.
        points: the caller's own, shape (M, D): every second may become a pivot, the error on the others must
            meet the tolerance too.
        progress: called with (evaluations done, allowed); a bar without it.

    Raises:
        ValueError: values of the wrong shape or not finite, a function that is 0 wherever it was tried, or a
            budget that does not suffice for one sweep.
    """
    with shown(progress, max_evaluations, "evaluations") as tell:
        evaluate = _Evaluator(function, extents, max_evaluations, tell)
        offered = None if points is None else points[::2]
        kept = None if points is None else points[1::2] if len(points) > 1 else points
        search = _Search(evaluate, np.array(extents), tolerance, max_bond, rng, offered, _CUT * tolerance)
        try:
            reason = search.run()
        except _SpentError:
            reason = "evaluations"
        if search.best is None:
            raise ValueError(
                f"{max_evaluations} evaluations do not suffice for one sweep over {len(extents)} sites; "
                "allow more with max_evaluations"
            )
        cores = _squeezed(search.best, _SQUEEZE * max(tolerance, search.lowest), max_bond)
        cores = [core.astype(evaluate.dtype) for core in cores]
        evaluate.limit = None  # the error is measured in any case
        error = search.error_on(cores, search.uniform(_FINAL))
        at_points = None if kept is None else search.error_on(cores, search.picked(kept, _FINAL))
    if max(error, at_points or 0.0) <= tolerance:
        reason = "tolerance"
    elif reason == "tolerance":
        reason = "stagnation"
    return Interpolation(cores, error, at_points, evaluate.count, reason)


@dataclass(eq=False)
class _Search:
    """The sweeps. A function of several outputs has its class as a site before all others."""

    evaluate: _Evaluator
    positions: np.ndarray  # extents of the sites
    tolerance: float
    max_bond: int
    rng: np.random.Generator
    offered: np.ndarray | None  # points that may become pivots
    cut: float  # singular values below are left out, in shares of the function's size
    best: Cores | None = None
    lowest: float = np.inf
    rank: int = 0  # the largest of a sweep
    size: float = 0.0  # root mean square of the function where it was tried first

    def uniform(self, count: int) -> np.ndarray:
        """Uniform random points, (count, D)."""
        return self.rng.integers(self.positions, size=(count, len(self.positions)))

    def picked(self, points: np.ndarray, count: int) -> np.ndarray:
        """At most so many of the points, at random."""
        return points[self.rng.permutation(len(points))[:count]]

    def run(self) -> str:
        """Sweep until the tolerance is met or nothing helps; the reason."""
        self._start()
        since, widest, forward = 0, 0, True
        while True:
            self.rank = 0
            cores = self._sweep(forward)
            forward = not forward
            error, pivots = self._test(cores, _TESTS)
            if error <= _SAFETY * self.tolerance:
                # where the function is large at rare points alone, few tests flatter
                error, pivots = self._test(cores, _FINAL)
                if error <= _SAFETY * self.tolerance:
                    self.lowest, self.best = error, cores
                    return "tolerance"
            better = error < 0.8 * self.lowest
            since = 0 if better or self.rank > widest else since + 1
            if not better:
                self.cut /= 4  # errors add up along the chain
            widest = max(widest, self.rank)
            if error < self.lowest or self.best is None:
                self.lowest, self.best = error, cores
            if since >= _PATIENCE:
                return "bond" if widest >= self.max_bond else "stagnation"
            self._join(pivots, forward)

    def _start(self) -> None:
        trial = self.uniform(_TESTS)
        if self.offered is not None:
            trial = np.concatenate([trial, self.picked(self.offered, _TESTS)])
        values = self.evaluate(trial)
        peak = np.abs(values).max()
        if peak == 0:
            raise ValueError(
                f"the function is 0 at all {len(trial)} points tried; if it is not 0 everywhere, pass "
                "points= where it is not"
            )
        self.size = float(peak * np.sqrt((np.abs(values / peak) ** 2).mean()))
        self.extents = self.positions.tolist()
        if self.evaluate.vector:
            self.extents.insert(0, values.shape[1])
        pivots = self._indices(trial, values, _worst(values, _FIRST))
        # heads[i] and tails[i] are what stands before and after site i
        self.heads = [np.unique(pivots[:, :site], axis=0) for site in range(len(self.extents))]
        self.tails = [np.unique(pivots[:, site + 1 :], axis=0) for site in range(len(self.extents))]

    def error_on(self, cores: Cores, points: np.ndarray) -> float:
        """||f - held|| / ||f|| over the points."""
        values = self.evaluate(points)
        return _relative(values - self._held(cores, points), values)

    def _test(self, cores: Cores, size: int) -> tuple[float, np.ndarray]:
        """The error on `size` fresh points, and indices (class, point) to look at next.

        Half of them are where the error is largest, which finds what is concentrated; half are random, which
        weighs all places alike.
        """
        count = max(1, min(self.rank, self.max_bond) // 4)
        errors, pivots = [], []
        for points in (self.uniform(size), self.offered):
            if points is None:
                continue
            tried = self.picked(points, size)
            values = self.evaluate(tried)
            rest = values - self._held(cores, tried)
            errors.append(_relative(rest, values))
            chosen = np.union1d(_worst(rest, count), np.arange(min(count, len(tried))))
            pivots.append(self._indices(tried, rest, chosen))
        return max(errors), np.concatenate(pivots)

    def _held(self, cores: Cores, points: np.ndarray) -> np.ndarray:
        if not self.evaluate.vector:
            return right_vectors(cores, points).value()
        return right_vectors(cores[1:], points).value() @ cores[0][0].T

    def _indices(self, points: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Points as rows of site values, the class of the largest value first where there is one."""
        if not self.evaluate.vector:
            return points[chosen]
        return np.column_stack([np.abs(values[chosen]).argmax(axis=1), points[chosen]])

    def _join(self, pivots: np.ndarray, forward: bool) -> None:
        """Let pivots join what the next half sweep sees."""
        for site in range(len(self.extents)):
            sets, new = (self.tails, pivots[:, site + 1 :]) if forward else (self.heads, pivots[:, :site])
            sets[site] = np.unique(np.concatenate([sets[site], new]), axis=0)

    def _fibre(self, site: int) -> np.ndarray:
        """The function on heads x site x tails, shape (left, extent, right)."""
        heads, tails = self.heads[site], self.tails[site]
        if not self.evaluate.vector:
            return self.evaluate.on_product(heads, self.extents[site], tails)[..., 0]
        if site == 0:
            return self.evaluate(tails).T[None]
        # heads that differ in their class alone share their values
        places, which = np.unique(heads[:, 1:], axis=0, return_inverse=True)
        values = self.evaluate.on_product(places, self.extents[site], tails)
        return values[which.reshape(-1), :, :, heads[:, 0]]

    def _sweep(self, forward: bool) -> Cores:
        """Along the chain or back: new heads, or tails, from the fibre of every site but the last."""
        cores = []
        last = len(self.extents) - 1
        for site in range(last) if forward else range(last, 0, -1):
            fibre = self._fibre(site)
            left, extent, right = fibre.shape
            if forward:
                rows, coefficients = self._spanned(fibre.reshape(left * extent, right))
                head, value = np.divmod(rows, extent)
                self.heads[site + 1] = np.column_stack([self.heads[site][head], value])
                cores.append(coefficients.reshape(left, extent, -1))
            else:
                rows, coefficients = self._spanned(fibre.reshape(left, extent * right).T)
                value, tail = np.divmod(rows, right)
                self.tails[site - 1] = np.column_stack([value, self.tails[site][tail]])
                cores.append(coefficients.T.reshape(-1, extent, right))
        return [*cores, self._fibre(last)] if forward else [self._fibre(0), *reversed(cores)]

    def _spanned(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a fibre from which its others follow, and how."""
        peak = np.abs(matrix).max()
        if peak == 0:
            return np.zeros(1, dtype=np.int64), np.eye(len(matrix), 1)
        u, s, _ = np.linalg.svd(matrix / peak, full_matrices=False)
        # a singular value s is an error of s / sqrt(entries) on average, to be seen beside the function's own
        # size: pivots of large values do not raise the bar
        cut = max(
            self.cut * self.size / peak * np.sqrt(matrix.size),
            8 * float(np.finfo(self.evaluate.dtype).eps) * s[0],
        )
        rank = min(self.max_bond, max(1, int((s > cut).sum())))
        self.rank = max(self.rank, rank)
        return spanning_rows(u[:, :rank], _EXTRA, self.rng)


def _squeezed(cores: Cores, tolerance: float, max_bond: int) -> Cores:
    """The cores with bonds no larger than the error asks for."""
    canonical, log_norm = right_canonical(cores)
    if not np.isfinite(log_norm):
        return cores
    smaller, _ = compress(canonical, tolerance, max_bond)
    # the norm over all points may lie far outside floating point, its share of a site does not
    return [core * np.exp(log_norm / len(cores)) for core in smaller]


def _worst(rest: np.ndarray, count: int) -> np.ndarray:
    """The rows with the largest entries, none that is 0 throughout."""
    sizes = np.abs(rest).max(axis=1)
    chosen = np.argsort(-sizes, kind="stable")[:count]
    return chosen[sizes[chosen] > 0]


def _relative(rest: np.ndarray, values: np.ndarray) -> float:
    """||rest|| / ||values||; infinite where the values are all 0 and the rest is not."""
    peak = max(np.abs(values).max(), np.abs(rest).max())
    if peak == 0:
        return 0.0
    norm = np.linalg.norm(values / peak)
    return float(np.linalg.norm(rest / peak) / norm) if norm > 0 else np.inf
