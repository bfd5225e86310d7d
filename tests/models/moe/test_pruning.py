from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.moe.calibration import calibrate
from qrt_tn.models.moe.checkpoints.native import load_moe, save_moe
from qrt_tn.models.moe.criteria import CRITERIA, criterion
from qrt_tn.models.moe.experts import parameter_bytes
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.pruning import merge_experts, prune_experts
from qrt_tn.models.moe.training import MoeRecipe, predict, train_moe
from qrt_tn.models.moe.trees import from_tree, to_tree
from qrt_tn.models.moe.vit import expert_layers
from tests.models.moe import brute_force
from tests.models.moe.conftest import random_network, small_config


def moved(network, seed=5):
    """The same network after a little training, as far as weights show."""
    rng = np.random.default_rng(seed)
    tree = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), to_tree(network)
    )
    return from_tree(tree, network.config)


@pytest.mark.parametrize("kind", ["token-choice", "expert-choice"])
@pytest.mark.parametrize("mode", ["keep-router", "drop-router", "renormalize"])
def test_a_pruned_network_computes_what_is_left_of_the_whole_one(kind, mode, images):
    """Against loops over the whole network's weights, in which the pruned experts are left out."""
    config = small_config(moe_layers=(0, 1), router={"kind": kind, "selected": 2, "capacity_factor": 2.0})
    before = random_network(config)
    network = moved(before)
    pruned = prune_experts(network, "router-change", n_prune=2, mode=mode, pretrained=before)
    tree, start = to_tree(network), to_tree(before)
    for block in (0, 1):
        ours, theirs = (
            t["Encoder"][f"encoderblock_{block}"]["Moe"]["Router"]["dense"]["kernel"] for t in (tree, start)
        )
        change = np.linalg.norm(ours, axis=0) - np.linalg.norm(theirs, axis=0)
        assert pruned.selection.kept[block] == tuple(sorted(np.argsort(change, kind="stable")[2:]))
    np.testing.assert_allclose(
        predict(pruned.network, images[0]),
        left_of(tree, config, pruned.selection.kept, mode, images[0]),
        rtol=2e-3,
        atol=2e-4,
    )
    for layer in expert_layers(pruned.network).values():
        assert layer.experts.kernel_in.shape[0] == 2
        assert layer.router.kernel.shape[1] == (4 if mode == "keep-router" else 2)


def left_of(tree, config, kept, mode, x):
    """Logits by loops: experts sliced by hand, and router columns left in their order or taken out."""
    maps = {}
    for block, alive in kept.items():
        moe = tree["Encoder"][f"encoderblock_{block}"]["Moe"]
        for dense in moe["Mlp"].values():
            for part in dense:
                dense[part] = dense[part][list(alive)]
        column_to_expert = tuple(alive.index(column) if column in alive else -1 for column in range(4))
        if mode != "keep-router":
            moe["Router"]["dense"]["kernel"] = moe["Router"]["dense"]["kernel"][:, list(alive)]
            column_to_expert = tuple(range(len(alive)))
        maps[block] = ExpertMap(column_to_expert, alive, 4, mode == "renormalize")
    return brute_force.forward(tree, replace(config, maps=maps), x)


