"""What is refused before a trial is trained, and what makes it another trial."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import Program, Trial, Weights, full_masks, split, train_trials
from qrt_tn.models.lottery.checks import checked_trials
from qrt_tn.models.lottery.store import TrialStore
from tests.models.lottery.conftest import RECIPE, Small, some_masks


def test_bad_input_is_refused_before_anything_is_trained(
    small: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, (weights, *_) = small
    good = Trial("one", weights)
    masks = full_masks(weights.params)
    nothing = {**masks, "output": {"bias": None, "kernel": np.zeros((12, 3), bool)}}
    infinite = small_fold.x_test.copy()
    infinite[3] = np.nan
    parts = ("train", "validation", "test")
    shaped = {f"x_{part}": getattr(small_fold, f"x_{part}")[:, :3] for part in parts}
    flat = {f"x_{part}": getattr(small_fold, f"x_{part}").reshape(-1, 16) for part in parts}
    greedy = replace(program, recipe=replace(RECIPE, batch_size=91))
    turned = replace(program, recipe=replace(RECIPE, augment=True))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("at least one", {"trials": []}),
        ("a name of its own", {"trials": [good, good]}),
        *((f"a trial is named '{name}'", {"trials": [Trial(name, weights)]}) for name in ("a/b", "", "a@b")),
        ("seed of 'one' is -1", {"trials": [replace(good, seed=-1)]}),
        ("'output/kernel' is pruned to nothing", {"trials": [replace(good, masks=nothing)]}),
        ("start 30 .* multiple of 20", {"trials": [replace(good, start=30)]}),
        ("snapshot 60", {"snapshots": [60]}),
        ("snapshots is '02'", {"snapshots": "02"}),
        ("snapshots is 20", {"snapshots": 20}),
        ("snapshot is '20'", {"snapshots": ["20"]}),
        ("together is -1", {"together": -1}),
        *((f"save_every is {every!r}", {"save_every": every}) for every in ("a", -1, np.nan, None)),
        ("validation labels go from 1 to 3", {"y_validation": small_fold.y_validation + 1}),
        ("train labels go from -1 to 1", {"y_train": small_fold.y_train - 1}),
        ("train labels are int32 of shape .30,.; give 90", {"y_train": small_fold.y_train[:30]}),
        ("test labels are float64", {"y_test": small_fold.y_test.astype(float)}),
        ("test points are float32, or not all finite", {"x_test": infinite}),
        ("validation points have shape", {"x_validation": small_fold.x_validation[:0]}),
        ("validation points have shape", {"x_validation": small_fold.x_validation[:, :3]}),
        ("does not take points of shape", shaped),
        ("augment needs images", {**flat, "program": turned}),
        ("batch_size is 91 but there are 90", {"program": greedy}),
    ]
    for message, changes in cases:
        arrays = {name: changes.pop(name) for name in list(changes) if name in vars(small_fold)}
        given = {"program": program, "trials": [good], "fold": replace(small_fold, **arrays), **changes}
        with pytest.raises(ValueError, match=message):
            train_trials(**given)


def test_a_network_that_draws_and_holds_what_is_no_kernel_passes_without_a_warning(
    small_fold: ImageFold, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    class Drawing(Small):
        """Draws in each call, as recurrent networks do their first state."""

        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.rngs, self.mixer = nnx.Rngs(seed), nnx.Param(jnp.ones((2, 2)))

        def __call__(self, x: jax.Array) -> jax.Array:
            self.rngs.params()
            return super().__call__(x)

    program, weights = split(Drawing(0), RECIPE)
    TrialStore(
        tmp_path, program, checked_trials(program, [Trial("dense", weights)], small_fold, []), small_fold
    )
    assert not recwarn.list


def test_a_folder_gives_no_trial_that_was_trained_otherwise(
    small: tuple[Program, list[Weights]], small_fold: ImageFold, tmp_path: Path
) -> None:
    class Other(Small):
        def __call__(self, x: jax.Array) -> jax.Array:
            return self.output(jnp.tanh(self.hidden(x.reshape(len(x), -1))))

    program, starts = small
    trial = Trial("one", starts[0], some_masks(starts[0], 0), seed=1)
    train_trials(program, [trial], small_fold, folder=tmp_path)
    shorter = replace(program, recipe=replace(program.recipe, iterations=40))
    turned, moved = small_fold.x_train[::-1].copy(), small_fold.x_test + 1
    others: list[tuple[Program, Trial, ImageFold]] = [
        (shorter, trial, small_fold),
        (split(Other(0), RECIPE)[0], trial, small_fold),
        (program, replace(trial, seed=2), small_fold),
        (program, replace(trial, weights=starts[1]), small_fold),
        (program, replace(trial, masks=some_masks(starts[0], 1)), small_fold),
        (program, replace(trial, start=20), small_fold),
        (program, trial, replace(small_fold, x_train=turned)),
        (program, trial, replace(small_fold, x_test=moved)),
    ]
    for changed, asked, fold in others:
        with pytest.raises(ValueError, match="trial of other weights, masks, data, seed or settings"):
            TrialStore(tmp_path, changed, [asked], fold).load(asked, [])
    assert TrialStore(tmp_path, program, [trial], small_fold).load(trial, []) is not None
