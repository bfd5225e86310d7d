"""Compress a sum of few product states through Gram matrices, with an exact error.

From right to left, at each site the part to the right is a set of vectors in an orthonormal basis, one per
point, and the part to the left as its M x M Gram matrix, a product of small kernels. The leading
eigenvectors of the right part's density matrix are the next core. Because the left Gram matrix is exact and
the projections are nested, the discarded eigenvalues add up to the exact squared error (the density-matrix
truncation of White, PRL 69 (1992) 2863, on a sum of product states).

All of it is double precision, also for single-precision values: an eigenvalue stands for a squared error.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from qrt_tn.engine import mps
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.states.filters import Filter, Site, chosen_sites

_DENSE = 320  # up to this size a density matrix is diagonalised whole, beyond by a random sketch
MOST_BOND = 1024  # beyond which compressing takes hours, unless asked for
_SKETCH = 128  # columns of the first sketch, doubled until it holds enough
LEAST_TOLERANCE = 1e-6  # squared errors below 1e-12 drown in the rounding of float64 Gram matrices
Factor = Callable[[Any], Any]  # product -> product * factor, a new array
_VANISHING = 1e-12  # a squared norm this far below (sum |c_m|)^2 is what rounding leaves of 0


def checked_tolerance(tolerance: Any) -> float:
    """A relative error as a float, within what float64 Gram matrices resolve and below 1."""
    if not (isinstance(tolerance, float | np.floating) and LEAST_TOLERANCE <= tolerance < 1):
        raise ValueError(
            f"tolerance is {tolerance!r}; give a relative error from {LEAST_TOLERANCE} to below 1"
        )
    return float(tolerance)


def vanishes(norm: float, unsigned: float) -> str:
    """The error message for a function that its filter cancels; both norms are squared."""
    share = math.sqrt(max(norm, 0.0) / unsigned)
    return (
        f"the smoothed function vanishes to rounding: its norm is {share:.2g} of what its terms would add up "
        "to without signs; take a larger width, or values in double precision"
    )


def gram_cores(
    columns: np.ndarray,
    coefficients: np.ndarray,
    product: Filter,
    tolerance: float,
    max_bond: int | None,
    progress: Progress | None = None,
) -> tuple[mps.Cores, list[Site], float]:
    """The smoothed sum of product states, compressed; `columns` are the points by coordinate, shape (D, M).

    Returns:
        (cores, sites, error): the class core (1, C, bond) first and then one core for each site, in the
        site's basis; the exact relative error.

    Raises:
        ValueError: the filter leaves nothing of the function, or the tolerance needs too large a bond.
    """
    dim, count = columns.shape
    outer = coefficients @ coefficients.conj().T
    sites, norm, lost = _choose_sites(columns, outer, product, 0.1 * tolerance**2)
    rng = np.random.default_rng(0)  # sketches only decide how well the basis is found, and are measured
    factors = [
        _factor(site.kernel, column, site.modulus) for site, column in zip(sites, columns, strict=True)
    ]
    right = np.ones((count, 1))
    cores: mps.Cores = []
    remaining = (tolerance**2 - lost) * norm
    with shown(progress, dim, "sites") as report:
        for left, gram in zip(range(dim - 1, -1, -1), backwards(outer, factors), strict=True):
            values, place = np.unique(columns[left], return_inverse=True)
            features = sites[left].features(values)[place]
            wide = (features[:, :, None] * right[:, None, :]).reshape(count, -1)
            basis, dropped = _principal(wide, gram, remaining / (left + 1), max_bond, rng)
            if max_bond is None and basis.shape[1] > MOST_BOND:
                raise ValueError(
                    f"tolerance {tolerance:g} needs a bond of {basis.shape[1]} before coordinate {left}, "
                    f"more than {MOST_BOND}; take a narrower filter, a larger tolerance, or max_bond "
                    f"({count} loses nothing)"
                )
            remaining = max(0.0, remaining - dropped)
            lost += dropped / norm
            cores.append(basis.T.reshape(-1, features.shape[1], right.shape[1]))
            right = wide @ basis.conj()
            report(dim - left, dim)
    cores.append((coefficients.T @ right)[None])
    return cores[::-1], sites, float(np.sqrt(lost))


def _factor(kernel: np.ndarray, column: np.ndarray, modulus: int) -> Factor:
    return lambda gram: gram * _gram(kernel, column, modulus)


def _gram(kernel: np.ndarray, column: np.ndarray, modulus: int) -> np.ndarray:
    """k(x_m - x_m') for all pairs of points, through the few values that occur."""
    values, place = np.unique(column.astype(np.int64), return_inverse=True)
    return kernel[(values[:, None] - values[None, :]) % modulus][place][:, place]


def _choose_sites(
    columns: np.ndarray, outer: np.ndarray, product: Filter, allowed: float
) -> tuple[list[Site], float, float]:
    """Sites that keep all but the share `allowed` of ||f^ tau||^2, that norm squared, and the share lost."""
    drop = 0.1 * allowed / len(columns)
    while True:
        sites = chosen_sites(product, drop)
        full, kept = outer.copy(), outer.copy()
        for site, column in zip(sites, columns, strict=True):
            full = full * _gram(site.full, column, site.modulus)
            kept = kept * _gram(site.kernel, column, site.modulus)
        norm = float(full.sum().real)
        if norm <= _VANISHING * float(np.abs(outer).sum()):
            raise ValueError(vanishes(norm, float(np.abs(outer).sum())))
        lost = max(0.0, 1 - float(kept.sum().real) / norm)
        if lost <= allowed or drop == 0:
            return sites, norm, lost if drop else 0.0  # what is left at a drop of 0 is rounding
        # where low frequencies cancel, the tails weigh more than the filter alone says
        drop = drop / 100 if drop > 1e-30 else 0.0


def _principal(
    wide: np.ndarray,
    gram: np.ndarray,
    budget: float,
    max_bond: int | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Orthonormal columns that span all but `budget` of the density matrix wide^T gram wide^*.

    `wide` are vectors of the right part, (M, K), `gram` is <l_m'|l_m> of the left part at [m, m']. Returns a
    basis of shape (K, kept), and the sum of the eigenvalues discarded.
    """
    size = wide.shape[1]
    sketch = min(size, _SKETCH if max_bond is None else max_bond + 32)
    if size <= _DENSE or sketch == size:
        values, vectors = _eigen(wide.T @ (gram @ wide.conj()))
        kept, dropped = mps.truncation(values, budget, max_bond)
        return vectors[:, :kept], dropped

    def apply(block: np.ndarray) -> np.ndarray:
        return wide.T @ (gram @ (wide.conj() @ block))

    weight = float(np.einsum("mk,mk->", gram @ wide.conj(), wide).real)  # the density matrix's trace
    while True:
        # one power step sharpens the sketch (Halko et al., SIAM Rev. 53 (2011) 217, section 4.5)
        span = np.linalg.qr(apply(np.linalg.qr(apply(rng.standard_normal((size, sketch))))[0]))[0]
        values, vectors = _eigen(span.conj().T @ apply(span))
        missed = max(0.0, weight - float(values.sum()))
        if missed <= budget / 2 or max_bond is not None or sketch == size:
            kept, dropped = mps.truncation(values, budget - missed, max_bond)
            return span @ vectors[:, :kept], dropped + missed
        sketch = min(size, 2 * sketch)


def _eigen(density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, descending and none below 0, and their vectors."""
    values, vectors = np.linalg.eigh((density + density.conj().T) / 2)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def backwards(start: Any, factors: Sequence[Factor], levels: int = 2) -> Iterator[Any]:
    """Yield start * factors[0] * ... * factors[i - 1] for i = D-1, D-2, .., 0.

    The factors are cut into about D^(1/levels) stretches, the product before each is kept, and each stretch
    is cut again. At most `products_held(D, levels)` products are alive at a time, and each factor is
    multiplied in at most `levels` times.
    """
    yield from _stretch(start, factors, 0, len(factors), _branching(len(factors), levels))


def products_held(count: int, levels: int) -> int:
    """The most products that `backwards` has at a time."""
    return levels * (_branching(count, levels) - 1) + 2


def fitting_levels(count: int, size: float, budget: float) -> int:
    """The fewest levels whose products of `size` bytes fit in `budget`; six at most."""
    return next((levels for levels in range(2, 6) if products_held(count, levels) * size <= budget), 6)


def _branching(count: int, levels: int) -> int:
    branching = max(2, round(count ** (1 / levels)))
    return branching if branching**levels >= count else branching + 1


def _stretch(product: Any, factors: Sequence[Factor], low: int, high: int, branching: int) -> Iterator[Any]:
    if high - low == 1:
        yield product
        return
    step = -(-(high - low) // branching)
    starts = range(low, high, step)
    kept = []
    for place in starts:
        kept.append(product)
        if place != starts[-1]:
            for factor in factors[place : place + step]:
                product = factor(product)
    del product
    for place in reversed(starts):
        yield from _stretch(kept.pop(), factors, place, min(place + step, high), branching)
