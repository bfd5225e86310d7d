"""Smoothed samples: f^(u) tau(u) for f = sum_m c_m |x_m> and a product filter tau, as a matrix product state.

The sum of M product states is compressed from right to left without ever forming bond M. At each site the
part to the right is held as vectors in an orthonormal basis, one per point, and the part to the left as its
M x M Gram matrix, a product of small kernels. The leading eigenvectors of the right part's density matrix
are the next core. Because the left Gram matrix is exact and the projections are nested, the discarded
eigenvalues add up to the exact squared error (the density-matrix truncation of White, PRL 69 (1992) 2863,
on a sum of product states).

Everything runs in the real basis cos, sin of each site, a unitary away from u and -u.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import mps
from qrt_tn.field import centred
from qrt_tn.states.mps import MPSState

MOST_POINTS = 2048  # points compressed at once; more are compressed in blocks and added
_DENSE = 320  # up to this size a density matrix is diagonalised whole, beyond by a random sketch
_SKETCH = 128  # columns of the first sketch, doubled until it holds enough
_VANISHING = 1e-12  # a squared norm this far below (sum |c_m|)^2 is what rounding leaves of 0
_LEAST_SHARE = 1e-9  # of a tolerance that one block may take
LEAST_TOLERANCE = 1e-6  # squared errors below 1e-12 drown in the rounding of float64 Gram matrices


@dataclass(frozen=True)
class _Site:
    """One coordinate's filter: kept frequencies u >= 0, their tau, and the kernel of what is kept."""

    frequencies: np.ndarray
    tau: np.ndarray
    kernel: np.ndarray  # sum over kept u of tau^2 omega^{ud} / sum over all u, by d; shape (P,)
    full: np.ndarray  # the same over all u
    log_weight: float  # log of sum over all u of tau^2


def filter_amplitudes(width: float, modulus: int) -> np.ndarray:
    """tau(u) = exp(-u^2 / (2 w^2)) by u = 0..P-1, u taken as its centred representative; shape (P,)."""
    with np.errstate(over="ignore"):  # a width of almost nothing keeps u = 0 alone
        return np.exp(-0.5 * (centred(np.arange(modulus), modulus) / width) ** 2)


