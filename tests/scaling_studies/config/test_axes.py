import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrt_tn.studies.config.axes import axis_values

TENTHS = st.integers(-50, 50)


def test_a_list_is_taken_as_it_stands() -> None:
    assert axis_values("axes.number", [3, 1, 2], whole=True) == [3, 1, 2]
    assert axis_values("axes.label", ["b", "a"], whole=False) == ["b", "a"]


@given(first=st.integers(-1000, 1000), width=st.integers(1, 500), step=st.integers(1, 40))
def test_a_range_ends_at_the_last_step_that_fits(first: int, width: int, step: int) -> None:
    found = axis_values("axes.n", {"range": [first, first + width], "step": step}, whole=True)
    assert found == np.arange(first, first + width + 1, step).tolist()


@given(first=TENTHS, count=st.integers(2, 40), step=st.integers(1, 30))
def test_decimal_steps_are_counted_as_a_reader_counts_them(first: int, count: int, step: int) -> None:
    ends = [first / 10, (first + (count - 1) * step) / 10]
    found = axis_values("axes.x", {"range": ends, "step": step / 10}, whole=False)
    np.testing.assert_allclose(found, np.linspace(*ends, count), rtol=1e-12, atol=1e-12)
    assert all(type(value) is float for value in found)
    # ids follow from values: the list [0.1, 0.3] and the range 0.1 to 0.3 in steps of 0.2 are the same points
    assert [found[0], found[-1]] == ends


@given(
    first=st.floats(-1e6, 1e6).map(lambda value: round(value, 9)),
    width=st.floats(1e-3, 1e6),
    count=st.integers(2, 60),
)
def test_a_range_in_so_many_values_is_linspace(first: float, width: float, count: int) -> None:
    found = axis_values("axes.x", {"range": [first, first + width], "count": count}, whole=False)
    np.testing.assert_allclose(found, np.linspace(first, first + width, count), rtol=1e-9, atol=1e-9)
    assert [found[0], found[-1]] == [first, first + width]


@given(first=st.floats(1e-6, 1e6), ratio=st.floats(1.01, 1e6), count=st.integers(2, 60))
def test_a_log_range_is_geomspace_with_its_ends(first: float, ratio: float, count: int) -> None:
    found = axis_values("axes.x", {"log_range": [first, first * ratio], "count": count}, whole=False)
    np.testing.assert_allclose(found, np.geomspace(first, first * ratio, count), rtol=1e-9)
    assert [found[0], found[-1]] == [first, first * ratio]


def test_a_log_range_of_a_whole_parameter_is_rounded_and_each_value_kept_once() -> None:
    found = axis_values("axes.n", {"log_range": [1, 16], "count": 9}, whole=True)
    assert found == [1, 2, 3, 4, 6, 8, 11, 16]  # 1, 1.41, 2, 2.83, ... 16
    assert all(type(value) is int for value in found)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([], "no values"),
        ([1, 2, 1], "1 twice"),
        (7, "7"),
        ("1..9", "'1..9'"),
        ({}, "range"),
        ({"range": [1, 2], "log_range": [1, 2], "count": 3}, "range"),
        ({"rang": [1, 2]}, "did you mean 'range'?"),
        ({"range": [1, 2], "steps": 1}, "did you mean 'step'?"),
        *(({"range": ends, "step": 1}, repr(ends)) for ends in ([1], [1, 2, 3], [2, 1], [1, 1])),
        *(({"range": [1, end], "step": 1}, repr(end)) for end in ("a", True, math.nan, math.inf, 1e308)),
        ({"range": [1, 9]}, "step and count"),
        ({"range": [1, 9], "step": 1, "count": 2}, "step and count"),
        *(({"range": [1, 9], "step": step}, repr(step)) for step in (0, -1, math.nan, "1")),
        *(({"range": [1, 9], "count": count}, repr(count)) for count in (1, 2.5, True)),
        ({"range": [0, 1e9], "step": 0.5}, "1,000,000"),
        ({"range": [0, 1], "step": 1e-320}, "1,000,000"),
        ({"log_range": [0, 9], "count": 3}, "[0, 9]"),
        ({"log_range": [1, 9], "step": 3}, "count"),
        ({"log_range": [1, 9]}, "count"),
    ],
)
def test_axes_that_cannot_be_are_refused_by_name(given: Any, named: str) -> None:
    with pytest.raises(ValueError, match=r"axes\.n") as refused:
        axis_values("axes.n", given, whole=False)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"range": [1, 2], "step": 0.5}, "1.5"),
        ({"range": [0.5, 2], "step": 1}, "0.5"),
        ({"range": [1, 4], "count": 3}, "2.5"),
    ],
)
def test_a_range_of_fractions_is_refused_of_a_whole_parameter(given: dict[str, Any], value: str) -> None:
    with pytest.raises(ValueError, match=rf"axes\.n has {value}, and takes whole numbers only"):
        axis_values("axes.n", given, whole=True)


def test_a_step_beyond_the_range_leaves_its_first_value() -> None:
    assert axis_values("axes.x", {"range": [0, 1], "step": 1e10}, whole=False) == [0.0]


def test_a_range_through_zero_has_zero() -> None:
    assert axis_values("axes.x", {"range": [-0.3, 0.3], "step": 0.1}, whole=False)[3] == 0.0


def test_small_values_of_wide_ranges_stay_what_they_are() -> None:
    found = axis_values("axes.x", {"log_range": [1e-10, 1e3], "count": 14}, whole=False)
    np.testing.assert_allclose(found, 10.0 ** np.arange(-10, 4), rtol=1e-11)
    assert axis_values("axes.x", {"range": [6e-9, 6000.0], "count": 2}, whole=False) == [6e-9, 6000.0]


def test_long_whole_numbers_keep_all_digits() -> None:
    first = 10**12 + 1
    found = axis_values("axes.n", {"range": [first, first + 4], "step": 1}, whole=True)
    assert found == [first + k for k in range(5)]
