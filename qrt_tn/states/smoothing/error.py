"""Estimate the error of a state against the exact sum over the points, from random frequencies.

||f - h||^2 = E |f^(u) - h^(u)|^2 / q(u) for u ~ q, and f^(u) tau(u) of one u is one sum over the points. A
third of the frequencies is drawn from the filter's |tau|^2, a third from a broader filter (what a truncation
loses lies in the filter's tails), a third from the state's |h^|^2, and q is the mixture of the three
(the balance heuristic of Veach and Guibas, SIGGRAPH 1995): no weight is above three times what the filter
alone would give.
"""

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.engine.backends import to_host
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.field import roots_of_unity
from qrt_tn.products import ModularProduct
from qrt_tn.states.filters import Filter
from qrt_tn.states.mps import MPSState

_NATS = 2.0  # how far the broader filter lies from the filter itself
BLOCK = 2**21  # products u.x of one block of points, 28 bytes each with their phases


@dataclass(frozen=True)
class Estimate:
    """||f - state|| / ||f|| and its standard error.

    Attributes:
        error: the relative error.
        std: its standard error.
    """

    error: float
    std: float

    @property
    def bound(self) -> float:
        """Two standard errors above the estimate."""
        return self.error + 2 * self.std


def estimated_error(
    state: MPSState,
    points: np.ndarray,
    coefficients: np.ndarray,
    product: Filter,
    *,
    samples: int = 2048,
    seed: Seed = 0,
    progress: Progress | None = None,
    xp: ModuleType = np,
) -> Estimate:
    """Compare a state, and its norm, with f^ tau, f = sum_m c_m |x_m>; tau is `product`.

    A third of the frequencies each is from the filter, a broader one and the state; the seed must be
    independent of how `state` was found. `xp` is the array module that sums over the points.
    """
    rng = generator(seed)
    each = max(2, samples // 3)
    broad = product.tempered(_NATS)
    u = np.concatenate([product.sample(each, rng), broad.sample(each, rng), state.sample_spectrum(each, rng)])
    exact = point_sums(points, coefficients, u, product.modulus, progress, xp)
    log_filter = product.log_probabilities(u)
    values = state.spectrum(u)
    if not state.vector:
        values = values[:, None]
    # both in units of the filter at u, in which f^ is the bare sum over the points
    unit = 0.5 * product.log_weight - 0.5 * product.dim * np.log(product.modulus) + 0.5 * log_filter
    shift = state.log_norm - unit
    with np.errstate(under="ignore"):
        amplitudes = values.mantissa * np.exp(values.log_scale + shift[:, None])
    amplitudes = amplitudes * product.phases(u).conj()[:, None]
    log_norm = 2 * (state.log_norm - unit + 0.5 * log_filter)[0]  # log ||state||^2
    with np.errstate(over="ignore"):
        # the densities of the state and of the broad filter over the filter's
        ratio = (np.abs(amplitudes) ** 2).sum(axis=1) * np.exp(-log_norm)
        ratio = ratio + np.exp(broad.log_probabilities(u) - log_filter)
    weights = 3 / (1 + ratio)
    residual = exact - amplitudes
    squares = weights * (np.abs(residual) ** 2).sum(axis=1)
    overlaps = weights * (amplitudes.conj() * residual).real.sum(axis=1)
    lost, overlap = float(squares.mean()), float(overlaps.mean())
    kept = float(np.exp(log_norm)) + 2 * overlap  # ||f||^2 - ||f - state||^2
    total = max(kept + lost, np.finfo(float).tiny)
    # the delta method for lost / total, stratum by stratum
    terms = ((kept * squares - 2 * lost * overlaps) / total**2).reshape(3, each)
    variance = float(terms.var(axis=1, ddof=1).sum()) / each / 9
    error = float(np.sqrt(max(lost, 0.0) / total))
    std = float(np.sqrt(variance)) / (2 * error) if error > 0 else 0.0
    return Estimate(error, std)


def estimated_norm(
    points: np.ndarray,
    coefficients: np.ndarray,
    product: Filter,
    *,
    samples: int = 512,
    seed: Seed = 3,
    xp: ModuleType = np,
) -> float:
    """||f^ tau||^2 over sum_u |tau(u)|^2, from frequencies of the filter and of a broader one, half each.

    The broader one is for centred values: they leave nothing at u = 0, where a narrow filter has its weight.
    """
    rng = generator(seed)
    each = max(1, samples // 2)
    broad = product.tempered(_NATS)
    u = np.concatenate([product.sample(each, rng), broad.sample(each, rng)])
    sums = point_sums(points, coefficients, u, product.modulus, xp=xp)
    with np.errstate(over="ignore"):
        weights = 2 / (1 + np.exp(broad.log_probabilities(u) - product.log_probabilities(u)))
    return float((weights * (np.abs(sums) ** 2).sum(axis=1)).mean())


def point_sums(
    points: np.ndarray,
    coefficients: np.ndarray,
    u: np.ndarray,
    modulus: int,
    progress: Progress | None = None,
    xp: ModuleType = np,
) -> np.ndarray:
    """sum_m c_m omega^{-u.x_m}, shape (N, C), blocks of points at a time in the coefficients' precision.

    Points and results are on the host; `xp` is the array module that computes.
    """
    dtype = np.result_type(coefficients.dtype, np.complex64)
    table = xp.asarray(roots_of_unity(modulus).conj().astype(dtype))
    product = ModularProduct(modulus, points.shape[1])
    factors = product.factors(u, xp)
    values = xp.asarray(coefficients.astype(dtype))
    total = xp.zeros((len(u), coefficients.shape[1]), dtype=np.complex128)
    rows = max(1, BLOCK // max(len(u), points.shape[1]))
    with shown(progress, len(points), "points") as report:
        for start in range(0, len(points), rows):
            stop = min(start + rows, len(points))
            residues = product.residues(xp.asarray(points[start:stop]), factors)
            total += xp.take(table, residues.T) @ values[start:stop]
            report(stop, len(points))
    return to_host(total)
