"""Experts taken out: layers run token by token with what is gone masked, and whole networks by loops."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from qrt_tn.models.moe.checkpoints.native import load_moe, save_moe
from qrt_tn.models.moe.criteria import CRITERIA
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.merging import merge, merge_experts
from qrt_tn.models.moe.pruning import MODES, keep_experts, prune_experts, remove
from qrt_tn.models.moe.statistics import LayerStatistics
from qrt_tn.models.moe.training import predict
from qrt_tn.models.moe.trees import from_tree, leaves, parameter_bytes, read_layers, router_kernel, to_tree
from qrt_tn.models.moe.vit import expert_layers
from tests.models.moe import brute_force
from tests.models.moe.conftest import HIDDEN, random_layer, random_network, random_tree, small_config

MERGED = {1: ExpertMap((0, 0, 1, 2, 3, 4), (0, 1, 2, 3, 4), 6)}


def run(layer, x, selected, member=0, gone=(), silent=()):
    """One token of an ensemble member, step by step.

    Columns in `gone` are masked before the softmax; the experts of those in `silent` answer zero.
    """
    columns = [c for c in range(member * layer.width, (member + 1) * layer.width) if c not in gone]
    weights = {c: math.exp(x @ layer.router[:, c]) for c in columns}
    gates = {c: weight / sum(weights.values()) for c, weight in weights.items()}
    best = sorted(columns, key=lambda c: (-gates[c], c))[:selected]
    if layer.expert_map.renormalized:
        share = sum(gates[c] for c in best)
        gates = {c: gates[c] / share for c in best}
    answers = layer.experts.apply(x[None])[:, 0]
    owner = layer.expert_map.column_to_expert
    total = np.zeros(HIDDEN)
    for c in best:
        if owner[c] != NO_EXPERT and c not in silent:
            total += gates[c] * answers[owner[c]]
    return total


@pytest.mark.parametrize("seed", range(40))
def test_a_pruned_layer_does_what_the_masked_one_did(seed):
    """Once or twice, in any modes, with ensemble members or without; experts keep their numbers."""
    rng = np.random.default_rng(seed)
    members = int(rng.choice([1, 1, 2, 3]))
    whole = small = random_layer(seed, members=members)
    silent, gone, renormalized = set(), set(), False
    for _ in range(rng.integers(1, 3)):
        mode = str(rng.choice(MODES))
        each = int(rng.integers(1, len(small.groups[0]) + 1))
        kept = [e for group in small.groups for e in rng.permutation(group)[:each].tolist()]
        kept = rng.permutation(kept).tolist()
        sources = small.expert_map.source_ids
        removed = {source for place, source in enumerate(sources) if place not in kept}
        small = keep_experts(small, kept, mode)
        if mode == "keep-router":
            silent |= removed
        else:
            gone |= removed | silent
            silent = set()
            renormalized |= mode == "renormalize" and bool(gone)
    known = small.expert_map
    assert set(known.source_ids) == set(range(6)) - silent - gone
    assert (known.capacity_experts, known.renormalized) == (6, renormalized)
    assert small.width == 6 // members - len(gone) // members
    whole = replace(whole, expert_map=replace(whole.expert_map, renormalized=renormalized))
    selected = min(2, small.width)
    for x in rng.normal(size=(6, HIDDEN)):
        for member in range(members):
            expected = run(whole, x, selected, member, gone, silent)
            np.testing.assert_allclose(run(small, x, selected, member), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_keeping_the_router_writes_what_the_released_code_writes(seed):
    tree = random_tree(seed)
    keep = np.random.default_rng(seed).permutation(6)[-4:]  # in the order of ranks, as released
    new, maps = remove(tree, {1: keep.tolist()}, "keep-router")
    columns = list(keep) + [e for e in range(6) if e not in keep]
    np.testing.assert_array_equal(router_kernel(new, 1), router_kernel(tree, 1)[:, columns])
    for (path, now), (_, then) in zip(leaves(new), leaves(tree), strict=True):
        if "block_1/Moe/Mlp" in path:
            np.testing.assert_array_equal(now, then[keep])
        elif "block_1/" not in path:
            assert np.shares_memory(now, then)
    assert maps[1] == ExpertMap((0, 1, 2, 3, -1, -1), tuple(keep.tolist()), 6)
    assert maps[3] == ExpertMap.whole(6)
    for path, array in leaves(new):  # slices are new
        if "block_1/" in path:
            array[...] = 0
    jax.tree.map(np.testing.assert_array_equal, tree, random_tree(seed))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("members", [None, 2])
def test_removing_nothing_changes_nothing(mode, members):
    tree = random_tree(members=members)
    same, maps = remove(tree, {1: range(6), 3: range(6)}, mode, selected=2)
    assert maps == dict.fromkeys((1, 3), ExpertMap.whole(6))
    jax.tree.map(np.testing.assert_array_equal, same, tree)


@pytest.mark.parametrize(
    ("kept", "mode", "options", "message"),
    [
        ({1: (0,)}, "drop", {}, "unknown mode 'drop'; choose one of keep-router"),
        ({2: (0,)}, "keep-router", {}, "layer 2 has no experts; choose among 1, 3"),
        ([1], "keep-router", {}, r"kept is \[1\]"),
        ({1: 2}, "keep-router", {}, "kept experts of layer 1 are 2; give a list"),
        ({1: ()}, "keep-router", {}, "nothing is kept of layer 1"),
        ({1: (0, 6)}, "keep-router", {}, "layer 1 has no expert 6 to keep; its places go from 0 to 5"),
        ({1: (-1,)}, "keep-router", {}, "layer 1 has no expert -1"),
        ({1: (True,)}, "keep-router", {}, "layer 1 has no expert True"),
        ({1: (2, 2)}, "keep-router", {}, r"kept experts of layer 1 are \[2, 2\]; name each once"),
        ({3: (2,)}, "drop-router", {"selected": 2}, "layer 3 would keep 1 experts, but a token goes to 2"),
        ({3: (2,)}, "renormalize", {"selected": 0}, "selected is 0"),
        ({1: (0, 1, 3)}, "drop-router", {"groups": 2}, r"members of layer 1 would keep \[2, 1\] experts"),
        ({1: (0, 3)}, "drop-router", {"groups": 2, "selected": 2}, "1 experts for each ensemble member"),
    ],
)
def test_what_cannot_be_removed_is_refused(kept, mode, options, message):
    with pytest.raises(ValueError, match=message):
        remove(random_tree(), kept, mode, **options)


@pytest.mark.parametrize("mode", MODES)
def test_each_ensemble_member_keeps_its_own_columns(mode):
    """However the router is stored."""
    tree, flat = random_tree(members=2), random_tree(members=2)
    for layer in (1, 3):
        dense = flat["Encoder"][f"encoderblock_{layer}"]["Moe"]["Router"]["dense"]
        dense["kernel"] = dense["kernel"].reshape(HIDDEN, 6)
    kept = {1: (4, 0, 2, 5)}  # members have experts 0..2 and 3..5
    new, maps = remove(tree, kept, mode, selected=2)
    other, same = remove(flat, kept, mode, groups=2, selected=2)
    width = 3 if mode == "keep-router" else 2
    assert router_kernel(new, 1).shape == (HIDDEN, 2, width)
    np.testing.assert_array_equal(router_kernel(new, 1).reshape(HIDDEN, -1), router_kernel(other, 1))
    assert maps == same and maps[1].source_ids == (0, 2, 4, 5)
    assert maps[1].column_to_expert == ((0, 1, -1, 2, 3, -1) if mode == "keep-router" else (0, 1, 2, 3))


def test_merged_experts_are_refused_in_the_layers_asked_for():
    tree = random_tree()
    experts = read_layers(tree)[1].experts.take(range(5))
    mlp = tree["Encoder"]["encoderblock_1"]["Moe"]["Mlp"]
    mlp["Dense_0"] = {"kernel": experts.kernel_in, "bias": experts.bias_in}
    mlp["Dense_1"] = {"kernel": experts.kernel_out, "bias": experts.bias_out}
    with pytest.raises(ValueError, match=r"columns \[0, 1\] of layer 1 lead to one merged expert"):
        remove(tree, {1: (0,)}, "keep-router", maps=MERGED)
    assert remove(tree, {3: (0,)}, "keep-router", maps=MERGED)[1][1] == MERGED[1]


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
        ("token-choice", "before", "renormalize"),
        ("expert-choice", "before", "keep-router"),
    ],
)
def test_a_pruned_network_computes_what_is_left_of_the_whole_one(kind, softmax, mode, images):
    """Against loops over the whole network's weights, in which the pruned experts are left out."""
    router = {"kind": kind, "softmax": softmax, "capacity_factor": 2.0}
    config = small_config(layers=1, moe_layers=(0,), router=router)
    before = random_network(config)
    network = moved(before)
    pruned = prune_experts(network, "router-change", n_prune=2, mode=mode, pretrained=before)
    tree, start = to_tree(network), to_tree(before)
    change = np.linalg.norm(router_kernel(tree, 0), axis=0) - np.linalg.norm(router_kernel(start, 0), axis=0)
    alive = tuple(sorted(np.argsort(change, kind="stable")[2:].tolist()))
    assert pruned.selection.kept[0] == alive
    moe = tree["Encoder"]["encoderblock_0"]["Moe"]
    for dense in moe["Mlp"].values():
        for part in dense:
            dense[part] = dense[part][list(alive)]
    columns = tuple(alive.index(column) if column in alive else -1 for column in range(4))
    if mode != "keep-router":
        moe["Router"]["dense"]["kernel"], columns = router_kernel(tree, 0)[:, list(alive)], (0, 1)
    left = replace(config, maps={0: ExpertMap(columns, alive, 4, mode == "renormalize")})
    expected = brute_force.forward(tree, left, images[0])
    np.testing.assert_allclose(predict(pruned.network, images[0]), expected, rtol=2e-3, atol=2e-4)


