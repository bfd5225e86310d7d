import numpy as np
import pytest

from qrt_tn import products
from qrt_tn.products import ModularProduct, reduced


def exact(u, points, modulus):
    """By Python's integers."""
    return (points.astype(object) @ u.astype(object).T % modulus).astype(np.int64)


@pytest.mark.parametrize("modulus", [2, 3, 31, 127, 257, 4093, 65537, 1048573])
def test_products_are_exact(modulus, device, monkeypatch):
    rng = np.random.default_rng(modulus)
    points, u = rng.integers(modulus, size=(40, 9_000)), rng.integers(modulus, size=(30, 9_000))
    product = ModularProduct(modulus, 9_000)
    expected = exact(u, points, modulus)
    factors = product.factors(u)
    assert (product.residues(points, factors) == expected).all()
    small = np.empty((40, 30), dtype=np.min_scalar_type(modulus - 1))
    product.residues(points.astype(small.dtype), factors, out=small)
    assert (small == expected).all()
    there = product.residues(device.asarray(points), product.factors(u, device))
    assert (there.get() == expected).all()
    monkeypatch.setattr(products, "_CACHED", 20)
    assert (product.residues(points[13:15], factors) == expected[13:15]).all()


@pytest.mark.parametrize(
    ("modulus", "dim", "span"),
    [(257, 784, 784), (257, 1025, 513), (127, 9_000, None), (1021, 100, None), (8191, 80, None)],
)
@pytest.mark.parametrize("end", [0, 1])
def test_pieces_stay_below_the_bound(modulus, dim, span, end):
    """Factors at their largest everywhere, of either sign."""
    product = ModularProduct(modulus, dim)
    largest, reach = modulus // 2, modulus - 1 - (modulus - 1) // 2
    limit = 2**24 if product.dtype == np.float32 else 2**53
    assert product.span * largest * reach + 2 * modulus < limit
    assert span in (None, product.span)
    points = np.full((2, dim), end * (modulus - 1), dtype=np.uint16)
    u = np.array([np.full(dim, largest), np.full(dim, largest + 1)])
    assert (product.residues(points, product.factors(u)) == exact(u, points, modulus)).all()


def test_few_levels_need_no_pieces():
    points = np.random.default_rng(0).integers(40, 57, size=(5, 10_000))
    u = np.random.default_rng(1).integers(127, size=(4, 10_000))
    product = ModularProduct(127, 10_000, 40, 56)
    assert (product.dtype, product.span) == (np.float32, 10_000)
    assert ModularProduct(127, 10_000).span < 5_000
    assert (product.residues(points, product.factors(u)) == exact(u, points, 127)).all()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_reduced(dtype):
    values = np.array([-(2**30), -258, -257, -1, 0, 1, 256, 257, 2**30], dtype=dtype)
    assert (reduced(values, 257) == values % 257).all()


def test_too_large_for_exact_sums():
    with pytest.raises(ValueError, match="2147483647"):
        ModularProduct(2147483647, 10)
