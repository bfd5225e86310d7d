import itertools
import math
import statistics

import numpy as np
import pytest

from qrt_tn.studies.benchmarks.compare import ratio_interval
from qrt_tn.studies.benchmarks.compare.intervals import mann_whitney, order


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 3), (3, 3), (4, 6), (5, 5)])
def test_orders_are_counted_as_by_hand(a: int, b: int) -> None:
    """Every way in which the ranks of both runs can fall, one by one."""
    counts = [0] * (a * b + 1)
    for ranks in itertools.combinations(range(a + b), a):
        others = [rank for rank in range(a + b) if rank not in ranks]
        counts[sum(late < early for early in ranks for late in others)] += 1
    assert mann_whitney(a, b) == counts


@pytest.mark.parametrize(("a", "b"), [(4, 4), (5, 5), (5, 7), (7, 7), (9, 15), (31, 31)])
def test_the_interval_is_the_narrowest_of_its_confidence(a: int, b: int) -> None:
    place, reached = order(a, b, 0.95)
    total = math.comb(a + b, a)
    assert reached == pytest.approx(1 - 2 * sum(mann_whitney(a, b)[:place]) / total)
    assert reached >= 0.95
    assert 1 - 2 * sum(mann_whitney(a, b)[: place + 1]) / total < 0.95


def test_few_rounds_say_what_they_allow() -> None:
    assert ratio_interval([1.0, 2.0], [1.0, 2.0, 3.0]) is None
    found = ratio_interval([1.0, 2.0, 4.0], [3.0, 5.0, 6.0])
    assert found is not None
    assert (found.low, found.high, found.confidence) == (3 / 4, 6.0, pytest.approx(0.9))


@pytest.mark.parametrize("kind", ["lognormal", "exponential", "spikes"])
@pytest.mark.parametrize(("a", "b"), [(3, 3), (5, 5), (7, 7), (5, 15)])
def test_the_true_ratio_lies_within_as_often_as_is_said(kind: str, a: int, b: int) -> None:
    """Exact coverage: neither too often, nor too seldom, whatever the distribution."""
    rng, trials, true = np.random.default_rng(7), 3000, 1.3

    def drawn(count: int) -> np.ndarray:
        if kind == "lognormal":
            return rng.lognormal(sigma=0.1, size=count)
        if kind == "exponential":
            return 1 + rng.exponential(0.2, size=count)
        return 1 + 0.01 * rng.random(count) + (rng.random(count) < 0.2) * rng.random(count)

    held, middle = 0, 0
    for _ in range(trials):
        early, late = drawn(a), true * drawn(b)
        found = ratio_interval(early.tolist(), late.tolist())
        assert found is not None
        held += found.low <= true <= found.high
        middle += found.low <= statistics.median(late) / statistics.median(early) <= found.high
    wanted = order(a, b, 0.95)[1]
    spread = math.sqrt(wanted * (1 - wanted) / trials)
    assert abs(held / trials - wanted) < 4 * spread
    assert middle == trials


def test_a_larger_scale_scales_the_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(size=(2, 9)).tolist()
    plain, scaled = ratio_interval(a, b), ratio_interval(a, [8 * value for value in b])
    assert plain is not None
    assert scaled is not None
    assert (scaled.low, scaled.high) == pytest.approx((8 * plain.low, 8 * plain.high))
    swapped = ratio_interval(b, a)
    assert swapped is not None
    assert (1 / swapped.high, 1 / swapped.low) == pytest.approx((plain.low, plain.high))


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a round gave -1\.0"):
        ratio_interval([1.0, 1.0, 1.0], [1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match="confidence is 95"):
        ratio_interval([1.0] * 3, [1.0] * 3, 95)
