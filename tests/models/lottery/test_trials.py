"""Training of trials, against a plain loop, and taken up again after a kill."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from qrt_tn.models.checkpoint import to_arrays
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import (
    Program,
    Trial,
    TrialResult,
    Weights,
    full_masks,
    layers,
    merge,
    prune_by_magnitude,
    split,
    train_trials,
)
from qrt_tn.models.lottery.program import augmented
from qrt_tn.models.training import BatchOrder
from tests.models.lottery.conftest import RECIPE, Small, some_masks


class KilledError(Exception):
    pass


def killed_at(iterations: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= iterations:
            raise KilledError

    return progress


def bits(found: TrialResult) -> list[bytes]:
    return [leaf.tobytes() for leaf in to_arrays((found.curves, found.weights, found.best, found.snapshots))]


def trials_of(starts: list[Weights]) -> list[Trial]:
    return [Trial(str(k), weights, some_masks(weights, k), k) for k, weights in enumerate(starts)]


def plain_loop(
    program: Program, weights: Weights, masks: Any, fold: ImageFold, seed: int
) -> tuple[Any, list[list[float]]]:
    """The protocol once more, one step after the other: gradients times masks, and no wrapper."""
    graph, recipe = program.graph, program.recipe
    factors = jax.tree.map(lambda p: np.ones(p.shape, np.float32), weights.params)
    for layer, mask in masks.items():
        factors[layer]["kernel"] = mask["kernel"].astype(np.float32)
    params = jax.tree.map(np.multiply, weights.params, factors)
    optimizer = recipe.transform()
    state = optimizer.init(params)

    @jax.jit
    def measure(params: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = nnx.merge(graph, jax.tree.map(jnp.multiply, params, factors), weights.rest)(x)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()
        return loss, (logits.argmax(axis=1) == y).mean()

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        (value, _), gradient = jax.value_and_grad(measure, has_aux=True)(params, x, y)
        changes, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state, value

    order = BatchOrder(seed, len(fold.x_train), recipe.batch_size)(0, recipe.iterations)
    rows, values = [], []
    for number, batch in enumerate(order, start=1):
        params, state, value = step(params, state, fold.x_train[batch], fold.y_train[batch])
        values.append(float(value))
        if number % recipe.evaluate_every == 0:
            row = [float(np.mean(values[-recipe.evaluate_every :]))]
            for x, y in ((fold.x_validation, fold.y_validation), (fold.x_test, fold.y_test)):
                row += map(float, measure(params, x, y))
            rows.append(row)
    return params, rows


def test_training_agrees_with_a_plain_loop(
    small: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, (weights, *_) = small
    masks = some_masks(weights, 5)
    found = train_trials(program, [Trial("one", weights, masks, seed=7)], small_fold)[0]
    params, rows = plain_loop(program, weights, masks, small_fold, 7)
    assert found.weights is not None
    for ours, theirs in zip(jax.tree.leaves(found.weights.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(np.stack(list(found.curves.values()), axis=1), rows, rtol=1e-4, atol=1e-5)
    assert list(found.curves) == [
        *("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
    ]
    assert found.iterations.tolist() == [20, 40, 60]


def test_pruned_weights_are_zero_in_all_that_is_kept_and_the_best_is_that_of_the_early_stop(
    small: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, starts = small
    wrong = replace(small_fold, y_validation=(small_fold.y_validation + 1) % 3)  # its loss soon rises
    early = []
    for trial, found in zip(
        trials_of(starts), train_trials(program, trials_of(starts), wrong, snapshots=[20]), strict=True
    ):
        assert found.weights is not None
        assert found.best is not None
        for held in (found.weights, found.best, found.snapshots[20]):
            for layer, mask in trial.masks.items():
                assert not np.asarray(held.params[layer]["kernel"])[~mask["kernel"]].any()
        logits = np.asarray(merge(program, found.best)(wrong.x_test))
        accuracy = (logits.argmax(axis=1) == wrong.y_test).mean()
        assert accuracy == pytest.approx(found.at_early("test_accuracy"))
        assert found.early == found.curves["validation_loss"].argmin()
        early.append(found.early_iteration)
    assert min(early) < 60


def test_a_run_rewound_to_a_step_goes_on_as_the_first_one_did(
    small: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, (weights, *_) = small
    whole = train_trials(program, [Trial("whole", weights, seed=3)], small_fold, snapshots=[0, 20])[0]
    rewound = train_trials(program, [Trial("rewound", whole.snapshots[20], seed=3, start=20)], small_fold)[0]
    assert rewound.iterations.tolist() == [40, 60]
    first, second = (jax.tree.leaves(found.weights) for found in (whole, rewound))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(whole.snapshots[0].params["hidden"]["kernel"], weights.params["hidden"]["kernel"])

    # survivors are rewound to the same bits; and what diverged is told when it is pruned
    masks = some_masks(weights, 3)
    begun = train_trials(
        program, [Trial("s", whole.snapshots[20], masks, 3, 20)], small_fold, snapshots=[20]
    )[0].snapshots[20]
    for name, mask in layers(masks).items():
        layer, _ = name.split("/")
        expected = np.where(mask, whole.snapshots[20].params[layer]["kernel"], 0)
        assert np.array_equal(begun.params[layer]["kernel"], expected)
    wild = replace(small_fold, x_train=small_fold.x_train * np.float32(1e30))
    diverged = train_trials(program, [Trial("wild", weights)], wild)[0].weights
    assert diverged is not None
    full = full_masks(weights.params)
    with pytest.raises(ValueError, match="diverged"):
        prune_by_magnitude(diverged.params, full, dict.fromkeys(layers(full), 0.2))


def test_trials_together_agree_with_trials_alone_in_groups_that_keep_their_own_checkpoints(
    small: tuple[Program, list[Weights]], small_fold: ImageFold, tmp_path: Path
) -> None:
    program, starts = small
    trials = trials_of([*starts, starts[0]])
    beside = train_trials(program, trials, small_fold, together=False)
    assert bits(train_trials(program, trials[1:2], small_fold)[0]) == bits(beside[1])
    options: dict[str, Any] = {"folder": tmp_path, "save_every": 0.0, "snapshots": [20], "together": 2}
    with pytest.raises(KilledError):
        train_trials(program, trials[:2], small_fold, progress=killed_at(40), **options)
    # another pair that begins with the same trial does not go on from that checkpoint
    train_trials(program, [trials[0], trials[2]], small_fold, **options)
    for name in ("0", "2"):
        (tmp_path / f"{name}.safetensors").unlink()
    found = train_trials(program, trials, small_fold, **options)
    for ours, theirs in zip(found, beside, strict=True):
        for name, curve in ours.curves.items():
            np.testing.assert_allclose(curve, theirs.curves[name], rtol=1e-3, atol=1e-5)
    assert set(found[0].snapshots) == {20}
    assert np.shape(found[0].snapshots[20].params["hidden"]["kernel"]) == (16, 12)


@pytest.mark.parametrize("together", [False, True])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    small: tuple[Program, list[Weights]], small_fold: ImageFold, tmp_path: Path, together: bool
) -> None:
    program, starts = small
    if not together:  # in threads, with moments, batch statistics and random state
        recipe = replace(RECIPE, optimizer="adam", learning_rate=0.01)
        parts = [split(Small(seed, normal=True, dropout=0.5), recipe) for seed in range(2)]
        program, starts = parts[0][0], [weights for _, weights in parts]
        assert program.graph != program.evaluated
    trials = trials_of(starts[:2])
    options: dict[str, Any] = {"snapshots": [20], "together": together, "save_every": 0.0}
    wanted = train_trials(program, trials, small_fold, **options)
    with pytest.raises(KilledError):
        train_trials(program, trials, small_fold, folder=tmp_path, progress=killed_at(80), **options)
    assert any((tmp_path / "under-way").iterdir())
    steps: list[int] = []

    def resumed() -> list[list[bytes]]:
        steps.clear()
        found = train_trials(
            program,
            trials,
            small_fold,
            folder=tmp_path,
            progress=lambda done, total: steps.append(done),
            **options,
        )
        return [bits(result) for result in found]

    assert resumed() == [bits(result) for result in wanted]
    assert steps[-1] == 120
    assert len(steps) < (3 if together else 6)  # what was done before the kill is not done again
    assert not any((tmp_path / "under-way").iterdir())
    assert resumed() == [bits(result) for result in wanted]
    assert steps == [60, 120]  # once finished, nothing is trained again
    if not together:
        torn = next(tmp_path.glob("*.safetensors"))
        torn.write_bytes(torn.read_bytes()[:100])
        assert resumed() == [bits(result) for result in wanted]
        # evaluated with running averages, and without dropout: a point's outputs do not depend on others
        weights = wanted[0].weights
        assert weights is not None
        assert np.abs(np.asarray(weights.rest["normal"]["mean"])).max() > 0.05
        alone = jax.jit(jax.vmap(lambda point: merge(program, weights)(point[None])[0]))
        accuracy = (np.asarray(alone(small_fold.x_test)).argmax(axis=1) == small_fold.y_test).mean()
        assert accuracy == pytest.approx(float(wanted[0].curves["test_accuracy"][-1]))


def test_other_snapshots_are_taken_anew_from_a_trial_that_is_finished_or_under_way(
    small: tuple[Program, list[Weights]], small_fold: ImageFold, tmp_path: Path
) -> None:
    program, (weights, *_) = small
    trials = [Trial("0", weights)]
    wanted = train_trials(program, trials, small_fold, snapshots=[20, 40])[0].snapshots
    with pytest.raises(KilledError):
        train_trials(program, trials, small_fold, snapshots=[20], folder=tmp_path, progress=killed_at(40))
    for place in (20, 40, 20):
        found = train_trials(program, trials, small_fold, snapshots=[place], folder=tmp_path)[0].snapshots
        assert list(found) == [place]
        assert np.array_equal(
            found[place].params["hidden"]["kernel"], wanted[place].params["hidden"]["kernel"]
        )


def test_augmented_images_are_flips_and_shifts_of_their_own(small_fold: ImageFold) -> None:
    x = jnp.asarray(small_fold.x_train[:40])
    call = jax.jit(augmented)
    seen = np.asarray(call(x, jax.random.key(0)))
    padded = np.pad(np.asarray(x), ((0, 0), (4, 4), (4, 4), (0, 0)))
    places = []
    for k in range(40):
        candidates = {
            (flip, i, j): side[k, i : i + 4, j : j + 4]
            for flip, side in enumerate((padded, padded[:, :, ::-1]))
            for i in range(9)
            for j in range(9)
        }
        hits = [place for place, image in candidates.items() if np.array_equal(image, seen[k])]
        assert hits
        places += hits if len(hits) == 1 else []
    assert {flip for flip, *_ in places} == {0, 1}
    assert len({(i, j) for _, i, j in places}) > 10
    assert not np.array_equal(seen, np.asarray(call(x, jax.random.key(1))))


def test_splitting_a_network_leaves_it_as_it_was() -> None:
    network = Small(0, normal=True, dropout=0.5)
    before = jax.tree.map(np.asarray, to_arrays(nnx.state(network)))
    split(network, RECIPE)
    assert not network.dropout.deterministic and not network.normal.use_running_average  # it trains
    assert all(map(np.array_equal, before, to_arrays(nnx.state(network))))
