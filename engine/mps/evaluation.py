"""Amplitudes of chains of cores: one value picked per row and site, thousands of rows together."""

from collections.abc import Callable
from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module
from qrt_tn.engine.mps.canonical import Cores
from qrt_tn.engine.scaled import Scaled

_GATHERED = 2**18  # elements of the matrices that a batch picks at a site; beyond, equal picks are grouped
_GATHERED_ON_DEVICE = 2**25  # where a launch for each value costs more than memory does


def right_vectors(cores: Cores, sites: np.ndarray) -> Scaled:
    """Contract a chain from the right with one site value picked per row and site.

    Args:
        cores: a chain ending in bond 1; its first left bond may be open.
        sites: int, shape (N, L).

    Returns:
        Scaled of shape (N, left bond), with one log-scale per row, shape (N, 1).
    """
    return right_vectors_of(cores, len(sites), lambda site: sites[:, site])


def right_vectors_of(cores: Cores, count: int, column: Callable[[int], np.ndarray]) -> Scaled:
    """As `right_vectors`, with the values of a site asked for when it is reached, the last site first.

    Args:
        cores: a chain ending in bond 1; its first left bond may be open.
        count: the number of rows N.
        column: the values of all rows at a site, int of shape (N,).
    """
    xp = array_module(cores[0])
    vectors = xp.ones((count, 1), dtype=cores[0].dtype)
    log_scale = xp.zeros((count, 1))
    most = _GATHERED if xp is np else _GATHERED_ON_DEVICE
    for site in range(len(cores) - 1, -1, -1):
        core = cores[site]
        if count * core.shape[0] * core.shape[2] <= most:
            picked = core.transpose(1, 0, 2)[xp.asarray(column(site))]
            vectors = xp.matmul(picked, vectors[:, :, None])[:, :, 0]
        else:
            vectors = _grouped_product(vectors, core, column(site))
        peak = xp.abs(vectors).max(axis=1, keepdims=True)
        peak = xp.where(peak > 0, peak, xp.ones_like(peak))
        vectors = vectors / peak
        log_scale = log_scale + xp.log(peak.astype(np.float64))
    return Scaled(vectors, log_scale)


def _grouped_product(vectors: Any, core: Any, column: np.ndarray) -> Any:
    """One product for all rows that pick the same site value."""
    order = np.argsort(column.astype(np.int32 if core.shape[1] > 2**15 else np.int16), kind="stable")
    ends = np.cumsum(np.bincount(column, minlength=core.shape[1])).tolist()
    xp = array_module(core)
    rows = xp.asarray(order)
    ordered = vectors[rows]
    products = xp.empty((len(column), core.shape[0]), dtype=core.dtype)
    for value, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if end > start:
            products[start:end] = ordered[start:end] @ core[:, value, :].T
    result = xp.empty_like(products)
    result[rows] = products
    return result
