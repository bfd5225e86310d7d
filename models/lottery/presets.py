"""How a lottery ticket study trains and prunes each network: recipes, and the settings of the paper.

The paper is Frankle and Carbin, The lottery ticket hypothesis (ICLR 2019, arXiv 1803.03635).
"""

from collections.abc import Collection, Mapping
from dataclasses import field, fields, replace
from difflib import get_close_matches
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from qrt_tn.models.lottery.pruning import Scope
from qrt_tn.models.settings import settings

# below 2**31, as JAX counts iterations
Count = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(gt=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, lt=1)]
Architecture = Literal["lenet", "conv2", "conv4", "conv6", "resnet20", "vgg19"]
Initializer = Literal[
    "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal", "lecun_uniform"
]


@settings
class Recipe:
    """How one network is trained.

    Attributes:
        momentum: of sgd, which adds momentum times the last direction to each gradient; 0 for adam.
        weight_decay: this share of every parameter is added to its gradient (an L2 penalty).
        drops: rising iterations; from each one on the rate is a tenth of what it was. Those at or after
            the last iteration never happen, so that a shortened run is the beginning of the whole one.
        warmup: iterations over which the rate rises linearly from 0.
        iterations: steps of a whole run, one batch each.
        augment: whether training images are flipped and cropped, with 4 pixels of padding, at random.
    """

    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1.2e-3
    momentum: Share = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    drops: tuple[Positive, ...] = ()
    warmup: Count = 0
    batch_size: Positive = 60
    iterations: Positive = 50_000
    evaluate_every: Positive = 100
    augment: bool = False

    def __post_init__(self) -> None:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum is {self.momentum}, but {self.optimizer} has its own; give 0, or sgd")
        if any(late <= early for early, late in pairwise(self.drops)):
            raise ValueError(f"drops is {self.drops}; give rising iterations")

    def schedule(self, start: int = 0) -> optax.Schedule:
        """The learning rate at step i of a run that begins at iteration `start`, after rewinding say.

        It is learning_rate * min(1, t / warmup) / 10^(number of drops up to t) at t = start + i.
        """
        drops = np.asarray(self.drops, dtype=np.int32)

        def rate(step: Any) -> jax.Array:
            iteration = jnp.asarray(step) + int(start)
            warmed = jnp.minimum(1.0, iteration / self.warmup) if self.warmup else jnp.asarray(1.0)
            return self.learning_rate * warmed * 0.1 ** (iteration >= drops).sum()

        return rate

    def transform(self, start: int = 0) -> optax.GradientTransformation:
        """The optimiser of a run that begins at iteration `start`; momenta begin at 0 in any case.

        Its `update` needs the parameters, for the weight decay.
        """
        parts = [optax.scale_by_learning_rate(self.schedule(start))]
        if self.optimizer == "adam":
            parts.insert(0, optax.scale_by_adam())
        elif self.momentum:
            parts.insert(0, optax.trace(self.momentum))
        if self.weight_decay:
            parts.insert(0, optax.add_decayed_weights(self.weight_decay))
        return optax.chain(*parts)


@settings
class Preset:
    """What one study trains and prunes, and how often.

    Attributes:
        data: the name or path of the images.
        levels: rounds of pruning.
        rate: share of the remaining weights of dense layers pruned a round; 0 leaves them dense.
        scope: as in `prune_by_magnitude`.
        rewind: the iteration to whose weights a ticket returns; 0 for the initial ones.
        initializer: draws the kernels, by its name in jax.nn.initializers.
        trials: networks of different seeds.
        reinitialisations: controls with redrawn weights, for each ticket.
        validation: training points set apart to choose the iteration of early stopping.
        unverified: names of settings whose values are from memory of the paper, and were not found in
            its text.
    """

    architecture: Architecture
    data: Annotated[str, Field(min_length=1)]
    recipe: Recipe
    levels: Count
    rate: Share
    conv_rate: Share
    output_rate: Share
    scope: Scope = "layer"
    rewind: Count = 0
    initializer: Initializer = "glorot_normal"
    trials: Positive = 5
    reinitialisations: Count = 3
    validation: Positive = 5000
    unverified: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not (self.rate or self.conv_rate or self.output_rate):
            raise ValueError("rate, conv_rate and output_rate are all 0; give one of them a share above 0")
        if self.rewind >= self.recipe.iterations:
            raise ValueError(
                f"rewind is {self.rewind}, but a run has {self.recipe.iterations} iterations; rewind to less"
            )


