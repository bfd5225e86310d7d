"""Merged experts, against averaging by hand, and layers whose function must not change."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from qrt_tn.models.moe.experts import leaves, read_layers
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.merging import logit_similarity, matching_units, merge_layer
from qrt_tn.models.moe.pruning import merge
from qrt_tn.models.moe.records import ExpertWeights
from qrt_tn.models.moe.removal import keep_experts
from tests.models.moe.conftest import HIDDEN, UNITS, gathered, random_layer, random_tree


def groups_of(assignment, rng, tokens=200):
    """Logits whose columns are alike within a group of the assignment."""
    base = rng.normal(size=(tokens, max(assignment) + 1))
    return base[:, assignment] + 0.05 * rng.normal(size=(tokens, len(assignment)))


def permuted(experts, expert, order):
    return (
        experts.kernel_in[expert][:, order],
        experts.bias_in[expert][order],
        experts.kernel_out[expert][order],
        experts.bias_out[expert],
    )


@pytest.mark.parametrize("seed", range(10))
def test_merging_permuted_copies_leaves_every_columns_answer_unchanged(seed):
    rng = np.random.default_rng(seed)
    assignment = [0, 1, 2, *rng.permutation([0, 1, 2])]
    layer = random_layer(seed)
    parts = [permuted(layer.experts, kind, rng.permutation(UNITS)) for kind in assignment]
    experts = ExpertWeights(*(np.stack(part).astype(np.float64) for part in zip(*parts, strict=True)))
    statistics = gathered([9, 9, 9, *rng.integers(0, 9, 3)], groups_of(assignment, rng))
    layer = replace(layer, experts=experts, statistics=statistics)
    merged = merge_layer(layer, 3)
    assert merged.expert_map == ExpertMap(tuple(assignment), (0, 1, 2), 6)
    assert merged.router is layer.router and merged.statistics is None
    x = rng.normal(size=(10, HIDDEN))
    answers = merged.experts.apply(x)[assignment]
    np.testing.assert_allclose(answers, layer.experts.apply(x), rtol=1e-10, atol=1e-12)


def test_units_are_matched_as_by_trying_all_orders():
    for seed in range(8):
        experts = random_layer(seed).experts

        def fit(order, experts=experts):
            a, b = permuted(experts, 0, list(range(UNITS))), permuted(experts, 1, list(order))
            return sum(float((p * q).sum()) for p, q in zip(a[:3], b[:3], strict=True))

        best = max(itertools.permutations(range(UNITS)), key=fit)
        np.testing.assert_array_equal(matching_units(experts, 0, 1), best)


@pytest.mark.parametrize("seed", range(10))
def test_groups_and_averages_by_loops(seed):
    """Of a whole layer or a pruned one, with ensemble members or without."""
    rng = np.random.default_rng(seed)
    members = int(rng.choice([1, 2]))
    layer = random_layer(seed, experts=8, members=members)
    if rng.random() < 0.5:
        layer = keep_experts(layer, [6, 0, 2, 3, 4, 7], "keep-router")
    columns = list(layer.columns)
    count = np.zeros(8, int)
    count[columns] = rng.permutation(20)[: len(columns)]
    logits = rng.normal(size=(9, 8))
    layer = replace(layer, statistics=gathered(count, logits))
    merged = merge_layer(layer, 2 * members, align=False)

    def cosine(a, b):
        return logits[:, a] @ logits[:, b] / math.sqrt((logits[:, a] ** 2).sum() * (logits[:, b] ** 2).sum())

    owner = {}
    for group in layer.groups:
        dominant = sorted(group, key=lambda e: -count[columns[e]])[:2]
        for e in group:
            best = max(dominant, key=lambda d, e=e: cosine(columns[e], columns[d]))
            owner[e] = e if e in dominant else best
    kept = sorted(set(owner.values()))
    assert merged.expert_map.source_ids == tuple(layer.expert_map.source_ids[e] for e in kept)
    assert merged.expert_map.column_to_expert == tuple(
        kept.index(owner[e]) if e >= 0 else -1 for e in layer.expert_map.column_to_expert
    )
    for place, one in enumerate(kept):
        group = [e for e in owner if owner[e] == one]
        shares = [count[columns[e]] for e in group]
        for array, old in zip(merged.experts.arrays, layer.experts.arrays, strict=True):
            assert array.dtype == np.float32
            expected = sum(s * old[e].astype(float) for s, e in zip(shares, group, strict=True)) / sum(shares)
            np.testing.assert_allclose(array[place], expected, rtol=1e-5, atol=1e-6)


def test_experts_that_no_token_reached_weigh_the_same():
    layer = replace(random_layer(), statistics=gathered([0] * 6, np.zeros((2, 6))))
    merged = merge_layer(layer, 1, align=False)
    mean = layer.experts.kernel_in.mean(axis=0)
    np.testing.assert_allclose(merged.experts.kernel_in[0], mean, rtol=1e-5, atol=1e-6)
    assert merged.expert_map.column_to_expert == (0,) * 6
    assert (logit_similarity(np.zeros((3, 3))) == 0).all()


def test_layers_and_trees_that_are_not_asked_for_stay():
    tree, statistics = random_tree(), gathered([6, 5, 4, 3, 2, 1], np.eye(6))
    same, maps = merge(tree, {1: statistics, 3: statistics}, 6)
    assert maps == {1: ExpertMap.whole(6), 3: ExpertMap.whole(6)}
    some, maps = merge(tree, {3: statistics}, 3, layers=[3])
    assert (
        maps[1] == ExpertMap.whole(6) and maps[3].experts == read_layers(some, maps=maps)[3].experts.experts
    )
    for (path, now), (_, then) in zip(leaves(same), leaves(random_tree()), strict=True):
        np.testing.assert_array_equal(now, then)
        assert "_3/Moe/Mlp" in path or np.shares_memory(now, dict(leaves(some))[path])


@pytest.mark.parametrize(
    ("n_kept", "options", "message"),
    [
        (7, {}, "layer 1 has 6 experts, of which 7 cannot be left; give at most 6"),
        (0, {}, "n_kept is 0"),
        (3, {"groups": 2}, "n_kept is 3, but layer 1 has 2 ensemble members"),
        (2, {"statistics": {}}, "no statistics of layer 1"),
        (2, {"statistics": {1: gathered([1, 2, 3])}}, "layer 1 are of 3 router columns, it has 6"),
        (2, {"layers": [2]}, "layer 2 has no experts; choose among 1"),
    ],
)
def test_bad_input_is_refused(n_kept, options, message):
    options = {"statistics": {1: gathered([1] * 6)}, **options}
    with pytest.raises(ValueError, match=message):
        merge(random_tree(layers=(1,)), n_kept=n_kept, **options)


def test_merging_twice_is_refused():
    layer = replace(random_layer(), statistics=gathered([3, 1, 2, 5, 4, 6]))
    merged = replace(merge_layer(layer, 2), statistics=layer.statistics)
    with pytest.raises(ValueError, match="lead to one merged expert"):
        merge_layer(merged, 1)