@pytest.fixture(scope="module")
def known():
    before, rng = random_network(small_config()), np.random.default_rng(7)
    sums, logits = rng.random((3, 4)), rng.normal(size=(20, 4))
    statistics = LayerStatistics(
        20, rng.permutation(4), *sums, logits.T @ logits, logits.repeat(2, axis=1), 20
    )
    return moved(before, dispatch="einsum"), before, {1: statistics}


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_prunes_a_network(name, known):
    network, before, statistics = known
    pruned = prune_experts(network, name, n_prune=1, pretrained=before, calibration=statistics, seed=0)
    assert pruned.network.config.expert_map(1).experts == 3 and pruned.selection.count == 1
    (gone,) = pruned.selection.pruned[1]
    assert pruned.network.config.expert_map(1).source_ids == tuple(e for e in range(4) if e != gone)


def saved_and_loaded(network, path):
    save_moe(path, network)
    again = load_moe(path)
    assert again.config == network.config
    jax.tree.map(np.testing.assert_array_equal, to_tree(again), to_tree(network))


def test_what_is_left_saves_loads_and_is_pruned_again(known, tmp_path):
    network, _, statistics = known
    pruned = prune_experts(network, "reap", n_prune=1, mode="drop-router", calibration=statistics).network
    assert expert_layers(pruned)[1].dispatch == "einsum"
    saved_and_loaded(pruned, tmp_path / "a.safetensors")
    again = prune_experts(pruned, "router-norm", n_prune=1).network
    assert set(again.config.expert_map(1).source_ids) < set(pruned.config.expert_map(1).source_ids)
    assert again.config.expert_map(1).capacity_experts == 4


