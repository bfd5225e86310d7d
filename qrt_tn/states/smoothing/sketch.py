"""Compress a sum of very many product states: a sketch decides the spaces of the bonds.

From right to left, at each site the part to the right is one vector per point in an orthonormal
basis. The space that the sum spans there is found from its products with the left parts of K *landmarks*,
data points chosen at random: as the landmarks' left parts are samples of the sum's, the products lean
towards the directions that matter, like half a power iteration (the randomised range finder of Halko,
Martinsson and Tropp, SIAM Rev. 53 (2011) 217, with the row sampling of Drineas and Mahoney, JMLR 6 (2005)
2153). Their orthonormal basis is the next core. Points that share a value share one product, so a site costs
2 M K^2 multiply-adds however many frequencies it keeps.
"""

from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np

from qrt_tn.engine import mps
from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.states.filters import Site
from qrt_tn.states.smoothing.gram import Factor, backwards, fitting_levels

PREFIX_BYTES = 2**31  # what the left parts kept on the way may take, where few levels allow it
_ROWS = 2**14  # points of one product


def sketched_cores(
    columns: np.ndarray,
    coefficients: np.ndarray,
    sites: list[Site],
    bond: int,
    *,
    progress: Progress | None = None,
    xp: ModuleType = np,
) -> tuple[mps.Cores, float]:
    """The sum of product states, projected on the bond spaces that `bond` landmarks span.

    `columns` are the points by coordinate, (D, M), `coefficients` have shape (M, C), both on the host; `xp`
    is the array module that computes, in the coefficients' precision.

    Returns:
        (cores, log_scale): on the host, the class core (1, C, bond) first and the rest right-canonical, in
        the sites' bases; the projected sum is exp(log_scale) times them.
    """
    dim, count = columns.shape
    dtype = sums_dtype(coefficients.dtype, sites)
    rng = np.random.default_rng(0)
    weights = np.abs(coefficients).sum(axis=1, dtype=np.float64)
    # the more a point weighs, the likelier it is a landmark
    chosen = np.sort(rng.choice(count, bond, replace=False, p=weights / weights.sum()))
    start = xp.asarray((coefficients @ coefficients[chosen].conj().T).astype(dtype))
    factors = [
        _factor(site, column, column[chosen], dtype, xp) for site, column in zip(sites, columns, strict=True)
    ]
    levels = fitting_levels(dim, count * bond * dtype.itemsize, PREFIX_BYTES)
    right = xp.ones((count, 1), dtype=dtype)
    log_scale = 0.0
    cores: mps.Cores = []
    with shown(progress, dim, f"sites at bond {bond}") as report:
        for place, left in zip(range(dim - 1, -1, -1), backwards(start, factors, levels), strict=True):
            groups = _grouped(columns[place])
            features = xp.asarray(sites[place].features(groups[0]).astype(dtype))
            core = _core(features, groups, right, left)
            right = _absorbed(features, groups, right, core)
            cores.append(to_host(core))
            peak = float(xp.abs(right).max())
            right /= peak  # all rows alike, so that a thousand projections do not underflow
            log_scale += float(np.log(peak))
            report(dim - place, dim)
    cores.append(to_host(xp.asarray(coefficients.T.astype(dtype)) @ right)[None])
    return cores[::-1], log_scale


def sums_dtype(coefficients: np.dtype, sites: list[Site]) -> np.dtype:
    """The type of sums over points: the coefficients', complex where a site's tau is not real and even."""
    return coefficients if all(site.even for site in sites) else np.result_type(coefficients, np.complex64)


Groups = tuple[np.ndarray, list[np.ndarray]]


def _grouped(column: np.ndarray) -> Groups:
    """The values that occur, and for each the points that have it, in lists of at most `_ROWS`."""
    order = np.argsort(column, kind="stable")
    values, starts = np.unique(column[order], return_index=True)
    lists = [np.split(rows, range(_ROWS, len(rows), _ROWS)) for rows in np.split(order, starts[1:])]
    return np.repeat(values.astype(np.int64), [*map(len, lists)]), [*chain(*lists)]


def _factor(site: Site, column: np.ndarray, landmarks: np.ndarray, dtype: np.dtype, xp: ModuleType) -> Factor:
    """Multiply <z_k|x_m> of one site into left parts of shape (M, K)."""

    def multiplied(left: Any) -> Any:
        values, place = np.unique(column, return_inverse=True)
        differences = (values.astype(np.int64)[:, None] - landmarks.astype(np.int64)[None, :]) % site.modulus
        factor = xp.take(xp.asarray(site.kernel[differences].astype(dtype)), xp.asarray(place), axis=0)
        factor *= left
        return factor

    return multiplied


def _core(features: Any, groups: Groups, right: Any, left: Any) -> Any:
    """An orthonormal basis of sum_m features(x_m) (x) right_m left_mk over k, as a core (bond, q, r)."""
    xp = array_module(right)
    extent, width, landmarks = features.shape[1], right.shape[1], left.shape[1]
    total = xp.zeros((extent, width, landmarks), dtype=right.dtype)
    for place, rows in enumerate(groups[1]):
        feature, chosen = features[place], xp.asarray(rows)
        total += feature[:, None, None] * (right[chosen].T @ left[chosen])
    flat = total.reshape(extent * width, landmarks)
    flat = flat.astype(np.result_type(flat.dtype, np.float64))
    # a landmark far from the others shows its direction as faintly as it is far
    norms = xp.linalg.norm(flat, axis=0)
    flat = flat / xp.where(norms > 0, norms, xp.ones_like(norms))
    basis, values, _ = xp.linalg.svd(flat, full_matrices=False)
    rounding = 8 * float(np.finfo(right.dtype).eps) * float(values[0])
    kept = max(1, int((values > rounding).sum()))
    return basis[:, :kept].T.reshape(kept, extent, width).astype(right.dtype)


def _absorbed(features: Any, groups: Groups, right: Any, core: Any) -> Any:
    """The right parts with one more site, in the basis of `core`."""
    xp = array_module(right)
    result = xp.empty((len(right), core.shape[0]), dtype=right.dtype)
    onto = core.conj()
    for place, rows in enumerate(groups[1]):
        feature, chosen = features[place], xp.asarray(rows)
        result[chosen] = right[chosen] @ xp.tensordot(feature, onto, axes=([0], [1])).T
    return result
