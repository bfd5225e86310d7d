import numpy as np
import pytest

from qrt_tn import products
from qrt_tn.products import ModularProduct, reduced


def exact(u, points, modulus):
    return np.array([[sum(map(int.__mul__, x, y)) % modulus for y in u.tolist()] for x in points.tolist()])


@pytest.mark.parametrize("modulus", [2, 3, 5, 31, 127, 257, 4093, 65537, 1048573])
def test_products_are_exact(modulus):
    rng = np.random.default_rng(modulus)
    points, u = rng.integers(modulus, size=(40, 300)), rng.integers(modulus, size=(30, 300))
    product = ModularProduct(modulus, 300)
    residues = product.residues(points, product.factors(u))
    assert (residues == exact(u, points, modulus)).all()
    small = np.empty((40, 30), dtype=np.min_scalar_type(modulus - 1))
    product.residues(points.astype(small.dtype), product.factors(u), out=small)
    assert (small == residues).all()


def test_the_worst_case_in_single_precision():
    # every product at its largest: 784 * 128^2 is below 2^24, 1025 * 128^2 above, so in two pieces
    for dim, span in ((784, 784), (1025, 513)):
        points = np.full((3, dim), 256)  # 128 from the middle
        u = np.full((2, dim), 128)
        product = ModularProduct(257, dim)
        assert product.dtype == np.float32
        assert product.span == span
        assert (product.residues(points, product.factors(u)) == (dim * 256 * 128) % 257).all()
        u[1] = 129  # the centred representative is -128
        assert (product.residues(points, product.factors(u))[:, 1] == (dim * 256 * 129) % 257).all()


@pytest.mark.parametrize(("modulus", "dim"), [(127, 9_000), (257, 3_000), (1021, 100), (8191, 80)])
@pytest.mark.parametrize("end", [0, 1])
def test_pieces_stay_below_the_bound(modulus, dim, end):
    """Factors at their largest everywhere, of either sign, against Python's integers."""
    product = ModularProduct(modulus, dim)
    largest = modulus // 2
    reach = modulus - 1 - (modulus - 1) // 2
    limit = 2**24 if product.dtype == np.float32 else 2**53
    assert product.span * largest * reach + 2 * modulus < limit
    points = np.full((2, dim), end * (modulus - 1), dtype=np.uint16)
    u = np.array([np.full(dim, largest), np.full(dim, largest + 1)])
    assert (product.residues(points, product.factors(u)) == exact(u, points, modulus)).all()


def test_few_levels_need_no_pieces():
    points = np.random.default_rng(0).integers(40, 57, size=(5, 10_000))
    u = np.random.default_rng(1).integers(127, size=(4, 10_000))
    product = ModularProduct(127, 10_000, 40, 56)
    assert product.dtype == np.float32
    assert product.span == 10_000
    assert ModularProduct(127, 10_000).span < 5_000
    assert (product.residues(points, product.factors(u)) == exact(u, points, 127)).all()


def test_blocks_of_any_size(monkeypatch):
    rng = np.random.default_rng(0)
    points, u = rng.integers(127, size=(50, 9_000)), rng.integers(127, size=(7, 9_000))
    product = ModularProduct(127, 9_000)
    factors = product.factors(u)
    whole = product.residues(points, factors)
    monkeypatch.setattr(products, "_CACHED", 20)
    assert (product.residues(points, factors) == whole).all()
    assert (product.residues(points[13:14], factors) == whole[13:14]).all()


def test_on_a_device(device):
    rng = np.random.default_rng(0)
    points, u = rng.integers(127, size=(20, 9_000)), rng.integers(127, size=(7, 9_000))
    product = ModularProduct(127, 9_000)
    there = product.residues(device.asarray(points), product.factors(u, device))
    assert (there.get() == product.residues(points, product.factors(u))).all()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_reduced(dtype):
    values = np.array([-(2**30), -258, -257, -1, 0, 1, 256, 257, 2**30], dtype=dtype)
    assert (reduced(values, 257) == values % 257).all()


def test_too_large_for_exact_sums():
    with pytest.raises(ValueError, match="products at P = 2147483647 exceed 2\\^53; use a smaller"):
        ModularProduct(2147483647, 10)
