"""States that are sums of data points, f = sum_m c_m |x_m>: sampled and evaluated exactly from the points.

|f^(u)|^2 is sampled coordinate after coordinate. Given u_1 .. u_k, the next coordinate follows
sum_s |psi_s(u_{k+1})|^2, where psi_s gathers the points whose later coordinates are s. Three observations
make that cheap:

* while the later coordinates still tell all points apart, that sum is constant and u uniform;
* it is a mixture over s whose weights, by Parseval, are the squared norms of what psi_s gathers, so it is
  enough to draw one s and transform the few points it has;
* which coordinates come last is ours to choose, and so is the basis. The last t are random linear
  functionals y = L x over Z_P, which hash the points apart with t of about 2 log_P M, whatever the data
  look like (u . x is kept by the transposed change of u).

So all but t of the D coordinates of u are uniform, and one product of an N x D with a D x M matrix holds
the cost.
"""

import copy
from typing import Any, NamedTuple

import numpy as np
import quimb.tensor as qtn

from engine import mps
from engine.backends import array_module, namespace, segment_sums
from engine.scaled import Scaled
from qrt_tn.field import inverses, roots_of_unity
from qrt_tn.products import ModularProduct
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import CLASS_INDEX, State, site_index

_BLOCK = 2**22  # elements of one block of an N x M array (64 MiB in complex128)
_NETWORK_LIMIT = 2**28  # elements of the one-hot tensors of `network` (2 GiB)


class _Level(NamedTuple):
    """How the points group while one hashed coordinate is drawn.

    Points are sorted so that every group is a run. `starts` are the runs by the later coordinates (the
    mixture's s), `owner` the run of each point. Points that share this coordinate too form a crowd, whose
    weight depends on phases; a point alone weighs |c|^2 always.
    """

    starts: np.ndarray
    owner: np.ndarray
    alone: np.ndarray  # running sums of |c|^2 over the points alone, shape (C, M)
    crowd_points: np.ndarray
    crowd_starts: np.ndarray


