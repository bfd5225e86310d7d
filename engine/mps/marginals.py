"""Probabilities of some sites of a right-canonical state, the others traced out.

All in double precision: these are sums of many probabilities, wanted for few rows.
"""

from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.mps.canonical import Cores

_BLOCK = 2**22  # elements of the widest array of one block of rows (64 MiB in complex128)


def site_probabilities(cores: Cores) -> list[np.ndarray]:
    """The distribution of every site by itself.

    Args:
        cores: right-canonical, as `right_canonical` returns them.

    Returns:
        One float64 array of shape (extent,) per site, each of sum 1.
    """
    xp = array_module(cores[0])
    environment = xp.ones((1, 1), dtype=np.float64)
    result = []
    for core in cores:
        passed = xp.tensordot(environment, core, axes=1)  # (left, extent, right)
        weights = to_host((passed * core.conj()).real.sum(axis=(0, 2), dtype=np.float64))
        weights = np.maximum(weights, 0.0)
        result.append(weights / weights.sum())
        environment = xp.tensordot(core.conj(), passed, axes=([0, 1], [0, 1]))
        environment = environment / xp.trace(environment).real  # rounding must not grow over many sites
    return result


def log_marginals(cores: Cores, sites: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Log of the probability that chosen sites take chosen values, the others traced out.

    Sites after the last chosen one are the identity in right-canonical form, and those before the first
    are shared by all rows. Rows that agree so far are carried once.

    Args:
        cores: right-canonical, as `right_canonical` returns them.
        sites: K distinct sites, any order.
        values: the value of each, shape (N, K); negative where the probability is 0.

    Returns:
        float64, shape (N,); -inf where the probability is 0.
    """
    order = np.argsort(sites)
    sites, values = np.asarray(sites)[order], np.asarray(values)[:, order]
    log_probability = np.full(len(values), -np.inf)
    possible = np.flatnonzero((values >= 0).all(axis=1))
    # equal rows side by side, so that a block shares its prefixes
    distinct, place = np.unique(values[possible], axis=0, return_inverse=True)
    widest = max(core.shape[0] * core.shape[2] + core.shape[2] ** 2 for core in cores[: sites[-1] + 1])
    rows = max(1, _BLOCK // (widest * (1 if len(sites) == 1 else max(core.shape[1] for core in cores))))
    parts = [
        _log_marginals(cores, sites, distinct[start : start + rows])
        for start in range(0, len(distinct), rows)
    ]
    if parts:
        log_probability[possible] = np.concatenate(parts)[place.reshape(-1)]
    return log_probability


def _log_marginals(cores: Cores, sites: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`log_marginals` of ascending sites and distinct, sorted rows."""
    xp = array_module(cores[0])
    environments = xp.ones((1, 1, 1), dtype=np.float64)  # one for each distinct prefix
    held = np.zeros(len(values), dtype=np.int64)  # which one a row has
    log_probability = np.zeros(len(values))
    taken = 0
    for site, core in enumerate(cores[: sites[-1] + 1]):
        if site != sites[taken]:
            environments = _traced(environments, core)
        else:
            firsts, after = _prefixes(values[:, : taken + 1])
            chosen = core.transpose(1, 0, 2)[xp.asarray(values[firsts, taken])]
            passed = xp.matmul(environments[xp.asarray(held[firsts])], chosen)
            environments = xp.matmul(chosen.conj().transpose(0, 2, 1), passed)
            held = after
            taken += 1
        traces = xp.einsum("nii->n", environments).real
        alive = traces > 0
        safe = xp.where(alive, traces, 1.0)
        environments = environments / safe[:, None, None]
        logs = to_host(xp.where(alive, xp.log(safe), -xp.inf))
        # what all traces of an unchosen site multiply by is 1 but for rounding
        log_probability += logs[held]
    return log_probability


def _traced(environments: Any, core: Any) -> Any:
    """sum_u A_u^dagger rho A_u of every environment, shape (N, left, left) to (N, right, right)."""
    xp = array_module(core)
    left, extent, right = core.shape
    flat = core.reshape(left, extent * right)
    passed = xp.matmul(environments, flat).reshape(-1, left * extent, right)
    return xp.matmul(core.reshape(left * extent, right).conj().T, passed)


def _prefixes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first row of each distinct one, which of them each row is) of sorted rows."""
    fresh = np.append(True, (rows[1:] != rows[:-1]).any(axis=1))
    return np.flatnonzero(fresh), np.cumsum(fresh) - 1
