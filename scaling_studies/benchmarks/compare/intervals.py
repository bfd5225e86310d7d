"""The interval of a ratio of times from the rounds of two runs, exact by order statistics."""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_ROUNDS = 3  # of each run; two of each would give an interval of 67 %


@dataclass(frozen=True)
class Interval:
    """Where a ratio lies.

    Attributes:
        low: its lower end.
        high: its upper end.
        confidence: of the interval; at least what was asked for, where there are rounds enough for that.
            None for the range of all rounds, of whose number nothing is known.
    """

    low: float
    high: float
    confidence: float | None


def ratio_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """How many times as large the figures of run B are as those of run A.

    The interval goes from the k-th smallest to the k-th largest of all ratios b / a, with k from the
    distribution of the Mann-Whitney statistic: it is the interval of a shift (Hodges and Lehmann, 1963)
    in the logarithms. It is exact for any number of rounds and any distribution of times, if those of B are
    those of A times a factor and rounds are independent. It is widened, if need be, to hold the ratio of
    medians. A bootstrap of medians is too narrow for the few rounds of a benchmark.

    Args:
        a: a figure of each round of run A, above 0.
        b: likewise of run B.
        confidence: above 0 and below 1.

    Returns:
        The interval; None if a run has fewer than 3 rounds. With too few for the confidence (3 of each give
        90 %), all ratios are in it, and it says what its confidence is.

    Raises:
        ValueError: figures that are not above 0, or a confidence that is none.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a share above 0 and below 1")
    for value in (*a, *b):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"a round gave {value}; give finite figures above 0")
    if min(len(a), len(b)) < LEAST_ROUNDS:
        return None
    found = sorted(late / early for early in a for late in b)
    place, reached = order(len(a), len(b), confidence)
    middle = statistics.median(b) / statistics.median(a)
    return Interval(min(found[place - 1], middle), max(found[-place], middle), reached)


@functools.cache
def order(a: int, b: int, confidence: float) -> tuple[int, float]:
    """Which of the ordered ratios end the interval, counted from 1 from either end, and its confidence.

    Args:
        a: rounds of the one run.
        b: rounds of the other.
        confidence: wanted.
    """
    counts = mann_whitney(a, b)
    total, below, place = math.comb(a + b, a), 0, 0
    # the k-th ratio is too large, or the k-th from above too small, where the statistic is below k
    for place, count in enumerate(counts, start=1):  # noqa: B007
        if 1 - 2 * (below + count) / total < confidence:
            break
        below += count
    if below == 0:
        return 1, 1 - 2 / total
    return place - 1, 1 - 2 * below / total


def mann_whitney(a: int, b: int) -> list[int]:
    """In how many orders of a + b figures the Mann-Whitney statistic is 0, 1, ... a b.

    They are the coefficients of the Gaussian binomial of a + b over a: the product over i = 1..a of
    (1 - q^(b + i)) / (1 - q^i).
    """
    counts = [1] + [0] * (a * b)
    for i in range(1, a + 1):
        for power in range(a * b, b + i - 1, -1):
            counts[power] -= counts[power - b - i]
        for power in range(i, a * b + 1):
            counts[power] += counts[power - i]
    return counts
