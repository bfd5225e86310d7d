"""The networks to compare with, against NumPy and scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.kernel_approximation import RBFSampler

from qrt_tn.models.dense import CosineNetwork, DenseNetwork


def test_dense_outputs_are_those_of_numpy():
    network = DenseNetwork(5, 7, 3, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    network.hidden_bias[...], network.bias[...] = (
        jnp.asarray(rng.normal(size=7)),
        jnp.asarray(rng.normal(size=3)),
    )
    x = rng.normal(size=(600, 5))
    hidden = np.maximum(x @ np.asarray(network.hidden_kernel[...]) + np.asarray(network.hidden_bias[...]), 0)
    expected = hidden @ np.asarray(network.kernel[...]) + np.asarray(network.bias[...])
    np.testing.assert_allclose(network.predict(x), expected, atol=1e-5)
    np.testing.assert_allclose(network(jnp.asarray(x)), expected, atol=1e-5)


def test_dense_weights_have_the_usual_variance():
    network = DenseNetwork(400, 300, 200, rngs=nnx.Rngs(1))
    assert np.var(network.hidden_kernel[...]) == pytest.approx(2 / 400, rel=0.05)
    assert np.var(network.kernel[...]) == pytest.approx(1 / 300, rel=0.05)
    assert not np.any(network.hidden_bias[...])


def test_cosine_features_are_those_of_the_sampler():
    x = np.random.default_rng(2).normal(size=(50, 6))
    sampler = RBFSampler(gamma=0.3, n_components=40, random_state=3).fit(x)
    network = CosineNetwork.from_sampler(sampler, 2, rngs=nnx.Rngs(0))
    # scikit-learn divides by sqrt(N), so that the features' product is the kernel
    expected = sampler.transform(x) * np.sqrt(40)
    np.testing.assert_allclose(network.compute_features(x), expected, atol=1e-4)
    assert (network.dim, network.nodes, network.outputs) == (6, 40, 2)
    assert network.parameter_count() == 6 * 40 + 40 + 40 * 2 + 2


@pytest.mark.parametrize("kind", [DenseNetwork, CosineNetwork])
def test_saved_networks_compute_the_same(kind, tmp_path):
    rng = np.random.default_rng(4)
    if kind is DenseNetwork:
        network = DenseNetwork(3, 8, 2, rngs=nnx.Rngs(5))
    else:
        network = CosineNetwork(rng.normal(size=(3, 8)), rng.normal(size=8), 2, rngs=nnx.Rngs(5))
    x = rng.normal(size=(20, 3))
    network.fit(x, rng.normal(size=(20, 2)), 0.1)
    network.save(tmp_path / "n.safetensors")
    loaded = kind.load(tmp_path / "n.safetensors")
    np.testing.assert_array_equal(loaded.predict(x), network.predict(x))
    other = CosineNetwork if kind is DenseNetwork else DenseNetwork
    with pytest.raises(ValueError, match="not 'qrt-tn"):
        other.load(tmp_path / "n.safetensors")


def test_bad_networks_are_named():
    for extents, message in [((0, 3, 1), "dim is 0"), ((3, 0, 1), "nodes is 0"), ((3, 3, 0), "outputs is 0")]:
        with pytest.raises(ValueError, match=message):
            DenseNetwork(*extents, rngs=nnx.Rngs(0))
    for frequencies, phases, message in [
        (np.ones((3, 4)), np.ones(3), r"\(3, 4\) and phases \(3,\)"),
        (np.ones((3, 0)), np.ones(0), r"\(3, 0\)"),
        (np.full((3, 4), np.nan), np.ones(4), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            CosineNetwork(frequencies, phases, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="RBFSampler is not fitted"):
        CosineNetwork.from_sampler(RBFSampler(), 1, rngs=nnx.Rngs(0))
