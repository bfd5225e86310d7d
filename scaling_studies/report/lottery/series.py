"""A measured column at each level of pruning: mean, median and range over the trials."""

from dataclasses import dataclass

import numpy as np

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Point:
    """One column of the runs of a method at one level.

    The paper draws the mean over its trials, and error bars from the smallest to the largest.

    Attributes:
        remaining: share of the prunable weights that are left.
        low: smallest value over trials and repeats.
        mean: their mean.
        median: their median.
        high: largest value.
        runs: how many there are.
    """

    remaining: float
    low: float
    mean: float
    median: float
    high: float
    runs: int


Points = dict[int, Point]  # by level, ascending


@dataclass(frozen=True, eq=False)
class Curve:
    """One column along training: mean and range over the trials, each of shape (n,).

    Attributes:
        iteration: where it was evaluated, ascending.
        low: smallest value.
        mean: mean.
        high: largest value.
    """

    iteration: np.ndarray
    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray


def points(runs: Columns, method: str, column: str) -> Points:
    """Mean, median and range of a column of one method at each of its levels, missing numbers left out."""
    chosen = (runs["method"] == method) & np.isfinite(runs[column])
    levels, values, shares = runs["level"][chosen], runs[column][chosen], runs["remaining"][chosen]
    found = {}
    for level in np.unique(levels):
        here = values[levels == level]
        found[int(level)] = Point(
            float(shares[levels == level].mean()),
            float(here.min()),
            float(here.mean()),
            float(np.median(here)),
            float(here.max()),
            len(here),
        )
    return found


def curve(curves: Columns, method: str, level: int, column: str, most: int = 200) -> Curve | None:
    """A column along the training of one method at one level, or None where nothing was measured.

    Args:
        curves: the rows of curves.parquet by column.
        method: whose runs.
        level: rounds of pruning.
        column: what to take.
        most: evaluations to keep, evenly spaced with the first and the last among them, so that a long
            run makes no heavy drawing.
    """
    chosen = (curves["method"] == method) & (curves["level"] == level) & np.isfinite(curves[column])
    if not chosen.any():
        return None
    order = np.argsort(curves["iteration"][chosen], kind="stable")
    values = curves[column][chosen][order]
    iterations, starts, counts = np.unique(
        curves["iteration"][chosen][order], return_index=True, return_counts=True
    )
    mean = np.add.reduceat(values, starts) / counts
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    keep = np.unique(np.linspace(0, len(iterations) - 1, min(most, len(iterations))).round().astype(int))
    return Curve(iterations[keep], low[keep], mean[keep], high[keep])


def falls_below(found: Points, level_of: float) -> float | None:
    """The share of weights from which on the mean is below `level_of` at every later level.

    Args:
        found: a column by level, more weights pruned at later levels.
        level_of: what it is compared with, the dense network's mean.

    Returns:
        The largest such share; None where the last level is not below.
    """
    share = None
    for point in sorted(found.values(), key=lambda point: point.remaining):
        if point.mean >= level_of:
            break
        share = point.remaining
    return share
