"""Image networks against weight counts by hand and forward passes in NumPy."""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.lib.stride_tricks import sliding_window_view

from qrt_tn.models.vision import ARCHITECTURES, VGG19, ConvNet, NormalizedConv, architecture, max_pool

CIFAR = (32, 32, 3)


@cache
def outline_parts(name, image_shape, outputs):
    return nnx.split(
        nnx.eval_shape(lambda: architecture(name, image_shape, outputs, rngs=nnx.Rngs(params=0)))
    )


def outline(name, image_shape=CIFAR, outputs=10):
    """A network with shapes in place of its arrays."""
    return nnx.merge(*outline_parts(name, image_shape, outputs))


def kernels(network):
    """Kernels by path, in any order."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    return {path[:-1]: leaf for path, leaf in leaves if path[-1].key == "kernel"}


def randomised(network, seed):
    """The network of an outline with random numbers in all parameters and statistics, and these numbers.

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

    graph, state = nnx.split(network)
    state = jax.tree.map(draw, state)
    return nnx.merge(graph, state), jax.tree.map(np.asarray, nnx.to_pure_dict(state))


def logits(network, x):
    """Compiled in haste: op by op takes longer, and so do the compiler's optimisations."""
    graph, state = nnx.split(network)
    forward = jax.jit(
        lambda state, x: nnx.merge(graph, state)(x), compiler_options={"xla_backend_optimization_level": 0}
    )
    return np.asarray(forward(state, jnp.asarray(x)))