def test_merged_experts_make_a_network(known, tmp_path):
    network, _, statistics = known
    merged = merge_experts(network, 2, statistics)
    assert merged.config.expert_map(1).columns == 4
    tree, maps = merge(to_tree(network), statistics, 2)
    jax.tree.map(np.testing.assert_array_equal, to_tree(merged), tree)
    assert merged.config.all_maps == maps
    saved_and_loaded(merged, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="calibration is None"):
        merge_experts(network, 2, None)


def test_equal_scores_that_are_cut_are_warned_of(known):
    tree = to_tree(known[0])
    router_kernel(tree, 1)[:, 1] = router_kernel(tree, 1)[:, 0] = 0
    with pytest.warns(UserWarning, match=r"'router-norm' gives equal scores .* \(0, 1\) of layer 1") as told:
        pruned = prune_experts(from_tree(tree, known[0].config), "router-norm", n_prune=1)
    assert pruned.selection.ties == {1: (0, 1)} and told[0].filename == __file__
    with pytest.raises(ValueError, match="gives all experts of layer 1 the score 0"):
        prune_experts(known[0], "router-change", n_prune=1, pretrained=known[0])


def test_statistics_from_before_pruning_are_refused(known):
    """The router's columns are in another order then, though as many."""
    network, _, stale = known
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
        ({"n_prune": 1, "layers": [0]}, "layer 0 has no experts"),
        ({}, "n_prune is None"),
        ({"criterion": "router-change", "n_prune": 1}, "router-change"),
        ({"criterion": "router-norn", "n_prune": 1}, "router-norm"),
        ({"network": {}, "n_prune": 1}, "network is a dict"),
    ],
)
def test_what_cannot_be_pruned_is_refused(settings, message, known):
    with pytest.raises(ValueError, match=message):
        prune_experts(**{"network": known[0], "criterion": "router-norm", **settings})
