"""Experts taken out: a layer run token by token, with what is gone masked, and the released code's slices."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest

from qrt_tn.models.moe.experts import leaves, read_layers, router_kernel
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.pruning import remove
from qrt_tn.models.moe.removal import MODES, keep_experts
from tests.models.moe.conftest import HIDDEN, random_layer, random_tree

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


@pytest.mark.parametrize("seed", range(60))
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
    old, block = (t["Encoder"]["encoderblock_1"]["Moe"] for t in (tree, new))
    columns = list(keep) + [e for e in range(6) if e not in keep]
    np.testing.assert_array_equal(
        block["Router"]["dense"]["kernel"], old["Router"]["dense"]["kernel"][:, columns]
    )
    for name in ("Dense_0", "Dense_1"):
        for part in ("kernel", "bias"):
            np.testing.assert_array_equal(block["Mlp"][name][part], old["Mlp"][name][part][keep])
    assert maps[1] == ExpertMap((0, 1, 2, 3, -1, -1), tuple(keep.tolist()), 6)
    assert maps[3] == ExpertMap.whole(6)


def test_the_input_stays_and_slices_are_new():
    tree = random_tree()
    before = copy.deepcopy(tree)
    for mode in MODES:
        new, _ = remove(tree, {1: (0, 1)}, mode)
        assert new["head"]["kernel"] is tree["head"]["kernel"]
        for path, array in leaves(new):
            if path.startswith("Encoder/encoderblock_1"):
                array[:] = 0
        new["Encoder"]["encoderblock_3"].clear()
    remove(tree, {}, "keep-router")[0]["Encoder"].clear()
    for (_, now), (_, then) in zip(leaves(tree), leaves(before), strict=True):
        np.testing.assert_array_equal(now, then)


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
        ({3: (2,)}, "renormalize", {"selected": 2}, "keep at least 2, or take the mode 'keep-router'"),
        ({3: (2,)}, "renormalize", {"selected": 0}, "selected is 0"),
        ({1: (0, 1, 3)}, "drop-router", {"groups": 2}, r"members of layer 1 would keep \[2, 1\] experts"),
        ({1: (0, 3)}, "drop-router", {"groups": 2, "selected": 2}, "1 experts for each ensemble member"),
        ({1: (0, 3)}, "drop-router", {"groups": 4}, "4 groups do not divide the 6 router columns"),
        ({1: (0,)}, "keep-router", {"maps": {1: ExpertMap.whole(5)}}, "the map of layer 1"),
        ({1: (0,)}, "keep-router", {"maps": {2: ExpertMap.whole(6)}}, "layer 2 has no experts"),
    ],
)
def test_bad_input_is_refused(kept, mode, options, message):
    with pytest.raises(ValueError, match=message):
        remove(random_tree(), kept, mode, **options)


def test_merged_experts_are_refused_in_the_layers_asked_for():
    tree = random_tree()
    experts = read_layers(tree)[1].experts.take(range(5))
    mlp = tree["Encoder"]["encoderblock_1"]["Moe"]["Mlp"]
    mlp["Dense_0"] = {"kernel": experts.kernel_in, "bias": experts.bias_in}
    mlp["Dense_1"] = {"kernel": experts.kernel_out, "bias": experts.bias_out}
    with pytest.raises(ValueError, match=r"columns \[0, 1\] of layer 1 lead to one merged expert"):
        remove(tree, {1: (0,)}, "keep-router", maps=MERGED)
    assert remove(tree, {3: (0,)}, "keep-router", maps=MERGED)[1][1] == MERGED[1]
