"""Merged experts, against averaging by hand, and layers whose function must not change."""

import itertools
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.merging import merge, merge_layer
from qrt_tn.models.moe.pruning import keep_experts
from qrt_tn.models.moe.records import ExpertWeights
from qrt_tn.models.moe.trees import leaves
from tests.models.moe.conftest import HIDDEN, UNITS, gathered, random_layer, random_tree


def groups_of(assignment, rng, tokens=200):
    """Logits whose columns are alike within a group of the assignment."""
    base = rng.normal(size=(tokens, max(assignment) + 1))
    return base[:, assignment] + 0.05 * rng.normal(size=(tokens, len(assignment)))


def permuted(experts, expert, order):
    """The four arrays of an expert with its hidden units in another order, in float64."""
    first, bias, second, last = (array[expert].astype(float) for array in experts.arrays)
    return first[:, order], bias[order], second[order], last


def aligned(experts, expert, reference):
    """An expert with the units in the order that fits the reference's best, of all orders."""
    ours = permuted(experts, reference, list(range(UNITS)))
    orders = [permuted(experts, expert, list(order)) for order in itertools.permutations(range(UNITS))]
    return max(orders, key=lambda other: sum((p * q).sum() for p, q in zip(ours[:3], other[:3], strict=True)))


@pytest.mark.parametrize("seed", range(5))
def test_merging_permuted_copies_leaves_every_columns_answer_unchanged(seed):
    rng = np.random.default_rng(seed)
    assignment = [0, 1, 2, *rng.permutation([0, 1, 2])]
    layer = random_layer(seed)
    parts = [permuted(layer.experts, kind, rng.permutation(UNITS)) for kind in assignment]
    experts = ExpertWeights(*(np.stack(part) for part in zip(*parts, strict=True)))
    statistics = gathered([9, 9, 9, *rng.integers(0, 9, 3)], groups_of(assignment, rng))
    layer = replace(layer, experts=experts, statistics=statistics)
    merged = merge_layer(layer, 3)
    assert merged.expert_map == ExpertMap(tuple(assignment), (0, 1, 2), 6)
    assert merged.router is layer.router and merged.statistics is None
    x = rng.normal(size=(10, HIDDEN))
    answers = merged.experts.apply(x)[assignment]
    np.testing.assert_allclose(answers, layer.experts.apply(x), rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="lead to one merged expert"):
        merge_layer(replace(merged, statistics=statistics), 1)


@pytest.mark.parametrize("seed", range(10))
def test_groups_and_averages_by_loops(seed):
    """Of a whole layer or a pruned one, with ensemble members or without, used or never reached."""
    rng = np.random.default_rng(seed)
    members = int(rng.choice([1, 2]))
    layer = random_layer(seed, experts=8, members=members)
    if rng.random() < 0.5:
        layer = keep_experts(layer, [6, 0, 2, 3, 4, 7], "keep-router")
    columns = list(layer.columns)
    count = np.zeros(8, int)
    if seed > 0:
        count[columns] = rng.permutation(20)[: len(columns)]
    logits = rng.normal(size=(9, 8))
    layer = replace(layer, statistics=gathered(count, logits))
    merged = merge_layer(layer, 2 * members)

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
        shares = np.array([count[columns[e]] for e in group]) if seed > 0 else np.ones(len(group))
        parts = [aligned(layer.experts, e, one) for e in group]
        for array, old in zip(merged.experts.arrays, zip(*parts, strict=True), strict=True):
            assert array.dtype == np.float32
            expected = np.average(old, axis=0, weights=shares if len(group) > 1 else None)
            np.testing.assert_allclose(array[place], expected, rtol=1e-5, atol=1e-6)


def test_layers_that_are_not_asked_for_stay():
    tree = random_tree()
    statistics = {layer: gathered([6, 5, 4, 3, 2, 1], np.zeros((2, 6))) for layer in (1, 3)}
    same, maps = merge(tree, statistics, 6)
    assert maps == {1: ExpertMap.whole(6), 3: ExpertMap.whole(6)}
    jax.tree.map(np.testing.assert_array_equal, same, random_tree())
    some, maps = merge(tree, statistics, 3, layers=[3])
    # where all logits are 0, none is more alike: the most used takes the others
    assert maps == {1: ExpertMap.whole(6), 3: ExpertMap((0, 1, 2, 0, 0, 0), (0, 1, 2), 6)}
    for path, leaf in leaves(tree):
        assert "_3/Moe/Mlp" in path or np.shares_memory(leaf, dict(leaves(some))[path])


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
