"""Rank correlation within groups: its mean over them, a band, and a permutation test."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from qrt_tn.engine.arguments import Seed, check_whole, generator

BAND = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class RankCorrelation:
    """Correlation by rank of two numbers within groups, over the groups where it is defined.

    Attributes:
        spearman: mean over these groups of Spearman's rho, ties at their mean rank; with `kendall` (tau-b),
            the 95 % band `low` to `high` and the two-sided `p_value` None if there is no group.
        groups: in how many groups the correlation is defined.
        members: of each group.
        each: (rho, tau) of every group, (None, None) where either number has one value for all members.
    """

    spearman: float | None
    kendall: float | None
    low: float | None
    high: float | None
    p_value: float | None
    groups: int
    members: int
    each: tuple[tuple[float, float] | tuple[None, None], ...]


def rank_correlation(
    x: Any, y: Any, *, same_members: bool = False, resamples: int = 2000, seed: Seed = 0
) -> RankCorrelation:
    """Correlate x and y by rank within groups.

    Each group is ranked by itself, so that what raises both numbers in a whole group correlates nothing. The
    band is the percentile bootstrap (Efron and Tibshirani, 1993, chapter 13) of groups, and of members within
    each group that was drawn: it covers the truth 99 times in 100 (normal x and y, 4 and 10 groups of 10
    members, correlations 0 and 0.5), where of four groups alone it would 8 times in 10.

    The p-value is the share of permutations of y within groups whose mean is at least as far from 0, the
    data's own order counted as one of them (Phipson and Smyth, 2010).

    Args:
        x: one row a group and one column a member, shape (S, E); -inf and inf are ranked as such.
        y: likewise.
        same_members: whether a column is the same member in all groups (as a class of a task is in all
            seeds): groups are then no independent evidence about members, and one permutation, and one draw
            of members, is applied to all of them.
        resamples: of the bootstrap and of the permutations.

    Raises:
        ValueError: other or unequal shapes, fewer than two members, NaN, or no resamples.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (x, y))
    if first.ndim != 2 or first.shape != second.shape or first.shape[1] < 2:
        raise ValueError(
            f"x has shape {first.shape} and y {second.shape}; both must be (groups, members), of two"
            " members or more"
        )
    if np.isnan(first).any() or np.isnan(second).any():
        raise ValueError("x or y holds NaN; leave such a group out")
    check_whole("resamples", resamples, 1)
    rng = generator(seed)
    ranks, other = _unit_ranks(first), _unit_ranks(second)
    each = tuple(_correlate(*rows) for rows in zip(ranks, other, strict=True))
    defined = np.array([pair[0] is not None for pair in each])
    count, members = int(defined.sum()), first.shape[1]
    if count == 0:
        return RankCorrelation(None, None, None, None, None, 0, members, each)
    ranks, other = ranks[defined], other[defined]
    rho = float(_mean_rho(ranks, other))
    drawn = rng.integers(count, size=(resamples, count))
    rows = 1 if same_members else count
    places = np.broadcast_to(
        rng.integers(members, size=(resamples, rows, members)), (resamples, count, members)
    )
    # ranks of ranks are ranks; a draw of one value alone counts as 0
    again = [_unit_ranks(np.take_along_axis(values[drawn], places, axis=2)) for values in (ranks, other)]
    low, high = (float(end) for end in np.percentile(_mean_rho(*again), BAND))
    if same_members:
        order = rng.permuted(np.tile(np.arange(members), (resamples, 1)), axis=1)
        shuffled = other[:, order].swapaxes(0, 1)
    else:
        shuffled = rng.permuted(np.broadcast_to(other, (resamples, *other.shape)), axis=2)
    under_chance = np.abs(_mean_rho(ranks, shuffled))
    # a permutation that changes nothing may differ by rounding
    p_value = (1 + int((under_chance >= abs(rho) - 1e-12).sum())) / (1 + resamples)
    kendall = float(np.mean([tau for _, tau in each if tau is not None]))
    return RankCorrelation(rho, kendall, low, high, p_value, count, members, each)


def _correlate(ranks: np.ndarray, other: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    if not (ranks.any() and other.any()):
        return None, None
    return float(_rho(ranks, other)), float(kendalltau(ranks, other).statistic)


def _mean_rho(ranks: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The mean over groups, the last axis but one."""
    return np.asarray(_rho(ranks, other).mean(axis=-1))


def _rho(ranks: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip((ranks * other).sum(axis=-1), -1, 1))


def _unit_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis less their mean, at length 1; 0 where there is one value only."""
    ranks = rankdata(values, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return np.divide(ranks, lengths, out=np.zeros_like(ranks), where=lengths > 0)
