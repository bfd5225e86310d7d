"""Image networks against weight counts by hand and forward passes in NumPy."""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.lib.stride_tricks import sliding_window_view

from qrt_tn.models.vision import (
    ARCHITECTURES,
    PLAIN,
    NormalizedConv,
    PlainLayers,
    PlainNetwork,
    architecture,
    max_pool,
)

CIFAR = (32, 32, 3)
# (channels in, features) of the 3x3 convolutions of the paper's table
VGG_WIDTHS = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
CONV_WIDTHS = [3, 64, 64, 128, 128, 256, 256]
HASTE = {"xla_backend_optimization_level": 0}  # op by op takes longer, and so do the compiler's optimisations


@cache
def outline(name, image_shape=CIFAR, outputs=10):
    """Graph and state of a network, shapes in place of arrays, and the shapes of the kernels it drew."""
    drawn = []

    def init(key, shape, dtype):
        drawn.append(shape)
        return jnp.zeros(shape, dtype)

    make = lambda: architecture(name, image_shape, outputs, rngs=nnx.Rngs(params=0), kernel_init=init)  # noqa: E731
    return (*nnx.split(nnx.eval_shape(make)), drawn)


def sizes(state, leaf="kernel"):
    return [value for path, value in nnx.to_flat_state(state) if path[-1] == leaf]


def randomised(network, seed):
    """The network with random numbers in all parameters and statistics, and these numbers.

    None of them is 0 or 1, so that none can be left out unseen.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf):
        # vectors above 0, as some are variances
        values = (
            rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
            if len(leaf.shape) > 1
            else rng.uniform(0.3, 1, leaf.shape)
        )
        return jnp.asarray(values, dtype=jnp.float32)

    graph, state = nnx.split(network) if isinstance(network, nnx.Module) else network[:2]
    state = jax.tree.map(draw, state)
    return nnx.merge(graph, state), jax.tree.map(np.asarray, nnx.to_pure_dict(state))


def logits(network, x):
    graph, state = nnx.split(network)
    forward = jax.jit(lambda state, x: nnx.merge(graph, state)(x), compiler_options=HASTE)
    return np.asarray(forward(state, jnp.asarray(x)))


def by_numpy(key, shape, dtype):
    """Initial kernels, of which JAX would compile one sampler a shape."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(rng.normal(size=shape) / 10, dtype)


def tiny(seed=0, dropout=0.5, stream=None):
    layers = PlainLayers(((4, 2),), (5, 6), dropout=dropout)
    streams = {} if stream is None else {"dropout": stream}
    return PlainNetwork((4, 4, 1), 3, layers, kernel_init=by_numpy, rngs=nnx.Rngs(params=seed, **streams))


