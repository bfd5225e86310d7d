import jax
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.trees import to_tree
from qrt_tn.models.moe.vit import VisionMoe, expert_layers
from tests.models.moe import brute_force
from tests.models.moe.conftest import random_network, small_config

CONFIGS = {
    "token choice": {},
    "gap, representation": {"classifier": "gap", "representation": 5, "moe_layers": (0, 1)},
    "expert choice": {"router": {"kind": "expert-choice", "capacity_factor": 1.0}},
    "across images": {"group": 20, "router": {"batch_priority": True, "capacity_factor": 1.0}},
    "pruned": {"maps": {1: ExpertMap((0, 1, -1, -1), (1, 3), 4)}},
    "merged": {"maps": {1: ExpertMap((0, 1, 1, 0), (0, 1), 4)}, "router": {"softmax": "after"}},
    "no experts": {"moe_layers": ()},
}
applied = nnx.jit(lambda network, x: network(x))


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_network_computes_what_flax_linen_and_loops_do(changes, images):
    config = small_config(**changes)
    network = random_network(config)
    logits, auxiliary = applied(network, images[0])
    np.testing.assert_allclose(
        logits, brute_force.forward(to_tree(network), config, images[0]), rtol=2e-3, atol=2e-4
    )
    assert float(auxiliary) >= 0
    observed, seen = nnx.jit(lambda network, x: network.observe(x))(network, images[0])
    np.testing.assert_allclose(observed, logits, rtol=1e-4, atol=1e-5)
    assert tuple(seen) == config.moe_layers == tuple(expert_layers(network))


def test_an_image_does_not_depend_on_its_batch(images):
    network = random_network(small_config(router={"capacity_factor": 0.5}))
    alone = [applied(network, image[None])[0][0] for image in images[0]]
    np.testing.assert_allclose(applied(network, images[0])[0], alone, rtol=1e-4, atol=1e-5)


def test_noise_needs_a_key_and_follows_it(images):
    network = random_network(small_config(router={"noise_std": 20.0}))
    noisy = nnx.jit(lambda network, x, key: network(x, key=key)[0])
    first, again, other = (noisy(network, images[0], jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - applied(network, images[0])[0]).max() > 1e-3


def test_layers_draw_different_noise(images, monkeypatch):
    """One key for all layers would give each the same noise."""
    keys = []
    normal = jax.random.normal

    def watched(key, *others):
        keys.append(np.asarray(jax.random.key_data(key)))
        return normal(key, *others)

    network = random_network(small_config(moe_layers=(0, 1)))
    monkeypatch.setattr("qrt_tn.models.moe.routers.jax.random.normal", watched)
    network(images[0], key=jax.random.key(0))
    assert len(keys) == 2
    assert (keys[0] != keys[1]).any()


def test_networks_of_one_configuration_share_compiled_functions():
    graphs = [nnx.split(VisionMoe(small_config(), rngs=nnx.Rngs(seed)))[0] for seed in (0, 1)]
    assert graphs[0] == graphs[1]
    assert hash(graphs[0]) == hash(graphs[1])


def test_images_of_another_shape_are_refused(images):
    with pytest.raises(ValueError, match="do not fit a network for"):
        random_network(small_config())(images[0][:, :4])
