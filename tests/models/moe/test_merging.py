"""Merged experts, against averaging by hand, and layers whose function must not change."""

import copy
import itertools
import math

import numpy as np
import pytest

from qrt_tn.models.moe.experts import ExpertWeights, expert_weights, leaves, router
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.merging import logit_similarity, matching_units, merge
from qrt_tn.models.moe.removal import remove
from qrt_tn.models.moe.statistics import LayerStatistics

HIDDEN, UNITS = 5, 4


def draw_experts(rng, experts, dtype=np.float64):
    shapes = ((experts, HIDDEN, UNITS), (experts, UNITS), (experts, UNITS, HIDDEN), (experts, HIDDEN))
    return ExpertWeights(*(rng.normal(size=shape).astype(dtype) for shape in shapes))


def model(experts, kernel, layers=(1,)):
    encoder = {}
    for layer in layers:
        w = experts
        moe = {
            "Router": {"dense": {"kernel": kernel}},
            "Mlp": {
                "Dense_0": {"kernel": w.kernel_in, "bias": w.bias_in},
                "Dense_1": {"kernel": w.kernel_out, "bias": w.bias_out},
            },
        }
        encoder[f"encoderblock_{layer}"] = {"Moe": moe}
    return {"Encoder": encoder, "head": {"kernel": np.ones((HIDDEN, 2))}}


def gathered(counts, logits):
    """Statistics of counts and of the router's logits, shape (T, C)."""
    columns = len(counts)
    gram = sum(np.outer(row, row) for row in logits)
    sums = [np.zeros(columns)] * 5
    return LayerStatistics(len(logits), np.array(counts), *sums, gram, np.zeros((0, HIDDEN)), sample_cap=0)


