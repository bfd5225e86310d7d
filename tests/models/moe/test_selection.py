"""Which experts stay, against choosing one expert after another by hand."""

import numpy as np
import pytest

from qrt_tn.models.moe.criteria import Criterion
from qrt_tn.models.moe.pruning import MODES, remove
from qrt_tn.models.moe.reconstruction import reconstruction
from qrt_tn.models.moe.selection import choose_experts, choose_layers
from qrt_tn.models.moe.trees import parameter_bytes, read_layers
from tests.models.moe.conftest import HIDDEN, gathered, random_tree

LAYERS = (1, 3, 4)


def listed(scores):
    """A criterion that gives each layer, in ascending order, the scores listed for it."""
    left = [list(row) for row in scores]
    return Criterion("listed", lambda *evidence: left.pop(0))


def select(tree, criterion, *, layers=None, n_prune=None, **options):
    """The selection from a tree of parameters."""
    read = {
        name: options.pop(name) for name in ("maps", "groups", "pretrained", "statistics") if name in options
    }
    records = choose_layers(read_layers(tree, **read), layers)
    options = {"n_prune": n_prune, "total_bytes": parameter_bytes(tree), **options}
    return choose_experts(records, criterion, **options)


def oracle(scores, members, n_prune, scope, min_experts):
    """Places that go, by layer: one unit after another, each time the lowest that may still go."""
    units = {}
    for layer, row in scores.items():
        width = len(row) // members
        ranks = [sorted(range(m * width, (m + 1) * width), key=lambda e: (row[e], e)) for m in range(members)]
        units[layer] = [
            (np.mean([row[e] for e in unit]), layer, rank, unit)
            for rank, unit in enumerate(zip(*ranks, strict=True))
        ]
    gone = {layer: [] for layer in scores}
    pools = [list(scores)] if scope == "global" else [[layer] for layer in scores]
    for pool in pools:
        while sum(len(gone[layer]) for layer in pool) * members < n_prune:
            free = [
                unit
                for layer in pool
                for unit in units[layer][len(gone[layer]) :]
                if len(units[layer]) - len(gone[layer]) > min_experts
            ]
            unit = min(free)
            gone[unit[1]].append(unit)
    return {layer: tuple(sorted(e for unit in taken for e in unit[3])) for layer, taken in gone.items()}


