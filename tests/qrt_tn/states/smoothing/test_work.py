"""The predicted cost of building against what is measured."""

import tracemalloc

import numpy as np
import pytest

from qrt_tn.states.smoothing import smoothed_state, smoothing_work


@pytest.mark.parametrize(("count", "dim", "bond"), [(8000, 40, 64), (2100, 120, 64), (3000, 60, 128)])
def test_memory_is_within_a_factor_of_two(count, dim, bond):
    rng = np.random.default_rng(0)
    points = rng.integers(17, size=(count, dim)).astype(np.uint8)
    values = rng.normal(size=(count, 1)).astype(np.float32)
    options = {"smoothing": 0.6, "tolerance": 0.5, "max_bond": bond // 2}
    tracemalloc.start()
    state = smoothed_state(points, values, 127, False, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert state.sketch_bond == bond
    work = smoothing_work(count, dim, 1, bond, kept=len(state.supports[0]))
    assert 0.5 < work.memory / peak < 2
    assert work.dtype == "float32"


def test_linear_in_points_and_dimension():
    base = smoothing_work(50_000, 1000, 10, 64)
    more = smoothing_work(100_000, 1000, 10, 64)
    longer = smoothing_work(50_000, 4000, 10, 64)
    assert 1.5 < more.products / base.products < 2.05
    assert np.isclose(longer.products / base.products, 4, rtol=0.01)
    assert longer.memory < 4.01 * base.memory


def test_precision_and_road():
    single, double = (smoothing_work(10_000, 100, 1, 64, single=flag) for flag in (True, False))
    assert (single.dtype, double.dtype) == ("float32", "float64")
    assert double.memory > 1.5 * single.memory
    assert smoothing_work(10_000, 100, 1, 64, complex_values=True).dtype == "complex64"
    few = smoothing_work(1000, 64, 10, 40)
    assert few.dtype == "float64"
    assert few.products < single.products
