"""Residual tickets: rounds of tempered nodes, each drawn from the ridgelet transform of what is left."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.linalg

from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.engine.threads import limited
from qrt_tn.field import check_grid, check_prime
from qrt_tn.states.filters import Filter, checked_filter
from qrt_tn.states.points import checked_values
from qrt_tn.tempered import PointConditionals, TemperedNodes

_ROUNDS = 8  # rounds until the nodes are four times as many
_NEGLIGIBLE = -40.0  # log tau^2 relative to its peak, below which the filter is cut
_BLOCK = 8192  # points whose features are double precision at a time
_SMALL = 2**22  # features up to which one thread is quicker than threads that wait for each other


def round_sizes() -> Iterator[int]:
    """Nodes of each round: 2 eight times, 6 eight times, then 24, 96 and so on: 16, 64, 256 ... in all."""
    total = 2 * _ROUNDS
    yield from [total // _ROUNDS] * _ROUNDS
    while True:
        yield from [3 * total // _ROUNDS] * _ROUNDS
        total *= 4


def residual_ticket(
    points: Any,
    targets: Any,
    n: int,
    *,
    modulus: int = 127,
    positions: Any = None,
    smoothing: Any = 0.6,
    beta: float = 16.0,
    sweeps: int = 3,
    ridge: float = 1.0,
    subsample: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> TemperedNodes:
    """Draw N cosine nodes in rounds from the tempered ridgelet transform of the residual.

    R is the centred targets at first. In each round every node draws a contrast g ~ N(0, I_C) of the outputs
    and u from pi(u) prop. to |z(u)|^(2 beta) tau(u)^2, z(u) = sum_m (R_m.g) omega^{-u.x_m}; its threshold is
    at the phase of z. Then all output weights are fitted again by ridge regression and R is what they leave.
    Chains start from the filter and take a few sweeps of exact single-site conditionals: annealed, not exact.
    Neither the rounds nor their random numbers depend on N, so the first 64 of 256 nodes are the ticket of
    64.

    Args:
        points: x on the grid, int in 0..P-1, shape (M, D).
        targets: y, real, shape (M,) or (M, C): one column a class for labels.
        n: the number of nodes N.
        modulus: the prime P.
        positions: where the points truly lie, on the scale of the levels (`Quantizer.positions`), real, shape
            (M, D); left out, on the grid. Frequencies are drawn at the points, nodes evaluated at positions.
        smoothing: the filter tau, as in `states.from_samples`: a width, one a coordinate, or a table; 0.4 to
            0.6 suit images, up to 4 wavy functions of few features. Values of u_i at which log tau_i^2 is 40
            below its peak are never taken.
        beta: the inverse temperature, at least 1.
        sweeps: Gibbs sweeps of a chain, the first of several at beta / 4.
        ridge: the penalty on output weights between rounds.
        subsample: how many points, other ones every round, the frequencies are drawn at; None for all.
        seed: a whole number of at least 0.
        progress: called with (nodes done, N); left out, a bar appears after two seconds in a terminal.

    Returns:
        N nodes in the order of their rounds, of equal weights; nothing tells their effective sample size,
        which is NaN. `RidgeNetwork` takes them, or `select_ridge(nodes.features(positions), ...)` fits output
        weights.

    Raises:
        ValueError: arguments out of range, of different lengths, not finite, or targets that are constant.

    Example:
        >>> import numpy as np
        >>> from qrt_tn.models import residual_ticket
        >>> x = np.random.default_rng(0).integers(17, size=(300, 4))
        >>> y = np.cos(0.2 * (x[:, 0] - x[:, 1]))
        >>> nodes = residual_ticket(x, y, 16, smoothing=1.5)
        >>> phi = np.column_stack([np.ones(300), nodes.features(x)])
        >>> bool(np.std(y - phi @ np.linalg.lstsq(phi, y)[0]) < 0.05)
        True
    """
    prime = check_prime(modulus)
    x = check_grid(points, prime, "points", (None, None))
    y = checked_values(targets, len(x)).reshape(len(x), -1)
    if y.dtype.kind == "c":
        raise ValueError(f"targets have dtype {y.dtype}; give real numbers")
    real = x if positions is None else np.asarray(positions)
    if real.shape != x.shape or real.dtype.kind not in "iuf" or not np.isfinite(real).all():
        raise ValueError(f"positions have shape {real.shape}, {real.dtype}; give finite reals {x.shape}")
    for name, value in (("n", n), ("sweeps", sweeps)):
        check_whole(name, value)
    check_whole("seed", seed, 0)
    if subsample is not None:
        check_whole("subsample", subsample, 2)
    if not is_real(beta) or beta < 1:
        raise ValueError(f"beta is {beta!r}; give a finite number of at least 1")
    if not is_real(ridge) or ridge <= 0:
        raise ValueError(f"ridge is {ridge!r}; give a finite number above 0")
    product = checked_filter(smoothing, x.shape[1], prime)
    y = centred_targets(y.astype(np.float64))
    if not y.any():
        raise ValueError(f"targets are all {np.asarray(targets).flat[0]}; there is nothing to learn")
    real = real.astype(np.float32)
    with shown(progress, n, "nodes") as tell:
        betas = [max(1.0, beta / 4)] * (sweeps > 1) + [beta] * max(1, sweeps - 1)
        rounds = _Rounds(x, y, product, prime, subsample, seed)
        readout = _Readout(y, n, float(ridge))
        parts: list[TemperedNodes] = []
        done = 0
        sizes = round_sizes()
        while done < n:
            size = min(next(sizes), n - done)
            part = rounds.draw(len(parts), size, readout.residual, betas)
            parts.append(part)
            done += size
            if done < n:
                with limited(1 if len(x) * n <= _SMALL else None):
                    readout.add(part.features(real))
            tell(done, n)
    a, b = (np.concatenate([getattr(part, name) for part in parts]) for name in ("a", "b"))
    moved = float(np.average([part.moved for part in parts], weights=[len(part) for part in parts]))
    return TemperedNodes(a, b, np.zeros(n), float(beta), np.nan, moved, prime)


def centred_targets(y: np.ndarray) -> np.ndarray:
    """Columns less their means, over the largest value of any; 0 where a column is constant, (M, C)."""
    peak = np.abs(y).max()
    y = y / peak if peak > 0 else y
    centred = np.where((y == y[0]).all(axis=0), 0.0, y - y.mean(axis=0))
    largest = np.abs(centred).max()
    return np.asarray(centred / largest if largest > 0 else centred)


class _Rounds:
    """Draws the nodes of one round after the other."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray, product: Filter, modulus: int, subsample: int | None, seed: int
    ) -> None:
        self._x, self._filter, self._modulus, self._seed = x, product, modulus, seed
        self._taken = None if subsample is None or subsample >= len(x) else int(subsample)
        logs = product.log_weights(_NEGLIGIBLE)
        kept = [np.flatnonzero(np.isfinite(row)) for row in logs]
        self._supports = [kept[row] for row in product.rows]
        if not any(support.any() for support in self._supports):
            raise ValueError("smoothing leaves no frequency but 0; take a larger width")
        self._logs = [logs[row, kept[row]] for row in product.rows]
        self._outputs = y.shape[1]
        self._law = None if self._taken else self._conditionals(x)

    def _conditionals(self, x: np.ndarray) -> PointConditionals:
        law = PointConditionals(x, np.empty((len(x), 0)), self._modulus, self._supports, self._logs)
        law.order = law.varying  # a coordinate that all points share has nothing to say
        return law

    def draw(self, number: int, size: int, residual: np.ndarray, betas: list[float]) -> TemperedNodes:
        # each kind of random number has a stream of its own, so that fewer nodes are the first of more
        streams = [np.random.default_rng([self._seed, number, kind]) for kind in range(4)]
        law = self._law
        if law is None:
            rows = np.sort(streams[0].choice(len(self._x), self._taken, replace=False))
            law = self._conditionals(self._x[rows])
            residual = residual[rows] - residual[rows].mean(axis=0)
        law.values = residual
        contrasts = streams[1].standard_normal((size, self._outputs))
        start = np.zeros((size, self._x.shape[1]), dtype=np.int64)
        drawn = self._filter.sample(size, streams[2])
        start[:, law.order] = drawn[:, law.order]
        start[~np.isfinite(law.log_prior(start))] = 0
        u, moved = law.sweep(start, contrasts, betas, int(streams[3].integers(2**63)))
        b = np.mod(-np.angle(law.spectrum(u, contrasts)) * self._modulus / (2 * np.pi), self._modulus)
        return TemperedNodes(
            u, b % self._modulus, np.zeros(size), max(betas), float(size), moved, self._modulus
        )


