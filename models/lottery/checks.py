"""Trials to train, and what is checked before any of them is."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery.masks import Masks, check_masks, full_masks, is_prunable
from qrt_tn.models.lottery.program import Program, Weights, merge
from qrt_tn.models.tables import first_line
from qrt_tn.models.training import BatchOrder

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # of a file, on any system


@dataclass(frozen=True, eq=False)
class Trial:
    """One network to train, named as its files are.

    It starts from `weights` at iteration `start`, above 0 after rewinding; the seed draws the order of points
    and augmentation. Without `keep` only its curves are wanted, not its trained weights.
    """

    name: str
    weights: Weights
    masks: Masks | None = None
    seed: int = 0
    start: int = 0
    keep: bool = True


def checked_trials(
    program: Program, trials: Sequence[Trial], fold: ImageFold, snapshots: Sequence[int]
) -> list[Trial]:
    """The trials, those without masks with such as keep everything, if they can be trained side by side."""
    recipe, names = program.recipe, [trial.name for trial in trials]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"the trials are named {names}; give at least one, each a name of its own")
    shapes = [list(map(np.shape, jax.tree.leaves(trial.weights))) for trial in trials]
    found = []
    for trial, own in zip(trials, shapes, strict=True):
        if not _NAME.fullmatch(trial.name):
            raise ValueError(f"a trial is named {trial.name!r}; give letters, digits, '_', '-' and '.' only")
        check_whole(f"the seed of {trial.name!r}", trial.seed, 0)
        if own != shapes[0]:
            raise ValueError(
                f"{trial.name!r} has arrays of other shapes than {names[0]!r}; train it by itself"
            )
        params, masks = trial.weights.params, trial.masks
        if masks is None:  # with its rule given, it does not warn of what a dense network leaves unpruned
            masks = full_masks(params, is_prunable)
        check_masks(masks, params)
        found.append(replace(trial, masks=masks))
    if isinstance(snapshots, str) or not isinstance(snapshots, Collection):
        raise ValueError(f"snapshots is {snapshots!r}; give a list of iterations")
    for kind, iterations in (("start", [trial.start for trial in trials]), ("snapshot", snapshots)):
        for iteration in iterations:
            check_whole(kind, iteration, 0)
            if iteration >= recipe.iterations or iteration % recipe.evaluate_every:
                raise ValueError(
                    f"{kind} {iteration} is not an iteration that is evaluated: give a multiple of"
                    f" {recipe.evaluate_every} from 0 to below {recipe.iterations}"
                )
    check_fold(program, trials[0].weights, fold)
    return found


def check_fold(program: Program, weights: Weights, fold: ImageFold) -> None:
    """Check that a network can be trained on points."""
    shape = np.shape(fold.x_train)[1:]
    try:
        point = jax.ShapeDtypeStruct((1, *shape), np.float32)
        # put together inside, as networks may count what they draw: recurrent ones draw their first state
        outputs = jax.eval_shape(lambda held, x: merge(program, held)(x), weights, point).shape[-1]
    except (TypeError, ValueError) as error:
        raise ValueError(f"the network does not take points of shape {shape}: {first_line(error)}") from error
    for part in ("train", "validation", "test"):
        x, y = np.asarray(getattr(fold, f"x_{part}")), np.asarray(getattr(fold, f"y_{part}"))
        if len(x) == 0 or x.shape[1:] != shape:
            raise ValueError(
                f"the {part} points have shape {x.shape}; give (points, {', '.join(map(str, shape))})"
            )
        if x.dtype.kind != "f" or not np.isfinite(x).all():
            raise ValueError(f"the {part} points are {x.dtype}, or not all finite; give finite floats")
        if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
            raise ValueError(f"the {part} labels are {y.dtype} of shape {y.shape}; give {len(x)} integers")
        if y.min() < 0 or y.max() >= outputs:
            raise ValueError(
                f"the {part} labels go from {y.min()} to {y.max()}, the network's outputs from 0 to"
                f" {outputs - 1}; give it more outputs, or other labels"
            )
    BatchOrder(0, len(fold.x_train), program.recipe.batch_size)
    if program.recipe.augment and len(shape) != 3:
        raise ValueError(f"augment needs images (height, width, channels); the points have shape {shape}")
