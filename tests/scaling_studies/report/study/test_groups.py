import numpy as np
import pytest

from qrt_tn.studies.report.study.groups import combined, mixes, spread


@pytest.mark.parametrize("seed", range(5))
def test_spreads_are_numpys_quantiles_of_each_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 12, 200)
    values = np.where(rng.random(200) < 0.2, np.nan, rng.normal(size=200))
    values[groups == 3] = np.nan  # a group without any value
    found = spread(groups, values)
    assert found.groups.tolist() == [group for group in range(12) if group != 3]
    for place, group in enumerate(found.groups):
        here = values[(groups == group) & ~np.isnan(values)]
        assert found.counts[place] == len(here)
        for share, part in zip(
            (0, 0.25, 0.5, 0.75, 1),
            (found.least, found.quarter, found.median, found.three_quarters, found.greatest),
            strict=True,
        ):
            assert part[place] == pytest.approx(np.quantile(here, share), rel=1e-14)


def test_the_median_of_two_equal_values_is_that_value_to_the_bit() -> None:
    assert spread(np.zeros(2, dtype=int), np.array([0.1, 0.1])).median[0] == 0.1


def test_no_values_make_no_groups() -> None:
    found = spread(np.array([0, 1]), np.array([np.nan, np.nan]))
    assert len(found.groups) == len(found.median) == 0


@pytest.mark.parametrize("seed", range(5))
def test_combinations_are_numbered_in_lexicographic_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, size, 60) for size in (3, 1, 4)]
    groups, firsts = combined(parts, 60)
    rows = list(zip(*(part.tolist() for part in parts), strict=True))
    order = sorted(set(rows))
    assert groups.tolist() == [order.index(row) for row in rows]
    assert firsts.tolist() == [rows.index(row) for row in order]


def test_codes_of_many_large_axes_do_not_overflow() -> None:
    parts = [np.array([0, 2**31 - 1, 2**31 - 1])] * 8
    assert combined(parts, 3)[0].tolist() == [0, 1, 1]


def test_no_codes_make_one_group() -> None:
    groups, firsts = combined([], 4)
    assert groups.tolist() == [0, 0, 0, 0]
    assert firsts.tolist() == [0]


def test_mixing_is_seen_within_groups_only() -> None:
    groups = np.array([0, 0, 1, 1])
    assert not mixes(groups, np.array([5, 5, 7, 7]))
    assert mixes(groups, np.array([5, 5, 7, 8]))
