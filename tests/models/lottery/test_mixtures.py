"""Networks of experts: pruned by experts first and then by weights, and as trials of a study."""

import jax
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models import moe
from qrt_tn.models.images import ImageFold, fold, load_images
from qrt_tn.models.lottery import LotteryStudy, Preset, Recipe, layers, prune_by_magnitude
from qrt_tn.models.lottery.masks import counts, full_masks, is_within, layer_values, unpruned
from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig

CONFIG = VisionMoeConfig(
    image_shape=(8, 8, 1),
    classes=10,
    patch=4,
    hidden=16,
    layers=1,
    mlp=32,
    heads=2,
    moe_layers=(0,),
    experts=4,
    classifier="gap",
    same_experts=False,
    router=RouterConfig(selected=1, capacity_factor=None),
)
EXPERTS = [f"blocks/0/mlp/experts/{name}" for name in ("kernel_in", "kernel_out")]


def parameters(network):
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


class Logits(nnx.Module):
    """A network of experts without its auxiliary loss, as the trials of a study take it."""

    def __init__(self, seed: int) -> None:
        self.network = moe.VisionMoe(CONFIG, rngs=nnx.Rngs(seed), dispatch="gather")

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.network(x)[0]


@pytest.fixture(scope="module")
def digits() -> ImageFold:
    return fold(load_images("digits"), 0, validation=300)


@pytest.fixture(scope="module")
def runs(digits):
    """The dense network of a study, a ticket, and a random network as sparse."""
    recipe = Recipe(learning_rate=1e-2, batch_size=32, iterations=120, evaluate_every=60)
    preset = Preset("lenet", "digits", recipe, levels=1, rate=0.5, conv_rate=0.0, output_rate=0.2, trials=1)
    study = LotteryStudy(Logits, preset, digits, controls=["random"])
    (dense,), (ticket, control) = study.rounds()
    return study.network(dense).network, dense, ticket, control


def train(network, parts, masks):
    recipe = moe.MoeRecipe(steps=80, batch_size=32, learning_rate=1e-2, weight_decay=0.1, warmup=10)
    moe.train_moe(network, parts.x_train, parts.y_train, recipe, masks=masks)


def test_a_network_of_experts_that_gives_its_logits_is_studied(runs):
    _, dense, ticket, control = runs
    assert dense.trained.curves["test_accuracy"][-1] > 0.8
    kept = layers(ticket.masks)[f"network/{EXPERTS[0]}"]
    assert kept.sum() == kept.size // 2 == layers(control.masks)[f"network/{EXPERTS[0]}"].sum()
    for name, values in layer_values(ticket.masks, ticket.trained.weights.params).items():
        assert not values[~layers(ticket.masks)[name]].any()


def test_experts_first_then_weights(digits, runs):
    network, dense, *_ = runs
    fewer = moe.prune_experts(network, "frequency", n_prune=2, calibration=digits.x_train[:64]).network
    params = parameters(fewer)
    full = full_masks(params)
    assert layers(full)[EXPERTS[0]].shape == (2, 16, 32)
    rates = {**dict.fromkeys(layers(full), 0.5), "head/kernel": 0.2}
    masks = prune_by_magnitude(params, full, rates)
    assert is_within(masks, full)
    assert {n: m.sum() for n, m in layers(masks).items()} == {
        n: m.size - round(rates[n] * m.size) for n, m in layers(full).items()
    }
    train(fewer, digits, masks)
    trained, before = parameters(fewer), layer_values(full, params)
    for name, values in layer_values(masks, trained).items():
        mask = layers(masks)[name]
        assert not values[~mask].any()
        assert (values[mask] != before[name][mask]).mean() > 0.9
    for name in unpruned(masks, params):
        assert "bias" in name or "router" in name or name == "position"
    # a third of the weights are left
    assert counts(masks)[0] < 0.36 * counts(full_masks(parameters(network)))[0]
    whole = dense.trained.curves["test_accuracy"][-1]
    assert moe.accuracy(fewer, digits.x_test, digits.y_test) > whole - 0.1


def test_a_checkpoint_names_the_same_weights_and_all_layers_can_be_ranked_together(runs):
    network = runs[0]
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


def test_masks_that_do_not_fit_are_refused_before_training(digits, runs):
    network = nnx.clone(runs[0])
    masks = full_masks(parameters(network))
    masks["patch_bias"] = np.ones(3, bool)
    with pytest.raises(ValueError, match="the mask of 'patch_bias' has shape"):
        train(network, digits, masks)
    jax.tree.map(np.testing.assert_array_equal, parameters(network), parameters(runs[0]))
