"""Rounds of a study: what is pruned, rewound, redrawn and kept."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from qrt_tn import Ridgelet, uniform_nodes
from qrt_tn.models import RidgeNetwork
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import (
    CONTROLS,
    LotteryStudy,
    Preset,
    Run,
    counts,
    is_within,
    layers,
    remaining,
)
from qrt_tn.models.training import BatchOrder
from tests.models.lottery.conftest import RECIPE, Small

PRESET = Preset(
    architecture="lenet",
    data="none",
    recipe=RECIPE,
    levels=3,
    rate=0.4,
    conv_rate=0.0,
    output_rate=0.2,
    trials=2,
    reinitialisations=2,
    validation=1,
)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def study(small_fold: ImageFold) -> tuple[LotteryStudy, list[list[Run]]]:
    study = LotteryStudy(Small, PRESET, small_fold, control_levels=[2])
    return study, list(study.rounds())


def runs_of(rounds: list[list[Run]], level: int, method: str) -> list[Run]:
    return [run for run in rounds[level] if run.method == method]


def test_rounds_have_the_networks_they_announce(study: tuple[LotteryStudy, list[list[Run]]]) -> None:
    found, rounds = study
    assert len(rounds) == 4
    assert [len(runs) for runs in rounds] == [found.runs_of(level) for level in range(4)]
    assert {run.method for run in rounds[2]} == {"imp", *CONTROLS}
    assert len(runs_of(rounds, 2, "reinit")) == 4  # two redraws of two trials
    assert not found.notes
    for level, share in enumerate(found.shares):
        for run in rounds[level]:
            assert run.remaining == pytest.approx(share, abs=1e-12)
            assert run.level == level


def test_each_round_prunes_the_smallest_trained_weights_and_rewinds_the_rest(
    study: tuple[LotteryStudy, list[list[Run]]],
) -> None:
    found, rounds = study
    before = {run.trial: run for run in rounds[0]}
    rates = {"hidden/kernel": 0.4, "output/kernel": 0.2}
    for level in (1, 2, 3):
        tickets = runs_of(rounds, level, "imp")
        assert [run.trial for run in tickets] == [0, 1]
        for run in tickets:
            last = before[run.trial]
            assert is_within(run.masks, last.masks)
            assert last.trained.weights is not None
            for name, mask in layers(run.masks).items():
                alive = layers(last.masks)[name]
                sizes = np.abs(layers(last.trained.weights.params)[name])
                gone = alive & ~mask
                assert gone.sum() == int(np.floor(rates[name] * alive.sum() + 0.5))
                assert sizes[gone].max() <= sizes[mask].min()
            initial = layers(found.initial(run.trial).params)
            for name, start in layers(run.start.params).items():
                assert np.array_equal(start, initial[name])
            before[run.trial] = run


def test_controls_keep_and_change_what_they_say(study: tuple[LotteryStudy, list[list[Run]]]) -> None:
    found, rounds = study
    dense = {run.trial: run for run in rounds[0]}
    tickets = {run.trial: run for run in runs_of(rounds, 2, "imp")}

    for run in rounds[2]:
        ticket, initial = tickets[run.trial], found.initial(run.trial)
        by_layer = {name: mask.sum() for name, mask in layers(run.masks).items()}
        if run.method in ("reinit", "sign-reinit"):
            assert same(run.masks, ticket.masks)
        if run.method in ("random", "oneshot", "oneshot-reinit", "magnitude-init"):
            assert by_layer == {name: mask.sum() for name, mask in layers(ticket.masks).items()}
        if run.method in ("random", "snip", "synflow", "magnitude-init"):
            assert not same(run.masks, ticket.masks)
        if run.method in ("imp", "random", "oneshot", "magnitude-init", "snip", "synflow"):
            assert same(run.start.params, initial.params)
        if run.method in ("reinit", "oneshot-reinit"):
            redrawn = found.initial(run.trial, 1 + run.repeat)
            assert same(run.start.params, redrawn.params)
            assert not same(redrawn.params, initial.params)
        if run.method == "sign-reinit":
            for name, mask in layers(run.masks).items():
                start, own = layers(run.start.params)[name], layers(initial.params)[name]
                assert np.array_equal(np.sign(start[mask]), np.sign(own[mask]))
                assert not np.array_equal(start[mask], own[mask])
        if run.method == "oneshot":
            weights = dense[run.trial].trained.weights
            assert weights is not None
            for name, mask in layers(run.masks).items():
                sizes = np.abs(layers(weights.params)[name])
                assert sizes[~mask].max() <= sizes[mask].min()
        assert counts(run.masks) == counts(ticket.masks)
        assert (run.trained.weights is None) == (run.method != "imp")
    redraws = runs_of(rounds, 2, "reinit")
    assert not same(redraws[0].start.params, redraws[1].start.params)


def test_snip_scores_the_loss_on_ten_points_a_class(
    study: tuple[LotteryStudy, list[list[Run]]], small_fold: ImageFold
) -> None:
    found, rounds = study
    run, start = runs_of(rounds, 2, "snip")[0], found.initial(0)
    batch = BatchOrder(0, len(small_fold.x_train), 30)(0, 1)[0]
    x, y = small_fold.x_train[batch].reshape(30, -1), small_fold.y_train[batch]

    def loss(params: Any) -> jax.Array:
        hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        logits = hidden @ params["output"]["kernel"] + params["output"]["bias"]
        return -jax.nn.log_softmax(logits)[np.arange(30), y].mean()

    slopes, params = layers(jax.jit(jax.grad(loss))(start.params)), layers(start.params)
    kept, gone = [], []
    for name, mask in layers(run.masks).items():
        scores = np.abs(slopes[name] * params[name])
        kept.append(scores[mask].min())
        gone.append(scores[~mask].max())
    assert max(gone) <= min(kept) * (1 + 1e-4)


def test_rewinding_to_a_step_and_of_the_rate(small_fold: ImageFold) -> None:
    late = replace(PRESET, rewind=20, levels=2, trials=1)
    for rewinding in ("weights", "rate"):
        found = LotteryStudy(
            Small, late, small_fold, controls=["oneshot", "reinit", "sign-reinit"], rewinding=rewinding
        )
        rounds = list(found.rounds())
        turned = 0
        for before, runs in pairwise(rounds):
            starts = {run.method: run.start for run in runs}
            last, dense = before[0].trained, rounds[0][0].trained
            for run in runs:
                redrawn = run.method in ("reinit", "sign-reinit")
                assert run.trained.iterations.tolist() == ([20, 40, 60] if redrawn else [40, 60])
            assert last.weights is not None
            if rewinding == "weights":
                assert same(starts["imp"], dense.snapshots[20])
                assert same(starts["oneshot"], dense.snapshots[20])
            else:
                assert same(starts["imp"], last.weights)
                assert same(starts["oneshot"], dense.weights)
            # signs are those that the ticket starts from, which are not the initial ones
            for name, mask in layers(runs[0].masks).items():
                own, start = layers(starts["sign-reinit"].params)[name], layers(starts["imp"].params)[name]
                assert np.array_equal(np.sign(own[mask]), np.sign(start[mask]))
                turned += (np.sign(start) != np.sign(layers(found.initial(0).params)[name]))[mask].sum()
        assert turned > 0


def test_a_study_goes_on_where_it_was_and_may_be_extended(
    study: tuple[LotteryStudy, list[list[Run]]], small_fold: ImageFold, tmp_path: Path
) -> None:
    _, wanted = study
    shorter = replace(PRESET, levels=1, trials=1)
    list(LotteryStudy(Small, shorter, small_fold, controls=[], folder=tmp_path).rounds())
    trained: list[tuple[int, int]] = []
    longer = LotteryStudy(Small, PRESET, small_fold, control_levels=[2], folder=tmp_path)
    rounds = list(longer.rounds(lambda done, total: trained.append((done, total))))
    for ours, theirs in zip(rounds, wanted, strict=True):
        for run, other in zip(ours, theirs, strict=True):
            assert (run.method, run.trial, run.repeat) == (other.method, other.trial, other.repeat)
            for name, curve in run.trained.curves.items():
                assert np.array_equal(curve, other.trained.curves[name])
            assert all(map(np.array_equal, layers(run.masks).values(), layers(other.masks).values()))
    assert trained[0] == (60, 120)  # the first dense network was there, whole
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert len(before) == sum(map(len, wanted))
    list(LotteryStudy(Small, PRESET, small_fold, control_levels=[2], folder=tmp_path).rounds())
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}


def test_global_pruning_leaves_layers_without_a_rate_alone(small_fold: ImageFold) -> None:
    spared = replace(PRESET, scope="global", rate=0.5, output_rate=0.0, levels=2, trials=1)
    found = LotteryStudy(Small, spared, small_fold, controls=["snip", "random"])
    rounds = list(found.rounds())
    for level, share in enumerate(found.shares):
        for run in rounds[level]:
            assert layers(run.masks)["output/kernel"].all()
            assert remaining(run.masks) == pytest.approx(share, abs=1e-12)


def test_what_cannot_be_pruned_further_ends_the_rounds_with_a_note(small_fold: ImageFold) -> None:
    wild = replace(small_fold, x_train=small_fold.x_train * np.float32(1e30))
    found = LotteryStudy(Small, replace(PRESET, trials=1), wild, controls=[])
    assert len(list(found.rounds())) == 1
    assert "before level 1" in found.notes[0]
    assert "diverged" in found.notes[0]


def test_a_control_that_has_no_network_is_left_out_with_a_note(
    small_fold: ImageFold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise ValueError("layer 'output/kernel' would be pruned to nothing")

    monkeypatch.setattr("qrt_tn.models.lottery.initial.synflow_masks", refuse)
    found = LotteryStudy(
        Small, replace(PRESET, levels=1, trials=1), small_fold, controls=["synflow", "random"]
    )
    assert [run.method for run in list(found.rounds())[1]] == ["imp", "random"]
    assert found.notes == [
        "synflow has no network at level 1, trial 0: layer 'output/kernel' would be pruned to nothing."
    ]


def test_settings_that_cannot_work_are_refused_at_once(small_fold: ImageFold) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {"controls": ["reinint"]}, "unknown control 'reinint'"),
        ({}, {"control_levels": [4]}, "control_levels holds 4"),
        ({}, {"rewinding": "both"}, "rewinding is 'both'"),
        ({"rewind": 5}, {}, "rewind is 5; give a multiple of evaluate_every, 20"),
        ({"rate": 0.99, "levels": 3}, {}, "'hidden/kernel' would be pruned to nothing"),
        ({"scope": "global"}, {}, "rates"),
    ]
    for changes, options, message in cases:
        with pytest.raises(ValueError, match=message):
            LotteryStudy(Small, replace(PRESET, **changes), small_fold, **options)
    with pytest.raises(ValueError, match="different architectures"):
        list(LotteryStudy(lambda seed: Small(seed, outputs=3 + seed), PRESET, small_fold).rounds())


def test_the_ridge_network_is_a_network_like_any_other() -> None:
    ridgelet, rng = Ridgelet("triangle", 31), np.random.default_rng(0)
    x, y = rng.integers(31, size=(120, 4)).astype(np.float32), rng.integers(3, size=120).astype(np.int32)
    fold = ImageFold(x[:80], y[:80], x[80:100], y[80:100], x[100:], y[100:])

    def drawn(seed: int) -> nnx.Module:
        return RidgeNetwork(uniform_nodes(8, 4, 31, seed), ridgelet, 3, rngs=nnx.Rngs(seed))

    sparse = replace(PRESET, output_rate=0.5, levels=2, trials=1, reinitialisations=1)
    found = LotteryStudy(drawn, sparse, fold, controls=["reinit"])
    assert found.shares == [1.0, 0.5, 0.25]
    assert list(layers(found.full)) == ["kernel"]
    # a redraw is another draw of nodes, not of weights alone
    nodes = [np.asarray(found.initial(0, redraw).rest["a"]) for redraw in (0, 1)]
    assert not np.array_equal(*nodes)
