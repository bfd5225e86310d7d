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
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import quimb.tensor as qtn

from engine.backends import namespace, segment_sums
from engine.drawing import draw
from engine.scaled import Scaled
from qrt_tn.field import centred, inverses, roots_of_unity
from qrt_tn.products import ModularProduct
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import CLASS_INDEX, State, site_index

_BLOCK = 2**22  # elements of u . x_m multiplied at once (16 to 32 MiB)
_CACHED = 2**18  # and of those worked on at once, so that they stay in a core's cache
_NETWORK_LIMIT = 2**28  # elements of the one-hot tensors of `network` (2 GiB)


class _Level(NamedTuple):
    """How the points group while one hashed coordinate is drawn.

    Points are sorted so that every group is a run. `starts` and `lengths` are the runs by the later
    coordinates (the mixture's s), `owner` the run of each point. Points that share this coordinate too form
    a crowd, whose weight depends on phases; a point alone weighs |c|^2 always.
    """

    starts: np.ndarray
    lengths: np.ndarray
    owner: np.ndarray
    alone: np.ndarray  # running sums of |c|^2 over the points alone, shape (C, M)
    crowd_points: np.ndarray | slice
    crowd_starts: np.ndarray  # where each crowd starts among the crowd points
    crowd_firsts: np.ndarray  # the first point of each


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
        hashes = _hashes(points, self._functionals, modulus)
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
                f"the network of {len(self.points)} points takes {size} elements, above {_NETWORK_LIMIT}; "
                "use amplitudes or profiles, which need none, or a smoothed state"
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
        parts = []
        for _, sums in self._products(self._hashed(a)):
            keys = self._keys(sums)
            histograms = [self._histogram(keys, c) for c in self.coefficients.T]
            parts.append(np.stack([_correlated(h, ridgelet) for h in histograms], axis=2))
        return self._scaled(np.concatenate(parts))

    def amplitudes(self, a: np.ndarray, b: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        """R[f](a, b) of each pair: conj r(a . x_m - b), one look-up a point, times the coefficients."""
        ones = np.ones(len(a), dtype=np.int64)
        parts = [
            self._looked_up(self._keys(sums), ones[rows], b[rows], ridgelet)
            for rows, sums in self._products(self._hashed(a))
        ]
        return self._scaled(np.concatenate(parts))

    def draw(
        self, v: np.ndarray, ridgelet: Ridgelet, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw (a, b), where a = v^{-1} u and u ~ |f^(u)|^2; the products u . x_m serve both.

        The class that drew u draws b as well: given a and that class c, b follows |R[f_c](a, b)|^2.
        """
        inverse = inverses(self.modulus)[v]
        # a . x = v^{-1} u . x: the bins of a histogram change places
        bins = (v[:, None] * np.arange(self.modulus)) % self.modulus
        b = np.empty(len(v), dtype=np.int64)
        amplitudes = np.empty(
            (len(v), self.outputs), dtype=np.result_type(self.coefficients, ridgelet.values)
        )
        uniforms = rng.random(len(v))
        classes, hashed, blocks = self._drawn(len(v), rng)
        for rows, sums in blocks:
            keys = self._keys(sums)
            own = self._histogram(keys, self._coefficients_of(classes[rows]))
            profiles = _correlated(np.take_along_axis(own, bins[rows], axis=1), ridgelet)
            b[rows] = draw(_squares(profiles), uniforms[rows])
            if self.outputs == 1:
                amplitudes[rows, 0] = profiles[np.arange(len(profiles)), b[rows]]
            else:
                amplitudes[rows] = self._looked_up(keys, inverse[rows], b[rows], ridgelet)
        a = (inverse[:, None] * self._unhashed(hashed)) % self.modulus
        log_probability = np.log(_squares(amplitudes).sum(axis=1)) + 2 * self._log_unit
        return a, b, log_probability

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        _, hashed, blocks = self._drawn(count, rng)
        for _ in blocks:
            pass
        return self._unhashed(hashed)

    def _spectrum(self, u: np.ndarray) -> Scaled:
        parts = [self._phases(sums) @ self.coefficients for _, sums in self._products(self._hashed(u))]
        return Scaled(np.concatenate(parts), np.full((len(u), 1), self._log_unit))

    @property
    def _log_unit(self) -> float:
        return -0.5 * self.dim * float(np.log(self.modulus))

    def _scaled(self, values: np.ndarray) -> Scaled:
        return Scaled(values, np.full((len(values),) + (1,) * (values.ndim - 1), self._log_unit))

    def _products(
        self, hashed: np.ndarray, coordinates: slice = slice(None)
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their u . x_m: many multiplied at once, few handed out, so that they stay in cache."""
        count, points = len(hashed), len(self.points)
        many, few = max(1, _BLOCK // points), max(1, _CACHED // points)
        for start in range(0, count, many):
            stop = min(start + many, count)
            sums = self._product.sums(hashed[start:stop, coordinates], coordinates)
            for first in range(start, stop, few):
                rows = slice(first, min(first + few, stop))
                yield rows, sums[first - start : rows.stop - start]

    def _keys(self, sums: np.ndarray) -> np.ndarray:
        """Where u . x_m mod P lies in a flat table of two periods a row."""
        offsets = self.modulus * (1 + 2 * np.arange(len(sums)))
        return self._product.reduce(sums) + offsets[:, None]

    def _histogram(self, keys: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """sum_m c_m [u . x_m = k mod P], shape (N, P); one row of coefficients, or one a row of keys."""
        values = np.broadcast_to(coefficients, keys.shape)
        counted = _binned(keys, values, 2 * self.modulus * len(keys))
        return counted.reshape(-1, 2, self.modulus).sum(axis=1)

    def _looked_up(
        self, keys: np.ndarray, factor: np.ndarray, b: np.ndarray, ridgelet: Ridgelet
    ) -> np.ndarray:
        """sum_m c_m conj r(factor u . x_m - b), shape (N, C)."""
        arguments = (factor[:, None] * np.arange(self.modulus) - b[:, None]) % self.modulus
        table = ridgelet.values.conj()[np.hstack([arguments, arguments])]
        return table.reshape(-1)[keys] @ self.coefficients

    def _coefficients_of(self, classes: np.ndarray, points: Any = slice(None)) -> np.ndarray:
        """The points' coefficients by each row's class, (N, points), or (1, points) where there is one."""
        columns = np.ascontiguousarray(self.coefficients[points].T)
        return columns[classes] if self.outputs > 1 else columns

    def _hashed(self, u: np.ndarray) -> np.ndarray:
        """Frequencies u' with u' . (x_others, L x) = u . x."""
        tail = u[:, self._pivots]
        head = u[:, self._others] - self._mixed(tail)
        return np.hstack([head % self.modulus, tail])

    def _unhashed(self, hashed: np.ndarray) -> np.ndarray:
        """The inverse of `_hashed`."""
        u = np.empty((len(hashed), self.dim), dtype=np.int64)
        head, tail = hashed[:, self._head], hashed[:, self._head.stop :]
        u[:, self._others] = (head + self._mixed(tail)) % self.modulus
        u[:, self._pivots] = tail
        return u

    def _mixed(self, tail: np.ndarray) -> np.ndarray:
        # floating point for its fast product; t P^2 is far below 2^53
        mixed = tail.astype(np.float64) @ self._functionals[:, self._others].astype(np.float64)
        return mixed.astype(np.int64)

    def _drawn(
        self, count: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, Iterator[tuple[slice, np.ndarray]]]:
        """Sample u' ~ |f^|^2.

        Returns:
            (classes, hashed, blocks): the class each row was drawn from, u', whose last t coordinates are
            filled in as the blocks are taken, and blocks of rows with their u . x_m.
        """
        total = self._class_running[-1]
        classes = np.searchsorted(self._class_running, rng.random(count) * total, side="right")
        hashed = np.empty((count, self.dim), dtype=np.int64)
        hashed[:, self._head] = rng.integers(self.modulus, size=(count, self._head.stop))
        uniforms = rng.random((count, len(self._levels), 2))

        def blocks() -> Iterator[tuple[slice, np.ndarray]]:
            for rows, head in self._products(hashed, self._head):
                sums = head
                for number in range(len(self._levels)):
                    place = self._head.stop + number
                    drawn = self._draw_next(number, sums, classes[rows], uniforms[rows, number])
                    hashed[rows, place] = drawn
                    sums = np.add(sums, self._product.step(drawn, place), out=sums)
                yield rows, sums

        return classes, hashed, blocks()

    def _draw_next(
        self, number: int, sums: np.ndarray, classes: np.ndarray, uniforms: np.ndarray
    ) -> np.ndarray:
        """The next hashed coordinate of u given the ones before it, from two uniforms a row; shape (N,)."""
        level = self._levels[number]
        if len(level.starts) == 1:
            return _draw_frequency(self._gathered_all(number, sums, classes), uniforms[:, 1])
        runs = self._draw_runs(level, sums, classes, uniforms[:, 0])
        # the spectrum of a point alone in its run is flat
        drawn = (uniforms[:, 1] * self.modulus).astype(np.int64)
        several = np.flatnonzero(level.lengths[runs] > 1)
        if len(several):
            psi = self._gathered(number, runs[several], sums, classes, several)
            drawn[several] = _draw_frequency(psi, uniforms[several, 1])
        return drawn

    def _draw_runs(
        self, level: _Level, sums: np.ndarray, classes: np.ndarray, uniforms: np.ndarray
    ) -> np.ndarray:
        """Draw s by the squared norm of psi_s: the run of points for each row."""
        alone = level.alone[classes, -1]
        crowds = np.zeros((len(classes), 1))
        if len(level.crowd_starts):
            terms = self._phases(sums[:, level.crowd_points])
            terms *= self._coefficients_of(classes, level.crowd_points)
            crowds = np.cumsum(_squares(segment_sums(terms, level.crowd_starts)), axis=1)
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
            point[beyond] = level.crowd_firsts[crowd]
        return level.owner[point]

    def _gathered_all(self, number: int, sums: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """psi(b) where all points are in one run: their terms by the value b of this coordinate, (N, P)."""
        digits = self._hashes[:, number]
        cells = np.flatnonzero(np.diff(digits, prepend=-1))  # the points are sorted by it
        psi = np.zeros((len(sums), self.modulus), dtype=np.complex128)
        terms = self._phases(sums)
        terms *= self._coefficients_of(classes)
        psi[:, digits[cells]] = segment_sums(terms, cells)
        return psi

    def _gathered(
        self, number: int, runs: np.ndarray, sums: np.ndarray, classes: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """psi_s(b) of the run drawn for each of some rows, shape (rows, P)."""
        level = self._levels[number]
        offsets = np.arange(level.lengths[runs].max())
        inside = offsets < level.lengths[runs][:, None]
        columns = np.where(inside, level.starts[runs][:, None] + offsets, 0)
        coefficients = self.coefficients[columns, classes[rows][:, None]] * inside
        terms = self._phases(sums[rows[:, None], columns]) * coefficients
        keys = self._hashes[columns, number] + self.modulus * np.arange(len(runs))[:, None]
        return _binned(keys, terms, self.modulus * len(runs)).reshape(-1, self.modulus)

    def _phases(self, sums: np.ndarray) -> np.ndarray:
        """omega^{-(u . x_m)} of the coordinates drawn so far."""
        return roots_of_unity(self.modulus).conj()[self._product.reduce(sums)]


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
        if len(np.unique(_hashes(points, functionals, modulus), axis=0)) == count:
            break
    return functionals, pivots[:t]


def _hashes(points: np.ndarray, functionals: np.ndarray, modulus: int) -> np.ndarray:
    """L x mod P, shape (M, t): in floating point, exact within the bounds of `ModularProduct`."""
    left, right = (centred(values, modulus).astype(np.float64) for values in (points, functionals))
    return (left @ right.T).astype(np.int64) % modulus


def _level(hashes: np.ndarray, weights: np.ndarray, number: int) -> _Level:
    owner = _runs(hashes[:, number + 1 :])
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    own = _runs(hashes[:, number:])
    crowded = np.bincount(own)[own] > 1
    crowd_points = np.flatnonzero(crowded)
    crowd_starts = np.flatnonzero(np.diff(own[crowd_points], prepend=-1))
    alone = np.cumsum(np.where(crowded, 0.0, weights), axis=1)
    wanted = (
        slice(None) if len(crowd_points) == len(owner) else crowd_points
    )  # a view where all are in crowds
    return _Level(starts, np.bincount(owner), owner, alone, wanted, crowd_starts, crowd_points[crowd_starts])


def _runs(keys: np.ndarray) -> np.ndarray:
    """The number of the run of equal consecutive rows that each row belongs to."""
    changes = (keys[1:] != keys[:-1]).any(axis=1)
    return np.concatenate([[0], np.cumsum(changes)])


def _draw_frequency(psi: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    return draw(_squares(np.fft.fft(psi, axis=1)), uniforms)


def _squares(values: np.ndarray) -> np.ndarray:
    """|z|^2, without the square root that abs takes."""
    return values.real**2 + values.imag**2 if values.dtype.kind == "c" else values**2


def _binned(keys: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Sums of the values by key, shape (size,)."""
    if values.dtype.kind == "c":
        return _binned(keys, values.real, size) + 1j * _binned(keys, values.imag, size)
    return np.bincount(keys.reshape(-1), weights=values.reshape(-1), minlength=size)


def _correlated(histograms: np.ndarray, ridgelet: Ridgelet) -> np.ndarray:
    """sum_k h(k) conj r(k - b), shape (N, P)."""
    k = np.arange(ridgelet.modulus)
    return histograms @ ridgelet.values.conj()[(k[:, None] - k[None, :]) % ridgelet.modulus]
