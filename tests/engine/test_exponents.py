import math
from fractions import Fraction

import numpy as np
import pytest

from qrt_tn.engine.exponents import add, on_host, peaks, powers, real_bytes, scaled


def exact(mantissa, exponent):
    """The values as fractions."""
    spread = np.broadcast_to(exponent, mantissa.shape)
    return [
        Fraction(float(m)) * Fraction(2) ** int(e)
        for m, e in zip(mantissa.ravel(), spread.ravel(), strict=True)
    ]


def test_bytes_of_the_real_type():
    sizes = {"float32": 4, "complex64": 4, "float64": 8, "complex128": 8}
    assert {name: real_bytes(name) for name in sizes} == sizes


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_peaks(dtype, axes, device):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(3, 4, 5)) + 1j * rng.normal(size=(3, 4, 5))
    array = (array if np.dtype(dtype).kind == "c" else array.real).astype(dtype)
    for given in (array, np.asfortranarray(array), array[::-1]):
        wanted = np.maximum(np.abs(given.real), np.abs(given.imag)).max(axis=axes)
        found = peaks(given, axes, np)
        assert np.array_equal(found, wanted)
        assert found.dtype == array.real.dtype
        assert np.array_equal(peaks(device.asarray(given), axes, device).get(), wanted)


def test_peaks_of_scalars():
    assert peaks(np.asarray(-3.0), (), np) == 3
    assert peaks(np.asarray(1 - 4j), (), np) == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_bring_peaks_to_one(dtype):
    least, most = np.finfo(dtype).tiny, np.finfo(dtype).max
    rng = np.random.default_rng(0)
    peak = np.array([0, 1, 0.5, 2, 3, least, most / 4, *np.exp(rng.normal(size=50) * 20)], dtype=dtype)
    factor, exponent = powers(peak, np)
    assert factor.dtype == dtype
    assert exponent.dtype.kind == "i"
    made = peak * factor
    assert made[0] == exponent[0] == 0
    assert ((made[1:] >= 0.5) & (made[1:] < 1)).all()
    # nothing is rounded
    assert exact(made, exponent) == exact(peak, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_at_the_ends_of_the_range(dtype):
    info = np.finfo(dtype)
    peak = np.array([info.smallest_subnormal, info.tiny, info.max], dtype=dtype)
    factor, exponent = powers(peak, np)
    assert (np.frexp(factor)[0] == 0.5).all()
    assert 0 < (peak * factor)[0] < 1
    assert 0.5 <= (peak * factor)[1] < 1
    assert 1 <= (peak * factor)[2] < 4
    assert exact(peak * factor, exponent) == exact(peak, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(20))
def test_sums_are_right_to_rounding(dtype, seed):
    """However far from 1 the mantissas are, and whichever of the two is larger."""
    rng = np.random.default_rng(seed)
    digits = 100 if dtype == np.float32 else 900
    parts = []
    for _ in range(2):
        mantissa = np.ldexp(rng.normal(size=(4, 3)), rng.integers(-digits, digits // 2, size=(4, 1)))
        mantissa[rng.random((4, 3)) < 0.1] = 0
        mantissa[rng.integers(4)] *= rng.random() < 0.5
        parts.append((mantissa.astype(dtype), rng.integers(-3 * digits, 3 * digits, size=(4, 1))))
    if seed % 3 == 0:  # nearly one scale, where both count
        peaks_ = [np.frexp(np.abs(part[0]).max(axis=1, keepdims=True))[1] for part in parts]
        parts = [(part[0], 7 - peak) for part, peak in zip(parts, peaks_, strict=True)]
    total = add(*parts)
    assert total[0].dtype == dtype
    assert total[1].shape == (4, 1)
    ours, theirs = (np.reshape(np.array(exact(*part), dtype=object), (4, 3)) for part in parts)
    got = np.reshape(np.array(exact(*total), dtype=object), (4, 3))
    for row in range(4):
        peak = max(abs(value) for value in (*ours[row], *theirs[row]))
        for column in range(3):
            wanted = ours[row, column] + theirs[row, column]
            assert abs(got[row, column] - wanted) <= 2 * Fraction(float(np.finfo(dtype).eps)) * peak


def test_a_zero_has_no_scale():
    one, zero = np.array([1.5]), np.array([0.0])
    for left, right in (((one, -3000), (zero, 900)), ((zero, 900), (one, -3000))):
        mantissa, exponent = add(tuple(map(np.asarray, left)), tuple(map(np.asarray, right)))
        assert exact(mantissa, exponent) == [Fraction(3, 2) / 2**3000]
    mantissa, exponent = add((zero, np.asarray(7)), (zero, np.asarray(-5)))
    assert mantissa == 0
    assert exponent == 0


def test_sums_on_the_device(device):
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(4, 3)) * (1 + 2j), rng.integers(-5000, 5000, size=(4, 1))) for _ in range(2)]
    host = add(*parts)
    there = add(*((device.asarray(m), device.asarray(e)) for m, e in parts))
    assert all(isinstance(half, device.ndarray) for half in there)
    for ours, theirs in zip(on_host(there), host, strict=True):
        assert np.array_equal(ours, theirs)


def test_exponents_become_natural_logarithms():
    found = scaled((np.array([[0.5, -0.25]]), np.array([[4000]])))
    assert found.log_scale.dtype == np.float64
    assert np.allclose(found.log_abs(), [[3999 * math.log(2), 3998 * math.log(2)]], rtol=1e-15)
    assert on_host((np.ones(2), 3))[1] == 3
