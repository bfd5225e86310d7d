import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.trees import to_tree
from qrt_tn.models.moe.vit import VisionMoe, expert_layers
from tests.models.moe import brute_force
from tests.models.moe.conftest import random_network, small_config

CONFIGS = {
    "gap, representation, experts choose": {
        "classifier": "gap",
        "representation": 5,
        "moe_layers": (0, 1),
        "router": {"kind": "expert-choice", "capacity_factor": 1.0},
    },
    "pruned, across images": {
        "group": 20,
        "router": {"batch_priority": True, "capacity_factor": 1.0},
        "maps": {1: ExpertMap((0, 1, -1, -1), (1, 3), 4)},
    },
    "merged, few slots": {
        "maps": {1: ExpertMap((0, 1, 1, 0), (0, 1), 4)},
        "router": {"softmax": "after", "capacity_factor": 0.5},
    },
}
run = nnx.jit(lambda network, x: (network(x), network.observe(x)))


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_network_computes_what_flax_linen_and_loops_do(changes, images):
    config = small_config(**changes)
    network = random_network(config)
    (logits, auxiliary), (observed, seen) = run(network, images[0])
    expected = brute_force.forward(to_tree(network), config, images[0])
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(observed, expected, rtol=2e-3, atol=2e-4)
    assert float(auxiliary) >= 0
    assert tuple(seen) == config.moe_layers == tuple(expert_layers(network))
    with pytest.raises(ValueError, match="do not fit a network for"):
        network(images[0][:, :4])
    if config.group is None:  # an image does not depend on its batch
        x = np.array(images[0])
        x[1:] = x[:1]
        np.testing.assert_allclose(run(network, x)[0][0][0], logits[0], rtol=1e-4, atol=1e-5)


def test_a_network_needs_a_generator():
    with pytest.raises(ValueError, match="rngs is None"):
        VisionMoe(small_config(), rngs=None)


def test_noise_needs_a_key_and_differs_from_layer_to_layer(images, monkeypatch):
    network = random_network(small_config(**next(iter(CONFIGS.values()))))
    keys, normal = [], jax.random.normal

    def watched(key, *others):
        keys.append(jax.random.key_data(key))
        return normal(key, *others)

    monkeypatch.setattr("qrt_tn.models.moe.routers.jax.random.normal", watched)

    @nnx.jit
    def noisy(network, x, key):
        keys.clear()
        return network(x, key=key)[0], jnp.stack(keys)

    first, again, other = (noisy(network, images[0], jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    for quiet in (other[0], run(network, images[0])[0][0]):
        assert np.abs(np.asarray(first[0]) - quiet).max() > 1e-3
    assert len(first[1]) == 2
    assert np.any(np.asarray(first[1][0]) != first[1][1])


def test_networks_of_one_configuration_share_compiled_functions():
    graphs = [
        nnx.split(nnx.eval_shape(lambda seed=seed: VisionMoe(small_config(), rngs=nnx.Rngs(seed))))[0]
        for seed in (0, 1)
    ]
    assert graphs[0] == graphs[1]
    assert hash(graphs[0]) == hash(graphs[1])
