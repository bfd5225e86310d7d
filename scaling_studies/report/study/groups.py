"""Medians, quartiles and ranges of values in groups, all groups at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Order statistics of values in groups.

    Attributes:
        groups: the groups that have values, ascending, shape (G,).
        counts: of their values, (G,).
        least: (G,).
        quarter: the lower quartile, (G,).
        median: (G,).
        three_quarters: the upper quartile, (G,).
        greatest: (G,).
    """

    groups: np.ndarray
    counts: np.ndarray
    least: np.ndarray
    quarter: np.ndarray
    median: np.ndarray
    three_quarters: np.ndarray
    greatest: np.ndarray

    def band(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """The ends of a band: "range" from least to greatest, "quartiles" from quartile to quartile."""
        return (self.quarter, self.three_quarters) if kind == "quartiles" else (self.least, self.greatest)


def spread(groups: np.ndarray, values: np.ndarray) -> Spread:
    """Order statistics of the values in each group; quantiles between two values are interpolated linearly.

    Args:
        groups: whole numbers, shape (n,).
        values: float64, (n,); NaN is no value.
    """
    kept = ~np.isnan(values)
    groups, values = groups[kept], values[kept]
    order = np.lexsort((values, groups))
    groups, values = groups[order], values[order]
    found, starts, counts = np.unique(groups, return_index=True, return_counts=True)

    def quantile(share: float) -> np.ndarray:
        place = starts + (counts - 1) * share
        below = np.floor(place).astype(np.int64)
        above = np.minimum(below + 1, starts + counts - 1)
        # a middle of two equal values is that value, to the bit
        return values[below] + (values[above] - values[below]) * (place - below)

    if not len(found):
        empty = np.empty(0)
        return Spread(found, counts, empty, empty, empty, empty, empty)
    return Spread(
        groups=found,
        counts=counts,
        least=values[starts],
        quarter=quantile(0.25),
        median=quantile(0.5),
        three_quarters=quantile(0.75),
        greatest=values[starts + counts - 1],
    )


def combined(parts: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """One group for each combination of codes that occurs.

    Args:
        parts: codes, each of shape (n,); may be none, which makes one group of all.
        length: n.

    Returns:
        The group of each row, numbered in lexicographic order of the codes, shape (n,); and the first row of
        each group, shape (G,).
    """
    groups = np.zeros(length, dtype=np.int64)
    for part in parts:
        if length:
            # renumbered each time, so that a product of many axes cannot overflow
            both = groups * (int(part.max()) + 1) + part
            groups = np.unique(both, return_inverse=True)[1].reshape(-1)
    firsts = np.unique(groups, return_index=True)[1]
    return groups, firsts


def mixes(groups: np.ndarray, codes: np.ndarray) -> bool:
    """Whether some group holds more than one value of a column."""
    pairs, _ = combined([groups, codes], len(groups))
    return len(np.unique(pairs)) > len(np.unique(groups))
