"""Compress smoothed samples, f^(u) tau(u) of f = sum_m c_m |x_m>, to matrix product states of known error."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.engine import mps
from qrt_tn.engine.backends import namespace, resolve
from qrt_tn.engine.exponents import real_bytes
from qrt_tn.engine.progress import Progress
from qrt_tn.states.base import Cost, near_one
from qrt_tn.states.chunks import check_free
from qrt_tn.states.filters import Filter, Site, checked_filter, chosen_sites
from qrt_tn.states.mps import MPSState
from qrt_tn.states.smoothing.error import BLOCK, Estimate, estimated_error, estimated_norm
from qrt_tn.states.smoothing.gram import MOST_BOND, fitting_levels, gram_cores, products_held, vanishes
from qrt_tn.states.smoothing.sketch import PREFIX_BYTES, sketched_cores, sums_dtype
from qrt_tn.states.smoothing.width import WidthChoice, automatic_width

AUTO = "auto"  # chooses widths by validation risk
LEAST_SINGLE = 1e-3  # the tolerance below which single-precision sums drown
MOST_POINTS = 2048  # of a Gram sweep
MOST_PAIRS = 2**28  # M^2 D of a Gram sweep: about twenty seconds on one core
FIRST_BOND = 32  # landmarks of the first sketch
CHECKS = 2048  # frequencies that estimate the error of a sketched state
_MOST_CHECKS = 4 * CHECKS
_FIRST = 0.2  # of the tolerance, truncated from a sketch at once
_SHARE = 0.8  # of the tolerance that the sketch may take; the last truncation gets the rest
_ROUNDS = 12  # truncations tried until the estimated error is below the tolerance


class SmoothedState(MPSState):
    """f^ tau of data points, compressed.

    Attributes:
        smoothing: the filter: a width, one per coordinate, or a table, as given or as chosen.
        width_choice: what the automatic width tried, and the risks; None where the width was given.
        truncation_error: ||f - state|| / ||f||, exact where `truncation_error_std` is 0, else an estimate.
        truncation_error_std: standard error of that estimate.
        sketch_bond: landmarks of the sketch that was compressed; 0 where the Gram sweep was used.
        points: of f, int (M, D), and their `coefficients`, (M, C), up to scale: what was compressed.
    """

    smoothing: Any
    width_choice: WidthChoice | None = None
    truncation_error_std: float = 0.0
    sketch_bond: int = 0
    points: np.ndarray
    coefficients: np.ndarray


@dataclass(frozen=True, eq=False)
class _Sum:
    """f^ tau = exp(log_peak) sum_m c_m prod_i tau_i(u_i) omega^{-u_i x_mi}.

    `single` is the precision of the state's cores; `coefficients` have that of the sums.
    """

    points: np.ndarray
    coefficients: np.ndarray
    product: Filter
    vector: bool
    single: bool
    log_peak: float
    backend: str

    def state(self, cores: mps.Cores, sites: list[Site], log_scale: float, tolerance: float) -> SmoothedState:
        """The state of cores in the sites' bases, the class core first."""
        modulus = self.product.modulus
        spectral = [site.to_spectrum(core) for site, core in zip(sites, cores[1:], strict=True)]
        if self.vector:
            spectral.insert(0, cores[0])
        else:
            spectral[0] = np.tensordot(cores[0][:, 0], spectral[0], axes=1)
        dtype = np.complex64 if self.single else np.complex128
        unit = 0.5 * self.product.log_weight - 0.5 * len(sites) * float(np.log(modulus))
        return SmoothedState(
            [core.astype(dtype) for core in spectral],
            [site.support for site in sites],
            modulus,
            vector=self.vector,
            log_norm=self.log_peak + log_scale + unit,
            tolerance=tolerance,
        )

    def estimate(self, state: SmoothedState, samples: int, seed: int, progress: Progress | None) -> Estimate:
        """The state's error against this sum."""
        scaled = copy.copy(state)
        scaled.log_norm -= self.log_peak
        data, xp = (self.points, self.coefficients, self.product), namespace(self.backend)
        return estimated_error(scaled, *data, samples=samples, seed=seed, progress=progress, xp=xp)


