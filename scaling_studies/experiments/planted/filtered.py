"""Smoothed data points without compression: f^ tau exactly, drawn by rejection from the filter.

Of random points, f^ tau is as incompressible as noise: a matrix product state of it needs bonds in the
thousands. But where the filter leaves few frequencies, its own draws are good proposals: u ~ tau^2 is taken
with probability |Y(u)|^2 / (sum_m |c_m|)^2, Y(u) = sum_m c_m omega^{-u.x_m}, which is never above 1.
"""

from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn import states
from qrt_tn.engine.scaled import Scaled
from qrt_tn.field import roots_of_unity
from qrt_tn.states.base import State, site_index
from qrt_tn.states.filters import checked_filter, filter_amplitudes

WIDEST = 2.0  # beyond, the kernel of a coordinate comes near 0 and loses digits
_NEGLIGIBLE = 1e-15  # of the logarithm of a kernel, for each coordinate
_BLOCK = 2**22  # entries of a kernel held at once (32 MiB)
_PROPOSED = 2**22  # entries of the frequencies proposed at once
MOST_PROPOSALS = 10**8


class FilteredSamples(State):
    """f^ tau of f = sum_m c_m |x_m>, tau(u) = prod_i exp(-u_i^2 / (2 w^2)), normalised; nothing is cut off.

    Args:
        x: points, int in 0..P-1, shape (M, D).
        y: values, shape (M,) or (M, C).
        modulus: the prime P.
        width: w, at most `WIDEST`.

    Raises:
        ValueError: as `states.from_samples`, or a width above `WIDEST`.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, modulus: int, width: float) -> None:
        if not 0 < width <= WIDEST:
            raise ValueError(f"width is {width!r}; give one above 0 and at most {WIDEST:g}")
        exact = states.from_samples(x, y, modulus, backend="numpy")
        assert isinstance(exact, states.SampleState)
        self.modulus, self.dim = exact.modulus, exact.dim
        self.outputs, self.vector = exact.outputs, exact.vector
        self.width = float(width)
        self._exact = exact
        self._filter = checked_filter(width, self.dim, modulus)
        # sum_u pi(u) |Y(u)|^2, pi the filter's distribution tau^2 / sum tau^2
        self._power = float(kernel_forms(exact.points, exact.coefficients, modulus, width).sum())
        # what is left of ||f|| = 1: the log of ||f^ tau||
        self._log_left = 0.5 * (
            np.log(self._power) + self._filter.log_weight - self.dim * np.log(self.modulus)
        )
        self.log_norm = exact.log_norm + self._log_left

    def arrays(self) -> list[Any]:
        """Those of the points, and the filter."""
        return [*self._exact.arrays(), self._filter.tables]

    def network(self) -> qtn.TensorNetwork:
        """The network of the points, and on each site a circulant matrix that smooths."""
        k = np.arange(self.modulus)
        wave = np.fft.ifft(filter_amplitudes(self.width, self.modulus)).real
        # shared among the sites, so that none of them overflows
        circulant = wave[(k[:, None] - k[None, :]) % self.modulus] * np.exp(-self._log_left / self.dim)
        held = self._exact.network()
        raw = {site_index(site): f"raw{site}" for site in range(self.dim)}
        tensors = [
            qtn.Tensor(circulant, inds=[name, raw[name]], tags=["F", f"F{site}"])
            for site, name in enumerate(raw)
        ]
        return qtn.TensorNetwork([*held.reindex(raw), *tensors])

    def _spectrum(self, u: np.ndarray) -> Scaled:
        values = self._exact._spectrum(u)
        log_tau = 0.5 * (self._filter.log_probabilities(u) + self._filter.log_weight)
        kept = np.isfinite(log_tau)  # far out in the filter's tail tau is 0
        shift = np.where(kept, log_tau, 0.0) - self._log_left
        return Scaled(values.mantissa * kept[:, None], values.log_scale + shift[:, None])

    def _powers(self, u: np.ndarray) -> np.ndarray:
        """sum_c |Y_c(u)|^2 of each frequency."""
        values = self._exact._spectrum(u)
        logs = 2 * values.log_scale + self.dim * np.log(self.modulus)
        return np.asarray((np.abs(values.mantissa) ** 2 * np.exp(logs)).sum(axis=1))

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        # |Y_c(u)|^2 summed over c is at most the square of the summed norms of the coefficients
        bound = float(np.linalg.norm(self._exact.coefficients, axis=1).sum()) ** 2
        proposals = count * bound / self._power
        if proposals > MOST_PROPOSALS:
            raise ValueError(
                f"drawing {count} nodes would take {proposals:.2g} proposals, above {MOST_PROPOSALS:.0e}; "
                "take fewer points or fewer nodes"
            )
        most = max(1, _PROPOSED // self.dim)
        taken: list[np.ndarray] = []
        missing = count
        while missing:
            u = self._filter.sample(min(most, int(1.1 * missing * bound / self._power) + 64), rng)
            first, place = _repeats(u)  # the products with the points are the work
            powers = self._powers(u[first])[place]
            accepted = u[rng.random(len(u)) * bound < powers][:missing]
            taken.append(accepted)
            missing -= len(accepted)
        return np.concatenate(taken)

    def _log_marginals(self, coordinates: np.ndarray, u: np.ndarray) -> np.ndarray:
        """pi(u_S) sum over pairs of points of c conj(c') omega^{-u_S.(x - x')_S} K(x - x') off S."""
        points = self._exact.points.astype(np.int64)
        others = np.setdiff1d(np.arange(self.dim), coordinates)
        phases = roots_of_unity(self.modulus).conj()[(points[:, coordinates] @ u.T) % self.modulus]
        power = np.zeros(len(u))
        for column in self._exact.coefficients.T:
            turned = column[:, None] * phases
            for part in (turned.real, turned.imag):
                power += kernel_forms(points[:, others], part, self.modulus, self.width)
        own = self._filter.probabilities[self._filter.rows[coordinates], u]
        with np.errstate(divide="ignore"):
            return np.log(own).sum(axis=1) + np.log(np.maximum(power, 0) / self._power)


def _repeats(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of rows that stand for all, and which of them stands for each row."""
    # sums with random weights, modulo 2^64, in place of whole rows, which sort slowly
    weights = np.random.default_rng(0).integers(2**63, size=u.shape[1])
    _, first, place = np.unique(u @ weights, return_index=True, return_inverse=True)
    if not np.array_equal(u[first][place], u):  # two rows of one sum, once in many lives
        everything = np.arange(len(u))
        return everything, everything
    return first, place


def kernel_forms(points: np.ndarray, vectors: np.ndarray, modulus: int, width: float) -> np.ndarray:
    """v^T K v for each column v, K(x - x') = sum_u pi(u) omega^{-u.(x - x')} of the filter's distribution.

    K is a product over coordinates of phi(x_i - x_i'), so its logarithm is a sum of log phi, which the
    Fourier transform on Z_P makes a sum of few matrix products: log phi(d) = sum_n h(n) cos(2 pi n d / P).

    Args:
        points: int in 0..P-1, shape (M, D); D may be 0, where K is 1.
        vectors: real, shape (M, J).
        modulus: P.
        width: w of pi(u) ~ prod_i exp(-u_i^2 / w^2).

    Returns:
        float64, shape (J,).
    """
    count, dim = points.shape
    harmonics = _log_kernel(modulus, width)
    waves = roots_of_unity(modulus)
    rows = max(1, _BLOCK // count)
    total = np.zeros(vectors.shape[1])
    for start in range(0, count, rows):
        # K is symmetric: what stands left of the block has been counted with its mirror image
        right = points[start:]
        block = np.full((min(rows, count - start), len(right)), dim * harmonics[0])
        for n in range(1, len(harmonics)):
            if abs(harmonics[n]) > _NEGLIGIBLE:
                turns = waves[(n * right.astype(np.int64)) % modulus]
                for part in (turns.real, turns.imag):
                    block += harmonics[n] * (part[: len(block)] @ part.T)
        np.exp(block, out=block)
        block[:, len(block) :] *= 2
        total += (vectors[start : start + len(block)] * (block @ vectors[start:])).sum(axis=0)
    return total


def _log_kernel(modulus: int, width: float) -> np.ndarray:
    """h(n) of log phi(d) = sum_{n <= P/2} h(n) cos(2 pi n d / P), shape (P // 2 + 1,)."""
    weights = filter_amplitudes(width, modulus) ** 2
    kernel = np.fft.fft(weights / weights.sum()).real
    spectrum = np.fft.fft(np.log(kernel)).real / modulus
    found = spectrum[: modulus // 2 + 1].copy()
    found[1:] *= 2  # n and P - n are one cosine, P being odd
    return found


def width_of(share: float, modulus: int) -> float:
    """The width at which a coordinate drawn from tau^2 is nonzero with a given probability.

    Args:
        share: the probability, above 0, below that of the widest filter.
        modulus: P.

    Raises:
        ValueError: a share that no width up to `WIDEST` has.
    """
    from scipy.optimize import brentq

    def excess(width: float) -> Any:
        return 1 - 1 / (filter_amplitudes(width, modulus) ** 2).sum() - share

    if not 0 < share <= excess(WIDEST) + share:
        raise ValueError(f"a share of {share:g} nonzero entries is out of reach; give one above 0, to 0.7")
    return float(brentq(excess, 1e-2, WIDEST, xtol=1e-14))
