"""Sequential Monte Carlo: chains brought from one inverse temperature to another, resampled and moved.

Del Moral, Doucet and Jasra, Sequential Monte Carlo samplers, J. R. Stat. Soc. B 68 (2006) 411, with the next
temperature where the weights are worth half of the chains, as by Jasra et al., Scand. J. Stat. 38 (2011) 1.
"""

import numpy as np
from scipy.special import logsumexp

from qrt_tn.engine.progress import Progress
from qrt_tn.tempered.conditionals import Conditionals

_LEAST = 0.5  # of the chains, what weights are still worth at the next temperature
_RESAMPLED = 0.6  # below, chains are resampled
_SLOWEST = 1e-3  # of the way, what a step takes at the least
_SCALE = 1000  # steps that progress is told in


def anneal(
    law: Conditionals,
    u: np.ndarray,
    log_weight: np.ndarray,
    contrasts: np.ndarray,
    betas: tuple[float, float],
    sweeps: int,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Bring weighted chains from the law at one inverse temperature to that at another, not lower.

    Args:
        law: moves them.
        u: where the chains of G groups of K are, int64 (G K, D), group by group.
        log_weight: of the chains, (G, K).
        contrasts: of the groups, (G, C).
        betas: where they are, and where they are brought.
        sweeps: Gibbs sweeps at each temperature.
        rng: draws seeds.
        progress: called as temperatures are reached.

    Returns:
        (u, log_weight, share, moved): where they end, their weights, the smallest share of the chains that
        weights were worth, and the share of single-site draws that moved.
    """
    groups, size = log_weight.shape
    own = np.repeat(contrasts, size, axis=0)
    beta, last = betas
    least = _SLOWEST * (last - beta)
    smallest, moves = worth(log_weight), []
    log_size = law.log_sizes(u, own).reshape(groups, size)
    while beta < last:
        lost = ~np.isfinite(log_weight + log_size).any(axis=1)
        if lost.any():
            raise ValueError(
                f"z is 0 at all {size} frequencies that chains of contrast {contrasts[lost][0]} are at; the "
                "filter or the contrast leaves next to nothing of the state: widen it, or take more walkers"
            )
        reached = _next(log_weight, log_size, beta, last, least)
        log_weight = log_weight + (reached - beta) * log_size
        beta = reached
        now = worth(log_weight)
        smallest = min(smallest, now)
        if now < _RESAMPLED:
            chosen = _resampled(log_weight, rng.random((groups, 1)))
            u, log_weight = u[chosen], np.zeros_like(log_weight)
        u, share = law.sweep(u, own, [beta] * sweeps, int(rng.integers(2**63)))
        log_size = law.log_sizes(u, own).reshape(groups, size)
        moves.append(share)
        progress(int(_SCALE * np.log1p(beta) / np.log1p(last)), _SCALE)
    return u, log_weight, smallest, float(np.mean(moves)) if moves else 0.0


def worth(log_weight: np.ndarray) -> float:
    """(sum w)^2 / (K sum w^2), the mean over groups of K chains; groups without any weight do not count."""
    kept = log_weight[np.isfinite(log_weight).any(axis=1)]
    if len(kept) == 0:
        return 0.0
    logs = 2 * logsumexp(kept, axis=1) - logsumexp(2 * kept, axis=1)
    return min(1.0, float(np.exp(logs).mean()) / log_weight.shape[1])


def _next(log_weight: np.ndarray, log_size: np.ndarray, beta: float, last: float, least: float) -> float:
    """The inverse temperature at which weights are worth `_LEAST` of what they are now, or the last."""
    enough = _LEAST * worth(log_weight)
    if worth(log_weight + (last - beta) * log_size) >= enough:
        return last
    low, high = 0.0, last - beta
    for _ in range(30):
        middle = (low + high) / 2
        if worth(log_weight + middle * log_size) >= enough:
            low = middle
        else:
            high = middle
    return min(last, beta + max(high, least))  # some way on, whatever the weights


def _resampled(log_weight: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Systematic resampling within groups: numbers of the chains that go on, (G K,)."""
    groups, size = log_weight.shape
    peak = log_weight.max(axis=1, keepdims=True)
    weights = np.where(np.isfinite(peak), np.exp(log_weight - np.where(np.isfinite(peak), peak, 0.0)), 1.0)
    running = np.cumsum(weights, axis=1)
    # each group on an interval of its own, so that one search serves all
    ends = running / running[:, -1:] + np.arange(groups)[:, None]
    wanted = (uniforms + np.arange(size)) / size + np.arange(groups)[:, None]
    chosen = np.searchsorted(ends.ravel(), wanted.ravel(), side="right")
    first = np.repeat(np.arange(groups) * size, size)
    return np.clip(chosen, first, first + size - 1)
