from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import qrt_tn.models.lottery.trials
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import (
    Program,
    Trained,
    Trial,
    Weights,
    full_masks,
    layers,
    prune_by_magnitude,
    put_together,
    take_apart,
    train_trials,
)
from qrt_tn.models.lottery.batches import BatchOrder
from tests.models.lottery.conftest import RECIPE, Small, some_masks

SGD = replace(RECIPE, optimizer="sgd", learning_rate=0.1, drops=(40,))


def bits(found: Trained) -> list[bytes]:
    trees = (found.curves, found.weights, found.best, found.snapshots)
    held = [vars(tree) if isinstance(tree, Weights) else tree for tree in trees]
    held[3] = {k: vars(weights) for k, weights in found.snapshots.items()}
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(held)]


def plain_loop(
    program: Program, weights: Weights, masks: Any, fold: ImageFold, seed: int
) -> tuple[Any, list[list[float]]]:
    """The protocol once more, one step after the other: gradients times masks, and no wrapper."""
    graph, recipe = program.graph, program.recipe
    factors = jax.tree.map(lambda p: jnp.ones(p.shape), weights.params)
    for layer, mask in masks.items():
        factors[layer]["kernel"] = jnp.asarray(mask["kernel"], jnp.float32)
    params = jax.tree.map(jnp.multiply, weights.params, factors)
    optimizer = recipe.transform()
    state = optimizer.init(params)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, jax.tree.map(jnp.multiply, params, factors), weights.rest)(x)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, x, y)
        changes, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state, value

    order = BatchOrder(seed, len(fold.x_train), recipe.batch_size).batches(0, recipe.iterations)
    rows, values = [], []
    for number, batch in enumerate(order, start=1):
        params, state, value = step(params, state, fold.x_train[batch], fold.y_train[batch])
        values.append(float(value))
        if number % recipe.evaluate_every == 0:
            row = [float(np.mean(values[-recipe.evaluate_every :]))]
            for x, y in ((fold.x_validation, fold.y_validation), (fold.x_test, fold.y_test)):
                logits = np.asarray(nnx.merge(graph, params, weights.rest)(x))
                row += [float(loss(params, x, y)), float((logits.argmax(axis=1) == y).mean())]
            rows.append(row)
    return params, rows


@pytest.fixture(scope="module")
def sgd() -> tuple[Program, Weights]:
    return take_apart(Small(0), SGD)


