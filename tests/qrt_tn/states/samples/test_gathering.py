import numpy as np
import pytest

from qrt_tn.states.samples.gathering import Runs, binned, squares

STARTS = np.array([0, 1, 4, 5, 19])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("weighted", [False, True])
def test_runs_are_summed(dtype, weighted, device):
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(30, 6)).astype(dtype)
    if terms.dtype.kind == "c":
        terms = terms + 1j * rng.normal(size=terms.shape).astype(terms.real.dtype)
    weights = rng.normal(size=30) if weighted else None
    factors = np.ones(30) if weights is None else weights
    parts = np.split(terms * factors[:, None], STARTS[1:])
    expected = np.array([part.sum(axis=0) for part in parts])
    real = terms.real.dtype
    here = Runs(STARTS, 30, weights, real).sums(terms)
    there = Runs(STARTS, 30, weights, real, device).sums(device.asarray(terms)).get()
    tolerance = 1e-5 if real == np.float32 else 1e-12
    assert here.dtype == there.dtype == dtype
    assert np.abs(here - expected).max() < tolerance
    assert np.abs(there - expected).max() < tolerance


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_bins(dtype):
    rng = np.random.default_rng(0)
    keys, values = rng.integers(5, size=(4, 9)), rng.normal(size=(4, 9)).astype(dtype)
    found = binned(keys, values, 7)
    assert found.dtype == dtype
    assert np.allclose(found, [values[keys == k].sum() for k in range(7)], atol=1e-5)


def test_squares():
    values = np.array([3 + 4j, -2.0])
    assert squares(values).tolist() == [25.0, 4.0]
    assert squares(values.real).tolist() == [9.0, 4.0]
