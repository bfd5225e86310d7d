import numpy as np
import pytest

from qrt_tn.states.samples.gathering import binned, run_sums, squares


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
