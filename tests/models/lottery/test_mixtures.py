"""Networks of experts: pruned by experts first and then by weights, and as trials of a study."""

import jax
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models import moe
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import LotteryStudy, Preset, layers, prune_by_magnitude
from qrt_tn.models.lottery.masks import counts, full_masks, is_within, layer_values, unpruned
from tests.models.lottery.conftest import RECIPE, clusters
from tests.models.moe.conftest import random_network, small_config

CONFIG = small_config(
    image_shape=(4, 4, 1), layers=1, moe_layers=(0,), heads=1, classifier="gap", router={"selected": 1}
)
EXPERTS = [f"blocks/0/mlp/experts/{name}" for name in ("kernel_in", "kernel_out")]


def parameters(network):
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


class Logits(nnx.Module):
    """A network of experts without its auxiliary loss, as the trials of a study take it."""

    def __init__(self, seed: int) -> None:
        self.network = random_network(CONFIG, seed)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.network(x)[0]


def test_a_network_of_experts_that_gives_its_logits_can_be_studied(small_fold: ImageFold) -> None:
    preset = Preset("lenet", "none", RECIPE, levels=1, rate=0.5, conv_rate=0.0, output_rate=0.2, trials=1)
    study = LotteryStudy(Logits, preset, small_fold)
    sizes = {name: mask.size for name, mask in layers(study.full).items()}
    assert sizes[f"network/{EXPERTS[0]}"] == 4 * 8 * 12
    convolution, head = sizes["network/patch_kernel"], sizes["network/head/kernel"]
    left = sum(sizes.values()) - 0.5 * (sum(sizes.values()) - convolution - head) - 0.2 * head
    assert study.shares[1] == pytest.approx(left / sum(sizes.values()), abs=0.01)


def test_experts_first_then_weights() -> None:
    network = random_network(CONFIG)
    fewer = moe.prune_experts(network, "random", n_prune=2).network
    params = parameters(fewer)
    full = full_masks(params)
    assert layers(full)[EXPERTS[0]].shape == (2, 8, 12)
    rates = {**dict.fromkeys(layers(full), 0.5), "head/kernel": 0.2}
    masks = prune_by_magnitude(params, full, rates)
    assert is_within(masks, full)
    x, y = clusters(40, 0)
    # without norms to clip, which take as long to compile as all else
    recipe = moe.MoeRecipe(
        optimizer="sgd", steps=20, batch_size=10, learning_rate=0.1, weight_decay=0.0, clip=0.0
    )
    wrong = {**masks, "patch_bias": np.ones(3, bool)}
    with pytest.raises(ValueError, match="the mask of 'patch_bias' has shape"):
        moe.train_moe(fewer, x, y, recipe, masks=wrong)
    jax.tree.map(np.testing.assert_array_equal, parameters(fewer), params)
    losses = moe.train_moe(fewer, x, y, recipe, masks=masks).losses
    assert losses[-5:].mean() < losses[:5].mean()
    trained, before = parameters(fewer), layer_values(full, params)
    for name, values in layer_values(masks, trained).items():
        mask = layers(masks)[name]
        assert not values[~mask].any()
        assert (values[mask] != before[name][mask]).mean() > 0.5
    assert counts(masks)[0] < 0.36 * counts(full_masks(parameters(network)))[0]


def test_a_checkpoint_names_the_same_weights_and_all_layers_can_be_ranked_together() -> None:
    network = random_network(CONFIG)
    tree, params = moe.to_tree(network), parameters(network)
    masks, own = full_masks(tree), full_masks(params)
    assert counts(masks) == counts(own)
    assert any("router" in name.lower() for name in unpruned(masks, tree))
    rates = {name: 0.6 for name in layers(own) if name in EXPERTS}
    kept = layers(prune_by_magnitude(params, own, rates, scope="global"))
    values = layer_values(own, params)
    threshold = np.sort(np.concatenate([abs(values[name]).ravel() for name in EXPERTS]))
    threshold = threshold[round(0.6 * len(threshold))]
    for name, mask in kept.items():
        np.testing.assert_array_equal(mask, abs(values[name]) >= threshold if name in EXPERTS else True)
