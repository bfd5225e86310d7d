"""Rank correlations within groups, against SciPy, all permutations, and what is known under chance."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from qrt_tn.models.moe.ridgelets.rank import rank_correlation


def test_each_group_is_what_scipy_finds_with_ties_and_infinities() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(4, size=(2, 5, 7)).astype(float)
    x[0, 2], y[1, 3] = -np.inf, np.inf
    found = rank_correlation(x, y, resamples=10)
    rhos = [spearmanr(*rows).statistic for rows in zip(x, y, strict=True)]
    taus = [kendalltau(*rows).statistic for rows in zip(x, y, strict=True)]
    np.testing.assert_allclose(np.array(found.each, dtype=float).T, [rhos, taus], atol=1e-12)
    assert found.spearman == pytest.approx(np.mean(rhos))
    assert (found.kendall, found.groups, found.members) == (pytest.approx(np.mean(taus)), 5, 7)


def test_groups_of_one_value_are_undefined_and_left_out() -> None:
    x = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [-np.inf] * 3])
    y = np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    found = rank_correlation(x, y, resamples=50)
    assert found.each[1:] == ((None, None), (None, None))
    assert (found.groups, found.spearman) == (1, pytest.approx(0.5))
    nothing = rank_correlation(x[1:], y[1:], resamples=50)
    assert (nothing.spearman, nothing.kendall, nothing.low, nothing.high, nothing.p_value) == (None,) * 5
    assert (nothing.groups, nothing.members) == (0, 3)


@pytest.mark.parametrize("same_members", [False, True])
def test_p_value_is_the_share_among_all_permutations(same_members: bool) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 2, 4))
    y += x
    found = rank_correlation(x, y, same_members=same_members, resamples=10_000, seed=1)
    one, other = (
        [spearmanr(a, b[list(order)]).statistic for order in permutations(range(4))]
        for a, b in zip(x, y, strict=True)
    )
    means = (np.array(one) if same_members else np.array(one)[:, None]) / 2 + np.array(other) / 2
    exact = np.mean(np.abs(means) >= abs(found.spearman) - 1e-12)
    assert 0.02 < exact < 0.98
    assert found.p_value == pytest.approx(exact, abs=0.015)


def test_the_same_members_in_all_groups_are_no_more_evidence_than_one_group() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 1, 6))
    one = rank_correlation(x, y, resamples=4000, seed=0)
    copies = np.repeat(x, 8, axis=0), np.repeat(y, 8, axis=0)
    same = rank_correlation(*copies, same_members=True, resamples=4000, seed=1)
    apart = rank_correlation(*copies, resamples=4000, seed=2)
    for found in (one, same, apart):
        assert found.spearman == pytest.approx(one.spearman)
    p_values, ends = (
        np.array([pick(found) for found in (one, same, apart)], dtype=float)
        for pick in (lambda found: found.p_value, lambda found: (found.low, found.high))
    )
    widths = np.diff(ends).reshape(-1)
    assert p_values[1] == pytest.approx(p_values[0], abs=0.03)
    assert p_values[2] < p_values[0] / 5
    assert widths[1] == pytest.approx(widths[0], abs=0.1)
    assert widths[2] < widths[0] / 2


def test_band_and_p_value_hold_what_they_promise() -> None:
    rng = np.random.default_rng(4)
    inside, small, runs = 0, 0, 80
    for seed in range(runs):
        x, y = rng.normal(size=(2, 4, 8))
        found = rank_correlation(x, y, resamples=200, seed=seed)
        inside += found.low <= 0 <= found.high
        small += found.p_value <= 0.25
    assert inside >= 0.93 * runs  # a bootstrap of the four groups alone has 0.8
    assert 0.12 * runs <= small <= 0.38 * runs


def test_agreement_is_found_and_repeatable() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4, 8))
    y = np.exp(x) + 7 * np.arange(4)[:, None]  # monotone in each group; no order between groups counts
    found = rank_correlation(x, y, seed=3)
    assert found.spearman == pytest.approx(1)
    assert found.low == pytest.approx(1)
    assert found.p_value == pytest.approx(1 / 2001)
    assert rank_correlation(x, y, seed=3) == found
    assert rank_correlation(x, -y, seed=3).spearman == pytest.approx(-1)


@pytest.mark.parametrize(
    ("x", "y", "resamples", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), 9, r"\(2, 3\)"),
        (np.zeros(3), np.zeros(3), 9, r"\(3,\)"),
        (np.zeros((2, 1)), np.zeros((2, 1)), 9, "two members"),
        (np.array([[1.0, np.nan]]), np.zeros((1, 2)), 9, "NaN"),
        (np.zeros((2, 3)), np.zeros((2, 3)), 0, "resamples is 0"),
    ],
)
def test_bad_input(x: np.ndarray, y: np.ndarray, resamples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_correlation(x, y, resamples=resamples)