def preset(name: str, **overrides: Any) -> Preset:
    """The settings of one study, one of `PRESETS`, with some fields of it or of its recipe changed.

    Raises:
        ValueError: an unknown name or field, or a value out of its range.

    >>> preset("lenet", iterations=10_000).recipe.iterations
    10000
    """
    if str(name) not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; {_suggest(str(name), PRESETS)}")
    chosen = PRESETS[str(name)]
    of_recipe = {item.name for item in fields(Recipe)}
    known = of_recipe | {item.name for item in fields(Preset)} - {"unverified", "recipe"}
    for key in overrides:
        if key not in known:
            raise ValueError(f"a preset has no {key!r}; {_suggest(key, sorted(known))}")
    left = tuple(key for key in chosen.unverified if key not in overrides)
    recipe = replace(chosen.recipe, **{key: overrides.pop(key) for key in of_recipe & set(overrides)})
    return replace(chosen, recipe=recipe, **overrides, unverified=left)


def _suggest(name: str, known: Collection[str]) -> str:
    """What to write for an unknown name: the nearest known one, or else one of all."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"


# Rounds are ours: the paper plots levels down to where the accuracy has fallen. The output layer is pruned
# at half the rate of dense layers. What `unverified` names is from memory.
_LENET = Preset("lenet", "mnist", Recipe(), levels=20, rate=0.2, conv_rate=0.0, output_rate=0.1)
_CONV = replace(
    _LENET,
    architecture="conv2",
    data="cifar10",
    recipe=Recipe(learning_rate=2e-4, iterations=20_000),
    levels=25,
    conv_rate=0.1,
    unverified=("batch_size",),
)
_CONV4 = replace(_CONV, architecture="conv4", recipe=Recipe(learning_rate=3e-4, iterations=25_000))
_CONV6 = replace(_CONV, architecture="conv6", recipe=Recipe(learning_rate=3e-4, iterations=30_000))
# Weight decay is the default of the authors' later open_lth; whether and how the paper augments CIFAR-10 was
# not found, we do for the two deep networks. Their scope is global since the paper found that layers of very
# different size must not lose equal shares. Learning rates were found with a warm-up only.
_SGD = Recipe("sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4, augment=True)
_RESNET = replace(_SGD, drops=(20_000, 25_000), batch_size=128, iterations=30_000)
# 160 epochs of 45,000 points in batches of 64, with drops after 80 and 120
_VGG = replace(_SGD, drops=(56_240, 84_360), batch_size=64, iterations=112_480)
_UNVERIFIED = (
    *("optimizer", "momentum", "batch_size", "iterations", "drops"),
    *("weight_decay", "augment", "rate", "conv_rate", "output_rate"),
)
_WARM = Preset(
    architecture="resnet20",
    data="cifar10",
    recipe=replace(_RESNET, learning_rate=0.03, warmup=20_000),
    levels=12,
    rate=0.0,
    conv_rate=0.2,
    output_rate=0.0,
    scope="global",
    unverified=_UNVERIFIED,
)
_WARM_VGG = replace(_WARM, architecture="vgg19", recipe=replace(_VGG, warmup=10_000), levels=20)
_COLD = ("learning_rate", *_UNVERIFIED)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # ours: a first look, on real data that is always at hand
        "quick": replace(
            _LENET,
            data="digits",
            recipe=Recipe(iterations=1200, evaluate_every=20),
            levels=11,
            trials=3,
            reinitialisations=2,
            validation=240,
        ),
        "lenet": _LENET,
        "conv2": _CONV,
        "conv4": _CONV4,
        "conv6": replace(_CONV6, conv_rate=0.15),
        "resnet20": replace(_WARM, recipe=_RESNET, unverified=_COLD),
        "resnet20-warmup": _WARM,
        "vgg19": replace(_WARM_VGG, recipe=_VGG, unverified=_COLD),
        "vgg19-warmup": _WARM_VGG,
    }
)