def relu(x):
    return np.maximum(x, 0)


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def conv(x, kernel, strides=1):
    """SAME as XLA pads: what does not go in evenly comes after."""
    size = kernel.shape[0]
    pads = []
    for extent in x.shape[1:3]:
        total = max((-(-extent // strides) - 1) * strides + size - extent, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    windows = sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::strides, ::strides]
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel)


def pool(x):
    return sliding_window_view(x, (2, 2), axis=(1, 2))[:, ::2, ::2].max(axis=(-1, -2))


def normalised(x, layer, strides=1):
    x, norm = conv(x, layer["convolution"]["kernel"], strides), layer["norm"]
    return (x - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"] + norm["bias"]


def images(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def of_convolutions(widths):
    return sum(9 * i * o for i, o in pairwise(widths))


RESNET_CONVOLUTIONS = (
    9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64) + 16 * 32 + 32 * 64
)
RESNET_NORMS = 7 * 16 + 7 * 32 + 7 * 64


@pytest.mark.parametrize(
    ("name", "shape", "convolutions", "kernel_weights", "others", "printed"),
    [
        ("lenet", (28, 28, 1), 0, 784 * 300 + 300 * 100 + 1000, 410, "266K"),
        ("conv2", CIFAR, of_convolutions(CONV_WIDTHS[:3]), (16 * 16 * 64 + 266) * 256, 2 * 64 + 522, "4.3M"),
        ("conv4", CIFAR, of_convolutions(CONV_WIDTHS[:5]), (8 * 8 * 128 + 266) * 256, 2 * 192 + 522, "2.4M"),
        # 1.7M in the paper, which does not follow from its layers
        ("conv6", CIFAR, of_convolutions(CONV_WIDTHS), (4 * 4 * 256 + 266) * 256, 2 * 448 + 522, "2.3M"),
        # with the statistics of batch norms, of as many numbers as their parameters, the paper's 274 thousand
        ("resnet20", CIFAR, RESNET_CONVOLUTIONS, 640, 2 * RESNET_NORMS + 10, "272K"),
        ("vgg19", CIFAR, of_convolutions(VGG_WIDTHS), 5120, 2 * sum(VGG_WIDTHS[1:]) + 10, "20.0M"),
    ],
)
def test_weights_are_as_many_as_in_the_paper(name, shape, convolutions, kernel_weights, others, printed):
    _, state, drawn = outline(name, shape)
    kernels = sizes(state)
    assert sum(leaf.size for leaf in kernels if leaf.ndim == 4) == convolutions
    assert sum(leaf.size for leaf in kernels if leaf.ndim == 2) == kernel_weights
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.filter_state(state, nnx.Param)))
    assert count == convolutions + kernel_weights + others
    shown = count if name == "resnet20" else convolutions + kernel_weights
    unit, digits = (1e6, 1) if printed.endswith("M") else (1e3, 0)
    assert f"{shown / unit:.{digits}f}" == printed[:-1]
    if name == "resnet20":
        assert round((count + 2 * RESNET_NORMS) / 1e3) == 274
        assert sum(leaf.size for kind in ("mean", "var") for leaf in sizes(state, kind)) == 2 * RESNET_NORMS
    # kernels, and only they, are drawn as told
    assert sorted(drawn) == sorted(leaf.shape for leaf in kernels)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_take_images_of_their_shape_and_have_one_graph(name):
    graph, state, _ = outline(name)
    network = nnx.merge(graph, state)
    with pytest.raises(ValueError, match=r"x has shape \(2, 32, 31, 3\); .* \(batch, 32, 32, 3\)"):
        network(jnp.zeros((2, 32, 31, 3)))
    again = nnx.graphdef(nnx.eval_shape(lambda: architecture(name, CIFAR, 10, rngs=nnx.Rngs(params=1))))
    assert (graph, hash(graph)) == (again, hash(again))
    smallest = {"lenet": 1, "conv2": 2, "conv6": 8}.get(name)
    if smallest is not None:
        shape = (smallest, smallest, 1)
        network = nnx.merge(*outline(name, shape)[:2])
        assert jax.eval_shape(lambda n, x: n(x), network, jnp.zeros((3, *shape))).shape == (3, 10)


def test_lenet_computes_what_numpy_does():
    network, values = randomised(outline("lenet", (4, 3, 2), 5), 1)
    x = images(2, 6, 4, 3, 2)
    flat = x.reshape(6, 24)
    hidden = relu(dense(relu(dense(flat, values["hidden"][0])), values["hidden"][1]))
    expected = dense(hidden, values["output"])
    np.testing.assert_allclose(logits(network, x), expected, atol=1e-4)
    np.testing.assert_allclose(network(jnp.asarray(flat)), expected, atol=1e-4)


def test_conv_net_computes_what_numpy_does():
    network, values = randomised(outline("conv4", (7, 5, 2), 3), 3)
    x = images(4, 2, 7, 5, 2)
    got = logits(network, x)
    for index in range(4):
        layer = values["convolutions"][index]
        x = relu(conv(x, layer["kernel"]) + layer["bias"])
        x = pool(x) if index in (1, 3) else x
    x = x.reshape(2, -1)
    for index in range(2):
        x = relu(dense(x, values["hidden"][index]))
    np.testing.assert_allclose(got, dense(x, values["output"]), rtol=1e-3, atol=1e-3)


def test_resnet_computes_what_numpy_does():
    network, values = randomised(outline("resnet20", (6, 5, 3), 4), 5)
    network.eval()
    x = images(6, 2, 6, 5, 3)
    got = logits(network, x)
    x = relu(normalised(x, values["stem"]))
    for index in range(9):
        block = values["blocks"][index]
        narrows = index in (3, 6)
        around = normalised(x, block["shortcut"], 2) if narrows else x
        x = relu(normalised(x, block["first"], 2 if narrows else 1))
        x = relu(normalised(x, block["second"]) + around)
    expected = dense(x.mean(axis=(1, 2)), values["output"])
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_vgg_computes_what_numpy_does():
    # the groups of VGG-19, of few features each
    counts = [count for _, count in PLAIN["vgg19"].groups]
    layers = PlainLayers(tuple(zip((2, 3, 2, 3, 4), counts, strict=True)), normalised=True)
    made = PlainNetwork((17, 16, 1), 3, layers, rngs=nnx.Rngs(params=0), kernel_init=by_numpy)
    network, values = randomised(made, 7)
    network.eval()
    x = images(8, 2, 17, 16, 1)
    got = logits(network, x)
    for index in range(16):
        x = pool(x) if index in (2, 4, 8, 12) else x
        x = relu(normalised(x, values["convolutions"][index]))
    expected = dense(x.mean(axis=(1, 2)), values["output"])
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_batch_norm_follows_train_and_eval():
    layer, values = randomised(NormalizedConv(2, 3, kernel_init=by_numpy, rngs=nnx.Rngs(0)), 9)
    x = images(10, 5, 4, 4, 2)
    call = nnx.jit(lambda layer, x: layer(x))
    layer.eval()
    np.testing.assert_allclose(call(layer, x), normalised(x, values), atol=1e-4)
    np.testing.assert_array_equal(layer.norm.mean[...], values["norm"]["mean"])
    layer.train()
    plain = conv(x, values["convolution"]["kernel"])
    mean, var = plain.mean(axis=(0, 1, 2)), plain.var(axis=(0, 1, 2))
    now = {**values, "norm": {**values["norm"], "mean": mean, "var": var}}
    np.testing.assert_allclose(call(layer, x), normalised(x, now), atol=1e-4)
    np.testing.assert_allclose(layer.norm.mean[...], 0.9 * values["norm"]["mean"] + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(layer.norm.var[...], 0.9 * values["norm"]["var"] + 0.1 * var, atol=1e-5)


def test_pools_take_the_largest_and_hand_back_the_gradient():
    x = images(11, 2, 5, 6, 3)

    @jax.jit
    def pull(x):
        value, back = jax.vjp(max_pool, x)
        return value, back(jnp.ones_like(value))[0]

    value, gradient = pull(x)
    np.testing.assert_array_equal(value, pool(x))
    expected = np.zeros_like(x)
    for b, i, j, c in np.ndindex(value.shape):
        block = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = np.unravel_index(block.argmax(), (2, 2))
        expected[b, 2 * i + row, 2 * j + column, c] = 1
    np.testing.assert_array_equal(gradient, expected)


def test_kernels_begin_glorot_and_biases_at_0():
    state = jax.jit(
        lambda: nnx.state(architecture("lenet", (500,), 10, rngs=nnx.Rngs(params=3)), nnx.Param),
        compiler_options=HASTE,
    )()
    wide = np.asarray(max(sizes(state), key=lambda leaf: leaf.size)[...])
    assert np.std(wide) == pytest.approx((2 / (500 + 300)) ** 0.5, rel=0.01)
    # Gaussian up to two deviations of the normal law it is cut from, whose own deviation is 0.88 of that
    assert 2.2 < np.abs(wide).max() / np.std(wide) < 2.3
    assert not any(np.any(bias[...]) for bias in sizes(state, "bias"))


def test_dropout_drops_in_training_only_and_leaves_the_weights_of_a_seed():
    call = nnx.jit(lambda network, x: network(x))
    x = jnp.asarray(images(13, 3, 4, 4, 1))
    plain, network = tiny(dropout=0.0), tiny()
    weights = [jax.tree.leaves(nnx.state(each, nnx.Param)) for each in (plain, network)]
    jax.tree.map(np.testing.assert_array_equal, *weights)
    assert np.abs(call(network, x) - call(network, x)).max() > 1e-4
    network.eval()
    np.testing.assert_allclose(call(network, x), call(plain, x), atol=1e-6)
    # of its own stream where there is one
    first, same, other = (np.asarray(call(tiny(stream=seed), x)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "shape", "outputs", "options", "message"),
    [
        ("conv3", CIFAR, 10, {}, "unknown architecture 'conv3'; choose one of lenet, conv2"),
        ("conv2", (1, 8, 1), 10, {}, r"\(1, 8, 1\) are too small for the pools of conv2; give 2x2"),
        ("conv4", (8, 3, 1), 10, {}, "pools of conv4; give 4x4"),
        ("conv6", (7, 8, 1), 10, {}, "pools of conv6; give 8x8"),
        ("vgg19", (15, 16, 3), 10, {}, "pools of vgg19; give 16x16"),
        ("resnet20", (784,), 10, {}, r"image_shape is \(784,\); give \(height, width, channels\), each"),
        ("lenet", (28, 28), 10, {}, r"image_shape is \(28, 28\); give .*, or \(features,\)"),
        ("lenet", (28, 0, 1), 10, {}, r"image_shape is \(28, 0, 1\)"),
        ("lenet", (2.5,), 10, {}, r"image_shape is \(2.5,\)"),
        ("conv2", 32, 10, {}, r"image_shape is \(32,\)"),
        ("lenet", (784,), 0, {}, "outputs is 0"),
        ("vgg19", CIFAR, True, {}, "outputs is True"),
        ("conv2", CIFAR, 3, {"dropout": 1.0}, "dropout is 1.0; give a share"),
        ("conv2", CIFAR, 3, {"dropout": float("nan")}, "dropout is nan"),
        ("resnet20", CIFAR, 3, {"dropout": 0.5}, "dropout is 0.5, but resnet20 has no hidden"),
        ("lenet", (784,), 10, {"rngs": None}, "rngs is None"),
    ],
)
def test_what_cannot_be_built_is_refused(name, shape, outputs, options, message):
    with pytest.raises(ValueError, match=message):
        architecture(name, shape, outputs, **{"rngs": nnx.Rngs(params=0), **options})
