"""The ridge network against integer arithmetic, and its importance weights against brute force."""

from itertools import product
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.engine.files import save_tensors
from qrt_tn.models.readout import fit_output_weights
from qrt_tn.models.ridge import RidgeNetwork, importance_weights
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet


class RealNodes:
    """Nodes with real thresholds, as tempered ones have them."""

    def __init__(self, a, b, modulus):
        self.a, self.b, self.modulus = a, b, modulus


class Amplitudes(NamedTuple):
    mantissa: np.ndarray
    log_scale: np.ndarray


def random_nodes(count, dim, modulus, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(modulus, size=(count, dim))
    return RidgeNodes(a, rng.integers(modulus, size=count), np.full(count, -1.0), modulus)


def standardised(ridgelet):
    return (ridgelet.activation - ridgelet.activation.mean()) / ridgelet.activation.std()


@pytest.mark.parametrize(
    ("dim", "modulus", "activation"),
    [(784, 257, "relu"), (3000, 257, "triangle"), (64, 127, "triangle"), (5, 2, "step"), (40, 4093, "sine")],
)
def test_features_are_the_table_at_exact_integers(dim, modulus, activation):
    ridgelet = Ridgelet(activation, modulus)
    nodes = random_nodes(30, dim, modulus, seed=dim)
    # the largest products there are: the sum would leave float32's exact integers without the blocks
    extreme = RidgeNodes(np.full((1, dim), modulus // 2), np.array([modulus - 1]), np.array([-1.0]), modulus)
    x = np.random.default_rng(1).integers(modulus, size=(20, dim))
    x[0], x[1] = modulus // 2, modulus - 1
    for some in (nodes, extreme):
        network = RidgeNetwork(some, ridgelet, 3, rngs=nnx.Rngs(0))
        index = (x @ some.a.T - some.b) % modulus
        expected = standardised(ridgelet)[index].astype(np.float32)
        np.testing.assert_array_equal(network.compute_features(x), expected)


@pytest.mark.parametrize("modulus", [3, 127])
def test_the_cosine_is_itself_between_the_points(modulus, tmp_path):
    rng = np.random.default_rng(20)
    dim = 784
    a = rng.integers(modulus, size=(30, dim))
    a[0] = modulus // 2
    b = rng.uniform(0, modulus, size=30)
    network = RidgeNetwork(RealNodes(a, b, modulus), Ridgelet("cosine", modulus), 2, rngs=nnx.Rngs(0))
    signed = np.where(a <= modulus // 2, a, a - modulus)
    whole = rng.integers(modulus, size=(20, dim))
    for x in (rng.uniform(-modulus, 2 * modulus, size=(20, dim)).astype(np.float32), whole):
        turns = (x.astype(np.float64) @ signed.T - b) / modulus
        expected = np.sqrt(2) * np.cos(2 * np.pi * turns)
        np.testing.assert_allclose(network.compute_features(x), expected, atol=1e-4)
    network.save(tmp_path / "n.safetensors")
    loaded = RidgeNetwork.load(tmp_path / "n.safetensors")
    np.testing.assert_array_equal(loaded.predict(x / 3), network.predict(x / 3))


def test_the_cosine_at_integers_is_the_table_and_other_tables_stay_linear():
    nodes = random_nodes(30, 784, 257, seed=21)
    x = np.random.default_rng(22).integers(257, size=(20, 784))
    index = (x @ nodes.a.T - nodes.b) % 257
    ridgelet = Ridgelet("cosine", 257)
    found = RidgeNetwork(nodes, ridgelet, 1, rngs=nnx.Rngs(0)).compute_features(x)
    np.testing.assert_allclose(found, standardised(ridgelet)[index], atol=1e-6)
    single = RidgeNodes(np.array([[1]]), np.array([0]), np.array([-1.0]), 13)
    for table in (2 + 3 * Ridgelet("cosine", 13).activation, Ridgelet("sine", 13).activation):
        network = RidgeNetwork(single, Ridgelet(table, 13), 1, rngs=nnx.Rngs(0))
        middle = network.compute_features(np.array([[0.0], [0.5], [1.0]]))[:, 0]
        linear = middle[1] == pytest.approx((middle[0] + middle[2]) / 2, abs=1e-5)
        assert linear == (table[0] < 1)


def test_features_have_unit_variance_over_the_field():
    ridgelet = Ridgelet("softplus", 31)
    nodes = RidgeNodes(np.ones((31, 1), dtype=int), np.arange(31), np.full(31, -3.0), 31)
    phi = RidgeNetwork(nodes, ridgelet, 1, rngs=nnx.Rngs(0)).compute_features(np.arange(31)[:, None])
    np.testing.assert_allclose(phi.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(phi.var(axis=0), 1, rtol=1e-5)


def test_between_the_points_features_are_linear_and_periodic():
    modulus = 13
    ridgelet = Ridgelet(np.random.default_rng(0).normal(size=modulus), modulus)
    nodes = RidgeNodes(np.array([[1]]), np.array([0]), np.array([-1.0]), modulus)
    network = RidgeNetwork(nodes, ridgelet, 1, rngs=nnx.Rngs(0))
    t = np.linspace(-20, 40, 301)
    expected = np.interp(t, np.arange(modulus), standardised(ridgelet), period=modulus)
    np.testing.assert_allclose(network.compute_features(t[:, None])[:, 0], expected, atol=2e-5)


def test_offsets_move_the_pre_activation():
    modulus = 13
    rng = np.random.default_rng(2)
    ridgelet = Ridgelet("triangle", modulus)
    nodes = random_nodes(6, 3, modulus, seed=3)
    network = RidgeNetwork(nodes, ridgelet, 1, rngs=nnx.Rngs(0))
    da, db = rng.normal(size=(6, 3)), rng.normal(size=6)
    network.a_offset[...], network.b_offset[...] = jnp.asarray(da), jnp.asarray(db)
    x = rng.integers(modulus, size=(40, 3))
    t = x @ (nodes.a + da).T - nodes.b - db
    expected = np.interp(t, np.arange(modulus), standardised(ridgelet), period=modulus)
    np.testing.assert_allclose(network.compute_features(x), expected, atol=1e-4)
    fixed = network.fixed(jnp.asarray(x, dtype=jnp.float32))
    np.testing.assert_allclose(network.features(jnp.asarray(x), fixed), expected, atol=1e-4)


def test_gradients_are_those_of_finite_differences():
    ridgelet = Ridgelet("gaussian", 31)
    network = RidgeNetwork(random_nodes(4, 2, 31, seed=4), ridgelet, 1, rngs=nnx.Rngs(1))
    x = jnp.asarray(np.random.default_rng(5).integers(31, size=(9, 2)), dtype=jnp.float32)
    network.b_offset[...] = jnp.full(4, 0.4)  # off the corners of the table

    def total(network):
        return network(x).sum()

    gradient = nnx.grad(total)(network)
    for name in ("a_offset", "b_offset"):
        parameter = getattr(network, name)
        start = parameter[...]
        direction = np.random.default_rng(6).normal(size=start.shape) * 1e-3
        parameter[...] = start + direction
        up = float(total(network))
        parameter[...] = start - direction
        down = float(total(network))
        parameter[...] = start
        slope = float((np.asarray(gradient[name][...]) * direction).sum())
        assert (up - down) / 2 == pytest.approx(slope, rel=0.05, abs=1e-5)


def test_fit_gives_the_weights_of_ridge_regression_to_the_network():
    network = RidgeNetwork(random_nodes(12, 3, 31, seed=7), Ridgelet("relu", 31), 2, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(8)
    x, y = rng.integers(31, size=(300, 3)), rng.normal(size=(300, 2)) + 5
    assert network.fit(x, y, 0.5) is network
    kernel, bias = fit_output_weights(network.compute_features(x), y, 0.5)
    expected = network.compute_features(x) @ kernel + bias
    np.testing.assert_allclose(network.predict(x), expected, atol=1e-5)
    np.testing.assert_allclose(np.asarray(network(jnp.asarray(x))), expected, atol=1e-4)


def brute_force_transform(f, ridgelet, dim):
    """All (a, b) of the grid and R[f](a, b), one inner product at a time."""
    modulus = ridgelet.modulus
    points = np.array(list(product(range(modulus), repeat=dim)))
    grid = np.array(list(product(range(modulus), repeat=dim + 1)))
    index = (grid[:, :dim] @ points.T - grid[:, dim:]) % modulus
    return points, grid, (ridgelet.values.conj()[index] @ f) * modulus ** (-dim / 2)


@pytest.mark.parametrize("activation", ["relu", "triangle", "tanh"])
def test_all_nodes_with_importance_weights_are_the_function(activation):
    modulus, dim = 5, 2
    ridgelet = Ridgelet(activation, modulus)
    f = np.random.default_rng(9).normal(size=(modulus**dim, 3))
    points, grid, amplitudes = brute_force_transform(f, ridgelet, dim)
    nodes = RidgeNodes(grid[:, :dim], grid[:, dim], np.full(len(grid), -3 * np.log(modulus)), modulus)
    scaled = Amplitudes(amplitudes, np.zeros((len(grid), 1)))
    weights = importance_weights(scaled, nodes, ridgelet)
    index = (points @ nodes.a.T - nodes.b) % modulus
    np.testing.assert_allclose(ridgelet.activation[index] @ weights, f, atol=1e-12)
    mean = np.array([1.0, -2.0, 0.5])
    network = RidgeNetwork.from_amplitudes(scaled, nodes, ridgelet, norm=2.0, mean=mean)
    np.testing.assert_allclose(network.predict(points), 2 * f + mean, atol=1e-4)


def test_a_ridgelet_other_than_the_activation_reconstructs_too():
    modulus, dim = 5, 2
    rng = np.random.default_rng(10)
    r = rng.normal(size=modulus)
    ridgelet = Ridgelet("relu", modulus, r - r.mean())
    f = rng.normal(size=modulus**dim)
    points, grid, amplitudes = brute_force_transform(f, ridgelet, dim)
    nodes = RidgeNodes(grid[:, :dim], grid[:, dim], np.full(len(grid), -3 * np.log(modulus)), modulus)
    network = RidgeNetwork.from_amplitudes(Amplitudes(amplitudes, np.zeros(())), nodes, ridgelet)
    np.testing.assert_allclose(network.predict(points)[:, 0], f, atol=1e-4)


def test_sampled_importance_weights_are_unbiased():
    modulus, dim, count = 5, 2, 40_000
    ridgelet = Ridgelet("triangle", modulus)
    rng = np.random.default_rng(11)
    f = rng.normal(size=modulus**dim)
    f /= np.linalg.norm(f)
    points, grid, amplitudes = brute_force_transform(f, ridgelet, dim)
    probability = np.abs(amplitudes) ** 2
    assert probability.sum() == pytest.approx(1)
    drawn = rng.choice(len(grid), size=count, p=probability / probability.sum())
    log_probability = np.log(probability[drawn])
    nodes = RidgeNodes(grid[drawn, :dim], grid[drawn, dim], log_probability, modulus)
    scaled = Amplitudes(amplitudes[drawn], np.zeros(count))
    network = RidgeNetwork.from_amplitudes(scaled, nodes, ridgelet)
    phi = ridgelet.activation - ridgelet.activation.mean()
    terms = importance_weights(scaled, nodes, ridgelet) * phi[(points @ nodes.a.T - nodes.b) % modulus]
    error = terms.std(axis=1) * np.sqrt(count)
    assert (np.abs(network.predict(points)[:, 0] - f) < 5 * error + 1e-5).all()
    assert error.max() < 0.05


def test_importance_weights_survive_amplitudes_far_below_float64():
    dim, modulus = 5000, 127
    nodes = random_nodes(3, dim, modulus, seed=12)
    log_amplitude = -(dim + 1) / 2 * np.log(modulus)
    nodes = RidgeNodes(nodes.a, nodes.b, np.full(3, 2 * log_amplitude), modulus)
    ridgelet = Ridgelet("triangle", modulus)
    weights = importance_weights(
        Amplitudes(np.array([1.0, -1.0, 0.0]), np.full(3, log_amplitude)), nodes, ridgelet
    )
    expected = np.sqrt(modulus) / (3 * ridgelet.admissibility)
    np.testing.assert_allclose(weights, [expected, -expected, 0], rtol=1e-9)


def test_saved_networks_compute_the_same(tmp_path):
    rng = np.random.default_rng(13)
    network = RidgeNetwork(random_nodes(7, 4, 31, seed=14), Ridgelet("tanh", 31), 2, rngs=nnx.Rngs(3))
    for name in ("a_offset", "b_offset", "bias"):
        parameter = getattr(network, name)
        parameter[...] = jnp.asarray(rng.normal(size=parameter.shape), dtype=jnp.float32)
    network.save(tmp_path / "n.safetensors")
    loaded = RidgeNetwork.load(tmp_path / "n.safetensors")
    x = rng.integers(31, size=(50, 4))
    np.testing.assert_array_equal(loaded.predict(x), network.predict(x))
    assert loaded.parameter_count() == 7 * 4 + 7 + 7 * 2 + 2


def test_networks_of_one_shape_differ_in_their_arrays_only():
    networks = [
        RidgeNetwork(random_nodes(9, 6, 31, seed), Ridgelet(activation, 31), 2, rngs=nnx.Rngs(seed))
        for seed, activation in enumerate(("relu", "sine"))
    ]
    graphs = [nnx.split(network)[0] for network in networks]
    assert graphs[0] == graphs[1]
    assert hash(graphs[0]) == hash(graphs[1])


def test_bad_networks_are_named(tmp_path):
    nodes, ridgelet = random_nodes(4, 3, 31, seed=16), Ridgelet("relu", 31)
    for some, other, outputs, message in [
        (nodes, Ridgelet("relu", 13), 1, "Z_31 but the ridgelet on Z_13"),
        (nodes, ridgelet, 0, "outputs is 0"),
        (nodes, Ridgelet(np.exp(2j * np.pi * np.arange(31) / 31), 31), 1, "complex"),
        (random_nodes(4, 3, 8209, 1), Ridgelet("relu", 8209), 1, "8209"),
    ]:
        with pytest.raises(ValueError, match=message):
            RidgeNetwork(some, other, outputs, rngs=nnx.Rngs(0))
    real = RealNodes(nodes.a, nodes.b + 0.25, 31)
    for some, message in [
        ("nodes", "str has no a and no b and no modulus"),
        (RealNodes(nodes.a, nodes.b[:3], 31), r"b has shape \(3,\)"),
        (RealNodes(nodes.a, np.full(4, np.nan), 31), "b holds nan"),
        (RealNodes(nodes.a, np.full(4, 31.0), 31), "b holds 31"),
        (RealNodes(nodes.a + 0.5, nodes.b, 31), "a has dtype float64"),
        (RealNodes(nodes.a, nodes.b, 30), "30 is not prime"),
    ]:
        with pytest.raises(ValueError, match=message):
            RidgeNetwork(some, ridgelet, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="RidgeNodes for a Ridgelet"):
        RidgeNetwork(nodes, nodes, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="RealNodes has no log_probability"):
        RidgeNetwork(real, ridgelet, 1, rngs=nnx.Rngs(0)).set_from_amplitudes(
            Amplitudes(np.ones(4), np.zeros(4)), real, ridgelet
        )
    network = RidgeNetwork(nodes, ridgelet, 1, rngs=nnx.Rngs(0))
    for x, message in [
        (np.zeros((2, 4)), r"\(points, 3\)"),
        (np.zeros(3), r"\(3,\)"),
        (np.zeros((0, 3)), "not empty"),
        (np.full((1, 3), np.nan), "nan"),
        (np.array([["a", "b", "c"]]), "real numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            network.predict(x)
    with pytest.raises(ValueError, match=r"kernel has shape \(4,\)"):
        network.set_output_weights(np.zeros(4), np.zeros(1))
    with pytest.raises(ValueError, match="finite"):
        network.set_output_weights(np.full((4, 1), 1e300), np.zeros(1))
    one = Amplitudes(np.ones(4), np.zeros(4))
    with pytest.raises(ValueError, match=r"\(5,\)"):
        importance_weights(Amplitudes(np.ones(5), np.zeros(5)), nodes, ridgelet)
    with pytest.raises(ValueError, match="not the nodes of this network"):
        network.set_from_amplitudes(one, random_nodes(4, 3, 31, seed=17), ridgelet)
    with pytest.raises(ValueError, match="2 outputs, the network has 1"):
        network.set_from_amplitudes(Amplitudes(np.ones((4, 2)), np.zeros((4, 1))), nodes, ridgelet)
    with pytest.raises(ValueError, match="beyond float64"):
        importance_weights(Amplitudes(np.ones(4), np.full(4, 1e4)), nodes, ridgelet)
    impossible = RidgeNodes(nodes.a, nodes.b, np.full(4, -np.inf), 31)
    with pytest.raises(ValueError, match="probability 0"):
        importance_weights(one, impossible, ridgelet)
    path = tmp_path / "n.safetensors"
    with pytest.raises(ValueError, match="no file"):
        RidgeNetwork.load(path)
    save_tensors(path, {"table": np.arange(31.0)}, {"format": RidgeNetwork.FORMAT})
    with pytest.raises(ValueError, match="whole network"):
        RidgeNetwork.load(path)


def test_the_first_kernel_depends_on_the_seed_only():
    nodes, ridgelet = random_nodes(4, 3, 31, seed=18), Ridgelet("relu", 31)
    kernels = [
        np.asarray(RidgeNetwork(nodes, ridgelet, 2, rngs=nnx.Rngs(seed)).kernel[...]) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).all()
