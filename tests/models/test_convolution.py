"""Convolutions as matrix products, against those of XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from qrt_tn.models.convolution import DIMENSIONS, conv_layer, convolve


@pytest.fixture(autouse=True)
def _as_on_a_cpu(monkeypatch):
    """The product of patches, whatever this machine computes on, and in full precision."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with jax.default_matmul_precision("highest"):
        yield


def by_xla(images, kernel, strides=(1, 1), padding="SAME", **options):
    return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=DIMENSIONS, **options)


def operands(seed, size, extents, channels=3, features=4, batch=2):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(batch, *extents, channels)).astype(np.float32)
    kernel = rng.normal(size=(*size, channels, features)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(kernel)


def by_numpy(key, shape, dtype):
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(rng.normal(size=shape), dtype)


def assert_same_values_and_gradients(seed, images, kernel, strides, padding):
    shape = jax.eval_shape(lambda x, k: by_xla(x, k, strides, padding), images, kernel).shape
    cotangent = jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype=jnp.float32)

    def pull(function):
        value, back = jax.vjp(lambda x, k: function(x, k, strides, padding), images, kernel)
        return value, *back(cotangent)

    # compiled as one, in haste: op by op takes ten times as long
    haste = {"xla_backend_optimization_level": 0}
    got, expected = jax.jit(lambda: (pull(convolve), pull(by_xla)), compiler_options=haste)()
    assert got[0].shape == shape
    for mine, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-4)


@pytest.mark.parametrize("extents", [(6, 9), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_same_padding_is_that_of_xla(size, stride, extents):
    images, kernel = operands(size, (size, size), extents)
    assert_same_values_and_gradients(stride, images, kernel, (stride, stride), "SAME")


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [((3, 5), (2, 1), "SAME"), ((3, 2), (1, 3), "VALID"), ((3, 3), (2, 2), ((0, 2), (3, 1)))],
)
def test_other_windows_and_paddings_are_those_of_xla(size, strides, padding):
    images, kernel = operands(7, size, (8, 7))
    assert_same_values_and_gradients(8, images, kernel, strides, padding)


def test_a_window_larger_than_the_image_gives_nothing():
    images, kernel = operands(9, (5, 3), (4, 6))
    got = convolve(images, kernel, (2, 2), "VALID")
    assert got.shape == by_xla(images, kernel, (2, 2), "VALID").shape == (2, 0, 2, 4)


def test_many_kernels_at_once_in_a_scan():
    rng = np.random.default_rng(3)
    kernels = jnp.asarray(rng.normal(size=(3, 3, 3, 2, 2)) / 3, dtype=jnp.float32)
    images = jnp.asarray(rng.normal(size=(2, 5, 6, 2)), dtype=jnp.float32)

    def steps(kernel):
        def step(x, _):
            x = jnp.tanh(convolve(x, kernel, (1, 1), "SAME"))
            return x, x.sum()

        return lax.scan(step, images, None, length=4)

    last, sums = jax.jit(jax.vmap(steps))(kernels)
    for index, kernel in enumerate(kernels):
        x = images
        for turn in range(4):
            x = jnp.tanh(by_xla(x, kernel))
            np.testing.assert_allclose(sums[index, turn], x.sum(), atol=1e-4)
        np.testing.assert_allclose(last[index], x, atol=1e-5)


def test_images_and_kernels_of_many_networks():
    rng = np.random.default_rng(4)
    images = jnp.asarray(rng.normal(size=(3, 2, 5, 5, 2)), dtype=jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(3, 3, 3, 2, 4)), dtype=jnp.float32)
    got = jax.vmap(lambda x, k: convolve(x, k, (2, 2), "SAME"))(images, kernels)
    expected = jnp.stack([by_xla(x, k, (2, 2)) for x, k in zip(images, kernels, strict=True)])
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_only_a_cpu_multiplies_patches(monkeypatch):
    images, kernel = operands(5, (3, 3), (6, 6))

    def trace():
        return str(jax.make_jaxpr(lambda x, k: convolve(x, k, (1, 1), "SAME"))(images, kernel))

    assert "conv_general_dilated" not in trace()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "conv_general_dilated" in trace()


@pytest.mark.parametrize(
    "options", [{"rhs_dilation": (2, 1)}, {"lhs_dilation": (1, 2)}, {"feature_group_count": 2}]
)
def test_dilated_and_grouped_convolutions_are_left_to_xla(options):
    images, kernel = operands(6, (3, 3), (7, 7), channels=4)
    kernel = kernel[:, :, : 4 // options.get("feature_group_count", 1)]
    pads = ((1, 1), (2, 0))
    got = convolve(images, kernel, (1, 1), pads, **options)
    np.testing.assert_array_equal(got, by_xla(images, kernel, padding=pads, **options))


def test_other_orders_of_dimensions_are_left_to_xla():
    images, kernel = operands(6, (3, 3), (7, 5))
    orders = ("NCHW", "HWIO", "NCHW")
    got = convolve(jnp.moveaxis(images, 3, 1), kernel, (1, 1), "SAME", dimension_numbers=orders)
    np.testing.assert_allclose(jnp.moveaxis(got, 1, 3), by_xla(images, kernel), atol=1e-4)


@pytest.mark.parametrize(("size", "strides"), [(3, 2), (1, 1)])
def test_a_layer_adds_its_bias(size, strides):
    images, _ = operands(10, (1, 1), (7, 6))
    layer = conv_layer(3, 5, kernel_size=size, strides=strides, kernel_init=by_numpy, rngs=nnx.Rngs(0))
    assert not np.any(layer.bias[...])
    layer.bias[...] = jnp.arange(5.0)
    expected, got = jax.jit(lambda k: (by_xla(images, k, (strides, strides)), layer(images)))(
        layer.kernel[...]
    )
    np.testing.assert_allclose(got, expected + np.arange(5), atol=1e-4)
    assert layer.kernel.shape == (size, size, 3, 5)


def test_a_layer_is_a_product_and_has_no_bias_where_unwanted():
    images, _ = operands(11, (1, 1), (4, 4))
    layer = conv_layer(3, 5, use_bias=False, kernel_init=by_numpy, rngs=nnx.Rngs(0))
    assert layer.bias is None
    assert "conv_general_dilated" not in str(jax.make_jaxpr(layer)(images))


def test_unequal_channels_are_refused():
    images, kernel = operands(12, (3, 3), (6, 6))
    with pytest.raises(ValueError, match="have 2 channels, the kernel takes 3"):
        convolve(images[..., :2], kernel, (1, 1), "SAME")