def test_training_agrees_with_a_plain_loop(
    adam: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, (weights, *_) = adam
    masks = some_masks(weights, 5)
    found = train_trials(program, [Trial("one", weights, masks, seed=7)], small_fold)[0]
    params, rows = plain_loop(program, weights, masks, small_fold, 7)
    assert found.weights is not None
    for ours, theirs in zip(jax.tree.leaves(found.weights.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)
    curves = np.stack(list(found.curves.values()), axis=1)
    np.testing.assert_allclose(curves, rows, rtol=1e-4, atol=1e-5)
    assert list(found.curves) == [
        *("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
    ]
    assert found.iterations.tolist() == [20, 40, 60]


def test_pruned_weights_are_zero_in_all_that_is_kept_and_the_best_is_that_of_the_early_stop(
    adam: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, starts = adam
    overfitting = replace(program.recipe, learning_rate=0.3)  # its validation loss turns round
    program = replace(program, recipe=overfitting)
    trials = [Trial(str(k), weights, some_masks(weights, k), k) for k, weights in enumerate(starts)]
    early = []
    for trial, found in zip(trials, train_trials(program, trials, small_fold, snapshots=[20]), strict=True):
        assert found.weights is not None
        assert found.best is not None
        for held in (found.weights, found.best, found.snapshots[20]):
            for layer, mask in trial.masks.items():
                assert not np.asarray(held.params[layer]["kernel"])[~mask["kernel"]].any()
        network = put_together(program, found.best)
        logits = np.asarray(network(small_fold.x_test))
        accuracy = (logits.argmax(axis=1) == small_fold.y_test).mean()
        assert accuracy == pytest.approx(found.at_early("test_accuracy"))
        assert found.early == found.curves["validation_loss"].argmin()
        early.append(found.early_iteration)
    assert min(early) < 60


def test_trials_together_agree_with_trials_alone(
    adam: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, starts = adam
    trials = [Trial(str(k), weights, some_masks(weights, k), k) for k, weights in enumerate(starts)]
    beside = train_trials(program, trials, small_fold, together=False)
    stacked = train_trials(program, trials, small_fold, snapshots=[20], together=True)
    alone = train_trials(program, trials[1:2], small_fold, together=False)[0]
    assert bits(alone) == bits(beside[1])
    for ours, theirs in zip(stacked, beside, strict=True):
        for name, curve in ours.curves.items():
            np.testing.assert_allclose(curve, theirs.curves[name], rtol=1e-3, atol=1e-5)
    assert set(stacked[0].snapshots) == {20}
    assert np.shape(stacked[0].snapshots[20].params["hidden"]["kernel"]) == (16, 12)


def test_a_run_rewound_to_a_step_goes_on_as_the_first_one_did(
    sgd: tuple[Program, Weights], small_fold: ImageFold
) -> None:
    program, weights = sgd
    # without momentum a run has no memory but its weights, its place in the data and in the schedule
    whole = train_trials(program, [Trial("whole", weights, seed=3)], small_fold, snapshots=[0, 20])[0]
    rewound = train_trials(program, [Trial("rewound", whole.snapshots[20], seed=3, start=20)], small_fold)[0]
    assert rewound.iterations.tolist() == [40, 60]
    assert whole.weights is not None
    assert rewound.weights is not None
    first, second = (jax.tree.leaves(found.weights.params) for found in (whole, rewound))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(whole.snapshots[0].params["hidden"]["kernel"], weights.params["hidden"]["kernel"])


@pytest.mark.parametrize("together", [False, True])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    adam: tuple[Program, list[Weights]],
    small_fold: ImageFold,
    tmp_path: Path,
    together: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, starts = adam
    trials = [Trial(str(k), weights, some_masks(weights, k), k) for k, weights in enumerate(starts[:2])]
    options: dict[str, Any] = {"snapshots": [20], "together": together, "save_every": 0.0}
    wanted = train_trials(program, trials, small_fold, **options)

    class KilledError(Exception):
        pass

    def killer(done: int, total: int) -> None:
        assert total == 120
        if done >= 80:
            raise KilledError

    with pytest.raises(KilledError):
        train_trials(program, trials, small_fold, folder=tmp_path, progress=killer, **options)
    assert any((tmp_path / "under-way").iterdir())
    advanced: list[int] = []
    for name in ("advance", "advance_together"):
        step = getattr(qrt_tn.models.lottery.trials, name)

        def counted(*arguments: Any, step: Any = step) -> Any:
            advanced.append(1)
            return step(*arguments)

        monkeypatch.setattr(f"qrt_tn.models.lottery.trials.{name}", counted)
    steps: list[int] = []
    found = train_trials(
        program,
        trials,
        small_fold,
        folder=tmp_path,
        progress=lambda done, total: steps.append(done),
        **options,
    )
    assert [bits(trial) for trial in found] == [bits(trial) for trial in wanted]
    assert len(advanced) < (3 if together else 6)  # what was done before the kill is not done again
    before = len(advanced)
    assert steps[-1] == 120
    assert not any((tmp_path / "under-way").iterdir())
    # and once finished, nothing is trained again
    again = train_trials(program, trials, small_fold, folder=tmp_path, **options)
    assert [bits(trial) for trial in again] == [bits(trial) for trial in wanted]
    assert len(advanced) == before
    torn = next(tmp_path.glob("*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:100])
    assert bits(train_trials(program, trials, small_fold, folder=tmp_path, **options)[0]) == bits(wanted[0])


def test_batch_statistics_and_random_state_are_carried_along_and_saved(
    small_fold: ImageFold, tmp_path: Path
) -> None:
    program, weights = take_apart(Small(0, normal=True, dropout=0.5), RECIPE)
    assert program.graph != program.evaluated
    trial = Trial("one", weights, seed=1)
    found = train_trials(program, [trial], small_fold)[0]
    assert found.weights is not None
    mean = np.asarray(found.weights.rest["normal"]["mean"])
    assert np.abs(mean).max() > 0.05

    # evaluated with these averages, and without dropout: the same outputs for a point alone
    network = put_together(program, found.weights)
    x, y = small_fold.x_test, small_fold.y_test
    one_by_one = np.concatenate([np.asarray(network(x[k : k + 1])) for k in range(len(x))])
    accuracy = (one_by_one.argmax(axis=1) == y).mean()
    assert accuracy == pytest.approx(float(found.curves["test_accuracy"][-1]))

    def killer(done: int, total: int) -> None:
        if done == 40:
            raise KeyError

    with pytest.raises(KeyError):
        train_trials(program, [trial], small_fold, folder=tmp_path, save_every=0.0, progress=killer)
    resumed = train_trials(program, [trial], small_fold, folder=tmp_path)[0]
    steps: list[int] = []
    again = train_trials(
        program, [trial], small_fold, folder=tmp_path, progress=lambda done, total: steps.append(done)
    )[0]
    assert steps == [60]  # finished: read at once, random state and all
    for name, curve in resumed.curves.items():
        assert np.array_equal(curve, found.curves[name])
        assert np.array_equal(again.curves[name], curve)


def test_augmented_images_are_flips_and_shifts_of_their_own(small_fold: ImageFold) -> None:
    from qrt_tn.models.lottery.steps import _augmented

    x = jnp.asarray(small_fold.x_train[:40])
    seen = np.asarray(_augmented(x, jax.random.key(0)))
    padded = np.pad(np.asarray(x), ((0, 0), (4, 4), (4, 4), (0, 0)))
    flipped = padded[:, :, ::-1]
    places = []
    for k in range(40):
        candidates = {
            (flip, i, j): side[k, i : i + 4, j : j + 4]
            for flip, side in enumerate((padded, flipped))
            for i in range(9)
            for j in range(9)
        }
        hits = [place for place, image in candidates.items() if np.array_equal(image, seen[k])]
        assert hits
        places += hits if len(hits) == 1 else []
    assert {flip for flip, *_ in places} == {0, 1}
    assert len({(i, j) for _, i, j in places}) > 10
    assert not np.array_equal(seen, np.asarray(_augmented(x, jax.random.key(1))))


def test_diverged_training_is_told_when_it_is_pruned(
    sgd: tuple[Program, Weights], small_fold: ImageFold
) -> None:
    program, weights = sgd
    wild = replace(program, recipe=replace(SGD, learning_rate=1e30))
    found = train_trials(wild, [Trial("wild", weights)], small_fold)[0]
    assert found.weights is not None
    masks = full_masks(weights.params)
    with pytest.raises(ValueError, match="diverged"):
        prune_by_magnitude(found.weights.params, masks, dict.fromkeys(layers(masks), 0.2))


def test_trials_in_groups_agree_with_all_together_and_groups_keep_their_own_checkpoints(
    adam: tuple[Program, list[Weights]], small_fold: ImageFold, tmp_path: Path
) -> None:
    program, starts = adam
    trials = [Trial(str(k), weights, some_masks(weights, k), k) for k, weights in enumerate(starts)]
    together = train_trials(program, trials, small_fold, together=True)

    def killer(done: int, total: int) -> None:
        if done == 40:
            raise KeyError

    options: dict[str, Any] = {"folder": tmp_path, "save_every": 0.0}
    with pytest.raises(KeyError):
        train_trials(program, trials[:2], small_fold, together=2, progress=killer, **options)
    # another pair that begins with the same trial does not go on from that checkpoint
    train_trials(program, [trials[0], trials[2]], small_fold, together=2, **options)
    found = train_trials(program, trials, small_fold, together=2, **options)
    for ours, theirs in zip(found, together, strict=True):
        for name, curve in ours.curves.items():
            np.testing.assert_allclose(curve, theirs.curves[name], rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="together is -1"):
        train_trials(program, trials, small_fold, together=-1)


def test_a_run_goes_on_in_another_grouping(
    adam: tuple[Program, list[Weights]], small_fold: ImageFold, tmp_path: Path
) -> None:
    program, starts = adam
    trial = Trial("one", starts[0], seed=1)

    def killer(done: int, total: int) -> None:
        if done == 40:
            raise KeyError

    for before, after in ((False, 1), (1, False)):
        folder = tmp_path / str(before)
        with pytest.raises(KeyError):
            train_trials(
                program, [trial], small_fold, folder=folder, save_every=0, together=before, progress=killer
            )
        train_trials(program, [trial], small_fold, folder=folder, together=after)
        assert not any((folder / "under-way").iterdir())


def test_taking_a_network_apart_leaves_it_as_it_was() -> None:
    network = Small(0, normal=True, dropout=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16)), jnp.float32)
    first = network(x)
    take_apart(network, RECIPE)
    assert not np.array_equal(first, network(x))  # dropout is still drawn: it trains
