"""Single-site conditionals from data points: O(M) additions a coordinate, whatever the state's bond.

z(u) = sum_m c_m omega^{-u.x_m}. With u_i alone free, the points that share a level of x_i add up first:
z(s) = sum_l omega^{-s l} sum_{m: x_mi = l} c_m omega^{-(u.x_m - u_i x_mi)}, which leaves O(levels) a value.
Points at the most frequent level of a coordinate need not be looked at: their sum is what is left of z, and
their phases change by a factor that all points share.
"""

from collections.abc import Sequence

import numpy as np

from qrt_tn.engine.compiled import compiled
from qrt_tn.field import roots_of_unity
from qrt_tn.products import ModularProduct
from qrt_tn.tempered.conditionals import Chains, Conditionals

# coordinates of points that a thread's chains look at in a sweep: enough to be worth a start, few enough for
# rounds of a few nodes to keep all cores busy
_BLOCK = 2**20


class PointConditionals(Conditionals):
    """Of sums of data points.

    Args:
        points: x, int in 0..P-1, shape (M, D).
        values: y, real or complex, (M, C); the coefficients of a chain are c = y g, g its contrast. They may
            be set anew.
        modulus: P.
        supports: as the base class.
        log_filter: as the base class.
    """

    def __init__(
        self,
        points: np.ndarray,
        values: np.ndarray,
        modulus: int,
        supports: Sequence[np.ndarray],
        log_filter: Sequence[np.ndarray],
    ) -> None:
        super().__init__(modulus, supports, log_filter)
        self.most_chains = int(np.clip(_BLOCK // points.size, 16, 256))
        self.values = values
        circle = roots_of_unity(modulus)
        self._circle = np.ascontiguousarray(circle.real), np.ascontiguousarray(circle.imag)
        self._modes = modes = np.empty(self.dim, dtype=np.int64)
        rows, places, levels = [], [], []
        for i, column in enumerate(points.T):
            present, place, counts = np.unique(column, return_inverse=True, return_counts=True)
            most = int(counts.argmax())
            modes[i] = present[most]
            others = np.flatnonzero(place != most)
            rows.append(others)
            places.append(place[others] - (place[others] > most))
            levels.append((np.delete(present, most).astype(np.int64) - modes[i]) % modulus)
        self._shifted = (points.astype(np.int64) - modes) % modulus  # relative to the modes
        self._product = ModularProduct(modulus, self.dim, 0, int(self._shifted.max()))
        self._rows = (*(np.concatenate(part).astype(np.int32) for part in (rows, places)), _bounds(rows))
        self._levels = np.concatenate(levels), _bounds(levels)
        self._supports = (
            np.concatenate(self.supports).astype(np.int64),
            np.concatenate(self.log_filter).astype(np.float64),
            _bounds(self.supports),
        )

    @property
    def varying(self) -> np.ndarray:
        """The coordinates at which the points differ."""
        return np.flatnonzero(np.diff(self._rows[2]))

    @property
    def sweep_cost(self) -> float:
        """Nanoseconds that one chain takes for a sweep, about (measured on one core)."""
        counts, values = np.diff(self._levels[1]), np.diff(self._supports[2])
        return 1.5 * len(self._rows[0]) + float((values * (20 + 2.5 * counts)).sum())

    def _chain_bytes(self) -> int:
        return 8 * len(self._shifted)

    def spectrum(self, u: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
        """z(u) of each row with its own contrast, over the largest of its |c_m|; complex128 (n,)."""
        parts = [self._terms(u[rows], contrasts[rows]).sum(axis=1) for rows in self._blocks(len(u))]
        turns = (u @ self._modes) % self.modulus
        return np.concatenate(parts) * np.exp(-2j * np.pi / self.modulus * turns)

    def _log_sizes(self, u: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return 2 * np.log(np.abs(self._terms(u, contrasts).sum(axis=1)))

    def _terms(self, u: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
        """c_m omega^{-u.(x_m - mode)} of each row over its largest |c_m|, (n, M)."""
        cosines, sines = self._circle
        residues = self._product.residues(self._shifted, self._product.factors(u)).T
        coefficients = contrasts @ self.values.T
        # what is left of components that cancel is rounding
        noise = 8 * np.finfo(np.float64).eps * (np.abs(contrasts) @ np.abs(self.values).T)
        coefficients[np.abs(coefficients) <= noise] = 0.0
        # the law does not see their size, which single precision would
        peaks = np.abs(coefficients).max(axis=1, keepdims=True)
        coefficients = coefficients / np.where(peaks > 0, peaks, 1.0)
        return np.asarray(coefficients * (cosines - 1j * sines)[residues])

    def _begin(self, u: np.ndarray, contrasts: np.ndarray) -> "PointChains":
        return PointChains(self, u, self._terms(u, contrasts))


class PointChains(Chains):
    """A block of chains, with the terms c_m omega^{-u.(x_m - mode)} of their sums, (n, M)."""

    def __init__(self, law: PointConditionals, u: np.ndarray, terms: np.ndarray) -> None:
        self.u = u
        self._law = law
        self._terms = terms.astype(np.complex64)
        self._totals = self._terms.sum(axis=1, dtype=np.complex128)

    def sweep(self, beta: float, order: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """As the base class says."""
        law, moved = self._law, np.zeros(len(self.u), dtype=np.int64)
        tables = *law._rows, *law._levels, *law._supports, *law._circle
        _sweep(order, uniforms, beta, *tables, self.u, self._terms, self._totals, moved)
        return moved


def _bounds(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *map(len, parts)])


@compiled
def _sweep(  # type: ignore[no-untyped-def]  # noqa: PLR0915
    order, uniforms, beta, rows, places, row_bounds, levels, level_bounds, supports, log_filter,
    support_bounds, cosines, sines, u, terms, totals, moved,
):  # fmt: skip
    modulus = len(cosines)
    most_levels = np.diff(level_bounds).max()
    most_values = np.diff(support_bounds).max()
    real, imaginary = np.empty(most_levels), np.empty(most_levels)
    weights, sums = np.empty(most_values), np.empty(most_values, dtype=np.complex128)
    for chain in range(len(u)):
        own = terms[chain]
        for turn in range(len(order)):
            i = order[turn]
            first, last = row_bounds[i], row_bounds[i + 1]
            count = level_bounds[i + 1] - level_bounds[i]
            real[:count] = 0.0
            imaginary[:count] = 0.0
            for k in range(first, last):
                term = own[rows[k]]
                real[places[k]] += term.real
                imaginary[places[k]] += term.imag
            rest_real, rest_imaginary = totals[chain].real, totals[chain].imag
            for level in range(count):
                rest_real -= real[level]
                rest_imaginary -= imaginary[level]
            now = u[chain, i]
            start = support_bounds[i]
            values = support_bounds[i + 1] - start
            peak = -np.inf
            for value in range(values):
                step = (supports[start + value] - now) % modulus
                sum_real, sum_imaginary = rest_real, rest_imaginary
                for level in range(count):
                    angle = (step * levels[level_bounds[i] + level]) % modulus
                    cosine, sine = cosines[angle], sines[angle]
                    sum_real += real[level] * cosine + imaginary[level] * sine
                    sum_imaginary += imaginary[level] * cosine - real[level] * sine
                sums[value] = complex(sum_real, sum_imaginary)
                size = sum_real * sum_real + sum_imaginary * sum_imaginary
                weights[value] = log_filter[start + value]
                if beta > 0:
                    weights[value] += beta * np.log(size) if size > 0 else -np.inf
                peak = max(peak, weights[value])
            if peak == -np.inf:
                continue  # z is 0 at every value: there is nothing to choose by
            running = 0.0
            for value in range(values):
                running += np.exp(weights[value] - peak)
                weights[value] = running
            target = uniforms[chain, turn] * running
            chosen = 0
            while chosen < values - 1 and weights[chosen] <= target:
                chosen += 1
            new = supports[start + chosen]
            if new == now:
                continue
            step = (new - now) % modulus
            for k in range(first, last):
                angle = (step * levels[level_bounds[i] + places[k]]) % modulus
                cosine, sine = cosines[angle], sines[angle]
                term = own[rows[k]]
                own[rows[k]] = complex(
                    term.real * cosine + term.imag * sine, term.imag * cosine - term.real * sine
                )
            totals[chain] = sums[chosen]
            u[chain, i] = new
            moved[chain] += 1