def by_numpy(key, shape, dtype):
    """Initial kernels, of which JAX would compile one sampler a shape."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(rng.normal(size=shape) / 10, dtype)


def tiny(seed=0, dropout=0.5, stream=None):
    rngs = nnx.Rngs(params=seed) if stream is None else nnx.Rngs(params=seed, dropout=stream)
    return ConvNet((4, 4, 1), 3, depth=2, dropout=dropout, kernel_init=by_numpy, rngs=rngs)


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
    windows = sliding_window_view(x, (2, 2), axis=(1, 2))[:, ::2, ::2]
    return windows.max(axis=(-1, -2))


def normalised(x, layer, strides=1):
    x, norm = conv(x, layer["convolution"]["kernel"], strides), layer["norm"]
    return (x - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"] + norm["bias"]


def images(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# (channels in, features) of the 3x3 convolutions of the paper's table
VGG_WIDTHS = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
CONV_WIDTHS = [3, 64, 64, 128, 128, 256, 256]


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
        ("resnet20", CIFAR, RESNET_CONVOLUTIONS, 640, 2 * RESNET_NORMS + 10, "272K"),
        ("vgg19", CIFAR, of_convolutions(VGG_WIDTHS), 5120, 2 * sum(VGG_WIDTHS[1:]) + 10, "20.0M"),
    ],
)
def test_weights_are_as_many_as_in_the_paper(name, shape, convolutions, kernel_weights, others, printed):
    network = outline(name, shape)
    found = kernels(network)
    assert sum(leaf.size for leaf in found.values() if leaf.ndim == 4) == convolutions
    assert sum(leaf.size for leaf in found.values() if leaf.ndim == 2) == kernel_weights
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert count == convolutions + kernel_weights + others
    unit, digits = (1e6, 1) if printed.endswith("M") else (1e3, 0)
    shown = count if name == "resnet20" else convolutions + kernel_weights
    assert f"{shown / unit:.{digits}f}" == printed[:-1]


def test_the_statistics_of_batch_norms_make_the_papers_274_thousand():
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(outline("resnet20"))))
    assert count == RESNET_CONVOLUTIONS + 640 + 4 * RESNET_NORMS + 10
    assert round(count / 1e3) == 274


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [CIFAR, (28, 28, 1)])
def test_logits_have_one_row_an_image(name, shape):
    network = outline(name, shape, 7)
    assert jax.eval_shape(lambda n, x: n(x), network, jnp.zeros((3, *shape))).shape == (3, 7)


@pytest.mark.parametrize("name", ["lenet", "conv2", "conv4", "conv6", "resnet20"])
def test_small_images_will_do(name):
    network = outline(name, (8, 8, 1))
    assert jax.eval_shape(lambda n, x: n(x), network, jnp.zeros((3, 8, 8, 1))).shape == (3, 10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_of_different_seeds_have_one_graph(name):
    first = nnx.graphdef(outline(name))
    second = nnx.graphdef(nnx.eval_shape(lambda: architecture(name, CIFAR, 10, rngs=nnx.Rngs(params=1))))
    assert first == second
    assert hash(first) == hash(second)


def test_lenet_computes_what_numpy_does():
    network, values = randomised(outline("lenet", (4, 3, 2), 5), 1)
    x = images(2, 6, 4, 3, 2)
    flat = x.reshape(6, 24)
    hidden = relu(dense(relu(dense(flat, values["hidden"][0])), values["hidden"][1]))
    expected = dense(hidden, values["output"])
    np.testing.assert_allclose(logits(network, x), expected, atol=1e-4)
    np.testing.assert_allclose(logits(network, flat), expected, atol=1e-4)


@pytest.mark.parametrize(("depth", "shape"), [(2, (4, 5, 1)), (4, (7, 4, 2))])
def test_conv_net_computes_what_numpy_does(depth, shape):
    network, values = randomised(outline(f"conv{depth}", shape, 3), 3)
    x = images(4, 2, *shape)
    got = logits(network, x)
    for index in range(depth):
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


def test_vgg_computes_what_numpy_does(monkeypatch):
    # the layers of VGG-19, with few features each
    monkeypatch.setattr(VGG19, "GROUPS", ((2, 2), (3, 2), (2, 4), (3, 4), (4, 4)))
    network, values = randomised(outline("vgg19", (17, 16, 1), 3), 7)
    network.eval()
    x = images(8, 2, 17, 16, 1)
    got = logits(network, x)
    for index in range(16):
        x = pool(x) if index in (2, 4, 8, 12) else x
        x = relu(normalised(x, values["convolutions"][index]))
    expected = dense(x.mean(axis=(1, 2)), values["output"])
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_batch_norm_follows_train_and_eval():
    layer = NormalizedConv(2, 3, kernel_init=jax.nn.initializers.normal(1.0), rngs=nnx.Rngs(0))
    layer, values = randomised(layer, 9)
    x = images(10, 5, 4, 4, 2)
    layer.eval()
    np.testing.assert_allclose(layer(jnp.asarray(x)), normalised(x, values), atol=1e-4)
    np.testing.assert_array_equal(layer.norm.mean[...], values["norm"]["mean"])
    layer.train()
    plain = conv(x, values["convolution"]["kernel"])
    mean, var = plain.mean(axis=(0, 1, 2)), plain.var(axis=(0, 1, 2))
    now = {**values, "norm": {**values["norm"], "mean": mean, "var": var}}
    np.testing.assert_allclose(layer(jnp.asarray(x)), normalised(x, now), atol=1e-4)
    np.testing.assert_allclose(layer.norm.mean[...], 0.9 * values["norm"]["mean"] + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(layer.norm.var[...], 0.9 * values["norm"]["var"] + 0.1 * var, atol=1e-5)


def test_every_batch_norm_of_a_network_follows_its_mode():
    network = outline("resnet20", (8, 8, 1))
    norms = [node for _, node in nnx.iter_graph(network) if isinstance(node, nnx.BatchNorm)]
    assert len(norms) == 21
    network.eval()
    assert all(norm.use_running_average for norm in norms)
    network.train()
    assert not any(norm.use_running_average for norm in norms)


@pytest.mark.parametrize("extents", [(4, 6), (5, 7), (2, 3)])
def test_pools_take_the_largest_and_hand_back_the_gradient(extents):
    x = images(11, 2, *extents, 3)
    value, back = jax.vjp(max_pool, jnp.asarray(x))
    np.testing.assert_array_equal(value, pool(x))
    (gradient,) = back(jnp.ones_like(value))
    expected = np.zeros_like(x)
    for b, i, j, c in np.ndindex(value.shape):
        block = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = np.unravel_index(block.argmax(), (2, 2))
        expected[b, 2 * i + row, 2 * j + column, c] = 1
    np.testing.assert_array_equal(gradient, expected)


def test_kernels_begin_glorot_and_biases_at_0():
    network = architecture("lenet", (500,), 10, rngs=nnx.Rngs(params=3))
    wide = np.asarray(network.hidden[0].kernel[...])
    assert np.std(wide) == pytest.approx((2 / (500 + 300)) ** 0.5, rel=0.01)
    # Gaussian up to two deviations of the normal law it is cut from, whose own deviation is 0.88 of that
    assert 2.2 < np.abs(wide).max() / np.std(wide) < 2.3
    assert not any(np.any(layer.bias[...]) for layer in (*network.hidden, network.output))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kernels_and_only_kernels_are_drawn_as_told(name):
    seen = []

    def init(key, shape, dtype):
        seen.append(shape)
        return jnp.zeros(shape, dtype)

    nnx.eval_shape(lambda: architecture(name, CIFAR, 10, kernel_init=init, rngs=nnx.Rngs(params=0)))
    expected = [leaf.shape for leaf in kernels(outline(name)).values()]
    assert sorted(seen) == sorted(expected)
    assert all(len(shape) in (2, 4) for shape in seen)


def test_replicas_compute_together_what_they_do_alone():
    networks = [tiny(0), tiny(1)]
    for network in networks:
        network.eval()
    (graph, first), (other, second) = map(nnx.split, networks)
    assert graph == other
    assert hash(graph) == hash(other)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    x = jnp.asarray(images(12, 3, 4, 4, 1))
    got = jax.jit(jax.vmap(lambda state: nnx.merge(graph, state)(x)))(both)
    for network, mine in zip(networks, got, strict=True):
        np.testing.assert_allclose(mine, logits(network, x), atol=1e-5)
    assert np.abs(got[0] - got[1]).max() > 1e-3


def test_dropout_drops_in_training_only_and_leaves_the_weights_of_a_seed():
    plain, network = tiny(dropout=0.0), tiny()
    x = jnp.asarray(images(13, 3, 4, 4, 1))
    first, second = network(x), network(x)
    assert np.abs(first - second).max() > 1e-4
    network.eval()
    np.testing.assert_array_equal(logits(network, x), logits(plain, x))
    for mine, theirs in zip(
        jax.tree.leaves(nnx.state(network, nnx.Param)),
        jax.tree.leaves(nnx.state(plain, nnx.Param)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_dropout_takes_its_own_stream_where_there_is_one():
    networks = [tiny(stream=seed) for seed in (1, 1, 2)]
    drawn = [logits(network, np.ones((2, 4, 4, 1))) for network in networks]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "shape", "outputs", "message"),
    [
        ("conv3", CIFAR, 10, "unknown architecture 'conv3'; choose one of lenet, conv2"),
        ("conv2", (1, 8, 1), 10, r"\(1, 8, 1\) are too small for the pools of conv2; give 2x2"),
        ("conv4", (8, 3, 1), 10, "pools of conv4; give 4x4"),
        ("conv6", (7, 8, 1), 10, "pools of conv6; give 8x8"),
        ("vgg19", (15, 16, 3), 10, "pools of vgg19; give 16x16"),
        ("resnet20", (784,), 10, r"image_shape is \(784,\); give \(height, width, channels\), each"),
        ("lenet", (28, 28), 10, r"image_shape is \(28, 28\); give .*, or \(features,\)"),
        ("lenet", (28, 0, 1), 10, r"image_shape is \(28, 0, 1\)"),
        ("lenet", (2.5,), 10, r"image_shape is \(2.5,\)"),
        ("conv2", 32, 10, r"image_shape is \(32,\)"),
        ("lenet", (784,), 0, "outputs is 0"),
        ("vgg19", CIFAR, True, "outputs is True"),
    ],
)
def test_what_cannot_be_built_is_refused(name, shape, outputs, message):
    with pytest.raises(ValueError, match=message):
        architecture(name, shape, outputs, rngs=nnx.Rngs(params=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "depth is 3; choose 2, 4 or 6"),
        ({"depth": 2, "dropout": 1.0}, "dropout is 1.0; give a share"),
        ({"depth": 2, "dropout": float("nan")}, "dropout is nan"),
    ],
)
def test_bad_settings_of_a_conv_net_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNet((8, 8, 1), 3, rngs=nnx.Rngs(params=0), **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_images_of_another_shape_are_refused(name):
    network = outline(name)
    with pytest.raises(
        ValueError, match=r"x has shape \(2, 32, 31, 3\); the network takes \(batch, 32, 32, 3\)"
    ):
        jax.eval_shape(lambda n, x: n(x), network, jnp.zeros((2, 32, 31, 3)))
