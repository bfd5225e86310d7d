"""The compiled part of training: steps under a mask in one scan, then an evaluation of all points."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from qrt_tn.models.lottery.masked import masked
from qrt_tn.models.lottery.masks import Masks, Params, apply_masks
from qrt_tn.models.lottery.presets import Recipe

# What an evaluation measures, in this order; the training loss is the mean over the steps before it.
CURVES = ("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
# Numbers of input evaluated at once: a convolution's columns are hundreds of times as large.
AT_ONCE = 2**18
PADDING = 4  # pixels around an image that is cropped at random


@dataclass(frozen=True)
class Program:
    """A network without its arrays, and how it is trained: what one compiled function serves.

    Attributes:
        graph: the network as it trains.
        evaluated: the network as it is evaluated: batch normalisation by running averages.
        recipe: the optimiser, batches and iterations.
    """

    graph: nnx.GraphDef
    evaluated: nnx.GraphDef
    recipe: Recipe


class Replica(NamedTuple):
    """One network under way.

    Attributes:
        params: nested dicts.
        rest: batch statistics, constants and random state.
        optimizer: its state, with the masks.
        best: params and rest of least validation loss so far.
        best_loss: that loss.
        iteration: steps done.
        key: of augmentation, as raw data.
    """

    params: Params
    rest: Any
    optimizer: Any
    best: tuple[Params, Any]
    best_loss: jax.Array
    iteration: jax.Array
    key: jax.Array


class Points(NamedTuple):
    """Points to evaluate, in batches of one shape; `weight` is 0 where a batch is filled up."""

    x: jax.Array
    y: jax.Array
    weight: jax.Array


class Data(NamedTuple):
    """What every trial of a call sees."""

    x: jax.Array
    y: jax.Array
    validation: Points
    test: Points


def evaluation_batches(x: np.ndarray, y: np.ndarray) -> Points:
    """Points (M, ...) and labels (M,) in batches of one size, filled up with points that count nothing."""
    size = int(np.clip(AT_ONCE // max(1, x[0].size), 1, len(x)))
    batches = -(-len(x) // size)
    size = -(-len(x) // batches)
    missing = batches * size - len(x)
    weight = np.concatenate([np.ones(len(x), np.float32), np.zeros(missing, np.float32)])
    filled = np.concatenate([x, np.repeat(x[:1], missing, axis=0)])
    labels = np.concatenate([y, np.repeat(y[:1], missing)])
    in_batches = (array.reshape(batches, size, *array.shape[1:]) for array in (filled, labels, weight))
    return Points(*(jnp.asarray(array) for array in in_batches))


def initial(program: Program, params: Params, rest: Any, masks: Masks, seed: int, start: int) -> Replica:
    """A replica that has taken no step: weights under the mask, a fresh optimiser."""
    held = apply_masks(masks, jax.tree.map(jnp.asarray, params))
    others = jax.tree.map(jnp.asarray, rest)
    on_device = jax.tree.map(jnp.asarray, masks)
    state = masked(program.recipe.transform(start), on_device).init(held)
    key = jax.random.key_data(jax.random.key(seed))
    loss = jnp.asarray(jnp.inf, jnp.float32)
    return Replica(held, others, state, (held, others), loss, jnp.asarray(start, jnp.int32), key)


def _advance(
    program: Program, start: int, replica: Replica, batches: jax.Array, data: Data
) -> tuple[Replica, jax.Array]:
    """Train on batches of points (steps, size), then evaluate.

    Returns:
        The replica, and the numbers named by `CURVES`, float32 (5,).
    """
    optimizer = masked(program.recipe.transform(start), replica.optimizer.masks)

    def loss(params: Params, rest: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        network = nnx.merge(program.graph, params, rest)
        value = optax.softmax_cross_entropy_with_integer_labels(network(x), y).mean()
        return value, nnx.to_pure_dict(nnx.state(network, nnx.Not(nnx.Param)))

    def step(carry: tuple[Any, ...], batch: jax.Array) -> tuple[tuple[Any, ...], jax.Array]:
        params, rest, state, iteration = carry
        x = data.x[batch]
        if program.recipe.augment:
            x = _augmented(x, jax.random.fold_in(jax.random.wrap_key_data(replica.key), iteration))
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, rest), slopes = gradient(params, rest, x, data.y[batch])
        changes, state = optimizer.update(slopes, state, params)
        return (optax.apply_updates(params, changes), rest, state, iteration + 1), value

    carry = (replica.params, replica.rest, replica.optimizer, replica.iteration)
    (params, rest, state, iteration), losses = jax.lax.scan(step, carry, batches)
    validated = _evaluate(program, params, rest, data.validation)
    measured = jnp.stack([losses.mean(), *validated, *_evaluate(program, params, rest, data.test)])
    better = validated[0] < replica.best_loss
    best = jax.tree.map(partial(jnp.where, better), (params, rest), replica.best)
    best_loss = jnp.where(better, validated[0], replica.best_loss)
    return Replica(params, rest, state, best, best_loss, iteration, replica.key), measured


advance = jax.jit(_advance, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=(0, 1))
def advance_together(
    program: Program, start: int, replicas: Replica, batches: jax.Array, data: Data
) -> tuple[Replica, jax.Array]:
    """`advance` for replicas of one more axis in front, each with its batches (R, steps, size)."""
    return jax.vmap(partial(_advance, program, start), in_axes=(0, 0, None))(replicas, batches, data)


def _evaluate(program: Program, params: Params, rest: Any, points: Points) -> tuple[jax.Array, jax.Array]:
    """Mean cross entropy and accuracy."""

    def part(batch: Points) -> tuple[jax.Array, jax.Array]:
        outputs = nnx.merge(program.evaluated, params, rest)(batch.x)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.y)
        right = outputs.argmax(axis=-1) == batch.y
        return (losses * batch.weight).sum(), (right * batch.weight).sum()

    losses, right = jax.lax.map(part, points)
    count = points.weight.sum()
    return losses.sum() / count, right.sum() / count


def _augmented(x: jax.Array, key: jax.Array) -> jax.Array:
    """Images (B, H, W, C), each flipped at random and cropped from itself with a black border of 4 pixels.

    The border is 0, the mean of standardised images (He et al., arXiv 1512.03385, section 4.2).
    """
    flips, shifts = jax.random.split(key)
    flip = jax.random.bernoulli(flips, shape=(len(x), 1, 1, 1))
    corners = jax.random.randint(shifts, (len(x), 2), 0, 2 * PADDING + 1)
    padded = jnp.pad(
        jnp.where(flip, x[:, :, ::-1], x), ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
    )
    height, width, channels = x.shape[1:]

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)
