"""The estimated error against the error that dense sums or a Gram sweep know."""

import numpy as np
import pytest

from qrt_tn import states
from qrt_tn.states.filters import checked_filter
from qrt_tn.states.smoothing import estimated_error
from qrt_tn.states.smoothing.error import point_sums


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_sums_over_the_points(dtype, monkeypatch):
    monkeypatch.setattr("qrt_tn.states.smoothing.error.BLOCK", 100)
    rng = np.random.default_rng(0)
    points = rng.integers(31, size=(50, 4)).astype(np.uint8)
    values = rng.normal(size=(50, 2)).astype(dtype)
    u = rng.integers(31, size=(9, 4))
    exact = np.exp(-2j * np.pi * (u @ points.T.astype(int)) / 31) @ values
    assert np.abs(point_sums(points, values, u, 31) - exact).max() < (1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize(("modulus", "dim"), [(65537, 30), (2**20 - 3, 2**15)])
def test_sums_of_large_integers_stay_exact(modulus, dim):
    x, u = modulus - 1, modulus // 2
    exact = np.exp(-2j * np.pi * (u * x * dim % modulus) / modulus)
    found = point_sums(np.full((1, dim), x), np.ones((1, 1)), np.full((1, dim), u), modulus)
    assert abs(found[0, 0] - exact) < 1e-9


@pytest.mark.parametrize(("modulus", "dim", "width"), [(7, 4, 1.4), (127, 30, 0.6), (31, 3, 4.0)])
@pytest.mark.parametrize("vector", [False, True])
def test_estimates_scatter_about_the_true_error_as_they_say(modulus, dim, width, vector):
    rng = np.random.default_rng(1)
    points = np.unique(rng.integers(min(17, modulus), size=(80, dim)), axis=0)
    values = rng.normal(size=(len(points), 3 if vector else 1))
    given = values if vector else values[:, 0]
    held = states.from_samples(points, given, modulus, smoothing=width, tolerance=1e-3, max_bond=4)
    true = held.truncation_error  # of the Gram sweep: exact
    assert true > 0.02
    product = checked_filter(width, dim, modulus)
    found = [estimated_error(held, points, values, product, samples=600, seed=seed) for seed in range(60)]
    z = np.array([(each.error - true) / each.std for each in found])
    assert all(each.bound == each.error + 2 * each.std for each in found)
    assert np.abs(z).max() < 4.5
    assert 0.55 < np.mean(z**2) < 1.6  # chi-square of 60: 0.55 to 1.6 is 3 standard deviations
    assert abs(np.mean(z)) < 0.6
    assert np.mean([each.std for each in found]) < 0.12 * true


def test_a_wrong_norm_is_an_error_too():
    rng = np.random.default_rng(2)
    points, values = np.unique(rng.integers(7, size=(30, 3)), axis=0), None
    values = rng.normal(size=(len(points), 1))
    held = states.from_samples(points, values[:, 0], 7, smoothing=1.5, tolerance=1e-6)
    product = checked_filter(1.5, 3, 7)
    assert estimated_error(held, points, values, product).error < 1e-5
    held.log_norm += np.log(1.5)
    found = estimated_error(held, points, values, product, samples=6000)
    assert abs(found.error - 0.5) < max(4 * found.std, 1e-6)


def test_frequencies_that_the_state_does_not_keep_count():
    rng = np.random.default_rng(3)
    points = np.unique(rng.integers(31, size=(60, 2)), axis=0)
    values = rng.normal(size=(len(points), 1))
    narrow = np.zeros((1, 31))
    narrow[0, [0, 1, 2, 29, 30]] = np.exp(-(np.array([0, 1, 2, 2, 1]) ** 2) / (2 * 3.0**2))
    held = states.from_samples(points, values[:, 0], 31, smoothing=narrow, tolerance=1e-6)
    whole = states.from_samples(points, values[:, 0], 31, smoothing=3.0, tolerance=1e-6)
    true = np.sqrt(1 - np.exp(2 * (held.log_norm - whole.log_norm)))
    found = estimated_error(held, points, values, checked_filter(3.0, 2, 31), samples=6000)
    assert abs(found.error - true) < 4 * found.std < 0.2 * true
