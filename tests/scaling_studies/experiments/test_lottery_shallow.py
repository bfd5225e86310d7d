"""The comparison of the QRT with pruning: its rows, what it counts, and that it is repeatable."""

from functools import cache
from io import StringIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from qrt_tn import Ridgelet, RidgeNodes, states, uniform_nodes
from qrt_tn.field import centred
from qrt_tn.models import Dataset, RidgeNetwork
from qrt_tn.models.tickets import direction_overlap
from qrt_tn.studies.experiments.folds import Fold, make_folds
from qrt_tn.studies.experiments.lottery import shallow, shallow_costs, shallow_pruning, shallow_sources
from qrt_tn.studies.experiments.lottery.shallow import METHODS, ShallowConfig, compare
from qrt_tn.studies.experiments.lottery.shallow_overlap import frequencies, masked_columns, overlap_rows
from qrt_tn.studies.progress import StageTimer

COLUMNS = {
    "method",
    "training",
    "budget",
    "nodes",
    "parameters",
    "seed",
    "validation_accuracy",
    "test_accuracy",
    "test_risk",
    "flops",
    "seconds",
}


def small(**changes: Any) -> ShallowConfig:
    settings: dict[str, Any] = {
        "levels": 9,
        "modulus": 31,
        "smoothing": 0.7,
        "nodes": (4, 12),
        "seeds": 1,
        "epochs": 2,
        "wide": 48,
        "hidden_rate": 0.4,
        "output_rate": 0.3,
        "teacher_nodes": 16,
        "pool": 60,
        "leverage_ridges": (1e-3, 1e-1),
        "reference": 40,
        "rank": 3,
        "null_draws": 10,
    }
    return ShallowConfig(**{**settings, **changes})


@cache
def prototypes() -> Dataset:
    rng = np.random.default_rng(3)
    labels = np.arange(150) % 3
    x = (rng.normal(size=(3, 6)) * 2)[labels] + 0.5 * rng.normal(size=(150, 6))
    return Dataset(x, labels, "prototypes", ("a", "b", "c"))


@cache
def fold() -> Fold:
    return make_folds(prototypes(), small().grid)[0]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(shallow, "load_dataset", lambda data, target: prototypes())
    return lambda config: compare(config, StageTimer(Console(file=StringIO())))


def test_the_comparison_has_a_row_for_every_method_and_count_and_repeats(run: Any) -> None:
    rows, overlaps = run(small(wide=24, keep=0.3))
    found = {(row["method"], row["training"], row["budget"]) for row in rows}
    ridge = set(METHODS) - {"imp-weights", "imp-nodes-rewound"}
    wanted = {(m, t, n) for m in ridge for t in ("fitted", "trained") for n in (4, 12)}
    wanted |= {(m, "trained", n) for m in ("imp-weights", "imp-nodes-rewound") for n in (4, 12, 24)}
    assert found == wanted
    assert len(rows) == len(wanted)  # one seed: none twice
    for row in rows:
        assert set(row) >= COLUMNS
        assert row["seed"] == 0
        assert 0 <= row["test_accuracy"] <= 1
        assert row["flops"] > 0
        assert row["seconds"] > 0
        if row["budget"] != 24:
            assert row["parameters"] <= row["budget"] * (6 + 1 + 3) + 3
        if row["method"] != "imp-weights":
            assert row["nodes"] == row["budget"]
            assert row["parameters"] == row["budget"] * (6 + 1 + 3) + 3
    cost = {(row["method"], row["training"], row["budget"]): row["flops"] for row in rows}
    for count in (4, 12):
        # a ticket costs every round before it: more than what was drawn at random, less than one round more
        whole = 6.0 * 24 * 9 * len(fold().split.train) * 2
        assert cost["imp-nodes", "fitted", count] > whole > cost["imp-nodes-random", "trained", count]
        once = 6.0 * count * 9 * len(fold().split.train) * 2
        extra = cost["imp-nodes", "trained", count] - cost["imp-nodes", "fitted", count]
        assert extra == pytest.approx(once)
    assert cost["imp-nodes-rewound", "trained", 24] == whole
    groups = {(row["measure"], row["group"], row["nodes"]) for row in overlaps}
    assert groups == {
        (measure, group, n)
        for measure in ("directions", "subspace")
        for group in ("imp-nodes", "qrt-smoothed", "imp-weights")
        for n in (4, 12)
    }
    for row in overlaps:
        assert 0 <= row["null_low"] <= row["null_high"] <= 1
        assert 0 <= row["value"] <= 1
    again, overlaps_again = run(small(wide=24, keep=0.3))
    names = ("method", "test_accuracy", "test_risk", "flops")
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in again]
    assert overlaps == overlaps_again