def smoothed_state(
    points: np.ndarray,
    coefficients: np.ndarray,
    modulus: int,
    vector: bool,
    *,
    smoothing: Any,
    tolerance: float,
    max_bond: int | None,
    single: bool,
    progress: Progress | None = None,
    backend: str = "numpy",
) -> SmoothedState:
    """The smoothed state of distinct points; other arguments as `from_samples`.

    Few points (see `exact`) are compressed by the Gram sweep, and their error is exact. Many are sketched,
    and their error is estimated from frequencies that had no part in the sketch. The estimate is below the
    tolerance, and so are two standard errors above it where some thousand frequencies show it.

    `points` have shape (M, D) and `coefficients` (M, C); sketches and states are in `single` precision where
    the tolerance allows it; `progress` is called with (done, of how many).

    Raises:
        ValueError: a bad filter, a function that it leaves nothing of, or a tolerance that needs more memory
            or a larger bond than there is.
    """
    dim = points.shape[1]
    choice: WidthChoice | None = None
    if isinstance(smoothing, str) and smoothing == AUTO:
        choice = automatic_width(points, coefficients, modulus, progress=progress)
        smoothing = choice.smoothing
    product = checked_filter(smoothing, dim, modulus)
    few = exact(len(points), dim)
    if single and tolerance < LEAST_SINGLE:
        if not few:
            raise ValueError(
                f"tolerance is {tolerance:g}, below the {LEAST_SINGLE:g} that single-precision sums resolve; "
                "give values in double precision"
            )
        single = False
    # in double precision, so that values which almost cancel are not rounded
    scaled, log_peak = near_one(coefficients.astype(np.result_type(coefficients.dtype, np.float64)))
    if single and not few:
        scaled = scaled.astype(np.complex64 if scaled.dtype.kind == "c" else np.float32)
    data = _Sum(points, scaled, product, vector, single, log_peak, resolve(backend))
    columns = np.ascontiguousarray(points.T.astype(np.min_scalar_type(modulus - 1)))
    if few:
        cores, sites, error = gram_cores(columns, scaled, product, float(tolerance), max_bond, progress)
        state = data.state(cores, sites, 0.0, float(tolerance))
        state.truncation_error = error
    else:
        state = _sketched(data, columns, float(tolerance), max_bond, progress)
    state.smoothing = smoothing
    state.width_choice = choice
    state.points, state.coefficients = points, scaled
    return state