class _Readout:
    """Ridge regression on features that come in parts: what it leaves of the centred targets."""

    def __init__(self, y: np.ndarray, n: int, ridge: float) -> None:
        self._y, self._ridge = y, ridge
        self._features = np.empty((len(y), n), dtype=np.float32)
        self._gram = np.empty((n, n))
        self._products = np.empty((n, y.shape[1]))
        self._means = np.empty(n)
        self._count = 0
        self.residual = y

    def add(self, features: np.ndarray) -> None:
        old, new = self._count, self._count + features.shape[1]
        self._features[:, old:new] = features
        self._means[old:new] = features.mean(axis=0, dtype=np.float64)
        gram, products = np.zeros((new, new - old)), np.zeros((new - old, self._y.shape[1]))
        for start in range(0, len(features), _BLOCK):
            rows = slice(start, start + _BLOCK)
            block = self._features[rows, :new] - self._means[:new]
            gram += block.T @ block[:, old:]
            products += block[:, old:].T @ self._y[rows]
        self._gram[:new, old:new] = gram
        self._gram[old:new, :new] = gram.T
        self._products[old:new] = products
        self._count = new
        penalised = self._gram[:new, :new] + self._ridge * np.eye(new)
        kernel = scipy.linalg.solve(penalised, self._products[:new], assume_a="pos", check_finite=False)
        offset = self._means[:new] @ kernel
        self.residual = self._y - (self._features[:, :new] @ kernel.astype(np.float32) - offset)