def test_node_pruning_keeps_the_strongest_and_rewinds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(nodes=(5, 12), keep=0.6)
    seen: list[RidgeNetwork] = []
    starts: list[tuple[np.ndarray, np.ndarray]] = []

    def train(networks: list[RidgeNetwork], points: Any, folds: Any, epochs: int) -> None:
        (network,) = networks
        assert not np.asarray(network.a_offset[...]).any()
        assert not np.asarray(network.bias[...]).any()
        starts.append((np.asarray(network.a[...]), np.asarray(network.kernel[...])))
        # "training" gives every node a norm that its first coordinate and start tell
        rng = np.random.default_rng(len(seen))
        network.kernel[...] = network.kernel[...] + rng.normal(size=network.kernel.shape)
        network.a_offset[...] = network.a_offset[...] + 1
        seen.append(network)

    monkeypatch.setattr(shallow_pruning, "train_networks", train)
    nodes = uniform_nodes(48, 6, 31, 0)
    trained, tickets = shallow_pruning.prune_nodes([nodes], [fold()], config, lambda: None)
    counts = shallow_pruning.targets(config)
    assert counts == [48, 29, 17, 12, 7, 5]  # 0.6 of what is left, and never past a count wanted
    kept = np.arange(48)
    for network, count, after in zip(seen, counts[1:], range(1, len(counts)), strict=False):
        norms = np.linalg.norm(np.asarray(network.kernel[...]), axis=1)
        kept = kept[np.sort(np.argsort(norms)[-count:])]
        np.testing.assert_array_equal(starts[after][0], starts[0][0][kept])
        np.testing.assert_array_equal(starts[after][1], starts[0][1][kept])
        for ticket, numbers in tickets:
            if len(numbers) == count:
                np.testing.assert_array_equal(numbers, kept)
                np.testing.assert_array_equal(ticket.nodes.a, nodes.a[kept])
    assert [len(numbers) for _, numbers in tickets] == [12, 5]
    assert [one.budget for one in trained] == [48, 12, 5]
    # the ticket of 5 costs the rounds at 48, 29, 17, 12 and 7 nodes
    spent = 6.0 * (48 + 29 + 17 + 12 + 7) * 9 * len(fold().split.train) * 2
    assert tickets[1][0].cost.flops == pytest.approx(spent)


