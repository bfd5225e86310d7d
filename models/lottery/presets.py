"""How a lottery ticket study trains and prunes each network: recipes, and the settings of the paper.

The paper is Frankle and Carbin, The lottery ticket hypothesis (ICLR 2019, arXiv 1803.03635).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.models.lottery.pruning import SCOPES
from qrt_tn.models.vision import ARCHITECTURES

OPTIMIZERS = ("adam", "sgd")
INITIALIZERS = tuple(
    f"{name}_{shape}" for name in ("glorot", "he", "lecun") for shape in ("normal", "uniform")
)


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes:
        optimizer: "adam", or "sgd".
        learning_rate: the rate after the warm-up and before the first drop.
        momentum: of sgd, which adds momentum times the last direction to each gradient; 0 for adam.
        weight_decay: this share of every parameter is added to its gradient (an L2 penalty).
        drops: rising iterations; from each one on the rate is a tenth of what it was. Those at or after
            the last iteration never happen, so that a shortened run is the beginning of the whole one.
        warmup: iterations over which the rate rises linearly from 0; 0 for none.
        batch_size: points in a batch.
        iterations: steps of a whole run, one batch each.
        evaluate_every: iterations between two evaluations.
        augment: whether training images are flipped and cropped, with 4 pixels of padding, at random.

    Raises:
        ValueError: a setting of another type, or out of its range.
    """

    optimizer: str = "adam"
    learning_rate: float = 1.2e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    drops: tuple[int, ...] = ()
    warmup: int = 0
    batch_size: int = 60
    iterations: int = 50_000
    evaluate_every: int = 100
    augment: bool = False

    def __post_init__(self) -> None:
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if not (is_real(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate!r}; give a finite number above 0")
        if not (is_real(self.momentum) and 0 <= self.momentum < 1):
            raise ValueError(f"momentum is {self.momentum!r}; give a share from 0 to below 1")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum is {self.momentum}, but {self.optimizer} has its own; give 0, or sgd")
        if not (is_real(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay is {self.weight_decay!r}; give a finite number, at least 0")
        for name, least in (("warmup", 0), ("batch_size", 1), ("iterations", 1), ("evaluate_every", 1)):
            check_whole(name, getattr(self, name), least)
        if not isinstance(self.augment, bool):
            raise ValueError(f"augment is {self.augment!r}; give True or False")
        # a list, as a settings file gives it, would make the recipe unhashable
        if not isinstance(self.drops, list | tuple):
            raise ValueError(f"drops is {self.drops!r}; give the iterations as a tuple")
        object.__setattr__(self, "drops", tuple(self.drops))
        for drop in self.drops:
            check_whole("an entry of drops", drop, 1)
        if any(late <= early for early, late in zip(self.drops, self.drops[1:], strict=False)):
            raise ValueError(f"drops is {self.drops}; give rising iterations")

    def schedule(self, start: int = 0) -> optax.Schedule:
        """The learning rate at step i of a run that begins at iteration `start`.

        It is learning_rate * min(1, t / warmup) / 10^(number of drops up to t) at t = start + i.

        Args:
            start: the iteration of step 0, above 0 for a run that goes on from rewound weights.

        Raises:
            ValueError: start is not a whole number, at least 0.
        """
        check_whole("start", start, 0)
        drops = np.asarray(self.drops, dtype=np.int32)

        def rate(step: Any) -> jax.Array:
            iteration = jnp.asarray(step) + int(start)
            warmed = jnp.minimum(1.0, iteration / self.warmup) if self.warmup else jnp.asarray(1.0)
            return self.learning_rate * warmed * 0.1 ** (iteration >= drops).sum()

        return rate

    def transform(self, start: int = 0) -> optax.GradientTransformation:
        """The optimiser of a run that begins at iteration `start`.

        Args:
            start: the iteration of its first step; momenta begin at 0 in any case.

        Returns:
            What turns gradients into updates to be added to the parameters. It needs the parameters in
            `update`, for the weight decay.

        Raises:
            ValueError: start is not a whole number, at least 0.
        """
        parts = [optax.scale_by_learning_rate(self.schedule(start))]
        if self.optimizer == "adam":
            parts.insert(0, optax.scale_by_adam())
        elif self.momentum:
            parts.insert(0, optax.trace(self.momentum))
        if self.weight_decay:
            parts.insert(0, optax.add_decayed_weights(self.weight_decay))
        return optax.chain(*parts)


@dataclass(frozen=True)
class Preset:
    """What one study trains and prunes, and how often.

    Attributes:
        architecture: one of qrt_tn.models.vision.ARCHITECTURES.
        data: the name or path of the images.
        initializer: draws the kernels, one of INITIALIZERS (those of jax.nn.initializers).
        recipe: how each network is trained.
        levels: rounds of pruning.
        rate: share of the remaining weights of dense layers pruned a round; 0 leaves them dense.
        conv_rate: likewise, of convolutions.
        output_rate: likewise, of the output layer.
        scope: "layer", where each layer loses its share of its own weights; or "global", where the
            smallest weights of all layers of one rate are pruned together.
        rewind: the iteration to whose weights a ticket returns; 0 for the initial ones.
        trials: networks of different seeds.
        reinitialisations: controls with redrawn weights, for each ticket.
        validation: training points set apart to choose the iteration of early stopping.
        unverified: names of settings whose values are from memory of the paper, and were not found in
            its text.

    Raises:
        ValueError: a setting of another type, or out of its range.
    """

    architecture: str
    data: str
    recipe: Recipe
    levels: int
    rate: float
    conv_rate: float
    output_rate: float
    scope: str = "layer"
    rewind: int = 0
    initializer: str = "glorot_normal"
    trials: int = 5
    reinitialisations: int = 3
    validation: int = 5000
    unverified: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        _check_choice("architecture", self.architecture, ARCHITECTURES)
        _check_choice("scope", self.scope, SCOPES)
        _check_choice("initializer", self.initializer, INITIALIZERS)
        if not isinstance(self.data, str) or not self.data:
            raise ValueError(f"data is {self.data!r}; give the name or path of the images as a string")
        if not isinstance(self.recipe, Recipe):
            raise ValueError(f"recipe is {self.recipe!r}; give a Recipe")
        for name in ("rate", "conv_rate", "output_rate"):
            share = getattr(self, name)
            if not (is_real(share) and 0 <= share < 1):
                raise ValueError(f"{name} is {share!r}; give a share from 0 to below 1")
        if not (self.rate or self.conv_rate or self.output_rate):
            raise ValueError("rate, conv_rate and output_rate are all 0; give one of them a share above 0")
        for name, least in (("levels", 0), ("rewind", 0), ("trials", 1), ("reinitialisations", 0)):
            check_whole(name, getattr(self, name), least)
        check_whole("validation", self.validation, 1)
        if self.rewind >= self.recipe.iterations:
            raise ValueError(
                f"rewind is {self.rewind}, but a run has {self.recipe.iterations} iterations; rewind to less"
            )


def preset(name: str, **overrides: Any) -> Preset:
    """The settings of one study, with some of them changed.

    Args:
        name: one of PRESETS.
        overrides: fields of Preset, or of its Recipe, by name.

    Raises:
        ValueError: an unknown name or field, or a value out of its range.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; {_suggest(name, PRESETS)}")
    chosen = PRESETS[name]
    of_recipe = {item.name for item in fields(Recipe)}
    of_preset = {item.name for item in fields(Preset)} - {"unverified"}
    for key in overrides:
        if key not in of_recipe | of_preset:
            raise ValueError(f"a preset has no {key!r}; {_suggest(key, sorted(of_recipe | of_preset))}")
    given = {key: value for key, value in overrides.items() if key in of_preset}
    training = {key: value for key, value in overrides.items() if key in of_recipe}
    if training:
        recipe = given.get("recipe", chosen.recipe)
        if not isinstance(recipe, Recipe):
            raise ValueError(f"recipe is {recipe!r}; give a Recipe")
        given["recipe"] = replace(recipe, **training)
    changed = set(overrides) | (of_recipe if "recipe" in overrides else set())
    left = tuple(key for key in chosen.unverified if key not in changed)
    return replace(chosen, **given, unverified=left)


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; {_suggest(value, known)}")


def _suggest(name: Any, known: Any) -> str:
    """The mend of an unknown name: the nearest known one, or else all of them."""
    near = get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"


# Numbers of rounds are ours: the paper plots levels down to where the accuracy has fallen. The output
# layer is pruned at half the rate of dense layers. Weight decay is the default of the authors' later
# open_lth; whether and how the paper augments CIFAR-10 was not found, we do for the two deep networks.
_DEEP = (
    *("optimizer", "momentum", "batch_size", "iterations", "drops"),
    *("weight_decay", "augment", "rate", "conv_rate", "output_rate"),
)


def _conv(architecture: str, learning_rate: float, iterations: int, conv_rate: float) -> Preset:
    # the batch size is from memory, unverified
    return Preset(
        architecture=architecture,
        data="cifar10",
        recipe=Recipe(learning_rate=learning_rate, batch_size=60, iterations=iterations),
        levels=25,
        rate=0.2,
        conv_rate=conv_rate,
        output_rate=0.1,
        unverified=("batch_size",),
    )


def _deep(architecture: str, recipe: Recipe, levels: int, unverified: tuple[str, ...]) -> Preset:
    # Rates of pruning are from memory, unverified. The scope is global since the paper found that layers
    # of very different size must not lose equal shares.
    return Preset(
        architecture=architecture,
        data="cifar10",
        recipe=recipe,
        levels=levels,
        rate=0.0,
        conv_rate=0.2,
        output_rate=0.0,
        scope="global",
        unverified=unverified,
    )


# Optimiser, momentum, batch size, iterations and drops of both are from memory, unverified.
_RESNET = Recipe(
    optimizer="sgd",
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    drops=(20_000, 25_000),
    batch_size=128,
    iterations=30_000,
    augment=True,
)
# 160 epochs of 45,000 points in batches of 64, with drops after 80 and 120
_VGG = replace(_RESNET, drops=(56_240, 84_360), batch_size=64, iterations=112_480)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # ours: a first look, on real data that is always at hand
        "quick": Preset(
            architecture="lenet",
            data="digits",
            recipe=Recipe(iterations=1200, evaluate_every=20),
            levels=11,
            rate=0.2,
            conv_rate=0.0,
            output_rate=0.1,
            trials=3,
            reinitialisations=2,
            validation=240,
        ),
        "lenet": Preset(
            architecture="lenet",
            data="mnist",
            recipe=Recipe(),
            levels=20,
            rate=0.2,
            conv_rate=0.0,
            output_rate=0.1,
        ),
        "conv2": _conv("conv2", 2e-4, 20_000, 0.1),
        "conv4": _conv("conv4", 3e-4, 25_000, 0.1),
        "conv6": _conv("conv6", 3e-4, 30_000, 0.15),
        "resnet20": _deep("resnet20", _RESNET, 12, ("learning_rate", *_DEEP)),
        "resnet20-warmup": _deep("resnet20", replace(_RESNET, learning_rate=0.03, warmup=20_000), 12, _DEEP),
        "vgg19": _deep("vgg19", _VGG, 20, ("learning_rate", *_DEEP)),
        "vgg19-warmup": _deep("vgg19", replace(_VGG, warmup=10_000), 20, _DEEP),
    }
)
