"""One sparse network of a study: pruned to a share of its weights, trained, and set against the dense one."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from qrt_tn.models.images import ImageFold, Images, fold, load_images
from qrt_tn.models.lottery import (
    Preset,
    Trial,
    TrialResult,
    Weights,
    counts,
    full_masks,
    keep_signs,
    kept_counts,
    layer_rates,
    layers,
    magnitude_scores,
    preset,
    prune_by_magnitude,
    prune_by_scores,
    random_masks,
    remaining,
    snip_scores,
    split,
    synflow_masks,
    train_trials,
)
from qrt_tn.models.lottery.masks import Masks, Params, with_layers
from qrt_tn.models.lottery.study import RANDOM_STREAM, REPEATS, SNIP_POINTS
from qrt_tn.models.training import BatchOrder
from qrt_tn.models.vision import architecture
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.lottery.settings import Lottery

ROUND_BY_ROUND = ("imp", "reinit", "sign-reinit")
TRAINED_FIRST = ("oneshot", "oneshot-reinit")
SAID_EVERY = 10.0  # seconds


def measure(settings: Lottery, seed: int, context: Context) -> Mapping[str, float | int | None]:
    """Train the dense network of a seed, prune it by a method, train what is left, and compare both.

    Weights, the order of points and random masks of seed s are those of trial s of `LotteryStudy`
    (models.lottery); the split stays. Trainings are kept in the point's folder, so it goes on after a kill.

    Args:
        settings: what to train and how to prune.
        seed: of weights, order of points and random masks.
        context: of the point.

    Returns:
        The metrics of `EXPERIMENT`; accuracies are those at the early stop (least validation loss).
        `smallest_share` is that of the rounds of "imp" and "oneshot" alone, 1 where none was as good.

    Raises:
        ValueError: settings that do not fit each other or the data; nothing is trained then.
        UnavailableError: the images are not on this machine.
    """
    chosen = chosen_preset(settings)
    images = _images(chosen.data)
    context.say(images.describe())
    parts = fold(images, settings.split, chosen.validation, settings.points or None)
    work = _Work(chosen, settings, images, parts, seed, context)
    dense = work.train("dense", work.initial(), work.full)
    context.say(f"dense: test accuracy {dense.at_early('test_accuracy'):.4f}")
    sparse = work.pruned(dense)
    if settings.method == "imp":
        trained = sparse.rounds[-1][1]
    else:
        start = chosen.rewind if settings.method == "oneshot" else 0
        trained = work.train(settings.method, sparse.start, sparse.masks, start)
    rounds = sparse.rounds if settings.method != "oneshot" else [(remaining(sparse.masks), trained)]
    accuracy, whole = (run.at_early("test_accuracy") for run in (trained, dense))
    return {
        "accuracy": accuracy,
        "accuracy_dense": whole,
        "gain": accuracy - whole,
        "validation_loss": trained.at_early("validation_loss"),
        "early_iteration": trained.early_iteration,
        "early_ratio": trained.early_iteration / dense.early_iteration,
        "remaining": remaining(sparse.masks),
        "weights": counts(sparse.masks)[0],
        "smallest_share": smallest_share(dense, rounds) if rounds else None,
        "trainings": work.trainings,
        "training_seconds": work.seconds,
    }


def chosen_preset(settings: Lottery) -> Preset:
    """The preset with the point's changes, whose rates lead to its share in its rounds.

    With r the preset's rate of dense layers (of convolutions, if that is 0) its share is reached after
    l = log(share) / log(1 - r) of the preset's own rounds. A layer of rate q keeps (1 - q)^l by then, in n
    rounds of rate 1 - (1 - q)^(l / n) each.

    Raises:
        ValueError: settings that a preset refuses, or a rewind that no evaluation meets.
    """
    changes: dict[str, Any] = {"rewind": settings.rewind, "trials": 1}
    for name in ("data", "validation", "iterations", "evaluate_every"):
        if getattr(settings, name):
            changes[name] = getattr(settings, name)
    found = preset(settings.preset, **changes)
    every = found.recipe.evaluate_every
    if found.rewind % every:
        raise ValueError(f"rewind is {found.rewind}; give a multiple of evaluate_every, {every}")
    of_preset = {name: getattr(found, name) for name in ("rate", "conv_rate", "output_rate")}
    base = of_preset["rate"] or of_preset["conv_rate"] or of_preset["output_rate"]
    power = math.log(settings.share) / math.log1p(-base) / settings.rounds
    rates = {name: 1 - (1 - rate) ** power for name, rate in of_preset.items()}
    return preset(settings.preset, **changes, levels=settings.rounds, **rates)


def smallest_share(dense: TrialResult, rounds: list[tuple[float, TrialResult]]) -> float:
    """The smallest share left by a round that validates at least as well as the dense network; else 1."""
    wanted = dense.at_early("validation_accuracy")
    return min([1.0, *(share for share, run in rounds if run.at_early("validation_accuracy") >= wanted)])


def _images(data: str) -> Images:
    try:
        return load_images(data)
    except ValueError as error:  # on another machine it may well be there
        raise UnavailableError(str(error)) from error


@dataclass(frozen=True, eq=False)
class _Sparse:
    """What a method leaves of a network.

    Attributes:
        masks: what is kept.
        start: the weights that it is trained from.
        rounds: the share left and the network of each round of the ticket, where it is one.
    """

    masks: Masks
    start: Weights
    rounds: list[tuple[float, TrialResult]] = field(default_factory=list)


class _Work:
    """Trainings and masks of one point.

    Args:
        chosen: the preset, with the point's rates.
        settings: of the point.
        images: the set.
        parts: its points.
        seed: of the point.
        context: likewise.

    Raises:
        ValueError: a layer that the rounds would prune to nothing.
    """

    def __init__(
        self,
        chosen: Preset,
        settings: Lottery,
        images: Images,
        parts: ImageFold,
        seed: int,
        context: Context,
    ) -> None:
        self._chosen, self._settings, self._images, self._parts = chosen, settings, images, parts
        self._seed, self._context = seed, context
        self._program, self._initial = split(self._built(0), chosen.recipe)
        self.full = full_masks(self._initial.params)
        self._rates = layer_rates(self.full, chosen.rate, chosen.conv_rate, chosen.output_rate)
        # also sees that no layer ends empty, before anything is trained
        self._kept = kept_counts(self.full, self._rates, settings.rounds, chosen.scope)
        self._said = time.monotonic()
        self.trainings, self.seconds = 0, 0.0

    def initial(self, redraw: int = 0) -> Weights:
        """The untrained network of the seed; redraw 1 is another draw from the same distribution."""
        if redraw == 0:
            return self._initial
        return split(self._built(redraw), self._chosen.recipe)[1]

    def _built(self, redraw: int) -> nnx.Module:
        return architecture(
            self._chosen.architecture,
            self._images.image_shape,
            self._images.outputs,
            rngs=nnx.Rngs(self._seed * REPEATS + redraw),
            kernel_init=getattr(jax.nn.initializers, self._chosen.initializer)(),
        )

    def train(self, name: str, weights: Weights, masks: Masks, start: int = 0) -> TrialResult:
        """Train one network, or take it from the point's folder."""
        rewind = self._chosen.rewind
        wanted = name == "dense" and rewind and self._settings.rewinding == "weights"
        trained = train_trials(
            self._program,
            [Trial(name, weights, masks, self._seed, start)],
            self._parts,
            snapshots=[rewind] if wanted else [],
            folder=self._context.folder / "trainings",
            progress=partial(self._say, name),
        )[0]
        self.trainings += 1
        self.seconds += trained.seconds
        return trained

    def _say(self, name: str, done: int, total: int) -> None:
        if time.monotonic() - self._said > SAID_EVERY:
            self._said = time.monotonic()
            self._context.say(f"{name}: iteration {done} of {total}")

    def pruned(self, dense: TrialResult) -> _Sparse:
        """What the method leaves, and where it starts.

        Args:
            dense: the trained dense network.
        """
        method = self._settings.method
        if method in ROUND_BY_ROUND:
            ticket = self._round_by_round(dense)
            if method == "imp":
                return ticket
            redrawn = self.initial(1)
            if method == "sign-reinit":
                signed = keep_signs(redrawn.params, ticket.start.params, ticket.masks)
                redrawn = Weights(signed, redrawn.rest)
            return _Sparse(ticket.masks, redrawn)
        start = self._initial
        if method in TRAINED_FIRST:
            start = self._rewound(dense, dense) if method == "oneshot" else self.initial(1)
        return _Sparse(self._masks(method, dense), start)

    def _masks(self, method: str, dense: TrialResult) -> Masks:
        """The masks of a method that prunes at once."""
        if method == "random":
            return self._at_random(dense)
        if method in TRAINED_FIRST:
            assert dense.weights is not None
            return self._at_once(magnitude_scores(dense.weights.params, self.full))
        if method == "magnitude-init":
            return self._at_once(magnitude_scores(self._initial.params, self.full))
        return self._globally(method)

    def _rewound(self, dense: TrialResult, last: TrialResult) -> Weights:
        """The weights that survivors of a round go back to."""
        if self._settings.rewinding == "rate":
            assert last.weights is not None
            return last.weights
        return dense.snapshots[self._chosen.rewind] if self._chosen.rewind else self._initial

    def _round_by_round(self, dense: TrialResult) -> _Sparse:
        """The ticket; in a control's place the last round prunes, but trains no ticket."""
        settings = self._settings
        found = _Sparse(self.full, self._initial)
        trained = dense
        for level in range(1, settings.rounds + 1):
            assert trained.weights is not None
            masks = prune_by_magnitude(
                trained.weights.params, found.masks, self._rates, scope=self._chosen.scope
            )
            found = _Sparse(masks, self._rewound(dense, trained), found.rounds)
            if level == settings.rounds and settings.method != "imp":
                break
            trained = self.train(f"imp-{level:02d}", found.start, masks, self._chosen.rewind)
            found.rounds.append((remaining(masks), trained))
            self._context.say(
                f"round {level} of {settings.rounds}: {remaining(masks):.2%} of the weights left, "
                f"test accuracy {trained.at_early('test_accuracy'):.4f}"
            )
        return found

    def _at_random(self, dense: TrialResult) -> Masks:
        """A mask drawn at random, with as many weights a layer as the ticket."""
        kept = self._kept
        if self._chosen.scope == "global":  # only the ticket knows how its total falls to the layers
            ticket = layers(self._round_by_round(dense).masks)
            kept = {name: int(mask.sum()) for name, mask in ticket.items()}
        stream = np.random.default_rng([RANDOM_STREAM, self._seed, self._settings.rounds])
        return random_masks(self.full, kept, stream)

    def _at_once(self, scores: Mapping[str, np.ndarray]) -> Masks:
        rounds, scope = self._settings.rounds, self._chosen.scope
        return prune_by_scores(scores, self.full, self._rates, rounds=rounds, scope=scope)

    def _globally(self, method: str) -> Masks:
        """SNIP's or SynFlow's masks: both compare all layers that have a rate, down to the ticket's total."""
        held = layers(self.full)
        rated = [name for name in held if self._rates[name] > 0]
        left = sum(self._kept[name] for name in rated) if "" not in self._kept else self._kept[""]
        share = left / sum(held[name].size for name in rated)
        params, rest = self._initial.params, self._initial.rest
        if method == "snip":
            scores = snip_scores(self._snip_loss(), params, self.full)
            return prune_by_scores(scores, self.full, dict.fromkeys(rated, 1 - share), scope="global")
        prunable = with_layers(self.full, dict.fromkeys(set(held) - set(rated)))
        shape = self._parts.x_train.shape[1:]

        def outputs(params: Params, x: jax.Array) -> jax.Array:
            found: jax.Array = nnx.merge(self._program.evaluated, params, rest)(x)
            return found

        flowing = synflow_masks(outputs, params, prunable, share, shape=shape)
        return with_layers(self.full, layers(flowing))

    def _snip_loss(self) -> Callable[[Params], Any]:
        """The loss of the initial network on one batch of its first points, ten a class."""
        x, y = self._parts.x_train, self._parts.y_train
        size = min(len(x), SNIP_POINTS * (1 + int(y.max())))
        batch = BatchOrder(self._seed, len(x), size)(0, 1)[0]

        def loss(params: Params) -> Any:
            outputs = nnx.merge(self._program.graph, params, self._initial.rest)(x[batch])
            return optax.softmax_cross_entropy_with_integer_labels(outputs, y[batch]).mean()

        return loss
