"""The sparse networks of one dense network: pruned to shares of its weights, trained, and compared."""

import math
import time
from collections.abc import Mapping
from functools import cached_property, partial
from itertools import product
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
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
    split,
    train_trials,
)
from qrt_tn.models.lottery.initial import masks_at_start
from qrt_tn.models.lottery.masks import Masks
from qrt_tn.models.lottery.study import RANDOM_STREAM, REPEATS
from qrt_tn.models.vision import architecture
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.lottery.settings import Lottery

REWOUND = ("imp", "reinit", "sign-reinit", "oneshot")  # whose masks or weights depend on the rewinding
SAID_EVERY = 10.0  # seconds
Row = Mapping[str, Any]


class Way(NamedTuple):
    """How a network is pruned: to which share, in how many rounds, and what survivors go back to."""

    share: float
    rounds: int
    rewind: int | Literal["rate"]


def measure(settings: Lottery, seed: int, context: Context) -> Mapping[str, list[Row]]:
    """Train the dense network of a seed, prune it in every way, train what is left, and compare.

    Weights, the order of points and random masks of seed s are those of trial s of `LotteryStudy`
    (models.lottery); the split stays. Trainings are kept in the point's folder, so it goes on after a kill.

    Args:
        settings: what to train and how to prune.
        seed: of weights, order of points and random masks.
        context: of the point.

    Returns:
        The tables of `EXPERIMENT`; accuracies are those at the early stop (least validation loss).

    Raises:
        ValueError: settings that do not fit each other or the data; nothing is trained then.
        UnavailableError: the images are not on this machine.
    """
    ways = [Way(*one) for one in product(settings.shares, settings.rounds, settings.rewind)]
    presets = {way: chosen_preset(settings, way) for way in ways}
    images = _images(settings.data or presets[ways[0]].data)
    context.say(images.describe())
    parts = fold(images, settings.split, presets[ways[0]].validation, settings.points or None)
    work = _Work(presets, settings, images, parts, seed, context)
    dense = work.dense
    context.say(f"dense: test accuracy {dense.at_early('test_accuracy'):.4f}")
    rows = [work.row(method, way) for way in ways for method in settings.methods]
    own = {"weights": counts(work.full)[0], "trainings": len(work.seconds)}
    seconds = {"training_seconds": sum(work.seconds.values())}
    return {"sparse": rows, "dense": [_at_early(dense) | own | seconds]}


def _at_early(trained: TrialResult) -> dict[str, float | int]:
    return {
        "accuracy": trained.at_early("test_accuracy"),
        "validation_loss": trained.at_early("validation_loss"),
        "early_iteration": trained.early_iteration,
    }


def chosen_preset(settings: Lottery, way: Way) -> Preset:
    """The preset with the point's changes, whose rates lead to a share in so many rounds.

    With r the preset's rate of dense layers (of convolutions, if that is 0) its share is reached after
    l = log(share) / log(1 - r) of the preset's own rounds. A layer of rate q keeps (1 - q)^l by then, in n
    rounds of rate 1 - (1 - q)^(l / n) each.

    Raises:
        ValueError: settings that a preset refuses, or a rewind that no evaluation meets.
    """
    changes: dict[str, Any] = {"rewind": 0 if way.rewind == "rate" else way.rewind, "trials": 1}
    for name in ("data", "validation", "iterations", "evaluate_every"):
        if getattr(settings, name):
            changes[name] = getattr(settings, name)
    found = preset(settings.preset, **changes)
    every = found.recipe.evaluate_every
    if found.rewind % every:
        raise ValueError(f"rewind is {found.rewind}; give a multiple of evaluate_every, {every}")
    of_preset = {name: getattr(found, name) for name in ("rate", "conv_rate", "output_rate")}
    base = of_preset["rate"] or of_preset["conv_rate"] or of_preset["output_rate"]
    power = math.log(way.share) / math.log1p(-base) / way.rounds
    rates = {name: 1 - (1 - rate) ** power for name, rate in of_preset.items()}
    return preset(settings.preset, **changes, levels=way.rounds, **rates)


def _images(data: str) -> Images:
    try:
        return load_images(data)
    except ValueError as error:  # on another machine it may well be there
        raise UnavailableError(str(error)) from error


