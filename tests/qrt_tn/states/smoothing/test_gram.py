"""The Gram sweep's parts: sketched density matrices, and prefix products from last to first."""

import weakref

import numpy as np
import pytest

from qrt_tn import states
from qrt_tn.states.smoothing import gram

ALIVE = weakref.WeakSet()


class Product:
    """A list of factors that counts itself."""

    def __init__(self, factors):
        self.factors = factors
        ALIVE.add(self)


@pytest.mark.parametrize("levels", [2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 50, 129])
def test_every_prefix_at_a_known_cost(count, levels):
    calls = []

    def factor(number):
        return lambda product: calls.append(number) or Product([*product.factors, number])

    most, found = 0, []
    for product in gram.backwards(Product([]), [factor(i) for i in range(count)], levels):
        found.append(product.factors)
        most = max(most, len(ALIVE))
    assert found == [list(range(i)) for i in range(count - 1, -1, -1)]
    assert max(np.bincount(calls, minlength=1)) <= levels
    assert most <= gram.products_held(count, levels) + 1  # the start is the caller's


def test_more_levels_where_memory_is_short():
    assert gram.fitting_levels(10_000, 1, 1e6) == 2
    for budget in (150, 70, 50):
        levels = gram.fitting_levels(10_000, 1, budget)
        assert gram.products_held(10_000, levels) <= budget < gram.products_held(10_000, levels - 1)
    assert gram.fitting_levels(10_000, 1, 1) == 6


@pytest.mark.parametrize("max_bond", [None, 12])
@pytest.mark.parametrize("complex_values", [False, True])
def test_sketched_density_matrices_lose_hardly_more(complex_values, max_bond, monkeypatch):
    rng = np.random.default_rng(3)
    points, values = rng.integers(5, size=(70, 4)), rng.normal(size=(70, 2))
    values = values + 1j * rng.normal(size=(70, 2)) if complex_values else values
    options = {"smoothing": 1.2, "tolerance": 1e-2, "max_bond": max_bond}
    dense = states.from_samples(points, values, 5, **options)
    monkeypatch.setattr(gram, "_DENSE", 8)
    monkeypatch.setattr(gram, "_SKETCH", 10)
    monkeypatch.setattr(gram.np.linalg, "qr", qr := Counted(np.linalg.qr))
    sketched = states.from_samples(points, values, 5, **options)
    assert qr.calls > 0
    u = rng.integers(5, size=(400, 4))
    apart = dense.spectrum(u).value() - sketched.spectrum(u).value()
    scale = np.linalg.norm(dense.spectrum(u).value())
    most = dense.truncation_error + sketched.truncation_error
    assert np.linalg.norm(apart) < 1.5 * most * scale
    if max_bond is None:
        assert sketched.truncation_error <= 1e-2
        assert max(sketched.bond_dimensions) <= 1.5 * max(dense.bond_dimensions)
    else:
        assert max(sketched.bond_dimensions) <= max_bond
        assert sketched.truncation_error <= 1.3 * dense.truncation_error


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)