def test_weight_pruning_is_iterative_rewound_and_counted_by_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small(nodes=(4, 12))
    starts = []

    def train(networks: Any, points: Any, folds: Any, epochs: int) -> None:
        (network,) = networks
        arrays = {
            name: np.asarray(getattr(network, name)[...])
            for name in ("hidden_kernel", "kernel", "hidden_mask", "kernel_mask")
        }
        starts.append(arrays)
        rng = np.random.default_rng(len(starts))
        for name in ("hidden_kernel", "kernel"):
            mask = arrays[f"{'hidden' if 'hidden' in name else 'kernel'}_mask"]
            getattr(network, name)[...] = np.asarray(rng.normal(size=mask.shape) * mask, dtype=np.float32)
        arrays |= {f"trained_{n}": np.asarray(getattr(network, n)[...]) for n in ("hidden_kernel", "kernel")}

    monkeypatch.setattr(shallow_pruning, "train_networks", train)
    rounds = []
    trained, survivors = shallow_pruning.prune_weights([fold()], config, lambda: rounds.append(1))
    first = starts[0]
    assert first["hidden_mask"].all()
    assert len(rounds) == len(starts) <= shallow_pruning.most_rounds(fold(), config) + 1
    for before, after in pairwise(starts):
        for name, mask, rate in (("hidden_kernel", "hidden_mask", 0.4), ("kernel", "kernel_mask", 0.3)):
            left = int(before[mask].sum())
            assert int(after[mask].sum()) == left - int(np.floor(rate * left + 0.5))
            assert not (after[mask] > before[mask]).any()
            # what went was smaller than what stayed, and what stayed is where it began
            sizes = np.abs(before[f"trained_{name}"])
            gone = (before[mask] > 0) & (after[mask] == 0)
            assert sizes[gone].max() <= sizes[after[mask] > 0].min()
            np.testing.assert_array_equal(after[name], first[name] * after[mask])
    assert [one.budget for one in trained] == [48, 12, 4]
    for one in trained[1:]:
        assert one.parameters <= shallow_pruning.ridge_parameters(one.budget, fold())
    # the first round that small: the one before holds more
    last = starts[-2]
    live = last["hidden_mask"].any(axis=0) & last["kernel_mask"].any(axis=1)
    held = last["hidden_mask"][:, live].sum() + last["kernel_mask"][live].sum() + live.sum() + 3
    assert held > shallow_pruning.ridge_parameters(4, fold())
    assert [one.budget for one in survivors] == [12, 4]
    assert len(survivors[1].kept) == trained[2].nodes
    assert survivors[1].wide.shape == (48, 6)


def test_weight_pruning_ends_where_a_layer_has_nothing_left_to_lose() -> None:
    # 1 node of 6 inputs and 3 outputs holds 13 numbers: too few for layers that must keep a weight each
    config = small(nodes=(1,), wide=4, hidden_rate=0.9, output_rate=0.05)
    rounds = shallow_pruning.most_rounds(fold(), config)
    assert 0 < rounds < 10
    trained, _ = shallow_pruning.prune_weights([fold()], config, lambda: None)
    assert trained[0].budget == 4


def test_the_state_of_ridge_regression_is_the_plain_one_unless_points_repeat() -> None:
    rng = np.random.default_rng(0)
    x = np.unique(rng.integers(9, size=(40, 4)), axis=0)
    y = rng.normal(size=(len(x), 2))
    u = rng.integers(31, size=(20, 4))

    def spectra(points: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
        return [
            states.from_samples(points, values, 31, ridge=ridge).spectrum(u).value() for ridge in (0.0, 0.01)
        ]

    plain, ridged = spectra(x, y)
    np.testing.assert_allclose(plain, ridged, atol=1e-12)
    plain, ridged = spectra(np.concatenate([x, x[:10]]), np.concatenate([y, y[:10]]))
    assert np.abs(plain - ridged).max() > 1e-4


def test_jitter_0_labels_the_training_points_alone() -> None:
    class Steps:
        def advance(self, steps: int = 1) -> None:
            del steps

    counts = {}
    for jitter in (0.0, 1.0):
        sources = shallow_sources.ShallowSources([fold()], small(jitter=jitter), Steps())
        points, outputs, cost = sources._labelled[0]
        counts[jitter] = len(points)
        np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-12)
        assert points.min() >= 0
        assert points.max() < 9
        assert cost.flops > 0
    training = len(fold().split.train)
    assert counts == {0.0: training, 1.0: 2 * training}


def test_costs_by_hand() -> None:
    assert shallow_costs.training_flops(10, 7, 3) == 6 * 10 * 7 * 3
    # 5 points, 4 inputs, 3 nodes, 2 outputs: features, Gram, right-hand sides, eigenvectors
    assert shallow_costs.fitting_flops(5, 4, 3, 2) == 2 * 5 * 3 * 4 + 2 * 5 * 3 * 3 + 2 * 5 * 3 * 2 + 9 * 27
    assert shallow_costs.leverage_flops(3, 2, 10, 2) == 2 * 3 * 10 * 2 + 2 * 9 * 10 + 2 * (9 + 90)


