"""What is refused before a trial is trained, and what makes it another trial."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import Program, Trial, Weights, full_masks, take_apart, train_trials
from tests.models.lottery.conftest import RECIPE, Small, some_masks


def test_bad_input_is_refused_before_anything_is_trained(
    adam: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, (weights, *_) = adam
    good = Trial("one", weights)
    masks = full_masks(weights.params)
    nothing = {**masks, "output": {"bias": None, "kernel": np.zeros((12, 3), bool)}}
    other = {**masks, "output": {"bias": None, "kernel": np.ones((3, 12), bool)}}
    wide = replace(small_fold, y_validation=small_fold.y_validation + 1)
    shaped = replace(
        small_fold,
        **{f"x_{part}": getattr(small_fold, f"x_{part}")[:, :3] for part in ("train", "validation", "test")},
    )
    cases: list[tuple[list[Trial], ImageFold, dict[str, Any], str]] = [
        ([], small_fold, {}, "at least one"),
        ([good, good], small_fold, {}, "a name of its own"),
        ([replace(good, masks=nothing)], small_fold, {}, "'output/kernel' is pruned to nothing"),
        ([replace(good, masks=other)], small_fold, {}, "has shape"),
        ([replace(good, start=30)], small_fold, {}, "start 30 .* multiple of 20"),
        ([good], small_fold, {"snapshots": [60]}, "snapshot 60"),
        ([good], wide, {}, "label 3 is outside 0..2"),
        ([good], shaped, {}, "does not take points of shape"),
    ]
    for trials, fold, options, message in cases:
        with pytest.raises(ValueError, match=message):
            train_trials(program, trials, fold, **options)
    greedy = replace(program, recipe=replace(RECIPE, batch_size=91))
    with pytest.raises(ValueError, match="batch_size is 91 but there are 90"):
        train_trials(greedy, [good], small_fold)


def test_a_folder_gives_no_trial_that_was_trained_otherwise(
    adam: tuple[Program, list[Weights]], small_fold: ImageFold, tmp_path: Path
) -> None:
    program, starts = adam
    trial = Trial("one", starts[0], some_masks(starts[0], 0), seed=1)
    train_trials(program, [trial], small_fold, folder=tmp_path)
    shorter = replace(program, recipe=replace(program.recipe, iterations=40))
    others: list[tuple[Program, Trial, ImageFold]] = [
        (shorter, trial, small_fold),
        (program, replace(trial, seed=2), small_fold),
        (program, replace(trial, weights=starts[1]), small_fold),
        (program, replace(trial, masks=some_masks(starts[0], 1)), small_fold),
        (program, replace(trial, start=20), small_fold),
        (program, trial, replace(small_fold, x_train=small_fold.x_train[::-1].copy())),
    ]
    for changed, asked, fold in others:
        with pytest.raises(ValueError, match="trial of other weights, masks, data, seed or settings"):
            train_trials(changed, [asked], fold, folder=tmp_path)


def test_points_labels_and_names_that_cannot_be_trained_on_are_refused(
    adam: tuple[Program, list[Weights]], small_fold: ImageFold
) -> None:
    program, (weights, *_) = adam
    infinite = small_fold.x_test.copy()
    infinite[3] = np.nan
    cases: list[tuple[dict[str, Any], str]] = [
        ({"y_train": small_fold.y_train - 1}, "train label -1 is outside 0..2"),
        ({"y_train": small_fold.y_train[:30]}, "train labels are int32 of shape .30,.; give 90 integers"),
        ({"y_test": small_fold.y_test.astype(float)}, "test labels are float64"),
        ({"x_test": infinite}, "test points are float32, or not all finite"),
        ({"x_validation": small_fold.x_validation[:0]}, "validation points have shape"),
        ({"x_validation": small_fold.x_validation[:, :3]}, "validation points have shape"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            train_trials(program, [Trial("one", weights)], replace(small_fold, **change))
    for name in ("a/b", "../zz", "", "a@b"):
        with pytest.raises(ValueError, match="a trial is named"):
            train_trials(program, [Trial(name, weights)], small_fold)
    with pytest.raises(ValueError, match="seed of 'one' is -1"):
        train_trials(program, [Trial("one", weights, seed=-1)], small_fold)
    flat = ImageFold(*(v.reshape(len(v), -1) if v.ndim > 1 else v for v in vars(small_fold).values()))
    turned = replace(program, recipe=replace(program.recipe, augment=True))
    with pytest.raises(ValueError, match="augment needs images"):
        train_trials(turned, [Trial("one", weights)], flat)


def test_networks_of_other_functions_and_points_beyond_the_first_are_other_trials(
    small_fold: ImageFold, tmp_path: Path
) -> None:
    class Other(Small):
        def __call__(self, x: jax.Array) -> jax.Array:
            return self.output(jnp.tanh(self.hidden(x.reshape(len(x), -1))))

    program, weights = take_apart(Small(0), RECIPE)
    trial = Trial("one", weights)
    train_trials(program, [trial], small_fold, folder=tmp_path)
    changed = replace(small_fold, x_test=small_fold.x_test + 1)
    with pytest.raises(ValueError, match="trial of other"):
        train_trials(program, [trial], changed, folder=tmp_path)
    with pytest.raises(ValueError, match="trial of other"):
        train_trials(take_apart(Other(0), RECIPE)[0], [trial], small_fold, folder=tmp_path)
