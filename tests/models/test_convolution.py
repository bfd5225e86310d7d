"""Convolutions as matrix products, against those of XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from qrt_tn.models.convolution import conv_layer, convolve

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
HASTE = {"xla_backend_optimization_level": 0}


@pytest.fixture(autouse=True)
def _as_on_a_cpu(monkeypatch):
    """The product of patches, whatever this machine computes on, and in full precision."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with jax.default_matmul_precision("highest"):
        yield


def operands(seed, size, extents, channels=3, features=4, batch=2):
    rng = np.random.default_rng(seed)
    shapes = (batch, *extents, channels), (*size, channels, features)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def test_values_and_gradients_are_those_of_xla():
    rng = np.random.default_rng(0)
    cases = [
        ((1, 1), (1, 2), (1, 1), "SAME"),
        ((5, 5), (2, 1), (2, 2), "SAME"),
        ((5, 3), (4, 6), (2, 2), "VALID"),
    ]
    cases += [
        (*(tuple(map(int, rng.integers(low, high, 2))) for low, high in ((1, 6), (5, 10), (1, 4))), padding)
        for padding in ("SAME", "VALID", "SAME", "VALID")
    ]
    operand = [operands(seed, size, extents) for seed, (size, extents, _, _) in enumerate(cases)]

    def pull(function, options):
        found = []
        for (_, _, strides, padding), (images, kernel) in zip(cases, operand, strict=True):
            value, back = jax.vjp(lambda x, k: function(x, k, strides, padding, **options), images, kernel)  # noqa: B023
            cotangent = jnp.cos(jnp.arange(value.size)).reshape(value.shape)
            found.append((value, *back(cotangent)))
        return found

    # all cases compiled as one, in haste
    both = jax.jit(
        lambda: (pull(convolve, {}), pull(lax.conv_general_dilated, {"dimension_numbers": DIMENSIONS})),
        compiler_options=HASTE,
    )
    for mine, wanted in zip(*both(), strict=True):
        for one, other in zip(mine, wanted, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_only_a_cpu_multiplies_patches(monkeypatch):
    images, _ = operands(5, (3, 3), (6, 6))
    layer = conv_layer(3, 2, kernel_init=jax.nn.initializers.zeros, rngs=nnx.Rngs(0))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(lambda x: 2 * layer(x))(images))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "conv_general_dilated" in str(jax.make_jaxpr(lambda x: 2 * layer(x))(images))


@pytest.mark.parametrize(("size", "strides", "use_bias"), [(3, 2, True), (1, 1, False)])
def test_a_layer_keeps_extents_by_its_strides_and_adds_its_bias(size, strides, use_bias):
    images, kernel = operands(10, (size, size), (7, 6))
    options = {"kernel_size": size, "strides": strides, "use_bias": use_bias}
    layer = conv_layer(3, 4, kernel_init=lambda *_: kernel, rngs=nnx.Rngs(0), **options)
    bias = np.arange(4.0) if use_bias else 0
    if use_bias:
        assert not np.any(layer.bias[...])
        layer.bias[...] = jnp.arange(4.0)
    expected, got = jax.jit(
        lambda k: (
            lax.conv_general_dilated(images, k, (strides, strides), "SAME", dimension_numbers=DIMENSIONS),
            layer(images),
        ),
        compiler_options=HASTE,
    )(kernel)
    assert got.shape == (2, -(-7 // strides), -(-6 // strides), 4)
    np.testing.assert_allclose(got, expected + bias, atol=1e-4)