def smoothed_state(
    points: np.ndarray,
    coefficients: np.ndarray,
    modulus: int,
    vector: bool,
    *,
    smoothing: Any,
    tolerance: float,
    max_bond: int | None,
) -> MPSState:
    """The smoothed state of distinct points; arguments as `from_samples`, coefficients of shape (M, C).

    Raises:
        ValueError: a width that is not a positive number, one per coordinate at most; a function that the
            filter leaves nothing of.
    """
    dim = points.shape[1]
    widths = checked_widths(smoothing, dim)
    peak = float(np.abs(coefficients).max())
    coefficients = coefficients / peak  # so that squares neither overflow nor vanish
    blocks = -(-len(points) // MOST_POINTS)
    if blocks == 1:
        cores, sites, error = _compressed(points, coefficients, modulus, widths, (tolerance, max_bond))
    else:
        rows = [slice(block, None, blocks) for block in range(blocks)]
        data = [(points[part], coefficients[part]) for part in rows]
        cores, sites, error = _added(data, modulus, widths, (float(tolerance), max_bond))
    log_norm = float(np.log(peak)) + 0.5 * sum(site.log_weight for site in sites)
    log_norm -= 0.5 * dim * float(np.log(modulus))
    supports = [_support(site, modulus) for site in sites]
    spectral = [cores[0]] + [
        _to_spectrum(core, site, modulus) for core, site in zip(cores[1:], sites, strict=True)
    ]
    if not vector:
        spectral[1] = np.tensordot(spectral[0][:, 0], spectral[1], axes=1)
        del spectral[0]
    return MPSState(
        spectral,
        supports,
        modulus,
        vector=vector,
        log_norm=log_norm,
        truncation_error=error,
        tolerance=float(tolerance),
    )


def checked_widths(smoothing: Any, dim: int) -> np.ndarray:
    """One positive width per coordinate, shape (dim,), from a number or an array."""
    widths = np.asarray(smoothing)
    if widths.shape not in ((), (dim,)) or widths.dtype.kind not in "iuf":
        raise ValueError(f"smoothing is {smoothing!r}; give a width, or one per coordinate of shape ({dim},)")
    bad = ~(np.isfinite(widths) & (widths > 0))
    if bad.any():
        raise ValueError(f"smoothing holds {widths[bad].item(0)}; widths must be positive and finite")
    return np.broadcast_to(widths.astype(np.float64), (dim,))


def checked_tolerance(tolerance: Any) -> float:
    """A relative error as a float, within what float64 Gram matrices can tell and below 1."""
    if not (isinstance(tolerance, float | np.floating) and LEAST_TOLERANCE <= tolerance < 1):
        raise ValueError(
            f"tolerance is {tolerance!r}; give a relative error from {LEAST_TOLERANCE} to below 1"
        )
    return float(tolerance)


def _site(width: float, modulus: int, drop: float) -> _Site:
    """The frequencies whose loss takes at most the share `drop` of the filter's weight."""
    tau = filter_amplitudes(width, modulus)
    weights = tau**2
    total = weights.sum()
    half = modulus // 2
    # weight of all |u| > k, for k = 0 .. half; the last is 0
    shells = np.array(
        [weights[u] + (weights[-u] if u > 0 and 2 * u != modulus else 0) for u in range(half + 1)]
    )
    beyond = np.append(np.cumsum(shells[::-1])[::-1][1:], 0.0)
    last = int(np.argmax(beyond <= drop * total))
    kept = np.abs(centred(np.arange(modulus), modulus)) <= last
    return _Site(
        frequencies=np.arange(last + 1),
        tau=tau[: last + 1] / np.sqrt(total),
        kernel=np.fft.fft(np.where(kept, weights, 0.0)).real / total,
        full=np.fft.fft(weights).real / total,
        log_weight=float(np.log(total)),
    )


def _features(site: _Site, column: np.ndarray, modulus: int) -> np.ndarray:
    """tau(u) omega^{-ux} in the real basis: 1, then sqrt2 cos and sqrt2 sin for each u; shape (M, q)."""
    parts = []
    for u, tau in zip(site.frequencies, site.tau, strict=True):
        angle = 2 * np.pi * ((u * column) % modulus) / modulus
        if 2 * u % modulus == 0:
            parts.append(tau * np.cos(angle))
        else:
            parts += [np.sqrt(2) * tau * np.cos(angle), np.sqrt(2) * tau * np.sin(angle)]
    return np.stack(parts, axis=1)


def _support(site: _Site, modulus: int) -> np.ndarray:
    """The kept frequencies in the order of `_to_spectrum`."""
    return np.unique(np.concatenate([site.frequencies, (-site.frequencies) % modulus]))


def _to_spectrum(core: np.ndarray, site: _Site, modulus: int) -> np.ndarray:
    """A core's site axis from the real basis to u.

    |cos> = (|u> + |-u>)/sqrt2 and |sin> = -i(|u> - |-u>)/sqrt2.
    """
    by_frequency: dict[int, np.ndarray] = {}
    axis = 0
    for u in map(int, site.frequencies):
        if 2 * u % modulus == 0:
            by_frequency[u] = core[:, axis].astype(np.complex128)
            axis += 1
        else:
            by_frequency[u] = (core[:, axis] - 1j * core[:, axis + 1]) / np.sqrt(2)
            by_frequency[modulus - u] = (core[:, axis] + 1j * core[:, axis + 1]) / np.sqrt(2)
            axis += 2
    return np.stack([by_frequency[u] for u in sorted(by_frequency)], axis=1)


def _gram(kernel: np.ndarray, column: np.ndarray, modulus: int) -> np.ndarray:
    """k(x_m - x_m') for all pairs of points, through the few values that occur."""
    values, place = np.unique(column, return_inverse=True)
    return kernel[(values[:, None] - values[None, :]) % modulus][place][:, place]


def _choose_sites(
    points: np.ndarray, outer: np.ndarray, modulus: int, widths: np.ndarray, allowed: float
) -> tuple[list[_Site], float, float]:
    """Sites that keep all but the share `allowed` of ||f^ tau||^2, that norm squared, and the share lost."""
    drop = 0.1 * allowed / len(widths)
    while True:
        by_width = {width: _site(width, modulus, drop) for width in np.unique(widths)}
        sites = [by_width[width] for width in widths]
        full, kept = outer.copy(), outer.copy()
        for site, column in zip(sites, points.T, strict=True):
            full *= _gram(site.full, column, modulus)
            kept *= _gram(site.kernel, column, modulus)
        norm = float(full.sum().real)
        if norm <= _VANISHING * float(np.abs(outer).sum()):
            raise ValueError(
                "the smoothed function vanishes to rounding; take a larger width, or centre the values"
            )
        lost = max(0.0, 1 - float(kept.sum().real) / norm)
        if lost <= allowed or drop == 0:
            return sites, norm, lost if drop else 0.0  # what is left at a drop of 0 is rounding
        # where low frequencies cancel, the tails weigh more than the filter alone says
        drop = drop / 100 if drop > 1e-30 else 0.0


def _compressed(
    points: np.ndarray,
    coefficients: np.ndarray,
    modulus: int,
    widths: np.ndarray,
    limits: tuple[float, int | None],
) -> tuple[mps.Cores, list[_Site], float]:
    """(cores in the real basis with the class core first, sites, relative error), by the Gram sweep.

    `limits` are the tolerance and the largest bond.
    """
    tolerance, max_bond = limits
    dim = len(widths)
    outer = coefficients @ coefficients.conj().T
    sites, norm, lost = _choose_sites(points, outer, modulus, widths, 0.1 * tolerance**2)
    rng = np.random.default_rng(0)  # sketches only decide how well the basis is found, and are measured
    left_grams = _LeftGrams(
        outer, [_gram_of(site, column, modulus) for site, column in zip(sites, points.T, strict=True)]
    )
    right = np.ones((len(points), 1))
    cores: mps.Cores = []
    remaining = (tolerance**2 - lost) * norm
    for place in range(dim - 1, -1, -1):
        gram = left_grams.before(place)
        features = _features(sites[place], points[:, place], modulus)
        wide = (features[:, :, None] * right[:, None, :]).reshape(len(points), -1)
        basis, dropped = _principal(wide, gram, remaining / (place + 1), max_bond, rng)
        remaining = max(0.0, remaining - dropped)
        lost += dropped / norm
        cores.insert(0, basis.T.reshape(-1, features.shape[1], right.shape[1]))
        right = wide @ basis.conj()
    cores.insert(0, (coefficients.T @ right)[None])
    return cores, sites, float(np.sqrt(lost))


def _gram_of(site: _Site, column: np.ndarray, modulus: int) -> Any:
    return lambda: _gram(site.kernel, column, modulus)


class _LeftGrams:
    """Products of the first Gram matrices, asked for from the last to the first.

    All of them would take D matrices of M x M; every sqrt(D)-th is kept, and the ones between are made
    again a block at a time.
    """

    def __init__(self, outer: np.ndarray, factors: list[Any]) -> None:
        self._factors = factors
        self._step = max(1, int(np.sqrt(len(factors))))
        self._kept = {}
        product = outer
        for place, factor in enumerate(factors):
            if place % self._step == 0:
                self._kept[place] = product
            product = product * factor()
        self._block: dict[int, np.ndarray] = {}

    def before(self, place: int) -> np.ndarray:
        """The outer product of coefficients times the factors of all sites left of `place`."""
        if place not in self._block:
            start = place - place % self._step
            self._block = {start: self._kept.pop(start)}
            for site in range(start, place):
                self._block[site + 1] = self._block[site] * self._factors[site]()
        return self._block.pop(place)


def _principal(
    wide: np.ndarray,
    gram: np.ndarray,
    budget: float,
    max_bond: int | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Orthonormal columns that span all but `budget` of the density matrix wide^T gram wide^*.

    Args:
        wide: vectors of the right part, shape (M, K).
        gram: <l_m'|l_m> of the left part at [m, m'], shape (M, M).
        budget: the largest eigenvalue sum to discard.
        max_bond: the most columns.
        rng: for the sketch.

    Returns:
        (basis of shape (K, kept), discarded weight).
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


def _added(
    data: list[tuple[np.ndarray, np.ndarray]],
    modulus: int,
    widths: np.ndarray,
    limits: tuple[float, int | None],
) -> tuple[mps.Cores, list[_Site], float]:
    """Blocks of points compressed apart, added and compressed again; the error returned is a bound.

    Every block's own error is exact and the errors of the sums add up at most. `limits` are the tolerance
    and the largest bond.
    """
    tolerance, max_bond = limits
    share = tolerance / 2
    while share > _LEAST_SHARE:
        parts = [_compressed(*block, modulus, widths, (share, max_bond)) for block in data]
        # blocks keep different frequencies; the low ones come first, so cores are padded at the end
        sites = [
            max(column, key=lambda site: len(site.frequencies))
            for column in zip(*(p[1] for p in parts), strict=True)
        ]
        total: mps.Cores = []
        bound = 0.0
        for number, (cores, _, error) in enumerate(parts):
            part, log_norm = mps.right_canonical(_padded(cores, sites, modulus))
            held = float(np.exp(log_norm))
            bound += error * held / np.sqrt(1 - error**2)  # relative to the block before it lost anything
            part[0] = part[0] * held
            if number:
                summed, log_norm = mps.right_canonical(mps.add(total, part))
                total, shed = mps.compress(summed, share / len(parts), max_bond)
                held = float(np.exp(log_norm))
                total[0] = total[0] * held
                bound += shed * held
            else:
                total = part
        norm = float(np.exp(mps.right_canonical(total)[1]))
        # the norm of f^ tau itself is known to within the bound
        error = bound / (norm - bound) if bound < norm else np.inf
        if error <= tolerance or max_bond is not None:
            return total, sites, error
        share *= 0.7 * tolerance / error if np.isfinite(error) else 0.1
    raise ValueError(f"tolerance {tolerance:g} cannot be met for so many points; take a larger one")


def _padded(cores: mps.Cores, sites: list[_Site], modulus: int) -> mps.Cores:
    """Cores with room for all frequencies of `sites`, zero where they have none of their own."""
    padded = [cores[0]]
    for core, site in zip(cores[1:], sites, strict=True):
        wide = np.zeros((core.shape[0], len(_support(site, modulus)), core.shape[2]), dtype=core.dtype)
        wide[:, : core.shape[1]] = core
        padded.append(wide)
    return padded
