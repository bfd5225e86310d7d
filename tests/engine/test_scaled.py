import numpy as np
import pytest

from qrt_tn.engine import Scaled


def draw(rng, shape, dtype=np.complex128, spread=3.0):
    mantissa = rng.normal(size=shape) + (1j * rng.normal(size=shape) if np.dtype(dtype).kind == "c" else 0)
    return Scaled(mantissa.astype(dtype), rng.normal(size=shape) * spread)


def test_arithmetic_within_range():
    rng = np.random.default_rng(0)
    for dtype in (np.float64, np.complex128):
        for shapes in (((4,), (4,)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2,))):
            left, right = (draw(rng, shape, dtype) for shape in shapes)
            x, y = left.value(), right.value()
            for got, wanted in (
                (left * right, x * y),
                (left / right, x / y),
                (left + right, x + y),
                (left - right, x - y),
                (-left, -x),
                (left * 3.0, 3 * x),
                (np.float64(3) * left, 3 * x),
                (left / 4, x / 4),
                (left.conj(), x.conj()),
            ):
                assert np.allclose(np.asarray(got), wanted)
            assert np.allclose(left.log_abs(), np.log(np.abs(x)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_arithmetic_far_outside_range(dtype):
    x, y = np.random.default_rng(1).normal(size=(2, 6)).astype(dtype)
    tight = 1e-5 if np.finfo(dtype).eps > 1e-10 else 1e-10
    for scale in (-50_000.0, 50_000.0):
        left, right = Scaled(x, scale), Scaled(y, np.full(6, scale + 1))
        for got, wanted, power in (
            (left * right, x * y, 2 * scale + 1),
            (left / right, x / y, -1),
            (left + right, x / np.e + y, scale + 1),
            (left - right, x / np.e - y, scale + 1),
            (left.sum(), x.sum(), scale),
            (left.rescaled(), x, scale),
        ):
            assert got.dtype == dtype
            assert np.allclose(got.log_abs(), np.log(np.abs(wanted)) + power, atol=10 * tight)
        with np.errstate(over="ignore"):
            assert (np.abs(left.value()) == (0 if scale < 0 else np.inf)).all()


def test_long_products_and_terms_of_very_different_scales():
    result = Scaled(np.float32([1.0]), 0.0)
    for _ in range(5000):  # each factor in range, the product not
        result = result * Scaled(np.float32([0.1]), 0.0)
    assert np.isclose(result.log_abs()[0], 5000 * np.log(0.1), rtol=1e-6)
    left, right = Scaled([1.0, 2.0], [-1000.0, 3000.0]), Scaled([1.0, 2.0], [1000.0, -3000.0])
    assert np.allclose((left + right).log_abs(), [1000, 3000 + np.log(2)])
    batch = Scaled([1.0, 1.0, 1.0], [-2000.0, -2000.0, -9000.0])
    assert np.isclose(batch.sum().log_abs(), -2000 + np.log(2))


@pytest.mark.parametrize("scale", [-5000.0, 0.0, 5000.0])
def test_zeros_are_zeros_at_any_scale(scale):
    zero, one = Scaled([0.0, 0.0], scale), Scaled([1.0, -1.0], -300.0)
    for nothing in (zero, zero + zero, zero * one, zero.rescaled(), one - one):
        assert (nothing.value() == 0).all()
        assert (nothing.log_abs() == -np.inf).all()
    for total in (zero + one, one + zero):
        assert np.allclose(total.log_abs(), -300)
    mixed = Scaled([0.0, 2.0], [scale, -300.0])
    assert np.isclose(mixed.sum().log_abs(), np.log(2) - 300)
    assert np.allclose(mixed.rescaled(0).mantissa, [0, 1])


def test_mantissas_at_the_ends_of_the_range():
    for mantissa in (np.array([5e-324, 1e-310]), np.array([1e308, -1.7e308])):
        scaled = Scaled(mantissa, 12.0).rescaled()
        assert np.allclose(np.abs(scaled.mantissa), 1)
        assert np.allclose(scaled.log_scale, np.log(np.abs(mantissa)) + 12)
    for power in (720, -760):  # where exp alone leaves the range
        sign = np.sign(power)
        scaled = Scaled(np.array([10.0 ** (-300 * sign)]), float(power))
        assert np.isclose(scaled.value()[0], np.exp(power - 300 * sign * np.log(10)))


def test_rescaling_one_axis_or_all():
    rng = np.random.default_rng(2)
    scaled, small = draw(rng, (3, 4, 2), spread=100), draw(rng, (3, 4), spread=2)
    assert np.allclose(np.abs(scaled.rescaled().mantissa), 1)
    for axis, shape in ((1, (3, 1, 2)), ((1, 2), (3, 1, 1)), ((0, 1, 2), (1, 1, 1))):
        shared = scaled.rescaled(axis)
        assert shared.log_scale.shape == shape
        assert np.allclose(np.abs(shared.mantissa).max(axis=axis), 1)
        seen = shared.log_abs() > shared.log_scale - 600
        assert np.allclose(shared.log_abs()[seen], scaled.log_abs()[seen])
    for axis in (0, 1, -1):
        assert np.allclose(small.sum(axis).value(), small.value().sum(axis))


def test_shapes_and_parts():
    scaled = Scaled(np.arange(6).reshape(2, 3), np.array([[1.0], [2.0]]))
    assert (scaled.shape, scaled.ndim, len(scaled)) == ((2, 3), 2, 2)
    assert scaled.dtype == np.float64  # integers would lose everything in rescaling
    for where in (1, (slice(None), 0), (np.array([1, 0]), [0, 2]), scaled.mantissa > 2):
        assert np.allclose(scaled[where].value(), scaled.value()[where])


def test_refusals():
    for mantissa, shape in ((np.ones(3), 2), (np.ones(3), (2, 3)), (1.0, 2)):
        with pytest.raises(ValueError, match=r"log_scale of shape \(2,"):
            Scaled(mantissa, np.zeros(shape))
    with pytest.raises(ValueError, match="copy"):
        np.asarray(Scaled([1.0], 0.0), copy=False)