def groups_of(assignment, size, seed=0, tokens=200):
    """Logits whose columns are alike within a group of the assignment."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(tokens, size))
    return base[:, assignment] + 0.05 * rng.normal(size=(tokens, len(assignment)))


def permuted(experts, order):
    return (
        experts.kernel_in[0][:, order],
        experts.bias_in[0][order],
        experts.kernel_out[0][order],
        experts.bias_out[0],
    )


def run(tree, layer, expert_map, x, selected):
    """One token through the layer, step by step."""
    logits = x @ router(tree, layer)
    gates = np.exp(logits) / np.exp(logits).sum()
    best = sorted(range(len(gates)), key=lambda c: (-gates[c], c))[:selected]
    experts = expert_weights(tree, layer)
    return sum(gates[c] * experts.take([expert_map.column_to_expert[c]]).apply(x[None])[0, 0] for c in best)


@pytest.mark.parametrize("seed", range(5))
def test_merging_permuted_copies_leaves_the_function_unchanged(seed):
    rng = np.random.default_rng(seed)
    kinds = [draw_experts(rng, 1) for _ in range(3)]
    assignment = [0, 1, 2, 1, 0, 1, 2]
    parts = [permuted(kinds[kind], rng.permutation(UNITS)) for kind in assignment]
    experts = ExpertWeights(*(np.stack(part) for part in zip(*parts, strict=True)))
    tree = model(experts, rng.normal(size=(HIDDEN, 7)))
    statistics = gathered([9, 9, 9, 2, 1, 0, 5], groups_of(assignment, 3))
    new, maps = merge(tree, {1: statistics}, 3)
    assert expert_weights(new, 1).experts == 3
    assert maps[1] == ExpertMap((0, 1, 2, 1, 0, 1, 2), (0, 1, 2), 7)
    np.testing.assert_array_equal(router(new, 1), router(tree, 1))
    for x in rng.normal(size=(10, HIDDEN)):
        np.testing.assert_allclose(
            run(new, 1, maps[1], x, 2), run(tree, 1, ExpertMap.whole(7), x, 2), rtol=1e-10, atol=1e-12
        )
    crude, _ = merge(tree, {1: statistics}, 3, align=False)
    x = rng.normal(size=(10, HIDDEN))
    assert not np.allclose(expert_weights(crude, 1).apply(x), expert_weights(new, 1).apply(x))


@pytest.mark.parametrize("seed", range(5))
def test_units_are_matched_as_by_trying_all_orders(seed):
    experts = draw_experts(np.random.default_rng(seed), 2)

    def fit(order):
        a, b = experts.take([0]), permuted(experts.take([1]), list(order))
        return sum(float((x[0] * y).sum()) for x, y in zip(a.arrays[:3], b[:3], strict=True))

    best = max(itertools.permutations(range(UNITS)), key=fit)
    np.testing.assert_array_equal(matching_units(experts, 0, 1), best)


def test_groups_and_averages_by_hand():
    rng = np.random.default_rng(0)
    experts = draw_experts(rng, 5, np.float32)
    tree = model(experts, rng.normal(size=(HIDDEN, 5)))
    counts = [1, 8, 3, 6, 0]  # experts 1 and 3 dominate
    logits = np.array([[1.0, 1.0, 0.0, 0.1, -1.0], [0.2, 0.0, 2.0, 1.0, 1.0]])

    def cosine(i, j):
        return sum(logits[:, i] * logits[:, j]) / math.sqrt(sum(logits[:, i] ** 2) * sum(logits[:, j] ** 2))

    owner = {e: max((1, 3), key=lambda d: cosine(e, d)) for e in (0, 2, 4)}
    assert owner == {0: 1, 2: 3, 4: 3}  # 4 is turned away from 1
    new, maps = merge(tree, {1: gathered(counts, logits)}, 2, align=False)
    assert maps[1] == ExpertMap((0, 0, 1, 1, 1), (1, 3), 5)
    merged = expert_weights(new, 1)
    for array, old in zip(merged.arrays, experts.arrays, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array[0], (1 * old[0] + 8 * old[1]) / 9, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(array[1], (3 * old[2] + 6 * old[3]) / 9, rtol=1e-5, atol=1e-6)


def test_experts_that_no_token_reached_are_averaged_alike():
    rng = np.random.default_rng(1)
    experts = draw_experts(rng, 3)
    tree = model(experts, rng.normal(size=(HIDDEN, 3)))
    new, maps = merge(tree, {1: gathered([0, 0, 0], np.zeros((2, 3)))}, 1, align=False)
    np.testing.assert_allclose(expert_weights(new, 1).kernel_in[0], experts.kernel_in.mean(axis=0))
    assert maps[1].column_to_expert == (0, 0, 0)
    assert (logit_similarity(np.zeros((3, 3))) == 0).all()


def test_an_experts_arrays_may_be_left_alone():
    rng = np.random.default_rng(2)
    experts = draw_experts(rng, 4)
    tree = model(experts, rng.normal(size=(HIDDEN, 4)), layers=(0, 2))
    held = {layer: gathered([4, 3, 2, 1], groups_of([0, 1, 2, 0], 3)) for layer in (0, 2)}
    before = copy.deepcopy(tree)
    same, maps = merge(tree, held, 4)
    assert maps == {0: ExpertMap.whole(4), 2: ExpertMap.whole(4)}
    for (_, a), (_, b) in zip(leaves(same), leaves(tree), strict=True):
        assert a is b
    some, maps = merge(tree, {2: held[2]}, 3, layers=[2])
    assert maps[0] == ExpertMap.whole(4) and maps[2].column_to_expert == (0, 1, 2, 0)
    np.testing.assert_array_equal(expert_weights(some, 2).kernel_in[1:], experts.kernel_in[1:3])
    for _, array in leaves(some["Encoder"]["encoderblock_2"]["Moe"]["Mlp"]):
        array[:] = 0
    for (_, now), (_, then) in zip(leaves(tree), leaves(before), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("stored", ["three axes", "two axes"])
def test_ensemble_members_merge_their_own(stored):
    rng = np.random.default_rng(3)
    experts = draw_experts(rng, 6)
    kernel = rng.normal(size=(HIDDEN, 2, 3) if stored == "three axes" else (HIDDEN, 6))
    tree = model(experts, kernel)
    # by logits, expert 0 is like 4 and 3 like 2, but these belong to the other member
    statistics = gathered([1, 5, 4, 1, 6, 7], groups_of([0, 1, 2, 2, 0, 1], 3))
    new, maps = merge(tree, {1: statistics}, 4, groups=1 if stored == "three axes" else 2)
    assert maps[1].source_ids == (1, 2, 4, 5)
    owner = maps[1].column_to_expert
    assert owner[0] in (0, 1) and owner[3] in (2, 3) and owner[1:3] == (0, 1) and owner[4:] == (2, 3)
    assert new["Encoder"]["encoderblock_1"]["Moe"]["Router"]["dense"]["kernel"].shape == kernel.shape
    with pytest.raises(ValueError, match="n_kept is 3, but layer 1 has 2 ensemble members"):
        merge(tree, {1: statistics}, 3, groups=2)


def test_a_pruned_layer_may_be_merged():
    rng = np.random.default_rng(4)
    experts = draw_experts(rng, 5)
    tree = model(experts, rng.normal(size=(HIDDEN, 5)))
    pruned, maps = remove(tree, {1: (0, 2, 3, 4)}, "keep-router")
    # columns are those of experts 0, 2, 3, 4, 1
    statistics = gathered([3, 1, 2, 4, 0], groups_of([0, 0, 1, 1, 2], 3))
    new, maps = merge(pruned, {1: statistics}, 2, maps=maps, align=False)
    assert maps[1] == ExpertMap((0, 0, 1, 1, -1), (0, 4), 5)
    np.testing.assert_allclose(
        expert_weights(new, 1).bias_in[1], (2 * experts.bias_in[3] + 4 * experts.bias_in[4]) / 6
    )
    with pytest.raises(ValueError, match="lead to one merged expert"):
        merge(new, {1: statistics}, 1, maps=maps)


def test_bad_input_is_refused():
    rng = np.random.default_rng(5)
    tree = model(draw_experts(rng, 4), rng.normal(size=(HIDDEN, 4)))
    statistics = gathered([1, 2, 3, 4], rng.normal(size=(9, 4)))
    with pytest.raises(ValueError, match="layer 1 has 4 experts, of which 5 cannot be left; give at most 4"):
        merge(tree, {1: statistics}, 5)
    with pytest.raises(ValueError, match="n_kept is 0"):
        merge(tree, {1: statistics}, 0)
    with pytest.raises(ValueError, match="no statistics of layer 1"):
        merge(tree, {}, 2)
    with pytest.raises(ValueError, match="statistics of layer 1 are of 3 router columns, it has 4"):
        merge(tree, {1: statistics.take([0, 1, 2])}, 2)
    with pytest.raises(ValueError, match="layer 2 has no experts; choose among 1"):
        merge(tree, {1: statistics}, 2, layers=[2])
