"""A network taken apart into its architecture and its arrays, and how trials train and evaluate it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery.masked import masked
from qrt_tn.models.lottery.masks import Masks, Params, apply_masks
from qrt_tn.models.lottery.presets import Recipe
from qrt_tn.models.training import TrainState, initial_state

# What an evaluation measures, in this order; the training loss is the mean over the steps before it.
CURVES = ("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
# Numbers of input evaluated at once: a convolution's features are many times as large.
AT_ONCE = 2**18
PADDING = 4  # pixels around an image that is cropped at random


@dataclass(frozen=True)
class Program:
    """A network without its arrays, as it trains and as it is evaluated: one compiled function serves all."""

    graph: nnx.GraphDef
    evaluated: nnx.GraphDef
    recipe: Recipe


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Weights:
    """The arrays of a network, nested dicts; `rest` are batch statistics, constants and random state."""

    params: Params
    rest: Any


def split(network: nnx.Module, recipe: Recipe) -> tuple[Program, Weights]:
    """A network, which stays as it is, as a program (the same for all of its architecture) and its arrays."""
    network = nnx.clone(network)
    network.train()
    graph, params, *others = nnx.split(network, nnx.Param, ...)
    network.eval()
    evaluated = nnx.split(network, nnx.Param, ...)[0]
    return Program(graph, evaluated, recipe), Weights(nnx.to_pure_dict(params), nnx.to_pure_dict(others[0]))


def merge(program: Program, weights: Weights) -> nnx.Module:
    """The network of a program and arrays, as it is evaluated."""
    network: nnx.Module = nnx.merge(program.evaluated, weights.params, weights.rest)
    return network


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


def on_device(fold: ImageFold) -> Data:
    """A fold's points on the device: those to learn from as they are, the others in batches."""
    parts = ((fold.x_validation, fold.y_validation), (fold.x_test, fold.y_test))
    return Data(jnp.asarray(fold.x_train), jnp.asarray(fold.y_train), *(_in_batches(*part) for part in parts))


def _in_batches(x: np.ndarray, y: np.ndarray) -> Points:
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


class TrialTask(NamedTuple):
    """The training of trials that begin at one iteration, above 0 after rewinding."""

    program: Program
    start: int

    def state(self, weights: Weights, masks: Masks, seed: int) -> TrainState:
        """A trial that has taken no step: weights under the mask, a fresh optimiser."""
        params, rest, masks = jax.tree.map(jnp.asarray, (weights.params, weights.rest, masks))
        params = apply_masks(masks, params)
        optimizer = masked(self.program.recipe.transform(self.start), masks).init(params)
        key = jax.random.key_data(jax.random.key(seed)) if self.program.recipe.augment else None
        return initial_state(params, rest, optimizer, scores=1, step=self.start, key=key)

    def optimizer(self, data: Data) -> optax.GradientTransformation:
        """The recipe's; its masks are those in the state."""
        return masked(self.program.recipe.transform(self.start), None)

    def loss(
        self, params: Params, rest: Any, batch: jax.Array, data: Data, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """Cross entropy of a batch, its images augmented where there is a key."""
        network = nnx.merge(self.program.graph, params, rest)
        x = data.x[batch] if key is None else augmented(data.x[batch], key)
        value = optax.softmax_cross_entropy_with_integer_labels(network(x), data.y[batch]).mean()
        return value, (nnx.to_pure_dict(nnx.state(network, nnx.Not(nnx.Param))), value)

    def evaluate(
        self, params: Params, rest: Any, data: Data, recorded: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The numbers named by `CURVES`, float32 (5,); the least validation loss is best."""

        def measure(batch: Points) -> tuple[jax.Array, jax.Array]:
            outputs = nnx.merge(self.program.evaluated, params, rest)(batch.x)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.y)
            right = outputs.argmax(axis=-1) == batch.y
            return (losses * batch.weight).sum(), (right * batch.weight).sum()

        found = [recorded.mean()]
        for points in (data.validation, data.test):
            losses, right = jax.lax.map(measure, points)
            count = points.weight.sum()
            found += [losses.sum() / count, right.sum() / count]
        return jnp.stack(found), (-found[1],)


def augmented(x: jax.Array, key: jax.Array) -> jax.Array:
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
