"""Taking experts out: three hand-worked modes, a layer run token by token, and the released code's slices."""

import copy
import math

import numpy as np
import pytest

from qrt_tn.models.moe.experts import expert_weights, leaves, router, router_kernel
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.removal import MODES, remove

HIDDEN, UNITS = 5, 3


def model(seed=0, layers=(1, 3), experts=6, members=None):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    encoder = {}
    for block in range(max(layers) + 1):
        dense = {
            "Dense_0": {"kernel": draw(experts, HIDDEN, UNITS), "bias": draw(experts, UNITS)},
            "Dense_1": {"kernel": draw(experts, UNITS, HIDDEN), "bias": draw(experts, HIDDEN)},
        }
        columns = (experts,) if members is None else (members, experts // members)
        moe = {"Router": {"dense": {"kernel": draw(HIDDEN, *columns)}}, "Mlp": dense}
        encoder[f"encoderblock_{block}"] = {"Moe": moe} if block in layers else {"Mlp": {"bias": draw(2)}}
    return {"Encoder": encoder, "head": {"kernel": draw(HIDDEN, 2)}}


def run(tree, layer, expert_map, x, selected, gone=(), member=None):
    """The layer's output for one token, step by step; columns in `gone` are masked before the softmax."""
    kernel = router(tree, layer)
    columns = range(kernel.shape[1])
    if member is not None:
        count, which = member
        width = kernel.shape[1] // count
        columns = range(which * width, (which + 1) * width)
    columns = [c for c in columns if c not in gone]
    logits = {c: float(x @ kernel[:, c]) for c in columns}
    total = sum(math.exp(v) for v in logits.values())
    gates = {c: math.exp(v) / total for c, v in logits.items()}
    best = sorted(columns, key=lambda c: (-gates[c], c))[:selected]
    if expert_map.renormalized:
        share = sum(gates[c] for c in best)
        gates = {c: gates[c] / share for c in best}
    out = np.zeros(len(x))
    for c in best:
        if expert_map.column_to_expert[c] != NO_EXPERT:
            out += (
                gates[c]
                * expert_weights(tree, layer).take([expert_map.column_to_expert[c]]).apply(x[None])[0, 0]
            )
    return out


def tokens(seed=5, count=20):
    return np.random.default_rng(seed).normal(size=(count, HIDDEN))


def test_three_modes_by_hand():
    """One token of two numbers, four experts that answer with a constant each, gates 0.4, 0.3, 0.2, 0.1."""
    answers = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [5.0, 5.0]])
    gates = np.array([0.4, 0.3, 0.2, 0.1])
    dense = {
        "Dense_0": {"kernel": np.zeros((4, 2, 1)), "bias": np.zeros((4, 1))},
        "Dense_1": {"kernel": np.zeros((4, 1, 2)), "bias": answers},
    }
    kernel = np.stack([np.log(gates), np.zeros(4)])
    tree = {"Encoder": {"encoderblock_0": {"Moe": {"Router": {"dense": {"kernel": kernel}}, "Mlp": dense}}}}
    x = np.array([1.0, 0.0])

    def output(mode):
        new, maps = remove(tree, {0: (0, 2, 3)}, mode, selected=2)
        return run(new, 0, maps[0], x, 2), maps[0]

    # it goes to experts 0 and 1; expert 1 is gone, so only 0.4 of expert 0 is left
    out, expert_map = output("keep-router")
    np.testing.assert_allclose(out, [0.4, 0.0])
    assert expert_map == ExpertMap((0, 1, 2, -1), (0, 2, 3), 4)
    # it goes to experts 0 and 2, with gates 0.4 and 0.2 of 0.7
    out, expert_map = output("drop-router")
    np.testing.assert_allclose(out, [0.8 / 0.7, 0.4 / 0.7])
    assert expert_map == ExpertMap((0, 1, 2), (0, 2, 3), 4)
    # likewise, with gates 0.4 and 0.2 of 0.6
    out, expert_map = output("renormalize")
    np.testing.assert_allclose(out, [0.8 / 0.6, 0.4 / 0.6])
    assert expert_map == ExpertMap((0, 1, 2), (0, 2, 3), 4, renormalized=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kept", [(0, 2, 5), (4, 1, 3), (0, 1, 2, 3, 4, 5)])
def test_a_smaller_layer_does_what_the_masked_one_did(mode, kept):
    tree = model()
    whole = ExpertMap.whole(6)
    gone = [e for e in range(6) if e not in kept]
    new, maps = remove(tree, {1: kept}, mode, selected=2)
    assert maps[1].source_ids == kept and maps[1].capacity_experts == 6 and maps[3] == whole
    assert maps[1].renormalized is (mode == "renormalize" and len(kept) < 6)
    for x in tokens():
        if mode == "keep-router":
            mask = ExpertMap(tuple(kept.index(e) if e in kept else -1 for e in range(6)), kept, 6)
            masked, _ = remove(tree, {1: kept}, "drop-router")
            masked["Encoder"]["encoderblock_1"]["Moe"]["Router"]["dense"]["kernel"] = router(tree, 1)
            expected = run(masked, 1, mask, x, 2)
        else:
            order = ExpertMap(whole.column_to_expert, whole.source_ids, 6, maps[1].renormalized)
            expected = run(tree, 1, order, x, 2, gone)
        np.testing.assert_allclose(run(new, 1, maps[1], x, 2), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_keeping_the_router_writes_what_the_released_code_writes(seed):
    tree = model(seed)
    keep = np.random.default_rng(seed).permutation(6)[-4:]  # in the order of ranks, as released
    new, maps = remove(tree, {1: keep.tolist()}, "keep-router")
    columns = list(keep) + [e for e in range(6) if e not in keep]
    old = tree["Encoder"]["encoderblock_1"]["Moe"]
    block = new["Encoder"]["encoderblock_1"]["Moe"]
    np.testing.assert_array_equal(
        block["Router"]["dense"]["kernel"], old["Router"]["dense"]["kernel"][:, columns]
    )
    for name in ("Dense_0", "Dense_1"):
        for part in ("kernel", "bias"):
            np.testing.assert_array_equal(block["Mlp"][name][part], old["Mlp"][name][part][keep])
    assert maps[1].column_to_expert == (0, 1, 2, 3, -1, -1)


def test_the_input_stays_and_slices_are_new():
    tree = model()
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


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("second", MODES)
def test_pruning_twice_is_pruning_once(first, second):
    tree = model()
    once, maps = remove(tree, {1: (1, 3, 4, 5)}, first)
    twice, maps = remove(once, {1: (0, 2)}, second, maps=maps)
    assert maps[1].source_ids == (1, 4)
    assert maps[1].capacity_experts == 6
    np.testing.assert_array_equal(
        expert_weights(twice, 1).bias_in, expert_weights(tree, 1).take([1, 4]).bias_in
    )
    assert maps[1].renormalized is ("renormalize" in (first, second))
    if second != "keep-router":  # the columns of the experts that went first go as well
        direct, at_once = remove(tree, {1: (1, 4)}, second)
        np.testing.assert_array_equal(router(twice, 1), router(direct, 1))
        assert maps[1].column_to_expert == at_once[1].column_to_expert == (0, 1)
    elif first == "keep-router":
        assert maps[1].column_to_expert == (0, 1, -1, -1, -1, -1)
        for x in tokens():
            expected = remove(tree, {1: (1, 4)}, "keep-router")
            np.testing.assert_allclose(
                run(twice, 1, maps[1], x, 2),
                run(expected[0], 1, expected[1][1], x, 2),
                rtol=1e-5,
                atol=1e-6,
            )
    else:
        assert maps[1].column_to_expert == (0, 1, -1, -1)


def test_columns_without_experts_can_be_dropped_later():
    tree = model()
    pruned, maps = remove(tree, {1: (1, 4)}, "keep-router")
    dropped, maps = remove(pruned, {1: (0, 1)}, "renormalize", maps=maps, selected=2)
    assert maps[1] == ExpertMap((0, 1), (1, 4), 6, renormalized=True)
    np.testing.assert_array_equal(router(dropped, 1), router(tree, 1)[:, [1, 4]])


@pytest.mark.parametrize("stored", ["three axes", "two axes"])
@pytest.mark.parametrize("mode", MODES)
def test_each_ensemble_member_keeps_its_own_columns(mode, stored):
    tree = model(members=2)
    groups = 1
    if stored == "two axes":
        groups = 2
        tree["Encoder"]["encoderblock_1"]["Moe"]["Router"]["dense"]["kernel"] = router(tree, 1)
        tree["Encoder"]["encoderblock_3"]["Moe"]["Router"]["dense"]["kernel"] = router(tree, 3)
    kept = (4, 0, 2, 5)  # members have experts 0..2 and 3..5
    new, maps = remove(tree, {1: kept}, mode, groups=groups, selected=2)
    assert maps[1].source_ids == (0, 2, 4, 5)
    width = 3 if mode == "keep-router" else 2
    shape = (HIDDEN, 2, width) if stored == "three axes" else (HIDDEN, 2 * width)
    assert router_kernel(new, 1).shape == shape
    if mode == "keep-router":
        assert maps[1].column_to_expert == (0, 1, -1, 2, 3, -1)
    mask = ExpertMap((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5), 6, maps[1].renormalized)
    for member in ((2, 0), (2, 1)):
        for x in tokens():
            if mode == "keep-router":
                zeroed = copy.deepcopy(tree)
                last = zeroed["Encoder"]["encoderblock_1"]["Moe"]["Mlp"]["Dense_1"]
                for e in (1, 3):
                    last["kernel"][e] = last["bias"][e] = 0
                expected = run(zeroed, 1, mask, x, 2, member=member)
            else:
                expected = run(tree, 1, mask, x, 2, gone=(1, 3), member=member)
            np.testing.assert_allclose(
                run(new, 1, maps[1], x, 2, member=member), expected, rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize(
    ("kept", "mode", "options", "message"),
    [
        ({1: (0,)}, "drop", {}, "unknown mode 'drop'; choose one of keep-router"),
        ({2: (0,)}, "keep-router", {}, "layer 2 has no experts; choose among 1, 3"),
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
        remove(model(), kept, mode, **options)


def test_merged_experts_are_refused():
    tree = model()
    pruned, _ = remove(tree, {1: (0, 1)}, "drop-router")
    pruned["Encoder"]["encoderblock_1"]["Moe"]["Router"]["dense"]["kernel"] = router(tree, 1)
    merged = {1: ExpertMap((0, 0, 0, 1, 1, 1), (0, 1), 6)}
    with pytest.raises(ValueError, match=r"columns \[0, 1, 2\] of layer 1 lead to one merged expert"):
        remove(pruned, {1: (0,)}, "keep-router", maps=merged)
    # a layer that is not asked for may be merged
    assert remove(pruned, {3: (0,)}, "keep-router", maps=merged)[1][1] == merged[1]
