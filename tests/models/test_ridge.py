"""The ridge network against integer arithmetic, and its importance weights against brute force."""

from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn import Ridgelet, RidgeNodes
from qrt_tn.models import RidgeNetwork, importance_weights


class Amplitudes(NamedTuple):
    mantissa: np.ndarray
    log_scale: np.ndarray


def random_nodes(count, dim, modulus, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(modulus, size=(count, dim))
    return RidgeNodes(a, rng.integers(modulus, size=count), np.full(count, -1.0), modulus)


def standardised(ridgelet):
    return (ridgelet.activation - ridgelet.activation.mean()) / ridgelet.activation.std()


def made(nodes, ridgelet, outputs=1):
    return RidgeNetwork(nodes, ridgelet, outputs, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("dim", "modulus", "activation"), [(3000, 257, "triangle"), (5, 2, "step"), (40, 4093, "sine")]
)
def test_features_are_the_table_at_exact_integers(dim, modulus, activation):
    ridgelet, rng = Ridgelet(activation, modulus), np.random.default_rng(dim)
    a, b = rng.integers(modulus, size=(30, dim)), rng.integers(modulus, size=30)
    x = rng.integers(modulus, size=(20, dim))
    # the largest products there are: the sum would leave float32's exact integers without the blocks
    a[0], b[0], x[0], x[1] = modulus // 2, modulus - 1, modulus // 2, modulus - 1
    found = made(RidgeNodes(a, b, np.full(30, -1.0), modulus), ridgelet).compute_features(x)
    np.testing.assert_array_equal(found, standardised(ridgelet)[(x @ a.T - b) % modulus].astype(np.float32))
    if dim == 5:  # two values on a circle of two points: their mean is 0 and their variance 1
        np.testing.assert_allclose(np.unique(found), [-1, 1], rtol=1e-6)


@pytest.mark.parametrize("modulus", [3, 257])
def test_the_cosine_is_itself_between_the_points(modulus):
    rng, dim = np.random.default_rng(20), 784
    a, b = rng.integers(modulus, size=(30, dim)), rng.uniform(0, modulus, size=30)
    a[0] = modulus // 2
    network = made(SimpleNamespace(a=a, b=b, modulus=modulus), Ridgelet("cosine", modulus), 2)
    signed = np.where(a <= modulus // 2, a, a - modulus)
    whole = rng.integers(modulus, size=(20, dim))
    for x in (rng.uniform(-modulus, 2 * modulus, size=(20, dim)).astype(np.float32), whole):
        wanted = np.sqrt(2) * np.cos(2 * np.pi * (x.astype(np.float64) @ signed.T - b) / modulus)
        np.testing.assert_allclose(network.compute_features(x), wanted, atol=1e-4)


def test_only_the_cosine_is_not_linear_between_the_points():
    """Of whatever height and mean; tables of other functions are interpolated, round the circle."""
    node = RidgeNodes(np.array([[1]]), np.array([0]), np.array([-1.0]), 13)
    t = np.linspace(-20, 40, 250)
    cosine = Ridgelet("cosine", 13).activation
    for table in (
        cosine,
        2 + 3 * cosine,
        Ridgelet("sine", 13).activation,
        np.random.default_rng(0).random(13),
    ):
        ridgelet = Ridgelet(table, 13)
        wanted = np.interp(t, np.arange(13), standardised(ridgelet), period=13)
        if np.corrcoef(table, cosine)[0, 1] > 0.999:
            wanted = np.sqrt(2) * np.cos(2 * np.pi * t / 13)
        found = made(node, ridgelet).compute_features(t[:, None])[:, 0]
        np.testing.assert_allclose(found, wanted, atol=3e-5)


def test_gradients_of_the_offsets_are_slopes_of_the_table():
    ridgelet, nodes = Ridgelet("gaussian", 31), random_nodes(4, 2, 31, seed=4)
    network = made(nodes, ridgelet)
    network.b_offset[...] = jnp.full(4, 0.4)  # off the corners of the table
    x = np.random.default_rng(5).integers(31, size=(9, 2))
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    gradient = jax.jit(jax.grad(lambda params: nnx.merge(graph, params, rest)(jnp.float32(x)).sum()))(params)
    place = np.floor(x @ nodes.a.T - nodes.b - 0.4).astype(int) % 31
    slopes = (np.roll(standardised(ridgelet), -1) - standardised(ridgelet))[place]
    weighted = slopes * np.float64(network.kernel[...])[:, 0]
    np.testing.assert_allclose(gradient["b_offset"][...], -weighted.sum(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient["a_offset"][...], weighted.T @ x, rtol=1e-4, atol=1e-4)


def brute_force_transform(f, ridgelet, dim):
    """All (a, b) of the grid and R[f](a, b), one inner product at a time."""
    modulus = ridgelet.modulus
    points = np.array(list(product(range(modulus), repeat=dim)))
    grid = np.array(list(product(range(modulus), repeat=dim + 1)))
    index = (grid[:, :dim] @ points.T - grid[:, dim:]) % modulus
    return points, grid, (ridgelet.values.conj()[index] @ f) * modulus ** (-dim / 2)


@pytest.mark.parametrize("activation", ["relu", "triangle", "other ridgelet"])
def test_all_nodes_with_importance_weights_are_the_function(activation):
    modulus, dim, rng = 5, 2, np.random.default_rng(9)
    ridgelet = Ridgelet(activation, modulus) if activation != "other ridgelet" else None
    if ridgelet is None:
        r = rng.normal(size=modulus)
        ridgelet = Ridgelet("relu", modulus, r - r.mean())
    f = rng.normal(size=(modulus**dim, 3))
    points, grid, amplitudes = brute_force_transform(f, ridgelet, dim)
    nodes = RidgeNodes(grid[:, :dim], grid[:, dim], np.full(len(grid), -3 * np.log(modulus)), modulus)
    scaled = Amplitudes(amplitudes, np.zeros((len(grid), 1)))
    weights = importance_weights(scaled, nodes, ridgelet)
    index = (points @ nodes.a.T - nodes.b) % modulus
    phi = ridgelet.activation - ridgelet.activation.mean()
    np.testing.assert_allclose(phi[index] @ weights, f, atol=1e-12)
    odds = rng.uniform(0.1, 3, len(grid))  # of nodes drawn otherwise than evenly
    others = RidgeNodes(nodes.a, nodes.b, nodes.log_probability + np.log(odds), modulus)
    np.testing.assert_allclose(importance_weights(scaled, others, ridgelet) * odds[:, None], weights)
    mean = np.array([1.0, -2.0, 0.5])
    network = RidgeNetwork.from_amplitudes(scaled, nodes, ridgelet, norm=2.0, mean=mean)
    np.testing.assert_allclose(network.predict(points), 2 * f + mean, atol=1e-4)


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


NODES, RELU = random_nodes(4, 3, 31, seed=16), Ridgelet("relu", 31)
COMPLEX = Ridgelet(np.exp(2j * np.pi * np.arange(31) / 31), 31)
ONE = Amplitudes(np.ones(4), np.zeros(4))
LOST = RidgeNodes(NODES.a, NODES.b, np.full(4, -np.inf), 31)


def other(**changes):
    """Nodes as above, but for what changes."""
    return SimpleNamespace(**{"a": NODES.a, "b": NODES.b, "modulus": 31} | changes)


REFUSED = [
    (lambda: made(NODES, Ridgelet("relu", 13)), "Z_31 but the ridgelet on Z_13"),
    (lambda: made(NODES, RELU, 0), "outputs is 0"),
    (lambda: made(NODES, COMPLEX), "complex"),
    (lambda: made(random_nodes(4, 3, 8209, 1), Ridgelet("relu", 8209)), "8209"),
    (lambda: made("nodes", RELU), "str has no a and no b and no modulus"),
    (lambda: made(other(b=NODES.b[:3]), RELU), r"b has shape \(3,\)"),
    (lambda: made(other(b=np.full(4, np.nan)), RELU), "b holds nan"),
    (lambda: made(other(b=np.full(4, 31.0)), RELU), "b holds 31"),
    (lambda: made(other(a=NODES.a + 0.5), RELU), "a has dtype float64"),
    (lambda: made(other(modulus=30), RELU), "30 is not prime"),
    (lambda: made(NODES, NODES), "RidgeNodes for a Ridgelet"),
    (lambda: importance_weights(ONE, other(), RELU), "SimpleNamespace has no log_probability"),
    (lambda: importance_weights(Amplitudes(np.ones(5), np.zeros(5)), NODES, RELU), r"\(5,\)"),
    (lambda: importance_weights(Amplitudes(np.ones(4), np.full(4, 1e4)), NODES, RELU), "beyond float64"),
    (lambda: importance_weights(ONE, LOST, RELU), "probability 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
