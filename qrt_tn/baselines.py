"""Nodes drawn without looking at the data, to compare samples of the transform with."""

from typing import Any

import numpy as np
from scipy.special import logsumexp

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.engine.drawing import draw_running
from qrt_tn.field import check_grid, check_prime, inverses
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import check_count
from qrt_tn.states.filters import checked_filter


def uniform_nodes(n: int, dim: int, modulus: int, seed: Seed = 0) -> RidgeNodes:
    """(a, b) uniform over Z_P^{D+1}.

    Raises:
        ValueError: n or dim below 1, or a composite modulus.
    """
    count, sites, rng = check_count(n), check_count(dim, "dim"), generator(seed)
    prime = check_prime(modulus)
    a = rng.integers(prime, size=(count, sites))
    b = rng.integers(prime, size=count)
    return RidgeNodes(a, b, np.full(count, -(sites + 1) * np.log(prime)), prime)


def filter_nodes(n: int, dim: int, ridgelet: Ridgelet, smoothing: Any, seed: Seed = 0) -> RidgeNodes:
    """Nodes of the smoothing filter alone, whatever the data.

    u_i ~ tau_i(u_i)^2 given u != 0, v ~ |r^(v)|^2, a = v^{-1} u, and b uniform: the smoothed transform of a
    function that has every frequency in equal measure. No node is spent on a = 0, which computes a constant.

    Args:
        n: the number of nodes.
        dim: the dimension D.
        ridgelet: gives the modulus and |r^|^2.
        smoothing: the filter, as in `states.from_samples`: a width, one per coordinate, or a table of tau.
            What "auto" chose for a state is its attribute `smoothing`.
        seed: an int or a NumPy generator.

    Raises:
        ValueError: n or dim below 1, a bad width, or one so small that u != 0 practically never happens.
    """
    count, sites, rng = check_count(n), check_count(dim, "dim"), generator(seed)
    modulus = ridgelet.modulus
    weights = _filter_weights(smoothing, sites, modulus)
    u = _nonzero_sample(weights, count, rng)
    harmonics = np.abs(ridgelet.spectrum) ** 2
    v = draw_running(np.cumsum(harmonics), rng.random(count))
    a = (inverses(modulus)[v][:, None] * u) % modulus
    log_probability = filter_log_weights(a, ridgelet, smoothing) - np.log(modulus)
    return RidgeNodes(a, rng.integers(modulus, size=count), log_probability, modulus)


def filter_log_weights(a: np.ndarray, ridgelet: Ridgelet, smoothing: Any) -> np.ndarray:
    """Log p(a) of the weights that `filter_nodes` draws: sum_v |r^(v)|^2 tau^2(v a) / P[u != 0].

    Of a (N, D) it is float64, shape (N,); -inf at a = 0, which is never drawn. Raises as `filter_nodes`.
    """
    a = check_grid(a, ridgelet.modulus, "a", (None, None))
    sites, modulus = a.shape[1], ridgelet.modulus
    weights = _filter_weights(smoothing, sites, modulus)
    harmonics = np.abs(ridgelet.spectrum) ** 2
    active = np.flatnonzero(harmonics)
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    terms = np.stack(
        [logs[np.arange(sites), (f * a) % modulus].sum(axis=1) + np.log(harmonics[f]) for f in active]
    )
    log_p = logsumexp(terms, axis=0) - np.log(_nonzero_share(weights))
    return np.where(a.any(axis=1), log_p, -np.inf)


def _filter_weights(smoothing: Any, sites: int, modulus: int) -> np.ndarray:
    """tau_i(u)^2 of every coordinate, each row of sum 1; shape (sites, P)."""
    product = checked_filter(smoothing, sites, modulus)
    weights = product.probabilities[product.rows]
    if not _nonzero_share(weights) > 0:
        raise ValueError(f"smoothing {smoothing!r} leaves no frequency but 0; take a larger width")
    return weights


def _nonzero_share(weights: np.ndarray) -> float:
    """The probability that u drawn from the product of `weights` is not 0."""
    with np.errstate(divide="ignore"):  # a coordinate that is never 0
        return -float(np.expm1(np.log1p(-np.minimum(weights[:, 1:].sum(axis=1), 1.0)).sum()))


def _nonzero_sample(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw u from the product of `weights`, shape (D, P), given u != 0: exact, with no draw thrown away.

    The first nonzero coordinate is i with probability prod_{j<i} w_j(0) (1 - w_i(0)) over the total; it
    is drawn from its nonzero values, the ones before it are 0 and the ones after it free.
    """
    sites = len(weights)
    before = np.concatenate([[1.0], np.cumprod(weights[:-1, 0])])
    first_weights = before * weights[:, 1:].sum(axis=1)
    first = draw_running(np.cumsum(first_weights), rng.random(count))
    uniforms = rng.random((count, sites))
    u = np.zeros((count, sites), dtype=np.int64)
    for site, row in enumerate(weights):
        free, first_here = np.flatnonzero(first < site), np.flatnonzero(first == site)
        u[free, site] = draw_running(np.cumsum(row), uniforms[free, site])
        if len(first_here):
            u[first_here, site] = draw_running(np.cumsum(np.append(0.0, row[1:])), uniforms[first_here, site])
    return u