class SampleState(State):
    """f = sum_m c_m |x_m> over distinct points.

    Args:
        points: distinct, int64, shape (M, D).
        coefficients: float or complex, shape (M, C), not all zero.
        modulus: P.
        vector: whether values carry a class axis.
    """

    def __init__(self, points: np.ndarray, coefficients: np.ndarray, modulus: int, vector: bool) -> None:
        self.modulus = modulus
        self.dim = points.shape[1]
        self.outputs = coefficients.shape[1]
        self.vector = vector
        peak = float(np.abs(coefficients).max())
        norm = float(np.linalg.norm(coefficients / peak))
        self.log_norm = float(np.log(peak) + np.log(norm))
        self._functionals, self._pivots = _hash_apart(points, modulus)
        self._others = np.setdiff1d(np.arange(self.dim), self._pivots)
        hashes = (points @ self._functionals.T) % modulus
        # sorted by the last functional first, so that points sharing later coordinates stand together
        order = np.lexsort(hashes.T) if hashes.shape[1] else np.arange(len(points))
        self.points = points[order]
        self.coefficients = coefficients[order] / peak / norm
        self._hashes = hashes[order]
        self._head = slice(0, len(self._others))
        self._product = ModularProduct(np.hstack([self.points[:, self._others], self._hashes]), modulus)
        weights = np.abs(self.coefficients.T) ** 2
        self._class_running = np.cumsum(weights.sum(axis=1))
        self._levels = [_level(self._hashes, weights, j) for j in range(self._hashes.shape[1])]

    def on(self, backend: str) -> "SampleState":
        """A copy that multiplies frequencies with points on a backend; the rest stays on the host."""
        xp = namespace(backend)
        moved = copy.copy(self)
        moved._product = self._product.on(xp)
        return moved

    def network(self) -> qtn.TensorNetwork:
        """One tensor of coefficients and D one-hot tensors that share the hyperindex m over the points."""
        size = self.dim * len(self.points) * self.modulus
        if size > _NETWORK_LIMIT:
            raise ValueError(
                f"the network of {len(self.points)} points takes {size} elements, above {_NETWORK_LIMIT}; use "
                "amplitudes or profiles, which need none, or a smoothed state"
            )
        if self.vector:
            tensors = [qtn.Tensor(self.coefficients, inds=["m", CLASS_INDEX], tags=["F"])]
        else:
            tensors = [qtn.Tensor(self.coefficients[:, 0], inds=["m"], tags=["F"])]
        identity = np.eye(self.modulus)
        for site, column in enumerate(self.points.T):
            tensors.append(qtn.Tensor(identity[column], inds=["m", site_index(site)], tags=["F", f"F{site}"]))
        return qtn.TensorNetwork(tensors)

    def profiles(self, a: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        """R[f](a, b) for every b: the histogram of a . x_m weighted by c_m, correlated with r."""
        return self._correlated(self._histograms(a), ridgelet)

    def draw(self, v: np.ndarray, ridgelet: Ridgelet, rng: np.random.Generator) -> tuple[np.ndarray, Scaled]:
        """Draw a = v^{-1} u, u ~ |f^(u)|^2, with profiles; the products u . x_m serve both."""
        inverse = inverses(self.modulus)[v]
        hashed, histograms = self._draw_hashed(len(v), rng, histograms=True)
        a = (inverse[:, None] * self._unhashed(hashed)) % self.modulus
        # a . x = v^{-1} u . x: the bins change places
        bins = (v[:, None] * np.arange(self.modulus)) % self.modulus
        return a, self._correlated(np.take_along_axis(histograms, bins[:, :, None], axis=1), ridgelet)

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return self._unhashed(self._draw_hashed(count, rng, histograms=False)[0])

    def _spectrum(self, u: np.ndarray) -> Scaled:
        values = np.einsum("nkc,k->nc", self._histograms(u), roots_of_unity(self.modulus).conj())
        return Scaled(values, np.full((len(u), 1), self._log_unit))

    @property
    def _log_unit(self) -> float:
        return -0.5 * self.dim * float(np.log(self.modulus))

    def _correlated(self, histograms: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        k = np.arange(self.modulus)
        shifted = ridgelet.values.conj()[(k[:, None] - k[None, :]) % self.modulus]
        values = np.einsum("nkc,kb->nbc", histograms, shifted, optimize=True)
        return Scaled(values, np.full((len(values), 1, 1), self._log_unit))

    def _histograms(self, u: np.ndarray) -> np.ndarray:
        """sum_m c_m [u . x_m = k mod P], shape (N, P, C)."""
        hashed = self._hashed(u)
        return np.concatenate([self._histogram(self._product.sums(hashed[rows])) for rows in self._blocks(len(u))])

    def _histogram(self, sums: np.ndarray) -> np.ndarray:
        bins = self._product.reduce(sums) + self.modulus
        columns = [_scatter(bins, np.broadcast_to(c, bins.shape), 2 * self.modulus) for c in self.coefficients.T]
        wrapped = np.stack(columns, axis=-1).reshape(len(bins), 2, self.modulus, self.outputs)
        return wrapped.sum(axis=1)

    def _blocks(self, count: int) -> list[slice]:
        rows = max(1, _BLOCK // len(self.points))
        return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]

    def _hashed(self, u: np.ndarray) -> np.ndarray:
        """Frequencies u' with u' . (x_others, L x) = u . x."""
        tail = u[:, self._pivots]
        head = u[:, self._others] - tail @ self._functionals[:, self._others]
        return np.hstack([head % self.modulus, tail])

    def _unhashed(self, hashed: np.ndarray) -> np.ndarray:
        """The inverse of `_hashed`."""
        u = np.empty((len(hashed), self.dim), dtype=np.int64)
        head, tail = hashed[:, self._head], hashed[:, self._head.stop :]
        u[:, self._others] = (head + tail @ self._functionals[:, self._others]) % self.modulus
        u[:, self._pivots] = tail
        return u

    def _draw_hashed(
        self, count: int, rng: np.random.Generator, histograms: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Sample u' ~ |f^|^2, with the histograms of u . x if wanted."""
        classes = np.searchsorted(self._class_running, rng.random(count) * self._class_running[-1], side="right")
        hashed = np.empty((count, self.dim), dtype=np.int64)
        hashed[:, self._head] = rng.integers(self.modulus, size=(count, self._head.stop))
        uniforms = rng.random((count, len(self._levels), 2))
        collected = []
        for rows in self._blocks(count):
            sums = self._product.sums(hashed[rows, self._head], self._head)
            for number, level in enumerate(self._levels):
                place = self._head.stop + number
                runs = self._draw_runs(level, number, sums, classes[rows], uniforms[rows, number, 0])
                psi = self._gathered(level, number, runs, sums, classes[rows])
                weights = np.abs(np.fft.fft(psi, axis=1)) ** 2
                hashed[rows, place] = mps.draw(weights, uniforms[rows, number, 1])
                sums += self._product.sums(hashed[rows, place : place + 1], slice(place, place + 1))
            if histograms:
                collected.append(self._histogram(sums))
        return hashed, np.concatenate(collected) if histograms else None

    def _draw_runs(
        self, level: _Level, number: int, sums: np.ndarray, classes: np.ndarray, uniforms: np.ndarray
    ) -> np.ndarray:
        """Draw s by the squared norm of psi_s: the run of points for each row."""
        if len(level.starts) == 1:
            return np.zeros(len(classes), dtype=np.int64)
        alone = level.alone[classes, -1]
        crowds = np.zeros((len(classes), 1))
        if len(level.crowd_points):
            terms = self._terms(sums[:, level.crowd_points], self.coefficients[level.crowd_points].T[classes])
            crowds = np.cumsum(np.abs(segment_sums(terms, level.crowd_starts)) ** 2, axis=1)
        total = alone + crowds[:, -1]
        target = np.minimum(uniforms * total, np.nextafter(total, 0))
        point = np.empty(len(classes), dtype=np.int64)
        for label in np.unique(classes):
            rows = classes == label
            point[rows] = np.searchsorted(level.alone[label], target[rows], side="right")
        beyond = np.flatnonzero(target >= alone)
        if len(beyond):
            crowd = (crowds[beyond] <= (target - alone)[beyond, None]).sum(axis=1)
            crowd = np.minimum(crowd, len(level.crowd_starts) - 1)
            point[beyond] = level.crowd_points[level.crowd_starts[crowd]]
        return level.owner[point]

    def _gathered(
        self, level: _Level, number: int, runs: np.ndarray, sums: np.ndarray, classes: np.ndarray
    ) -> np.ndarray:
        """psi_s(b): the terms of the drawn run's points by their value b of this coordinate, shape (N, P)."""
        digits = self._hashes[:, number]
        if len(level.starts) == 1:
            terms = self._terms(sums, self.coefficients.T[classes])
            return _scatter(np.broadcast_to(digits, sums.shape), terms, self.modulus)
        ends = np.append(level.starts[1:], len(self.points))
        lengths = ends[runs] - level.starts[runs]
        offsets = np.arange(lengths.max())
        inside = offsets < lengths[:, None]
        columns = np.where(inside, level.starts[runs][:, None] + offsets, 0)
        rows = np.arange(len(runs))[:, None]
        terms = self._terms(sums[rows, columns], self.coefficients[columns, classes[:, None]])
        return _scatter(digits[columns], terms * inside, self.modulus)

    def _terms(self, sums: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """c_m omega^{-(u . x_m)} of the coordinates drawn so far."""
        return roots_of_unity(self.modulus).conj()[self._product.reduce(sums)] * coefficients


def _hash_apart(points: np.ndarray, modulus: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear functionals L, (t, D), that tell all points apart, and t columns where L is the identity."""
    count, dim = points.shape
    if count == 1:
        return np.empty((0, dim), dtype=np.int64), np.empty(0, dtype=np.int64)
    rng = np.random.default_rng(0)  # fixed, so that the same points give the same samples
    pivots = rng.permutation(dim)
    # t = D always tells them apart, L being a permutation then
    for t in range(max(1, int(np.log(count) / np.log(modulus))), dim + 1):
        functionals = rng.integers(modulus, size=(t, dim))
        functionals[:, pivots[:t]] = np.eye(t, dtype=np.int64)
        if len(np.unique((points @ functionals.T) % modulus, axis=0)) == count:
            break
    return functionals, pivots[:t]


def _level(hashes: np.ndarray, weights: np.ndarray, number: int) -> _Level:
    owner = _runs(hashes[:, number + 1 :])
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    own = _runs(hashes[:, number:])
    crowded = np.bincount(own)[own] > 1
    crowd_points = np.flatnonzero(crowded)
    crowd_starts = np.flatnonzero(np.diff(own[crowd_points], prepend=-1))
    return _Level(starts, owner, np.cumsum(np.where(crowded, 0.0, weights), axis=1), crowd_points, crowd_starts)


def _runs(keys: np.ndarray) -> np.ndarray:
    """The number of the run of equal consecutive rows that each row belongs to."""
    changes = (keys[1:] != keys[:-1]).any(axis=1)
    return np.concatenate([[0], np.cumsum(changes)])


def _scatter(bins: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Add values (N, M) into the bins (N, M) that they name, row by row: (N, size)."""
    if values.dtype.kind == "c":
        return _scatter(bins, values.real, size) + 1j * _scatter(bins, values.imag, size)
    xp = array_module(bins)
    keys = bins + size * xp.arange(len(bins))[:, None]
    return xp.bincount(keys.ravel(), weights=values.ravel(), minlength=len(bins) * size).reshape(-1, size)