@pytest.mark.parametrize("activation", ["cosine", "triangle"])
def test_frequencies_are_the_nodes_own_up_to_sign(activation: str) -> None:
    a = np.array([[1, 30, 0], [0, 0, 0], [2, 0, 29]])
    nodes = RidgeNodes(a, np.zeros(3, dtype=int), np.zeros(3), 31)
    found = frequencies(nodes, Ridgelet(activation, 31))
    np.testing.assert_array_equal(found, centred(a, 31)[[0, 2]])


def test_frequencies_follow_the_strongest_harmonic() -> None:
    table = np.cos(2 * np.pi * 3 * np.arange(31) / 31)
    u = np.array([[1, 30, 2]])
    a = pow(3, -1, 31) * u % 31
    nodes = RidgeNodes(a, np.zeros(1, dtype=int), np.zeros(1), 31)
    found = frequencies(nodes, Ridgelet(table, 31))
    assert direction_overlap(found, centred(u, 31)) == pytest.approx(1)


def test_masked_columns_share_the_sparsity_of_what_was_kept() -> None:
    rng = np.random.default_rng(0)
    kept = rng.normal(size=(20, 9)) * (rng.random((20, 9)) < 0.3)
    wide = rng.normal(size=(50, 9))
    drawn = masked_columns(kept, wide, rng)
    np.testing.assert_array_equal((drawn != 0).sum(axis=1), (kept != 0).sum(axis=1))
    for row in drawn:
        assert any((row == np.where(row != 0, one, 0)).all() for one in wide)


def test_overlaps_tell_what_is_near_from_what_is_chance() -> None:
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(2, 12))
    reference = rng.normal(size=(30, 2)) @ plane + 0.01 * rng.normal(size=(30, 12))
    near = reference[:6] + 0.01 * rng.normal(size=(6, 12))
    far = rng.normal(size=(6, 12))
    rows = overlap_rows(
        {"near": near, "far": far},
        reference,
        lambda generator: generator.normal(size=(6, 12)),
        nodes=6,
        seed=0,
        rank=2,
        draws=100,
    )
    by = {(row["group"], row["measure"]): row for row in rows}
    for measure in ("directions", "subspace"):
        near_row, far_row = by["near", measure], by["far", measure]
        assert near_row["value"] > near_row["null_high"]
        assert near_row["value"] > 0.95
        assert far_row["value"] < near_row["value"]
    null = by["far", "directions"]
    cosines = np.abs(far @ reference.T) / np.outer(
        np.linalg.norm(far, axis=1), np.linalg.norm(reference, axis=1)
    )
    assert null["value"] == pytest.approx(cosines.max(axis=1).mean())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"wide": 20}, "nodes 12 is above half of wide, 20"),
        ({"keep": 1.0}, "keep is 1.0"),
        ({"hidden_rate": 0}, "hidden_rate is 0"),
        ({"output_rate": 1.5}, "output_rate is 1.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"seeds": True}, "seeds is True"),
        ({"nodes": ()}, "nodes is ()"),
        ({"nodes": (4, 4)}, "each once"),
        ({"nodes": (4.5,)}, "4.5"),
        ({"pool": 5}, "pool is 5"),
        ({"jitter": -1}, "jitter is -1"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"leverage_ridges": (0.0,)}, "leverage_ridges.0 is 0.0"),
        ({"leverage_ridges": ()}, "leverage_ridges is ()"),
        ({"modulus": 32}, "32"),
        ({"levels": 99}, "levels is 99"),
        ({"activation": "reluu"}, "reluu"),
        ({"smoothing": -1}, "-1"),
        ({"backend": "cupyy"}, "cupyy"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError) as caught:
        small(**changes)
    assert match in str(caught.value)


def test_quick_settings_take_changes() -> None:
    assert ShallowConfig.quick().seeds == 2
    assert ShallowConfig.quick(seeds=1, levels=16).seeds == 1
    assert ShallowConfig.quick(nodes=(64, 16)).nodes == (16, 64)
