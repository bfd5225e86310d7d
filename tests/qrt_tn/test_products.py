import numpy as np
import pytest

from qrt_tn.products import ModularProduct


@pytest.mark.parametrize("modulus", [2, 3, 5, 31, 127, 257, 65537, 1048573])
def test_products_are_exact(modulus):
    rng = np.random.default_rng(modulus)
    points, u = rng.integers(modulus, size=(40, 300)), rng.integers(modulus, size=(30, 300))
    product = ModularProduct(points, modulus)
    exact = np.array([[sum(int(a) * int(b) for a, b in zip(x, y, strict=True)) for x in points] for y in u])
    reduced = product.reduce(product.sums(u))
    assert reduced.min() >= -modulus
    assert reduced.max() < modulus
    assert (reduced % modulus == exact % modulus).all()
    # any index wraps right into a table of length P
    assert (np.arange(modulus)[reduced] == exact % modulus).all()


def test_the_worst_case_in_single_precision():
    # every product at its largest: 784 * 128^2 is below 2^24, 1025 * 128^2 above
    for dim, dtype in ((784, np.float32), (1025, np.float64)):
        points = np.full((3, dim), 128)
        product = ModularProduct(points, 257)
        assert product.dtype == dtype
        assert (product.sums(points) == dim * 128**2).all()
        assert (product.reduce(product.sums(points)) % 257 == (dim * 128**2) % 257).all()


@pytest.mark.parametrize("modulus", [2, 5, 127])
def test_coordinates_apart_add_up(modulus):
    rng = np.random.default_rng(1)
    points, u = rng.integers(modulus, size=(9, 7)), rng.integers(modulus, size=(4, 7))
    product = ModularProduct(points, modulus)
    sums = product.sums(u[:, :5], slice(0, 5))
    for coordinate in (5, 6):
        sums = sums + product.step(u[:, coordinate], coordinate)
    assert (product.reduce(sums) % modulus == (u @ points.T) % modulus).all()


def test_too_large_for_exact_sums():
    with pytest.raises(ValueError, match="D = 40000 at P = 1048573 exceed"):
        ModularProduct(np.zeros((1, 40000), dtype=int), 1048573)