def test_pruning_twice_is_pruning_once(images):
    before = random_network(small_config(router={"selected": 1}))
    network = moved(before)
    scores = {"pretrained": before, "mode": "keep-router"}
    once = prune_experts(network, "router-change", n_prune=3, **scores).network
    first = prune_experts(network, "router-change", n_prune=1, **scores).network
    twice = prune_experts(first, "router-norm", n_prune=2, mode="keep-router").network
    assert twice.config.expert_map(1).experts == 1
    assert once.config.expert_map(1).capacity_experts == twice.config.expert_map(1).capacity_experts == 4
    last = twice.config.expert_map(1).source_ids[0]
    assert last in first.config.expert_map(1).source_ids
    kernel = to_tree(network)["Encoder"]["encoderblock_1"]["Moe"]["Mlp"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(expert_layers(twice)[1].experts.kernel_in[...][0], kernel[last])


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_prunes_a_network_that_saves_loads_and_trains(name, images, tmp_path):
    before = random_network(small_config())
    network = moved(before)
    statistics = calibrate(network, images[0])
    pruned = prune_experts(
        network, name, n_prune=1, pretrained=before, calibration=statistics, seed=0
    ).network
    assert pruned.config.expert_map(1).experts == 3
    save_moe(tmp_path / "a.safetensors", pruned)
    again = load_moe(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(predict(again, images[0]), predict(pruned, images[0]))


def test_a_pruned_network_brings_tokens_to_experts_as_before():
    network = random_network(small_config(), dispatch="einsum")
    pruned = prune_experts(network, "router-norm", n_prune=1).network
    assert expert_layers(pruned)[1].dispatch == "einsum"


def test_a_pruned_network_fine_tunes(images):
    network = random_network(small_config())
    pruned = prune_experts(network, "router-norm", n_prune=2).network
    before = predict(pruned, images[0])
    losses = train_moe(pruned, *images, MoeRecipe(steps=30, batch_size=12, warmup=2)).losses
    assert losses[-1] < losses[0]
    assert np.abs(predict(pruned, images[0]) - before).max() > 1e-3


def test_a_criterion_of_ones_own_in_five_lines():
    @criterion("largest-bias")
    def largest_bias(pretrained, router, experts, statistics):
        return np.abs(experts.bias_out).max(axis=1)

    try:
        network = random_network(small_config())
        bias = np.abs(expert_layers(network)[1].experts.bias_out[...]).max(axis=1)
        pruned = prune_experts(network, "largest-bias", n_prune=1)
        assert set(range(4)) - set(pruned.selection.kept[1]) == {int(bias.argmin())}
    finally:
        del CRITERIA["largest-bias"]


def test_a_budget_of_bytes_is_kept():
    network = random_network(small_config(moe_layers=(0, 1)))
    whole = parameter_bytes(to_tree(network))
    pruned = prune_experts(network, "router-norm", budget_bytes=whole * 3 // 4).network
    one_expert = 4 * (8 * 12 + 12 + 12 * 8 + 8)
    assert whole * 3 // 4 - one_expert < parameter_bytes(to_tree(pruned)) <= whole * 3 // 4


def test_global_pruning_leaves_layers_of_different_width(images):
    network = random_network(small_config(moe_layers=(0, 1)))
    kernel = expert_layers(network)[0].router.kernel
    kernel.set_value(kernel[...] * 0.01)
    pruned = prune_experts(network, "router-norm", n_prune=3, scope="global").network
    assert [layer.expert_map.experts for layer in expert_layers(pruned).values()] == [1, 4]
    assert predict(pruned, images[0]).shape == (12, 3)


def test_merged_experts_make_a_network(images, tmp_path):
    network = random_network(small_config())
    merged = merge_experts(network, 2, images[0])
    assert expert_layers(merged)[1].experts.kernel_in.shape[0] == 2
    assert merged.config.expert_map(1).columns == 4
    save_moe(tmp_path / "a.safetensors", merged)
    np.testing.assert_array_equal(
        predict(load_moe(tmp_path / "a.safetensors"), images[0]), predict(merged, images[0])
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"criterion": "router-norm", "n_prune": 4}, "4"),
        ({"criterion": "router-norm", "n_prune": 9}, "9"),
        ({"criterion": "router-norm", "n_prune": 3, "mode": "drop-router"}, "2"),
        ({"criterion": "router-norm"}, "prune"),
        ({"criterion": "router-change", "n_prune": 1}, "router-change"),
        ({"criterion": "reap", "n_prune": 1}, "reap"),
        ({"criterion": "router-norn", "n_prune": 1}, "router-norm"),
        ({"criterion": "router-norm", "n_prune": 1, "mode": "drop"}, "drop-router"),
    ],
)
def test_what_cannot_be_pruned_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        prune_experts(random_network(small_config()), **settings)


def test_networks_of_different_models_are_refused():
    network = random_network(small_config())
    for other, message in [
        ({"experts": 3}, "rout"),
        ({"hidden": 16}, "shape"),
        ({"moe_layers": (0,)}, "blocks"),
    ]:
        with pytest.raises(ValueError, match=message):
            prune_experts(
                network, "router-change", n_prune=1, pretrained=random_network(small_config(**other))
            )


def test_statistics_from_before_pruning_are_refused(images):
    """The router's columns are in another order then, though as many."""
    network = random_network(small_config())
    stale = calibrate(network, images[0])
    pruned = prune_experts(network, "router-norm", n_prune=1).network
    with pytest.raises(ValueError, match="whose experts are gone; calibrate the pruned model again"):
        prune_experts(pruned, "frequency", n_prune=1, calibration=stale)
    with pytest.raises(ValueError, match="calibrate the pruned model again"):
        merge_experts(pruned, 2, stale)
    prune_experts(pruned, "frequency", n_prune=1, calibration=calibrate(pruned, images[0]))


def test_what_is_no_network_or_no_images_is_refused(images):
    network = random_network(small_config())
    with pytest.raises(ValueError, match="network is a dict"):
        prune_experts(to_tree(network), "router-norm", n_prune=1)
    with pytest.raises(ValueError, match="calibration is None"):
        merge_experts(network, 2, None)
    listed = prune_experts(network, "frequency", n_prune=1, calibration=[images[0]])
    whole = prune_experts(network, "frequency", n_prune=1, calibration=jnp.asarray(images[0]))
    assert listed.selection.kept == whole.selection.kept