@pytest.mark.parametrize("seed", range(40))
def test_the_lowest_go_and_ties_are_told(seed):
    rng = np.random.default_rng(seed)
    members, min_experts = int(rng.choice([1, 1, 2, 3])), int(rng.integers(1, 3))
    stored = None if rng.random() < 0.5 else members
    tree = random_tree(seed, LAYERS, members=stored)
    scores = {layer: rng.integers(0, 12, 6) * 1.0 for layer in LAYERS}
    scope = str(rng.choice(["layer", "global"]))
    most = (6 - min_experts * members) * (3 if scope == "global" else 1)
    n_prune = int(rng.integers(most // members + 1)) * members if most > 0 else 0
    gone = oracle(scores, members, n_prune, scope, min_experts)
    layers = read_layers(tree, groups=members)
    found = choose_experts(
        layers, listed(scores.values()), n_prune=n_prune, scope=scope, min_experts=min_experts
    )
    assert found.pruned == gone and found.count == sum(map(len, gone.values()))
    for layer in LAYERS:
        assert sorted(found.kept[layer] + gone[layer]) == list(range(6))
        np.testing.assert_array_equal(found.scores[layer], scores[layer])
        for group in layers[layer].groups:  # equal scores within a member, cut through
            for e in group:
                cut = {f in gone[layer] for f in group if scores[layer][f] == scores[layer][e]}
                assert len(cut) < 2 or e in found.ties[layer]
    # noise below the gaps of the scores changes the choice only where ties are told
    for _ in range(3):
        moved = [row + rng.random(6) * 1e-3 for row in scores.values()]
        other = choose_experts(layers, listed(moved), n_prune=n_prune, scope=scope, min_experts=min_experts)
        for layer in LAYERS:
            changed = set(other.pruned[layer]) ^ set(gone[layer])
            assert members > 1 or changed <= set(found.ties.get(layer, ()))


def test_ties_over_layers_are_told():
    tree = random_tree(0, LAYERS)
    scores = [[1, 0, 1, 0, 2, 0], [0, 3, 0, 3, 3, 9], [2, 2, 1, 5, 5, 5]]
    found = select(tree, listed(scores), n_prune=4, scope="global")
    assert found.pruned == {1: (1, 3, 5), 3: (0,), 4: ()}
    assert found.ties == {1: (1, 3, 5), 3: (0, 2)}
    assert select(tree, listed(scores), n_prune=5, scope="global").ties == {}


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_takes_the_fewest_lowest(seed):
    tree = random_tree(seed, LAYERS)
    total, size = parameter_bytes(tree), read_layers(tree)[1].experts.nbytes // 6
    budget = total - int(np.random.default_rng(seed).integers(15 * size))
    found = select(tree, "router-norm", budget_bytes=budget)
    fewest = -(-(total - budget) // size)
    assert found.scope == "budget"
    assert found.kept == select(tree, "router-norm", n_prune=fewest, scope="global").kept
    for mode in MODES:
        assert parameter_bytes(remove(tree, found.kept, mode)[0]) <= budget
    assert select(tree, "router-norm", budget_bytes=total - 15 * size).count == 15
    with pytest.raises(ValueError, match=f"give at least {total - 15 * size:,}"):
        select(tree, "router-norm", budget_bytes=total - 15 * size - 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("members", [None, 2])
def test_a_pruned_model_is_pruned_further(mode, members):
    tree, before = random_tree(0, LAYERS, members=members), random_tree(50, LAYERS, members=members)
    counts = {layer: np.random.default_rng(layer).permutation(60)[:6] for layer in LAYERS}
    first = select(tree, "router-change", pretrained=before, n_prune=2)
    small, maps = remove(tree, first.kept, mode)
    second = select(small, "router-change", pretrained=before, maps=maps, n_prune=2)
    at_once = select(tree, "router-change", pretrained=before, n_prune=4)
    _, final = remove(small, second.kept, mode, maps=maps)
    held = {}
    for layer in LAYERS:
        left = maps[layer].source_ids
        assert final[layer].source_ids == at_once.kept[layer]
        np.testing.assert_allclose(second.scores[layer], at_once.scores[layer][list(left)])
        # statistics have the columns of the model as it is
        held[layer] = gathered(
            [counts[layer][left[e]] if e >= 0 else 0 for e in maps[layer].column_to_expert]
        )
    used = select(small, "frequency", statistics=held, maps=maps, n_prune=2)
    for layer in LAYERS:
        np.testing.assert_array_equal(used.scores[layer], counts[layer][list(maps[layer].source_ids)])


def test_random_is_that_of_the_released_code():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found = select(random_tree(0, LAYERS), "random", n_prune=2, seed=seed)
        for layer in LAYERS:
            assert found.kept[layer] == tuple(sorted(rng.permutation(6)[-4:].tolist()))
        again = select(random_tree(0, LAYERS), "random", n_prune=2, seed=np.random.default_rng(seed))
        assert again.kept == found.kept


def test_reconstruction_picks_a_set_in_each_layer():
    tree = random_tree(0, LAYERS)
    rng = np.random.default_rng(0)
    held = {layer: gathered([0] * 6, sample=rng.normal(size=(20, HIDDEN))) for layer in LAYERS}
    found = select(tree, "reconstruction", statistics=held, n_prune=3, selected=2)
    for number, layer in read_layers(tree, statistics=held).items():
        assert found.kept[number] == reconstruction(*layer.evidence(), keep=3, selected=2)
    assert (found.scores, found.ties) == ({}, {})
    assert select(tree, "reconstruction", statistics=held, n_prune=0, selected=2).count == 0


def refused(**options):
    tree = options.pop("tree", None) or random_tree(0, LAYERS)
    return {"tree": tree, "criterion": "router-norm", "n_prune": 1, **options}


SETS = Criterion("sets", lambda *evidence, keep, selected: [0, 1, 1], subset=True)
COUNTED = {layer: gathered([7] * 6) for layer in LAYERS}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (refused(n_prune=None), "n_prune is None and budget_bytes None"),
        (refused(budget_bytes=5), "n_prune is 1 and budget_bytes 5"),
        (refused(scope="all"), "scope is 'all'; choose one of layer, global"),
        (refused(n_prune=1.5), "n_prune is 1.5"),
        (refused(n_prune=-1), "n_prune is -1"),
        (refused(min_experts=0), "min_experts is 0"),
        (refused(n_prune=6), "6 experts of layer 1 cannot go; prune at most 5"),
        (refused(n_prune=4, min_experts=3), "4 experts of layer 1 cannot go; prune at most 3, so that 3"),
        (refused(n_prune=16, scope="global"), "16 experts of all layers cannot go; prune at most 15"),
        (refused(layers=[1, 2]), "layer 2 has no experts; choose among 1, 3, 4"),
        (refused(layers=[]), "no layers to prune"),
        (refused(layers=1), "layers is 1; give a list"),
        (refused(groups=2), "n_prune is 1, but the ensemble members of layer 1 .* give 2"),
        (refused(tree=random_tree(members=2), groups=3), "groups is 3, .* has 2 members; give 2"),
        (refused(n_prune=3, tree=random_tree(members=2), scope="global"), "n_prune is 3, .* give 4"),
        (refused(criterion="reap"), "'reap' needs a calibration pass, and there is none of layer 1"),
        (refused(criterion="reap", statistics={1: gathered([1] * 6)}), "there is none of layer 3"),
        (refused(criterion=SETS, n_prune=3), "must return 3 different places from 0 to 5"),
        (refused(criterion=SETS, scope="global"), "'sets' picks a set in each layer"),
        (refused(criterion=SETS, n_prune=6), "6 experts of layer 1 cannot go; prune at most 5"),
        (refused(criterion=SETS, tree=random_tree(members=2)), "'sets' knows no ensemble members"),
        # choices without information
        (refused(criterion="frequency", statistics=COUNTED), "'frequency' .* all experts of layer 1 .* 7,"),
        (
            refused(criterion=listed([[1, 2, 3, 4, 5, 6], [0] * 6, [9] * 6]), scope="global"),
            "all experts of layer 3 .* 0,",
        ),
    ],
)
def test_bad_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        select(**options)


def test_equal_scores_of_a_layer_that_loses_none_are_no_matter():
    tree = random_tree(0, LAYERS)
    scores = [[1, 2, 3, 4, 5, 6], [7] * 6, [9] * 6]
    assert select(tree, listed(scores), n_prune=2, scope="global").pruned == {1: (0, 1), 3: (), 4: ()}
    assert select(tree, "frequency", statistics=COUNTED, n_prune=0).count == 0
