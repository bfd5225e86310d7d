"""The compiled passes against plain sums."""

import numpy as np
import pytest

from qrt_tn.field import roots_of_unity
from qrt_tn.states.samples.sums import ALL, Columns, binned, histograms, phase_sums, run_sums, squares


def made(rng, modulus, count, width, tails, classes, dtype):
    small = np.min_scalar_type(modulus - 1)
    columns = Columns(
        rng.integers(modulus, size=(count, width)).astype(small),
        rng.integers(modulus, size=(count, 3)).astype(small),
        rng.integers(modulus, size=(tails, width)).astype(np.float32 if modulus < 1000 else np.float64),
        rng.normal(size=(count, classes)).astype(dtype),
        rng.integers(classes, size=width),
    )
    keys = columns.residues.astype(object) + columns.hashes[:, :tails].astype(object) @ columns.tail.astype(
        int
    ).astype(object)
    return columns, (keys % modulus).astype(int), columns.coefficients[:, columns.classes].astype(float)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("tails", [0, 3])
@pytest.mark.parametrize("modulus", [2, 257, 1048573])
def test_against_plain_sums(modulus, tails, classes, dtype):
    rng = np.random.default_rng(modulus + tails)
    columns, keys, weights = made(rng, modulus, 50, 9, tails, classes, dtype)
    table = roots_of_unity(modulus).conj().astype(np.result_type(dtype, np.complex64))
    terms = weights * np.exp(-2j * np.pi * keys / modulus)
    close = {"atol": 1e-4 if dtype == np.float32 else 1e-10}
    ends = np.array([0, 1, 20, 49, 50])
    found = phase_sums(columns, table, ALL, ends)
    assert found.dtype == table.dtype
    assert np.allclose(found, np.add.reduceat(terms, ends[:-1]), **close)
    places = np.array([3, 4, 10, 44, 49])
    some = phase_sums(columns, table, places, np.array([0, 2, 5]))
    assert np.allclose(some, np.add.reduceat(terms[places], [0, 2]), **close)
    if modulus < 1000:
        expected = np.zeros((9, modulus))
        for row, weight in zip(keys, weights, strict=True):
            expected[np.arange(9), row] += weight
        assert np.allclose(histograms(columns, modulus), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_sums_by_run_and_by_key(dtype, device):
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(30, 6)).astype(dtype)
    if terms.dtype.kind == "c":
        terms *= np.exp(1j * rng.normal(size=terms.shape)).astype(dtype)
    ends = np.array([0, 1, 4, 5, 19, 30])
    expected = np.add.reduceat(terms, ends[:-1])
    for found in (run_sums(terms, ends), run_sums(device.asarray(terms), ends).get()):
        assert found.dtype == dtype
        assert np.allclose(found, expected, atol=1e-5)
    keys = rng.integers(5, size=terms.shape)
    found = binned(keys, terms, 7)
    assert found.dtype == dtype
    assert np.allclose(found, [terms[keys == k].sum() for k in range(7)], atol=1e-5)
    assert np.allclose(squares(terms), np.abs(terms) ** 2, rtol=1e-5)
