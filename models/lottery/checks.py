"""Trials to train: checks before training, and the hashes that finished trials are found by."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from flax import nnx

from qrt_tn.engine.arguments import check_whole
from qrt_tn.engine.checkpoints import identity
from qrt_tn.models.checkpoint import to_arrays
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery.masks import Masks, check_masks, full_masks, is_prunable
from qrt_tn.models.lottery.program import Program, Weights, merge
from qrt_tn.models.training import BatchOrder

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # of a file, on any system


@dataclass(frozen=True, eq=False)
class Trial:
    """One network to train.

    Attributes:
        name: names its files in a checkpoint folder; each trial of a call has its own.
        weights: where it starts.
        masks: what is pruned, or None for a dense network.
        seed: of the order of points, and of augmentation.
        start: the iteration it starts at, above 0 after rewinding.
        keep: whether its trained weights are wanted, not only its curves.
    """

    name: str
    weights: Weights
    masks: Masks | None = None
    seed: int = 0
    start: int = 0
    keep: bool = True


def with_masks(trial: Trial) -> Trial:
    """The trial with masks, which keep everything where it has none.

    Raises:
        ValueError: masks that do not fit the weights.
    """
    # with its rule given, it does not warn of what a dense network leaves unpruned
    masks = full_masks(trial.weights.params, is_prunable) if trial.masks is None else trial.masks
    check_masks(masks, trial.weights.params)
    return replace(trial, masks=masks)


def check_trials(
    program: Program, trials: Sequence[Trial], fold: ImageFold, snapshots: Sequence[int]
) -> None:
    """Check that trials can be trained side by side.

    Raises:
        ValueError: no trials, names that are no file names or stand twice, networks of different shapes,
            starts or snapshots that no evaluation meets, a negative seed, or what `check_fold` refuses.
    """
    recipe = program.recipe
    names = [trial.name for trial in trials]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"the trials are named {names}; give at least one, each a name of its own")
    shapes = [list(map(np.shape, jax.tree.leaves(trial.weights))) for trial in trials]
    for trial, own in zip(trials, shapes, strict=True):
        if not NAME.fullmatch(trial.name):
            raise ValueError(f"a trial is named {trial.name!r}; give letters, digits, '_', '-' and '.' only")
        check_whole(f"the seed of {trial.name!r}", trial.seed, 0)
        if own != shapes[0]:
            raise ValueError(
                f"{trial.name!r} has arrays of other shapes than {names[0]!r}; train it by itself"
            )
    for kind, iterations in (("start", [trial.start for trial in trials]), ("snapshot", snapshots)):
        for iteration in iterations:
            if not 0 <= iteration < recipe.iterations or iteration % recipe.evaluate_every:
                raise ValueError(
                    f"{kind} {iteration} is not an iteration that is evaluated: give a multiple of"
                    f" {recipe.evaluate_every} from 0 to below {recipe.iterations}"
                )
    check_fold(program, trials[0].weights, fold)


def check_fold(program: Program, weights: Weights, fold: ImageFold) -> None:
    """Check that a network can be trained on points.

    Raises:
        ValueError: no points, values that are not finite, images of another shape than the network takes or
            than the others, labels that are not one integer a point within the network's outputs, a batch
            larger than the training set, or augmentation of what is no image.
    """
    shape = np.shape(fold.x_train)[1:]
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
    BatchOrder(0, len(fold.x_train), program.recipe.batch_size)
    if program.recipe.augment and len(shape) != 3:
        raise ValueError(f"augment needs images (height, width, channels); the points have shape {shape}")
    try:
        point = jax.ShapeDtypeStruct((1, *shape), np.float32)
        # put together inside, as networks may count what they draw: recurrent ones draw their first state
        outputs = jax.eval_shape(lambda held, x: merge(program, held)(x), weights, point).shape[-1]
    except (TypeError, ValueError) as error:
        raise ValueError(f"the network does not take points of shape {shape}: {error}") from error
    for part in ("train", "validation", "test"):
        labels = np.asarray(getattr(fold, f"y_{part}"))
        for label in (int(labels.min()), int(labels.max())):
            if not 0 <= label < outputs:
                raise ValueError(
                    f"{part} label {label} is outside 0..{outputs - 1}, the network's outputs; give it"
                    f" {max(label + 1, 1)} outputs, or other labels"
                )


def identities(program: Program, trials: Sequence[Trial], fold: ImageFold) -> dict[str, str]:
    """Hashes of what each trial's outcome depends on: weights, masks, seed, start, recipe and points."""
    data = identity({}, dict(enumerate(vars(fold).values())))
    weights = trials[0].weights
    # what the network computes, as JAX sees it, less the addresses in its text
    point = np.zeros((1, *fold.x_train.shape[1:]), np.float32)
    traced = (
        jax.make_jaxpr(lambda params, rest, x, graph=graph: nnx.merge(graph, params, rest)(x))(
            weights.params, weights.rest, point
        )
        for graph in (program.graph, program.evaluated)
    )
    computed = [re.sub(r"0x[0-9a-f]+", "", str(text)) for text in traced]
    return {
        trial.name: identity(
            {
                "recipe": program.recipe,
                "seed": trial.seed,
                "start": trial.start,
                "data": data,
                "computed": computed,
            },
            dict(enumerate(to_arrays((trial.weights, trial.masks)))),
        )
        for trial in trials
    }
