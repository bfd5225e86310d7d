import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from qrt_tn.studies.report.verdicts import paired


def difference(own: Any, other: Any, test: int = 100, train: int = 400, counted: bool = False) -> Any:
    return paired(dict(enumerate(own)), dict(enumerate(other)), test, train, counted=counted)


def test_the_interval_is_that_of_nadeau_and_bengio() -> None:
    """Theirs: the variance of J differences counts (1 / J + n2 / n1) times; t with J - 1."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        count, test, train = (int(rng.integers(low, high)) for low, high in ((3, 12), (10, 500), (20, 2000)))
        own, other = rng.normal(0.8, 0.1, (2, count))
        squares = sum(((own - other) - (own - other).mean()) ** 2) / (count - 1)
        scale = math.sqrt((1 / count + test / train) * squares)
        expected = stats.t(count - 1, loc=np.mean(own) - np.mean(other), scale=scale).interval(0.95)
        found = difference(own, other, test, train)
        assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize(("shared", "least", "most"), [(0.0, 0.975, 1.0), (0.2, 0.94, 0.96)])
def test_coverage(shared: float, least: float, most: float) -> None:
    """Conservative where seeds are independent, 95 % where they are correlated by test / (test + train)."""
    rng = np.random.default_rng(1)
    common, own = rng.standard_normal((4000, 1)), rng.standard_normal((4000, 5))
    found = [difference(row, np.zeros(5)) for row in shared**0.5 * common + (1 - shared) ** 0.5 * own]
    assert least < np.mean([one.low < 0 < one.high for one in found]) < most


def test_words() -> None:
    low, high, flat = (0.80, 0.81, 0.82), (0.90, 0.92, 0.91), (0.5, 0.5, 0.5)
    cases = [(high, low, "ahead"), (low, high, "behind"), ((0.7, 0.9, 0.8), low, "tie"), (flat, flat, "tie")]
    for own, other, word in cases:
        assert difference(own, other).verdict == difference(own, other, counted=True).verdict == word
    few = difference(high[:2], low[:2])
    assert (few.verdict, few.mean) == ("undecided", pytest.approx(0.105))
    assert np.isnan([few.low, few.high]).all()
    # equal differences have no spread; of counted points it is half a point
    assert difference(high, np.subtract(high, 0.01)).verdict == "ahead"
    found = difference(high, np.subtract(high, 0.01), counted=True)
    assert found.verdict == "tie"
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 2) * 0.005 * math.sqrt(1 / 3 + 1 / 4))
    # a seed of one alone takes no part, here to the contrary
    alone = paired(
        {0: 0.9, 1: 0.92, 2: 0.91, 7: 0.0}, {2: 0.82, 1: 0.81, 0: 0.8, 9: 1.0}, 100, 400, counted=False
    )
    assert alone == difference(high, low)
    assert paired({0: 0.9}, {1: 0.9}, 100, 400, counted=True) is None
