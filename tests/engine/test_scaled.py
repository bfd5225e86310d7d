import numpy as np
import pytest

from qrt_tn.engine import Scaled


def random_scaled(rng, shape, *, complex_values=True, spread=3.0):
    mantissa = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_values else 0)
    return Scaled(mantissa, rng.normal(size=shape) * spread)


@pytest.mark.parametrize("complex_values", [False, True])
@pytest.mark.parametrize("shapes", [((4,), (4,)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2,))])
def test_arithmetic_within_range(shapes, complex_values):
    rng = np.random.default_rng(0)
    left, right = (random_scaled(rng, shape, complex_values=complex_values) for shape in shapes)
    x, y = left.value(), right.value()
    assert np.allclose((left * right).value(), x * y)
    assert np.allclose((left / right).value(), x / y)
    assert np.allclose((left + right).value(), x + y)
    assert np.allclose((left * 3.0).value(), 3 * x)
    assert np.allclose((np.float64(3) * left).value(), 3 * x)
    assert np.allclose((left / 4).value(), x / 4)
    assert np.allclose(left.conj().value(), x.conj())
    assert np.allclose(left.log_abs(), np.log(np.abs(x)))
    assert np.allclose(np.asarray(left), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("scale", [-50_000.0, 50_000.0])
def test_arithmetic_far_outside_range(dtype, scale):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 6)).astype(dtype)
    left, right = Scaled(x, scale), Scaled(y, np.full(6, scale + 1))
    tight = 1e-5 if np.dtype(dtype).itemsize in (4, 8) and dtype != np.float64 else 1e-10
    product, ratio, total = left * right, left / right, left + right
    assert np.allclose(product.log_abs(), np.log(np.abs(x * y)) + 2 * scale + 1, atol=tight)
    assert np.allclose(ratio.value(), x / y / np.e, rtol=tight)
    assert np.allclose(total.log_abs(), np.log(np.abs(x / np.e + y)) + scale + 1, atol=10 * tight)
    assert np.allclose(left.sum().log_abs(), np.log(np.abs(x.sum())) + scale, atol=10 * tight)
    for result in (product, ratio, total, left.sum(), left.rescaled()):
        assert result.dtype == dtype
    with np.errstate(over="ignore"):
        assert (np.abs(left.value()) == (0 if scale < 0 else np.inf)).all()


def test_long_products_keep_their_digits():
    """0.1^5000 in single precision: each factor in range, the product not."""
    result = Scaled(np.float32([1.0]), 0.0)
    for _ in range(5000):
        result = result * Scaled(np.float32([0.1]), 0.0)
    assert np.isclose(result.log_abs()[0], 5000 * np.log(0.1), rtol=1e-6)


def test_terms_of_very_different_scales():
    left, right = Scaled([1.0, 2.0], [-1000.0, 3000.0]), Scaled([1.0, 2.0], [1000.0, -3000.0])
    assert np.allclose((left + right).log_abs(), [1000, 3000 + np.log(2)])
    batch = Scaled([1.0, 1.0, 1.0], [-2000.0, -2000.0, -9000.0])
    assert np.isclose(batch.sum().log_abs(), -2000 + np.log(2))


@pytest.mark.parametrize("scale", [-5000.0, 0.0, 5000.0])
def test_zeros_are_zeros_at_any_scale(scale):
    zero, one = Scaled([0.0, 0.0], scale), Scaled([1.0, -1.0], -300.0)
    assert (zero.value() == 0).all()
    assert (zero.log_abs() == -np.inf).all()
    assert np.allclose((zero + one).log_abs(), -300)
    assert np.allclose((one + zero).log_abs(), -300)
    assert ((zero + zero).value() == 0).all()
    assert ((zero * one).value() == 0).all()
    assert (zero.rescaled().value() == 0).all()
    mixed = Scaled([0.0, 2.0], [scale, -300.0])
    assert np.isclose(mixed.sum().log_abs(), np.log(2) - 300)
    assert np.allclose(mixed.rescaled(0).mantissa, [0, 1])


def test_exact_cancellation():
    one = Scaled(np.array([1.5]), -4000.0)
    assert ((one + one * -1).value() == 0).all()


def test_mantissas_at_the_ends_of_the_range():
    tiny, huge = np.array([5e-324, 1e-310]), np.array([1e308, -1.7e308])
    for mantissa in (tiny, huge):
        scaled = Scaled(mantissa, 12.0).rescaled()
        assert np.allclose(np.abs(scaled.mantissa), 1)
        assert np.allclose(scaled.log_scale, np.log(np.abs(mantissa)) + 12)
    # exp(720) alone overflows
    assert np.isclose(Scaled(np.array([1e-300]), 720.0).value()[0], np.exp(720 - 300 * np.log(10)))
    assert np.isclose(Scaled(np.array([1e300]), -760.0).value()[0], np.exp(-760 + 300 * np.log(10)))


def test_rescaling_one_axis_or_all():
    rng = np.random.default_rng(2)
    scaled = random_scaled(rng, (3, 4, 2), spread=100)
    assert np.allclose(np.abs(scaled.rescaled().mantissa), 1)
    for axis, shape in ((1, (3, 1, 2)), ((1, 2), (3, 1, 1)), ((0, 1, 2), (1, 1, 1))):
        shared = scaled.rescaled(axis)
        assert shared.log_scale.shape == shape
        assert np.allclose(np.abs(shared.mantissa).max(axis=axis), 1)
        seen = shared.log_abs() > shared.log_scale - 600
        assert np.allclose(shared.log_abs()[seen], scaled.log_abs()[seen])
    for axis in (0, 1, -1):
        small = random_scaled(rng, (3, 4), spread=2)
        assert np.allclose(small.sum(axis).value(), small.value().sum(axis))


def test_shapes_and_parts():
    scaled = Scaled(np.arange(6).reshape(2, 3), np.array([[1.0], [2.0]]))
    assert scaled.shape == (2, 3)
    assert scaled.ndim == 2
    assert len(scaled) == 2
    assert scaled.dtype == np.float64  # integers would lose everything in rescaling
    assert np.allclose(scaled[1].value(), scaled.value()[1])
    assert np.allclose(scaled[:, 0].value(), scaled.value()[:, 0])
    assert np.allclose(scaled[np.array([1, 0]), [0, 2]].value(), scaled.value()[[1, 0], [0, 2]])
    assert scaled[scaled.mantissa > 2].shape == (3,)


def test_refusals():
    for mantissa, log_scale in (
        (np.ones(3), np.zeros(2)),
        (np.ones(3), np.zeros((2, 3))),
        (1.0, np.zeros(2)),
    ):
        with pytest.raises(ValueError, match=r"log_scale of shape .* does not fit a mantissa"):
            Scaled(mantissa, log_scale)
    with pytest.raises(ValueError, match="no plain array to share"):
        np.asarray(Scaled([1.0], 0.0), copy=False)


def test_differences_far_outside_range():
    a, b = Scaled(np.array([3.0]), np.array([-5000.0])), Scaled(np.array([2.0]), np.array([-5000.0]))
    assert np.allclose((a - b).log_abs(), -5000)
    assert np.allclose((-a).mantissa / a.mantissa, -1)
