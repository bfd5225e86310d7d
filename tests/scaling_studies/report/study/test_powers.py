import numpy as np
import pytest
from scipy import stats

from qrt_tn.studies.report.study.powers import PowerLaw, fit_power


@pytest.mark.parametrize("seed", range(8))
def test_the_fit_is_that_of_the_normal_equations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.choice(np.geomspace(1, 1e4, 60), size=int(rng.integers(3, 15)), replace=False)
    y = np.exp(rng.normal(size=len(x))) * x ** rng.normal()
    found = fit_power(x, y)
    # an independent way: the inverse of the normal equations, and SciPy's regression
    design = np.column_stack([np.ones(len(x)), np.log(x)])
    covariance = np.linalg.inv(design.T @ design)
    beta = covariance @ design.T @ np.log(y)
    residual = np.log(y) - design @ beta
    error = np.sqrt(residual @ residual / (len(x) - 2) * covariance[1, 1])
    margin = stats.t.ppf(0.975, len(x) - 2) * error
    assert found.exponent == pytest.approx(beta[1], rel=1e-9, abs=1e-10)
    assert found.low == pytest.approx(beta[1] - margin, rel=1e-8, abs=1e-9)
    assert found.high == pytest.approx(beta[1] + margin, rel=1e-8, abs=1e-9)
    line = stats.linregress(np.log(x), np.log(y))
    assert (found.exponent, found.log_factor) == pytest.approx((line.slope, line.intercept), rel=1e-9)
    assert np.log(found.at(x)) == pytest.approx(design @ beta, rel=1e-9, abs=1e-9)


def test_a_power_law_is_found_exactly() -> None:
    x = np.array([1.0, 10.0, 100.0, 1e3])
    found = fit_power(x, 3 * x**1.5)
    assert (found.exponent, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5), abs=1e-12)
    assert np.exp(found.log_factor) == pytest.approx(3)
    assert found.count == 4


@pytest.mark.parametrize("count", [3, 5, 9])
def test_intervals_hold_the_true_exponent_in_95_of_100_studies(count: int) -> None:
    rng = np.random.default_rng(count)
    x = np.geomspace(8, 2048, count)
    studies = 2000
    held = 0
    for _ in range(studies):
        # medians over 5 seeds of times that scatter log-normally, as a figure fits them
        times = 1e-3 * x**1.3 * np.exp(0.2 * rng.normal(size=(5, count)))
        found = fit_power(x, np.median(times, axis=0))
        held += found.low <= 1.3 <= found.high
    # four standard deviations of a binomial of 0.95
    assert abs(held / studies - 0.95) < 4 * np.sqrt(0.95 * 0.05 / studies)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1, 2], [1, 2], "at least 3"),
        ([1, 2, 2], [1, 2, 3], "distinct"),
        ([1, 2, 0], [1, 2, 3], "x has the value 0"),
        ([1, 2, 3], [1, -2, 3], r"y has the value -2"),
        ([1, 2, 3], [1, np.nan, 3], "y has the value nan"),
        ([1, 2, 3], [1, 2], "one y for each"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: list[float], y: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_power(np.array(x), np.array(y))


@pytest.mark.parametrize(
    ("law", "text"),
    [
        (PowerLaw(1.0213, 0.981, 1.0616, 0.0, 5), "1.02 (0.98 to 1.06)"),
        (PowerLaw(-0.5, -0.6, -0.4, 0.0, 5), "−0.50 (−0.60 to −0.40)"),
        (PowerLaw(1.0, 0.9952, 1.0048, 0.0, 250), "1.000 (0.995 to 1.005)"),
        (PowerLaw(1.5, 1.5, 1.5, 0.0, 4), "1.50 (1.50 to 1.50)"),
    ],
)
def test_laws_in_words(law: PowerLaw, text: str) -> None:
    assert str(law) == text
