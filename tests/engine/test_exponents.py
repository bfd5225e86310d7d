import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from qrt_tn.engine.exponents import add, least, on_host, peaks, powers, real_bytes, scaled


def exact(mantissa, exponent):
    """The values as fractions."""
    spread = np.broadcast_to(exponent, mantissa.shape)
    units = (Fraction(2) ** int(e) for e in spread.ravel())
    return [Fraction(float(m)) * unit for m, unit in zip(mantissa.ravel(), units, strict=True)]


def test_peaks_and_least_parts(device):
    assert [real_bytes(name) for name in ("float32", "complex64", "float64", "complex128")] == [4, 4, 8, 8]
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(3, 4, 5)) + 1j * rng.normal(size=(3, 4, 5))
    whole[rng.random(whole.shape) < 0.2] = 0
    whole[:, 2] = 0
    for dtype, axes in itertools.product(
        ("float32", "float64", "complex64", "complex128"), ((), (0,), (1, 2), (0, 1, 2))
    ):
        array = (whole if np.dtype(dtype).kind == "c" else whole.real).astype(dtype)
        for given in (array, np.asfortranarray(array), array[::-1]):
            parts = np.abs(np.stack([given.real, given.imag]))
            largest = parts.max(axis=0).max(axis=axes)
            smallest = np.where(parts == 0, np.inf, parts).min(axis=0).min(axis=axes)
            for xp, taken in ((np, given), (device, device.asarray(given))):
                found, small = peaks(taken, axes, xp), least(taken, axes, xp)
                assert found.dtype == array.real.dtype
                assert np.array_equal(found if xp is np else found.get(), largest)
                assert np.array_equal(small if xp is np else small.get(), smallest)
    assert peaks(np.asarray(1 - 4j), (), np) == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_bring_peaks_to_one_and_round_nothing(dtype):
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    ends = [0, info.smallest_subnormal, info.tiny, info.max / 4, info.max]
    peak = np.array([*ends, 1, 0.5, 2, 3, *np.exp(rng.normal(size=50) * 20)], dtype=dtype)
    factor, exponent = powers(peak, np)
    assert factor.dtype == dtype
    assert (np.frexp(factor)[0] == 0.5).all()
    made = peak * factor
    assert made[0] == exponent[0] == 0
    assert 0 < made[1] < 1  # as near as one power brings it
    assert 1 <= made[4] < 4
    others = np.delete(made, [0, 1, 4])
    assert ((others >= 0.5) & (others < 1)).all()
    assert exact(made, exponent) == exact(peak, 0)
    # no smallest number becomes less than normal
    small = (peak * np.exp(-rng.uniform(0, 80, size=peak.size))).astype(dtype)
    small[small == 0] = np.inf
    factor, exponent = powers(peak, np, small)
    assert exact(peak * factor, exponent) == exact(peak, 0)
    normal = np.isfinite(small) & (small >= info.tiny)
    assert (small[normal] * factor[normal] >= info.tiny).all()


def test_sums_are_right_to_rounding(device):
    """However far from 1 the mantissas are; on the host entry by entry, and so wherever no entry is lost."""
    for dtype, seed in itertools.product((np.float32, np.float64), range(40)):
        rng = np.random.default_rng(seed)
        digits = 100 if dtype == np.float32 else 900
        parts = []
        for _ in range(2):
            low = -digits if seed % 2 else np.finfo(dtype).minexp - 20  # denormal numbers
            mantissa = np.ldexp(rng.normal(size=(4, 3)), rng.integers(low, digits // 2, size=(4, 1)))
            mantissa[rng.random((4, 3)) < 0.2] = 0
            mantissa[rng.integers(4)] *= rng.random() < 0.5
            shape = ((), (4, 1), (1, 3), (4, 3))[rng.integers(4)]
            parts.append((mantissa.astype(dtype), rng.integers(-3 * digits, 3 * digits, size=shape)))
        if seed % 3 == 0:  # nearly one scale, where both count
            tops = [np.frexp(np.abs(mantissa).max(axis=1, keepdims=True))[1] for mantissa, _ in parts]
            parts = [(mantissa, 7 - top) for (mantissa, _), top in zip(parts, tops, strict=True)]
        total = add(*parts)
        assert total[0].dtype == dtype
        assert np.broadcast_shapes(total[1].shape, (4, 3)) == (4, 3)
        for got, ours, theirs in zip(*(exact(*part) for part in (total, *parts)), strict=True):
            size = abs(ours) + abs(theirs)
            assert abs(got - (ours + theirs)) <= 2 * Fraction(float(np.finfo(dtype).eps)) * size
        there = add(*(tuple(map(device.asarray, part)) for part in parts))
        assert all(isinstance(half, device.ndarray) for half in there)
        assert exact(*on_host(there)) == exact(*total)


def test_a_zero_has_no_scale():
    one, zero = np.array([1.5]), np.array([0.0])
    for left, right in (((one, -3000), (zero, 900)), ((zero, 900), (one, -3000))):
        mantissa, exponent = add(tuple(map(np.asarray, left)), tuple(map(np.asarray, right)))
        assert exact(mantissa, exponent) == [Fraction(3, 2) / 2**3000]
    mantissa, exponent = add((zero, np.asarray(7)), (zero, np.asarray(-5)))
    assert mantissa == exponent == 0


def test_exponents_become_natural_logarithms():
    found = scaled((np.array([[0.5, -0.25]]), np.array([[4000]])))
    assert found.log_scale.dtype == np.float64
    assert np.allclose(found.log_abs(), [[3999 * math.log(2), 3998 * math.log(2)]], rtol=1e-15)
    assert on_host((np.ones(2), 3))[1] == 3
