"""Train a vision transformer with experts, with its routers' noise and losses, and evaluate it."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from pydantic import Field

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.models.lottery.masked import masked
from qrt_tn.models.lottery.masks import Masks, apply_masks, check_masks
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.vit import VisionMoe
from qrt_tn.models.settings import settings
from qrt_tn.models.training import Progress, Progression, fit, full_precision, initial_state

_STEPS_AT_ONCE = 50  # steps of one compiled call, between two signs of progress
_EVALUATED_AT_ONCE = 256  # images


@settings
class MoeRecipe:
    """How a network with experts is trained: a warm-up, then a rate that falls along a cosine.

    Attributes:
        steps: batches.
        optimizer: "adam", or "sgd" with momentum 0.9 (fine-tuning in vmoe and by Chowdhury et al.).
        learning_rate: at the end of the warm-up.
        end_rate: at the last step.
        warmup: steps over which the rate rises linearly from 0.
        weight_decay: of adam, decoupled; on every parameter.
        clip: the largest norm of a gradient; 0 for none.
        noise: whether the routers' logits are noisy.
    """

    steps: Annotated[int, Field(ge=0)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    end_rate: Annotated[float, Field(ge=0)] = 1e-5
    warmup: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(ge=0)] = 10.0
    noise: bool = True

    def transform(self) -> optax.GradientTransformation:
        """The optimiser."""
        warmup = min(self.warmup, max(0, self.steps - 1))
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if warmup else self.learning_rate,
            self.learning_rate,
            warmup,
            max(1, self.steps),
            self.end_rate,
        )
        if self.optimizer == "adam":
            rule = optax.adamw(rate, weight_decay=self.weight_decay)
        else:
            rule = optax.sgd(rate, momentum=0.9)
        return optax.chain(optax.clip_by_global_norm(self.clip), rule) if self.clip else rule


@dataclass(frozen=True, eq=False)
class MoeTraining:
    """The cross entropy of each step's batch and the routers' losses, each of shape (steps,)."""

    losses: np.ndarray
    auxiliary: np.ndarray


def train_moe(
    network: VisionMoe,
    x: np.ndarray,
    y: np.ndarray,
    recipe: MoeRecipe,
    *,
    masks: Masks | None = None,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> MoeTraining:
    """Train a network, whole or pruned, in place on images in random order, pass after pass.

    Args:
        network: changed only if all goes well.
        x: images, shape (M, height, width, channels), float.
        y: labels 0 .. classes - 1, shape (M,).
        recipe: steps, batches and optimiser.
        masks: which weights are trained and which are 0, as qrt_tn.models.lottery.full_masks makes them of
            nnx.to_pure_dict(nnx.state(network, nnx.Param)); None for all of them.
        seed: of the order of images and of the noise.
        progress: called with steps done and steps in all.

    Raises:
        ValueError: images, labels or masks that do not fit the network, fewer images than a batch, or a
            loss or weights that are not finite.
    """
    check_points(network.config, x, y)
    size, whole = recipe.batch_size, network.config.images_together
    if size % whole:
        raise ValueError(
            f"batch_size is {size}, but the tokens of {whole} images are routed together;"
            " give a multiple of it"
        )
    if len(x) < size:
        raise ValueError(f"{len(x)} images are fewer than a batch of {size}; give a smaller batch_size")
    random = generator(seed)
    key = jax.random.key(int(random.integers(2**31)))
    params: Any
    graph, params, *others = nnx.split(network, nnx.Param, ...)
    optimizer = recipe.transform()
    if masks is not None:
        params = nnx.to_pure_dict(params)
        check_masks(masks, params)
        params, optimizer = apply_masks(masks, params), masked(optimizer, masks)
    noise = jax.random.key_data(key) if recipe.noise else None
    passes = -(-recipe.steps * size // (len(x) // size * size))
    orders = [random.permutation(len(x))[: len(x) // size * size].reshape(-1, size) for _ in range(passes)]
    batches = np.concatenate(orders) if passes else np.zeros((0, size), int)

    def after(now: Progression) -> None:
        if not np.isfinite(now.rows[-1]).all():
            raise ValueError(
                f"the loss is not finite near step {(len(now.rows) - 1) * _STEPS_AT_ONCE};"
                f" lower learning_rate, now {recipe.learning_rate}"
            )
        if progress is not None:
            progress(now.done, recipe.steps)

    ended = fit(
        _MoeTask(graph, recipe, masks is not None),
        initial_state(params, (), optimizer.init(params), key=noise),
        lambda first, count: batches[first : first + count],
        (jnp.asarray(x), jnp.asarray(y, jnp.int32), others),
        steps=recipe.steps,
        every=_STEPS_AT_ONCE,
        after=after,
    )
    # on the host, where no shape has to be compiled for
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(ended.state.params))):
        raise ValueError(
            "the weights are not finite after the last step; lower learning_rate, now"
            f" {recipe.learning_rate}, or clip gradients"
        )
    nnx.update(network, ended.state.params)
    return MoeTraining(*np.concatenate([*ended.rows, np.zeros((0, 2), np.float32)]).T)


class _MoeTask(NamedTuple):
    """Cross entropy and the routers' losses; data: images, labels, and the variables that do not train."""

    graph: nnx.GraphDef
    recipe: MoeRecipe
    is_masked: bool

    def optimizer(self, data: Any) -> optax.GradientTransformation:
        rule = self.recipe.transform()
        return masked(rule, None) if self.is_masked else rule  # the masks are those in its state

    def loss(
        self, params: Any, rest: Any, batch: jax.Array, data: Any, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        x, y, others = data
        logits, auxiliary = nnx.merge(self.graph, params, *others)(x[batch], key=key)
        value = optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()
        return value + auxiliary, (rest, jnp.stack([value, auxiliary]))

    def evaluate(self, params: Any, rest: Any, data: Any, recorded: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return recorded, ()


def predict(network: VisionMoe, x: np.ndarray) -> np.ndarray:
    """Logits (M, classes) of images (M, height, width, channels), without noise.

    The last batch is filled up with copies of one of its images; where the tokens of several images are
    routed together (config.group), these compete with its own for slots.
    """
    x = np.asarray(x)
    check_points(network.config, x, None)
    graph, params, *rest = nnx.split(network, nnx.Param, ...)
    whole = network.config.images_together
    size = -(-min(len(x), _EVALUATED_AT_ONCE) // whole) * whole
    parts = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        # filled up, so that one compiled function serves every batch
        filled = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
        parts.append(np.asarray(_logits(graph, params, rest, jnp.asarray(filled)))[: len(part)])
    return np.concatenate(parts)


@partial(jax.jit, static_argnums=0)
def _logits(graph: nnx.GraphDef, params: Any, rest: list[Any], x: jax.Array) -> jax.Array:
    with full_precision():
        logits: jax.Array = nnx.merge(graph, params, *rest)(x)[0]
    return logits


def accuracy(network: VisionMoe, x: np.ndarray, y: np.ndarray) -> float:
    """The share of images whose largest logit is their label's."""
    check_points(network.config, x, y)
    return float((predict(network, x).argmax(axis=1) == np.asarray(y)).mean())


def check_points(config: VisionMoeConfig, x: np.ndarray, y: np.ndarray | None) -> None:
    """Refuse images, and labels where there are any, that do not fit a network."""
    if np.ndim(x) != 4 or len(x) == 0 or np.shape(x)[1:] != config.image_shape:
        raise ValueError(f"images of shape {np.shape(x)} do not fit; give (images, *{config.image_shape})")
    if y is None:
        return
    labels = np.asarray(y)
    if labels.shape != (len(x),) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels of shape {labels.shape}, {labels.dtype}; give one integer an image")
    if labels.min() < 0 or labels.max() >= config.classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"label {wrong} lies outside 0 .. {config.classes - 1}; relabel, or add classes")
