import math
from fractions import Fraction

import numpy as np
import pytest

from qrt_tn.engine import wide
from qrt_tn.engine.wide import NOTHING, WideArray


def draw(rng, shape, dtype=float, reach=40_000):
    """An array whose entries lie far apart, some of them zero."""
    digits = rng.normal(size=shape) + (1j * rng.normal(size=shape) if dtype is complex else 0)
    digits[rng.random(shape) < 0.2] = 0
    return WideArray.of(digits, rng.integers(-reach, reach, size=shape))


def exact(array):
    """Real and imaginary parts as fractions, entry by entry."""
    pairs = zip(array.mantissa.ravel(), array.exponent.ravel(), strict=True)
    found = np.empty((array.mantissa.size, 2), object)
    for place, (value, exponent) in enumerate(pairs):
        unit = Fraction(2) ** int(exponent) if value else 0
        found[place] = Fraction(float(value.real)) * unit, Fraction(float(value.imag)) * unit
    return found.reshape((*array.shape, 2))


def times(left, right):
    """Products of complex fractions."""
    (a, b), (c, d) = (np.moveaxis(x, -1, 0) for x in (left, right))
    return np.stack([a * c - b * d, a * d + b * c], axis=-1)


def close(got, wanted, sizes):
    return np.all(abs(exact(got) - wanted).sum(axis=-1) <= sizes * Fraction(2) ** -48)


@pytest.mark.parametrize("dtype", [float, complex])
def test_products_and_sums_against_fractions(dtype, monkeypatch):
    monkeypatch.setattr(wide, "_BLOCK", 8)  # sums are taken in blocks
    rng = np.random.default_rng(0)
    for batch, left, right in (
        ((), (3, 4), (4, 2)),
        ((2,), (3, 5), (5, 2)),
        ((), (5,), (5, 2)),
        ((), (3, 5), (5,)),
        ((), (40,), (40,)),
    ):
        for reach in (30, 3000):
            a, b = draw(rng, batch + left, dtype, reach), draw(rng, batch + right, dtype, reach)
            x = exact(a).reshape((*batch, *(left if len(left) > 1 else (1, *left)), 1, 2))
            y = exact(b).reshape((*batch, 1, *(right if len(right) > 1 else (*right, 1)), 2))
            terms = times(x, y)
            shape = (*batch, *left[:-1], *right[1:])
            wanted = terms.sum(axis=-3).reshape((*shape, 2))
            sizes = abs(terms).sum(axis=(-3, -1)).reshape(shape)
            assert close(wide.matmul(a, b), wanted, sizes)
    a, b = draw(rng, (3, 4), dtype), draw(rng, (3, 1), dtype)
    wanted = times(exact(a), exact(b))
    assert close(wide.multiply(a, b), wanted, abs(wanted).sum(axis=-1))
    a = draw(rng, (3, 4, 2), dtype, 30)
    for axes in ((0,), (1, 2), (0, 1, 2)):
        assert close(a.sum(axes), exact(a).sum(axis=axes), abs(exact(a)).sum(axis=(*axes, -1)))


def test_every_number_has_a_mantissa_near_1():
    for values in ([0.0, -5e-324, 1.7e308, 3.0], [0j, 5e-324j, 1.7e308 - 1j, 1e-300 + 1e300j]):
        array = WideArray.of(values, [7, -5000, 5000, 0])
        sizes = np.maximum(np.abs(array.mantissa.real), np.abs(array.mantissa.imag))
        assert (sizes[1:] >= 0.5).all()
        assert (sizes < 1).all()
        assert array.exponent[0] == NOTHING
        for place, value in enumerate(values[:3]):
            unit = Fraction(2) ** (0, -5000, 5000)[place]
            assert exact(array)[place].tolist() == [
                Fraction(part) * unit for part in (value.real, value.imag)
            ]
    assert wide.matmul(WideArray.of(np.zeros((2, 3))), WideArray.of(np.ones((3, 2)))).exponent.max() < -(
        2**39
    )


def test_axes_are_moved_as_numpys():
    array = draw(np.random.default_rng(1), (3, 4, 3))
    for made, wanted in (
        (array.transpose((2, 0, 1)), array.mantissa.transpose((2, 0, 1))),
        (array.reshape((6, 6)), array.mantissa.reshape((6, 6))),
        (array.diagonal(0, 2), array.mantissa.diagonal(axis1=0, axis2=2)),
        (array[1], array.mantissa[1]),
    ):
        assert made.shape == wanted.shape
        assert np.array_equal(made.mantissa, wanted)
        assert ((made.exponent == NOTHING) == (wanted == 0)).all()
    assert math.prod(array[1, 2, 0].shape) == 1
