"""Which of two methods is ahead: differences paired over seeds, with an interval, and ties called ties."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Difference:
    """A score less another's, paired over seeds.

    Attributes:
        mean: over the seeds.
        low: lower end of the interval; NaN for fewer than `FEWEST_SEEDS`.
        high: upper end.
        seeds: how many pairs.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """The word for it: "ahead", "behind", "tie", or "undecided" for too few seeds."""
        if self.seeds < FEWEST_SEEDS:
            return "undecided"
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "tie"


def paired(
    own: Mapping[int, float], other: Mapping[int, float], test: int, train: int, *, counted: bool
) -> Difference | None:
    """The difference of two scores by seed, with a corrected resampled t interval.

    Seeds share most of their training points, so their differences are not independent: their variance s^2
    counts (1 / S + test / train) times, where independent ones would count 1 / S (Nadeau and Bengio,
    Inference for the generalization error, Machine Learning 52, 2003).

    Args:
        own: score by seed.
        other: likewise.
        test: points a score is measured on.
        train: points it is learnt from.
        counted: whether scores are shares of the test points, whose spread is taken to be at least half a
            point.

    Returns:
        None where they share no seed.
    """
    seeds = sorted(set(own) & set(other))
    if not seeds:
        return None
    differences = np.array([own[seed] - other[seed] for seed in seeds])
    mean, count = float(differences.mean()), len(seeds)
    if count < FEWEST_SEEDS:
        return Difference(mean, np.nan, np.nan, count)
    spread = max(float(differences.std(ddof=1)), 0.5 / test if counted else 0.0)
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1) * spread * np.sqrt(1 / count + test / train)
    return Difference(mean, mean - float(reach), mean + float(reach), count)
