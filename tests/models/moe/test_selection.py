"""Which experts stay, against sorting by hand, in each scope, with ensembles, and after earlier pruning."""

import numpy as np
import pytest

from qrt_tn.models.moe.criteria import Criterion
from qrt_tn.models.moe.experts import expert_weights, parameter_bytes, router
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.reconstruction import reconstruction
from qrt_tn.models.moe.removal import MODES, remove
from qrt_tn.models.moe.selection import select
from qrt_tn.models.moe.statistics import LayerStatistics

HIDDEN, UNITS = 5, 3
LAYERS = (1, 3, 4)


def model(seed=0, layers=LAYERS, experts=6, members=None, hidden=HIDDEN):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    encoder = {"posembed_input": {"pos_embedding": draw(1, 9, hidden)}}
    for block in range(max(layers) + 1):
        dense = {
            "Dense_0": {"kernel": draw(experts, hidden, UNITS), "bias": draw(experts, UNITS)},
            "Dense_1": {"kernel": draw(experts, UNITS, hidden), "bias": draw(experts, hidden)},
        }
        columns = (experts,) if members is None else (members, experts // members)
        moe = {"Router": {"dense": {"kernel": draw(hidden, *columns)}}, "Mlp": dense}
        encoder[f"encoderblock_{block}"] = {"Moe": moe} if block in layers else {"Mlp": {"bias": draw(2)}}
    return {"Encoder": encoder, "head": {"kernel": draw(hidden, 2)}}


def norms(tree, layer):
    return np.linalg.norm(router(tree, layer).astype(np.float64), axis=0)


def gathered(counts, hidden=HIDDEN, seed=0, tokens=20):
    """Statistics in which only the counts and the sample matter."""
    sums = [np.zeros(len(counts))] * 5
    sample = np.random.default_rng(seed).normal(size=(tokens, hidden))
    return LayerStatistics(tokens, np.array(counts), *sums, np.eye(len(counts)), sample, sample_cap=tokens)


def by_values(values):
    """A criterion that gives each layer of `model` the values listed for it, told by its router."""
    found = list(values)
    return Criterion("listed", lambda *evidence: found.pop(0))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("prune", [0, 1, 4, 5])
def test_each_layer_loses_its_lowest(seed, prune):
    tree, before = model(seed), model(seed + 100)
    selection = select(tree, "router-change", pretrained=before, n_prune=prune)
    assert (selection.criterion, selection.scope, selection.count) == ("router-change", "layer", 3 * prune)
    for layer in LAYERS:
        change = norms(tree, layer) - norms(before, layer)
        np.testing.assert_allclose(selection.scores[layer], change)
        keep = np.argsort(change)[prune:] if prune else np.arange(6)  # as released
        assert selection.kept[layer] == tuple(sorted(keep.tolist()))
        assert sorted(selection.kept[layer] + selection.pruned[layer]) == list(range(6))


def test_of_equal_scores_the_lower_place_goes_first():
    scores = [[1, 0, 1, 0, 1, 0], [0] * 6, [2, 2, 1, 1, 0, 0]]
    selection = select(model(), by_values(scores), n_prune=2)
    assert selection.pruned == {1: (1, 3), 3: (0, 1), 4: (4, 5)}
    selection = select(model(), by_values(scores), n_prune=7, scope="global")
    # the zeros: three of layer 1, then those of layer 3 by place
    assert selection.pruned == {1: (1, 3, 5), 3: (0, 1, 2, 3), 4: ()}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("least", [1, 3])
def test_global_pruning_takes_the_lowest_of_all_but_leaves_some_of_each(seed, least):
    tree = model(seed)
    for prune in range(0, 3 * (6 - least) + 1, 2):
        gone = set()
        order = sorted((norms(tree, layer)[e], layer, e) for layer in LAYERS for e in range(6))
        for _, layer, e in order:
            if len(gone) < prune and sum(lost == layer for lost, _ in gone) < 6 - least:
                gone.add((layer, e))
        selection = select(tree, "router-norm", n_prune=prune, scope="global", min_experts=least)
        assert {(layer, e) for layer, places in selection.pruned.items() for e in places} == gone
        assert selection.count == prune


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_takes_the_fewest_lowest(seed):
    tree = model(seed)
    total = parameter_bytes(tree)
    size = expert_weights(tree, 1).nbytes // 6
    for budget in (total, total - 1, total - size, total - size - 1, total - 7 * size):
        selection = select(tree, "router-norm", budget_bytes=budget)
        fewest = -(-(total - budget) // size)
        assert selection.scope == "budget"
        expected = select(tree, "router-norm", n_prune=fewest, scope="global")
        assert selection.kept == expected.kept
        for mode in MODES:
            assert parameter_bytes(remove(tree, selection.kept, mode)[0]) <= budget
    reach = total - 15 * size
    assert select(tree, "router-norm", budget_bytes=reach).count == 15
    with pytest.raises(ValueError, match=f"give at least {reach:,}"):
        select(tree, "router-norm", budget_bytes=reach - 1)


def test_only_the_layers_asked_for():
    tree = model()
    selection = select(tree, "router-norm", n_prune=2, layers=[4, 1])
    assert list(selection.kept) == [1, 4]
    with pytest.raises(ValueError, match=r"layers is \[1, 2\]; choose among those with experts, 1, 3, 4"):
        select(tree, "router-norm", n_prune=2, layers=[1, 2])
    with pytest.raises(ValueError, match=r"layers is \[\]"):
        select(tree, "router-norm", n_prune=2, layers=[])


@pytest.mark.parametrize("seed", range(3))
def test_random_is_that_of_the_released_code(seed):
    rng = np.random.default_rng(seed)
    selection = select(model(), "random", n_prune=2, seed=seed)
    for layer in LAYERS:
        assert selection.kept[layer] == tuple(sorted(rng.permutation(6)[-4:].tolist()))
    assert select(model(), "random", n_prune=2, seed=np.random.default_rng(seed)).kept == selection.kept
    assert len({str(select(model(), "random", n_prune=2, seed=s).kept) for s in range(5)}) > 1


@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_each_ensemble_member_loses_the_same_number(members, seed):
    tree = model(seed, members=members)
    width = 6 // members
    flat = model(seed)
    for layer in LAYERS:
        flat["Encoder"][f"encoderblock_{layer}"]["Moe"]["Router"]["dense"]["kernel"] = router(tree, layer)
    for each in range(width):
        selection = select(tree, "router-norm", n_prune=each * members)
        assert select(flat, "router-norm", n_prune=each * members, groups=members).kept == selection.kept
        for layer in LAYERS:
            for member in range(members):
                group = norms(tree, layer)[member * width : (member + 1) * width]
                lowest = {member * width + int(i) for i in np.argsort(group)[:each]}
                held = set(range(member * width, (member + 1) * width))
                assert held & set(selection.pruned[layer]) == lowest
        remove(tree, selection.kept, "drop-router")  # which refuses members of different size
    with pytest.raises(ValueError, match=f"prune is 1, but layer 1 has {members} ensemble members"):
        select(tree, "router-norm", n_prune=1)
    with pytest.raises(
        ValueError, match=f"layer 1 has 6 experts, of which 6 cannot go; prune at most {6 - members}"
    ):
        select(tree, "router-norm", n_prune=6)


def test_ensemble_members_lose_experts_together_over_layers():
    tree = model(layers=(0, 1), members=2)
    scores = [[5, 1, 9, 4, 8, 2], [7, 6, 0, 0, 9, 9]]
    # ranks: layer 0 (1, 5) 1.5, then (0, 3) 4.5; layer 1 (2, 3) 0, then (1, 4) 7.5
    expected = {2: {0: (), 1: (2, 3)}, 4: {0: (1, 5), 1: (2, 3)}, 6: {0: (0, 1, 3, 5), 1: (2, 3)}}
    for prune, pruned in expected.items():
        selection = select(tree, by_values(scores), n_prune=prune, scope="global")
        assert selection.pruned == pruned
    size = expert_weights(tree, 0).nbytes // 6
    budget = parameter_bytes(tree) - 3 * size
    assert select(tree, by_values(scores), budget_bytes=budget).pruned == expected[4]
    with pytest.raises(ValueError, match="ensemble members lose experts together; give 4"):
        select(tree, by_values(scores), n_prune=3, scope="global")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("members", [None, 2])
def test_a_pruned_model_is_pruned_further(mode, members):
    tree, before = model(0, members=members), model(50, members=members)
    counts = {layer: np.random.default_rng(layer).permutation(60)[:6] for layer in LAYERS}
    first = select(tree, "router-change", pretrained=before, n_prune=2)
    small, maps = remove(tree, first.kept, mode)
    second = select(small, "router-change", pretrained=before, maps=maps, n_prune=2)
    at_once = select(tree, "router-change", pretrained=before, n_prune=4)
    _, final = remove(small, second.kept, mode, maps=maps)
    for layer in LAYERS:
        assert final[layer].source_ids == at_once.kept[layer]
        np.testing.assert_allclose(second.scores[layer], at_once.scores[layer][list(maps[layer].source_ids)])
    # statistics have the columns of the model as it is
    column_counts = {
        layer: [
            counts[layer][maps[layer].source_ids[e]] if e >= 0 else 0 for e in maps[layer].column_to_expert
        ]
        for layer in LAYERS
    }
    held = {layer: gathered(column_counts[layer]) for layer in LAYERS}
    used = select(small, "frequency", statistics=held, maps=maps, n_prune=2)
    for layer in LAYERS:
        np.testing.assert_array_equal(used.scores[layer], counts[layer][list(maps[layer].source_ids)])


def test_reconstruction_picks_a_set_in_each_layer():
    tree = model()
    held = {layer: gathered([0] * 6, seed=layer) for layer in LAYERS}
    selection = select(tree, "reconstruction", statistics=held, n_prune=3, selected=2)
    for layer in LAYERS:
        expected = reconstruction(
            None, router(tree, layer), expert_weights(tree, layer), held[layer], keep=3, selected=2
        )
        assert selection.kept[layer] == expected
    assert selection.scores == {}
    assert select(tree, "reconstruction", statistics=held, n_prune=0, selected=2).count == 0
    for options in ({"n_prune": 3, "scope": "global"}, {"budget_bytes": 10**6}):
        with pytest.raises(
            ValueError, match="'reconstruction' picks a set in each layer and cannot compare layers"
        ):
            select(tree, "reconstruction", statistics=held, **options)
    with pytest.raises(ValueError, match="knows no ensemble members, layer 1 has 2"):
        select(model(members=2), "reconstruction", statistics=held, n_prune=2)
    with pytest.raises(ValueError, match="layer 1: 1 of 6 experts would be left, but a token goes to 2"):
        select(tree, "reconstruction", statistics=held, n_prune=5, selected=2)


@pytest.mark.parametrize("returned", [[0, 1], [0, 1, 1], [0, 1, 6], [-1, 0, 1], [0.0, 1.0, 2.0], 3])
def test_what_a_users_function_picks_is_seen_to(returned):
    mine = Criterion("mine", lambda *evidence, keep, selected: returned, subset=True)
    with pytest.raises(ValueError, match="must return 3 different places from 0 to 5"):
        select(model(), mine, n_prune=3)


def test_bad_requests_are_refused():
    tree = model()
    for options in ({}, {"n_prune": 1, "budget_bytes": 5}):
        with pytest.raises(ValueError, match="give the one or the other"):
            select(tree, "router-norm", **options)
    with pytest.raises(ValueError, match="scope is 'all'; choose one of layer, global"):
        select(tree, "router-norm", n_prune=1, scope="all")
    for prune in (-1, 1.5, True):
        with pytest.raises(ValueError, match=f"prune is {prune}; give a whole number"):
            select(tree, "router-norm", n_prune=prune)
    with pytest.raises(ValueError, match="layer 1 has 6 experts, of which 6 cannot go; prune at most 5"):
        select(tree, "router-norm", n_prune=6)
    with pytest.raises(ValueError, match="of which 4 cannot go; prune at most 3, so that 3 are left"):
        select(tree, "router-norm", n_prune=4, min_experts=3)
    with pytest.raises(ValueError, match="16 experts cannot go; prune at most 15 over all layers"):
        select(tree, "router-norm", n_prune=16, scope="global")
    with pytest.raises(ValueError, match="prune at most 0 over all layers"):
        select(tree, "router-norm", n_prune=1, scope="global", min_experts=8)
    with pytest.raises(ValueError, match="layer 1: criterion 'mine' gives nan for expert 0"):
        select(tree, Criterion("mine", lambda *evidence: [np.nan] * 6), n_prune=1)


def test_evidence_must_be_of_the_model():
    tree = model()
    with pytest.raises(ValueError, match="'router-change' needs the model before fine-tuning"):
        select(tree, "router-change", n_prune=1)
    with pytest.raises(ValueError, match=r"blocks with experts are \(1, 3, 4\), .* \(1, 3\)"):
        select(tree, "router-change", pretrained=model(layers=(1, 3)), n_prune=1)
    with pytest.raises(ValueError, match=r"has shape \(5, 3\) in the fine-tuned and \(7, 3\)"):
        select(tree, "router-change", pretrained=model(hidden=7), n_prune=1)
    with pytest.raises(
        ValueError, match=r"layer 1 had 6 columns before pruning, that of the pre-trained .* has 4"
    ):
        select(tree, "router-change", pretrained=model(experts=4), n_prune=1)
    pruned, maps = remove(tree, {1: (0, 1, 2)}, "keep-router")
    with pytest.raises(ValueError, match="layer 1 has 6 router columns but 3 experts"):
        select(tree, "router-change", pretrained=pruned, n_prune=1)
    with pytest.raises(ValueError, match="layer 1 has 6 router columns but 3 experts; give maps="):
        select(pruned, "router-norm", n_prune=1)
    assert select(pruned, "router-norm", maps=maps, n_prune=1).kept[1] != ()
    with pytest.raises(ValueError, match="'reap' needs a calibration pass, and there is none of layer 1"):
        select(tree, "reap", n_prune=1)
    with pytest.raises(ValueError, match="there is none of layer 3"):
        select(tree, "reap", statistics={1: gathered([1] * 6)}, n_prune=1)
    held = {layer: gathered([1] * 4) for layer in LAYERS}
    with pytest.raises(ValueError, match="statistics of layer 1 are of 4 router columns, it has 6"):
        select(tree, "frequency", statistics=held, n_prune=1)


def test_merged_layers_are_refused():
    tree, _ = remove(model(), {1: (0, 1)}, "drop-router")
    tree["Encoder"]["encoderblock_1"]["Moe"]["Router"]["dense"]["kernel"] = router(model(), 1)
    merged = {1: ExpertMap((0, 0, 0, 1, 1, 1), (0, 1), 6)}
    with pytest.raises(ValueError, match="prune before merging"):
        select(tree, "router-norm", maps=merged, n_prune=1)