def _sketched(
    data: _Sum, columns: np.ndarray, tolerance: float, max_bond: int | None, progress: Progress | None
) -> SmoothedState:
    """Sketch with more and more landmarks until the error is well below the tolerance, then truncate."""
    count = len(data.points)
    sites = _kept_sites(data, tolerance)
    bond = min(count, FIRST_BOND if max_bond is None else max(FIRST_BOND, 2 * max_bond))
    before: tuple[int, float] | None = None
    while True:
        kept = max(len(site.support) for site in sites)
        dtype = sums_dtype(data.coefficients.dtype, sites)
        cost = smoothing_cost(count, len(sites), data.coefficients.shape[1], bond, kept=kept, dtype=dtype)
        advice = "take fewer points, a narrower filter, a larger tolerance or max_bond"
        check_free(cost.memory, data.backend, f"a sketch of {bond} landmarks takes", advice)
        cores, log_scale = sketched_cores(
            columns, data.coefficients, sites, bond, progress=progress, xp=namespace(data.backend)
        )
        norm = float(np.linalg.norm(cores[0]))
        if norm == 0:
            raise ValueError(vanishes(0.0, 1.0))
        cores[0] = cores[0] / norm  # the rest is right-canonical
        # most of the bond is the sketch's margin: without it the rest is quick and small
        lean, shift = mps.right_canonical(mps.compress(cores, _FIRST * tolerance)[0])
        del cores
        log_scale += float(np.log(norm)) + shift
        found = data.estimate(data.state(lean, sites, log_scale, tolerance), CHECKS // 4, 1, progress)
        if found.bound <= _SHARE * tolerance or max_bond is not None or bond == count:
            break
        needed = _needed_bond(before, (bond, found.error), _SHARE * tolerance)
        if min(needed, count) > MOST_BOND:
            raise ValueError(
                f"a sketch of {bond} landmarks is {found.error:.3g} off and about {needed:.3g} would be "
                f"needed for tolerance {tolerance:g}, more than {MOST_BOND}; take a narrower filter, a "
                "larger tolerance, or max_bond to accept the error"
            )
        before, bond = (bond, found.error), min(2 * bond, count)
    budget = float(np.sqrt(max(0.0, tolerance**2 - found.bound**2)))
    if max_bond is not None:
        budget = max(budget, 0.5 * tolerance)
    samples = CHECKS
    for _ in range(_ROUNDS):
        truncated = _truncated(lean, budget, max_bond)
        state = data.state(truncated, sites, log_scale, tolerance)
        final = data.estimate(state, samples, 2, progress)
        if final.bound <= tolerance or max_bond is not None:
            break
        if final.error <= tolerance and samples < _MOST_CHECKS:
            samples *= 2  # it may only be the estimate that is coarse
        else:
            budget *= 0.8
    if final.error > tolerance and max_bond is None:
        raise ValueError(
            f"the error stays at {final.error:.3g}, above the tolerance {tolerance:g}; take a larger one, or "
            "values in double precision"
        )
    state.truncation_error, state.truncation_error_std = final.error, final.std
    state.sketch_bond = bond
    return state


def _truncated(cores: mps.Cores, budget: float, max_bond: int | None) -> mps.Cores:
    """Cores compressed so that the error comes near the budget: bonds that need little leave some of it."""
    asked = budget
    truncated, error = mps.compress(cores, asked, max_bond)
    for _ in range(2):
        if not 0 < error < 0.95 * budget:
            break
        asked *= budget / error
        looser, error = mps.compress(cores, min(asked, 0.999), max_bond)
        if error > budget:
            break
        truncated = looser
    return truncated


def _needed_bond(before: tuple[int, float] | None, now: tuple[int, float], wanted: float) -> float:
    """The bond at which the error would be `wanted`, were its fall a power of the bond."""
    bond, error = now
    if before is None or error <= wanted:
        return 2 * bond
    slope = np.log(before[1] / error) / np.log(bond / before[0])
    if slope <= 0.05:  # hardly falls
        return np.inf
    return max(2.0 * bond, bond * float(np.exp(min(np.log(error / wanted) / slope, 50.0))))


def _kept_sites(data: _Sum, tolerance: float) -> list[Site]:
    """Sites that drop frequencies of about a hundredth of the squared tolerance.

    Where the values cancel, what is left lies in the filter's tails more than the filter alone says: the
    share dropped is that of the incoherent sum, ||f^ tau||^2 over sum |c_m|^2 smaller.

    Raises:
        ValueError: nothing is left.
    """
    norm = estimated_norm(data.points, data.coefficients, data.product, xp=namespace(data.backend))
    incoherent = float((np.abs(data.coefficients) ** 2).sum())
    unsigned = float(np.abs(data.coefficients).sum())
    if norm <= (64 * float(np.finfo(data.coefficients.dtype).eps) * unsigned) ** 2:
        raise ValueError(vanishes(norm, unsigned**2))
    ratio = norm / incoherent
    return chosen_sites(data.product, 1e-2 * tolerance**2 / data.product.dim * min(max(ratio, 1e-8), 1.0))


def exact(points: int, dim: int) -> bool:
    """Whether so many points are compressed by the Gram sweep, whose error is exact."""
    return points <= MOST_POINTS and points**2 * dim <= MOST_PAIRS


def landmarks_for(bond: int) -> int:
    """The landmarks of a sketch that ends with such a bond: `FIRST_BOND`, doubled until twice the bond."""
    return FIRST_BOND * 2 ** max(0, (2 * bond - 1).bit_length() - (FIRST_BOND - 1).bit_length())


def smoothing_cost(
    points: int, dim: int, outputs: int, bond: int, *, kept: int = 3, dtype: Any = np.float32
) -> Cost:
    """The predicted cost of compressing a smoothed sum of product states.

    Args:
        points: M distinct ones.
        dim: D.
        outputs: C.
        bond: landmarks of the last sketch (those before it take a third as much again); where the Gram sweep
            is used, the bond it ends with.
        kept: frequencies that a site keeps, at most.
        dtype: of the sums over the points, see `sketch.sums_dtype`.
    """
    single, complex_values = real_bytes(dtype) == 4, np.dtype(dtype).kind == "c"
    if exact(points, dim):
        pairs = float(points) ** 2
        width = kept * bond
        products = dim * (pairs * width + 2.0 * points * width**2 + 10.0 * width**3)
        matrices = products_held(dim, 2) + 4
        size = 16 if complex_values else 8
        return Cost(
            (4 if complex_values else 1) * products,
            dim * pairs * size * 16,
            matrices * pairs * size + 6.0 * points * width * size,
            "complex128" if complex_values else "float64",
        )
    bond = min(bond, points)
    size = (4 if single else 8) * (2 if complex_values else 1)
    whole = float(points) * bond * size
    levels = fitting_levels(dim, whole, PREFIX_BYTES)
    real = 4 if complex_values else 1
    sweep = 2.0 * points * bond**2
    basis = 8.0 * kept * bond**3  # the singular value decompositions of the core and of the truncation
    checks = 2.0 * CHECKS * (points + kept * bond**2)
    # left parts multiplied `levels` times, three passes each; right and left parts gathered by value
    moved = whole * (3 * levels + 8)
    cores = float(dim) * kept * bond**2 * size
    sweeping = (products_held(dim, levels) + 5) * whole + cores
    # the error of what was found, at about half the bond, is estimated from a complex, canonical copy
    copies = 1 + 2 * (1 if complex_values else 2)
    checking = (1 + copies / 4) * cores + 24.0 * min(BLOCK, CHECKS // 4 * points)
    truncated = cores + 24.0 * min(BLOCK, CHECKS * points) + 16.0 * CHECKS * dim
    memory = max(sweeping, checking, truncated) + points * (dim + 16.0 * outputs)
    name = ("complex" if complex_values else "float") + str(size * 8)
    return Cost(dim * (real * (sweep + basis) + checks), dim * moved, memory, name)
