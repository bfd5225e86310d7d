"""Prefix products from last to first: what they are, what they cost and what they hold."""

import weakref

import numpy as np
import pytest

from qrt_tn.states.smoothing.gram import backwards, fitting_levels, products_held as held

ALIVE = weakref.WeakSet()


class Product:
    """A list of factors that counts itself."""

    def __init__(self, factors):
        self.factors = factors
        ALIVE.add(self)


@pytest.mark.parametrize("levels", [2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 50, 129])
def test_every_prefix_at_a_known_price(count, levels):
    calls = []

    def factor(number):
        def multiply(product):
            calls.append(number)
            return Product([*product.factors, number])

        return multiply

    most = 0
    found = []
    for product in backwards(Product([]), [factor(i) for i in range(count)], levels):
        found.append(product.factors)
        most = max(most, len(ALIVE))
    assert found == [list(range(i)) for i in range(count - 1, -1, -1)]
    assert max(np.bincount(calls, minlength=1)) <= levels
    assert most <= held(count, levels) + 1  # the start is the caller's


def test_more_levels_where_memory_is_short():
    assert fitting_levels(10_000, 1, 1e6) == 2
    for budget in (150, 70, 50):
        levels = fitting_levels(10_000, 1, budget)
        assert held(10_000, levels) <= budget < held(10_000, levels - 1)
    assert fitting_levels(10_000, 1, 1) == 6
