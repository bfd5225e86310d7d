from dataclasses import replace

import jax
import numpy as np
import pytest

from qrt_tn.models.moe.calibration import calibrate
from qrt_tn.models.moe.checkpoints.native import load_moe, save_moe
from qrt_tn.models.moe.config import RouterConfig
from qrt_tn.models.moe.criteria import CRITERIA
from qrt_tn.models.moe.experts import parameter_bytes
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.pruning import merge_experts, prune_experts, remove
from qrt_tn.models.moe.removal import MODES
from qrt_tn.models.moe.training import predict
from qrt_tn.models.moe.trees import from_tree, to_tree
from qrt_tn.models.moe.vit import expert_layers
from tests.models.moe import brute_force
from tests.models.moe.conftest import random_network, small_config


def moved(network, seed=5, **options):
    """The same network after a little training, as far as weights show."""
    rng = np.random.default_rng(seed)
    tree = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), to_tree(network)
    )
    return from_tree(tree, network.config, **options)


@pytest.mark.parametrize(
    ("kind", "softmax", "mode"),
    [
        ("token-choice", "after", "drop-router"),
        ("token-choice", "before", "renormalize"),
        ("expert-choice", "before", "keep-router"),
    ],
)
def test_a_pruned_network_computes_what_is_left_of_the_whole_one(kind, softmax, mode, images):
    """Against loops over the whole network's weights, in which the pruned experts are left out."""
    config = small_config(router={"kind": kind, "softmax": softmax, "capacity_factor": 2.0})
    before = random_network(config)
    network = moved(before)
    pruned = prune_experts(network, "router-change", n_prune=2, mode=mode, pretrained=before)
    tree, start = to_tree(network), to_tree(before)
    ours, theirs = (t["Encoder"]["encoderblock_1"]["Moe"]["Router"]["dense"]["kernel"] for t in (tree, start))
    change = np.linalg.norm(ours, axis=0) - np.linalg.norm(theirs, axis=0)
    assert pruned.selection.kept[1] == tuple(sorted(np.argsort(change, kind="stable")[2:]))
    np.testing.assert_allclose(
        predict(pruned.network, images[0]),
        left_of(tree, config, pruned.selection.kept, mode, images[0]),
        rtol=2e-3,
        atol=2e-4,
    )


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


@pytest.mark.parametrize("mode", MODES)
def test_removing_nothing_changes_nothing(mode, images):
    """With softmax after the choice the configuration alone says that gates are divided by their sum."""
    network = random_network(small_config(router={"softmax": "after"}))
    before = predict(network, images[0])
    tree, maps = remove(to_tree(network), {1: [0, 1, 2, 3]}, mode, selected=2)
    assert maps == {1: ExpertMap.whole(4)}
    again = from_tree(tree, replace(network.config, maps=maps))
    np.testing.assert_array_equal(predict(again, images[0]), before)


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_prunes_a_network(name, known):
    network, before, statistics, _ = known
    pruned = prune_experts(network, name, n_prune=1, pretrained=before, calibration=statistics, seed=0)
    assert pruned.network.config.expert_map(1).experts == 3 and pruned.selection.count == 1
    (gone,) = pruned.selection.pruned[1]
    assert pruned.network.config.expert_map(1).source_ids == tuple(e for e in range(4) if e != gone)


@pytest.fixture(scope="module")
def known():
    x = np.random.default_rng(7).normal(size=(12, 6, 6, 1)).astype(np.float32)
    before = random_network(small_config())
    network = moved(before, dispatch="einsum")
    return network, before, calibrate(network, x), x


def saved_and_loaded(network, path):
    save_moe(path, network)
    again = load_moe(path)
    assert again.config == network.config
    jax.tree.map(np.testing.assert_array_equal, to_tree(again), to_tree(network))


def test_what_is_left_saves_loads_and_is_pruned_again(known, tmp_path):
    network, _, statistics, x = known
    pruned = prune_experts(network, "reap", n_prune=1, mode="drop-router", calibration=statistics).network
    assert expert_layers(pruned)[1].dispatch == "einsum"
    saved_and_loaded(pruned, tmp_path / "a.safetensors")
    again = prune_experts(pruned, "frequency", n_prune=1, calibration=x).network
    assert set(again.config.expert_map(1).source_ids) < set(pruned.config.expert_map(1).source_ids)
    assert again.config.expert_map(1).capacity_experts == 4