class _Work:
    """Trainings and masks of one point.

    Args:
        presets: with the rates of each way.
        settings: of the point.
        images: the set.
        parts: its points.
        seed: of the point.
        context: likewise.

    Raises:
        ValueError: a layer that the rounds of some way would prune to nothing.

    Attributes:
        full: masks that keep everything.
        seconds: of training, by network.
    """

    def __init__(
        self,
        presets: Mapping[Way, Preset],
        settings: Lottery,
        images: Images,
        parts: ImageFold,
        seed: int,
        context: Context,
    ) -> None:
        self._presets, self._settings, self._images, self._parts = presets, settings, images, parts
        self._seed, self._context = seed, context
        self._chosen = next(iter(presets.values()))  # architecture and recipe are those of all
        self._program, self._initial = split(self._built(0), self._chosen.recipe)
        self.full = full_masks(self._initial.params)
        self._rates = {
            way: layer_rates(self.full, one.rate, one.conv_rate, one.output_rate)
            for way, one in presets.items()
        }
        # also sees that no layer ends empty, before anything is trained
        self._kept = {
            way: kept_counts(self.full, self._rates[way], way.rounds, one.scope)
            for way, one in presets.items()
        }
        self._tickets: dict[Way, tuple[Masks, Weights]] = {}
        self._said = time.monotonic()
        self.seconds: dict[str, float] = {}

    def _built(self, redraw: int) -> nnx.Module:
        return architecture(
            self._chosen.architecture,
            self._images.image_shape,
            self._images.outputs,
            rngs=nnx.Rngs(self._seed * REPEATS + redraw),
            kernel_init=getattr(jax.nn.initializers, self._chosen.initializer)(),
        )

    def _redrawn(self) -> Weights:
        """Another draw from the distribution of the initial weights."""
        return split(self._built(1), self._chosen.recipe)[1]

    @cached_property
    def dense(self) -> TrialResult:
        """The dense network of the seed, trained."""
        return self._train("dense", self._initial, self.full)

    def row(self, method: str, way: Way) -> Row:
        """What a method leaves of the network, trained, and set against the dense one."""
        masks, start = self._pruned(method, way)
        begun = way.rewind if method in ("imp", "oneshot") and way.rewind != "rate" else 0
        name = f"{method}-{way.share}-{way.rounds}"
        if method in REWOUND:
            name = f"{name}-{way.rewind}"
        trained = self._train(f"{name}-{way.rounds:02d}" if method == "imp" else name, start, masks, begun)
        if method != "imp":
            self._context.say(f"{name}: test accuracy {trained.at_early('test_accuracy'):.4f}")
        found, dense = _at_early(trained), _at_early(self.dense)
        return {
            **{"method": method, "share": way.share, "pruning_rounds": way.rounds, "back_to": way.rewind},
            **found,
            "gain": found["accuracy"] - dense["accuracy"],
            "early_ratio": found["early_iteration"] / dense["early_iteration"],
            "remaining": remaining(masks),
            "weights": counts(masks)[0],
        }

    def _train(self, name: str, weights: Weights, masks: Masks, start: int = 0) -> TrialResult:
        """Train one network, or take it from the point's folder."""
        back = {way.rewind for way in self._presets if way.rewind != "rate" and way.rewind > 0}
        trained = train_trials(
            self._program,
            [Trial(name, weights, masks, self._seed, start)],
            self._parts,
            snapshots=sorted(back) if name == "dense" else [],
            folder=self._context.folder / "trainings",
            progress=partial(self._say, name),
        )[0]
        self.seconds[name] = trained.seconds
        return trained

    def _say(self, name: str, done: int, total: int) -> None:
        if time.monotonic() - self._said > SAID_EVERY:
            self._said = time.monotonic()
            self._context.say(f"{name}: iteration {done} of {total}")

    def _pruned(self, method: str, way: Way) -> tuple[Masks, Weights]:
        """The masks of a method, and the weights that what they keep is trained from."""
        if method in ("imp", "reinit", "sign-reinit"):
            masks, start = self._ticket(way)
            if method == "imp":
                return masks, start
            redrawn = self._redrawn()
            if method == "sign-reinit":
                redrawn = Weights(keep_signs(redrawn.params, start.params, masks), redrawn.rest)
            return masks, redrawn
        if method == "random":
            return self._at_random(way), self._initial
        if method in ("oneshot", "oneshot-reinit"):
            dense = self.dense
            assert dense.weights is not None
            masks = self._at_once(magnitude_scores(dense.weights.params, self.full), way)
            return masks, self._rewound(way, dense) if method == "oneshot" else self._redrawn()
        if method == "magnitude-init":
            return self._at_once(magnitude_scores(self._initial.params, self.full), way), self._initial
        return self._globally(method, way), self._initial

    def _rewound(self, way: Way, last: TrialResult) -> Weights:
        """The weights that survivors of a round go back to."""
        if way.rewind == "rate":
            assert last.weights is not None
            return last.weights
        return self.dense.snapshots[way.rewind] if way.rewind else self._initial

    def _ticket(self, way: Way) -> tuple[Masks, Weights]:
        """The ticket of a way, round by round, before its own training."""
        if way in self._tickets:
            return self._tickets[way]
        masks, trained = self.full, self.dense
        for level in range(1, way.rounds + 1):
            assert trained.weights is not None
            masks = prune_by_magnitude(
                trained.weights.params, masks, self._rates[way], scope=self._presets[way].scope
            )
            start = self._rewound(way, trained)
            if level < way.rounds:
                name = f"imp-{way.share}-{way.rounds}-{way.rewind}-{level:02d}"
                trained = self._train(name, start, masks, 0 if way.rewind == "rate" else way.rewind)
                self._context.say(
                    f"round {level} of {way.rounds}: {remaining(masks):.2%} of the weights left, "
                    f"test accuracy {trained.at_early('test_accuracy'):.4f}"
                )
        self._tickets[way] = masks, start
        return masks, start

    def _at_random(self, way: Way) -> Masks:
        """A mask drawn at random, with as many weights a layer as the ticket."""
        kept = self._kept[way]
        if self._chosen.scope == "global":  # only the ticket knows how its total falls to the layers
            kept = {name: int(mask.sum()) for name, mask in layers(self._ticket(way)[0]).items()}
        stream = np.random.default_rng([RANDOM_STREAM, self._seed, way.rounds])
        return random_masks(self.full, kept, stream)

    def _at_once(self, scores: Mapping[str, np.ndarray], way: Way) -> Masks:
        return prune_by_scores(
            scores, self.full, self._rates[way], rounds=way.rounds, scope=self._presets[way].scope
        )

    def _globally(self, method: str, way: Way) -> Masks:
        """SNIP's or SynFlow's masks: both compare all layers that have a rate, down to the ticket's total."""
        held = layers(self.full)
        rated = [name for name in held if self._rates[way][name] > 0]
        kept = self._kept[way]
        left = sum(kept[name] for name in rated) if "" not in kept else kept[""]
        share = left / sum(held[name].size for name in rated)
        return masks_at_start(
            method, self._program, self._initial, self.full, rated, share, self._parts, self._seed
        )