def test_merged_experts_make_a_network(known, tmp_path):
    network, _, statistics, x = known
    merged = merge_experts(network, 2, statistics)
    assert expert_layers(merged)[1].experts.kernel_in.shape[0] == 2
    assert merged.config.expert_map(1).columns == 4
    saved_and_loaded(merged, tmp_path / "a.safetensors")
    copies = from_tree(_equal_experts(to_tree(network)), network.config)
    np.testing.assert_allclose(
        predict(merge_experts(copies, 2, statistics), x), predict(copies, x), rtol=1e-3, atol=1e-4
    )


def _equal_experts(tree):
    """Every expert is the first one, with its hidden units in another order."""
    mlp = tree["Encoder"]["encoderblock_1"]["Moe"]["Mlp"]
    for e in range(1, 4):
        order = np.random.default_rng(e).permutation(12)
        mlp["Dense_0"]["kernel"][e] = mlp["Dense_0"]["kernel"][0][:, order]
        mlp["Dense_0"]["bias"][e] = mlp["Dense_0"]["bias"][0][order]
        mlp["Dense_1"]["kernel"][e] = mlp["Dense_1"]["kernel"][0][order]
        mlp["Dense_1"]["bias"][e] = mlp["Dense_1"]["bias"][0]
    return tree


def test_choices_without_information_are_refused(known):
    network, _, _, x = known
    with pytest.raises(ValueError, match="'router-change' gives all experts of layer 1 the score 0"):
        prune_experts(network, "router-change", n_prune=1, pretrained=network)
    choosing = from_tree(
        to_tree(network), replace(network.config, router=RouterConfig("expert-choice", capacity_factor=1.0))
    )
    with pytest.raises(ValueError, match="'frequency' gives all experts of layer 1 the score"):
        prune_experts(choosing, "frequency", n_prune=1, calibration=x)


def test_statistics_from_before_pruning_are_refused(known):
    """The router's columns are in another order then, though as many."""
    network, _, stale, _ = known
    pruned = prune_experts(network, "router-norm", n_prune=1).network
    with pytest.raises(ValueError, match="whose experts are gone; calibrate the pruned model again"):
        prune_experts(pruned, "frequency", n_prune=1, calibration=stale)
    with pytest.raises(ValueError, match="calibrate the pruned model again"):
        merge_experts(pruned, 2, stale)


def test_global_pruning_and_budgets_leave_layers_of_different_width():
    network = random_network(small_config(moe_layers=(0, 1)))
    kernel = expert_layers(network)[0].router.kernel
    kernel.set_value(kernel[...] * 0.01)
    whole = parameter_bytes(to_tree(network))
    one_expert = 4 * (8 * 12 + 12 + 12 * 8 + 8)
    for options in ({"n_prune": 3, "scope": "global"}, {"budget_bytes": whole - 3 * one_expert}):
        pruned = prune_experts(network, "router-norm", **options).network
        assert [layer.expert_map.experts for layer in expert_layers(pruned).values()] == [1, 4]
        assert parameter_bytes(to_tree(pruned)) == whole - 3 * one_expert


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_prune": 4}, "4 experts of layer 1 cannot go"),
        ({"n_prune": 3, "mode": "drop-router"}, "a token goes to 2"),
        ({"n_prune": 1, "mode": "drop"}, "unknown mode 'drop'"),
        ({}, "n_prune is None"),
        ({"criterion": "router-change", "n_prune": 1}, "router-change"),
        ({"criterion": "reap", "n_prune": 1}, "reap"),
        ({"criterion": "router-norn", "n_prune": 1}, "router-norm"),
        ({"network": {}, "n_prune": 1}, "network is a dict"),
    ],
)
def test_what_cannot_be_pruned_is_refused(settings, message, known):
    with pytest.raises(ValueError, match=message):
        prune_experts(**{"network": known[0], "criterion": "router-norm", **settings})


def test_merging_without_images_is_refused(known):
    with pytest.raises(ValueError, match="calibration is None"):
        merge_experts(known[0], 2, None)
