"""Train shallow networks by Adam with a cosine schedule; the parameters of the best epoch are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from qrt_tn.engine.arguments import check_whole, generator, is_real
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.models.training import (
    Progress,
    TrainState,
    entry,
    evaluate,
    full_precision,
    initial_state,
    stack,
    take_steps,
)

LOSSES = ("mse", "cross_entropy")
PARAMETERS: dict[str, Any] = {
    "all": nnx.Param,
    "output": nnx.Any(nnx.PathContains("kernel"), nnx.PathContains("bias")),
}
Arrays = dict[str, jax.Array]
Curves = tuple[jax.Array, ...]
Outcome = tuple[
    Arrays, tuple[jax.Array, ...], Curves, jax.Array
]  # best weights, their score, curves, best step


@dataclass(frozen=True, eq=False)
class TrainingHistory:
    """How one training run went. Epoch 0 is the network as it was given.

    Attributes:
        loss: mean training loss of epochs 1 .. epochs, shape (epochs,).
        validation_loss: after epochs 0 .. epochs, shape (epochs + 1,).
        validation_accuracy: likewise; NaN for real targets.
        best_epoch: of the highest validation accuracy, where there are labels, then of the smallest
        validation
            loss: the network now has its parameters.
        learning_rate: of the run; among several the one whose best epoch is best in the same sense.
    """

    loss: np.ndarray
    validation_loss: np.ndarray
    validation_accuracy: np.ndarray
    best_epoch: int
    learning_rate: float


def train(
    network: ShallowNetwork,
    x: Any,
    y: Any,
    *,
    x_validation: Any,
    y_validation: Any,
    seed: int = 0,
    **options: Any,
) -> TrainingHistory:
    """Train one network in place on points x (M, D) and their targets y, with options of `train_many`.

    Example:
        >>> from qrt_tn.models import DenseNetwork
        >>> x = np.random.default_rng(0).normal(size=(60, 2))
        >>> y, network = (x[:, 0] > 0).astype(int), DenseNetwork(2, 8, 2, rngs=nnx.Rngs(0))
        >>> history = train(network, x[:40], y[:40], x_validation=x[40:], y_validation=y[40:], epochs=5)
        >>> history.loss.shape, bool(history.best_epoch > 0)
        ((5,), True)
    """
    held: dict[str, Any] = {"x_validation": [x_validation], "y_validation": [y_validation]}
    return train_many([network], [x], [y], **held, seeds=[seed], **options)[0]


def train_many(
    networks: Sequence[ShallowNetwork],
    x: Sequence[Any],
    y: Sequence[Any],
    *,
    x_validation: Sequence[Any],
    y_validation: Sequence[Any],
    seeds: Sequence[int],
    epochs: int = 40,
    batch_size: int = 50,
    learning_rate: float | Sequence[float] = 0.03,
    loss: str = "mse",
    parameters: str = "all",
    together: bool | None = None,
    progress: Progress | None = None,
) -> list[TrainingHistory]:
    """Train networks of one kind and shape in place, each on its own data, with a single compilation.

    Adam (optax) with its step falling to zero along a cosine, in one compiled scan. Every parameter's step is
    scaled by `network.step_scales`. Hidden weights that train see x - mean x, of the training points, since a
    mean ties a step of theirs to one of the threshold: thresholds are shifted before (`network.shift_inputs`)
    and back after. A network keeps the parameters of its best epoch on the validation points, the start
    included. Ridge networks of different nodes and activations are of one kind if they share P.

    Args:
        networks: S networks, trained from the parameters they have.
        x: training points, S arrays of one shape (M, D), or one array (S, M, D). So for all data.
        y: labels in 0 .. outputs-1, integers (M,); or real targets (M, outputs).
        x_validation: shape (V, D).
        y_validation: as y.
        seeds: S seeds, which draw the order of the points.
        epochs: passes over the data; an epoch leaves out what does not fill a batch.
        batch_size: at most M.
        learning_rate: of the first step. Of several the one that serves the validation points best is kept,
            at the time of as many runs; (0.01, 0.03, 0.1) covers what small networks want.
        loss: "mse", the squared error summed over the outputs (labels stand for unit vectors), or
            "cross_entropy", for labels only.
        parameters: "all", or "output" for kernel and bias only.
        together: whether all networks advance at once under jax.vmap, or one by one. Left out, together on an
            accelerator only: on a CPU the batched products gain nothing.
        progress: called with the number of networks done and S.

    Raises:
        ValueError: networks or data of different kinds, shapes or numbers, not finite, labels outside
            0..outputs-1, cross entropy with real targets, or settings out of range.
    """
    rates = _check_settings(epochs, batch_size, learning_rate, loss, parameters)
    given = {"networks": networks, "x": x, "y": y, "seeds": seeds}
    given |= {"x_validation": x_validation, "y_validation": y_validation}
    counts = {name: len(values) for name, values in given.items()}
    if len(networks) == 0 or len(set(counts.values())) > 1:
        raise ValueError(f"give one entry a network, at least one: got {counts}")
    prepare = partial(_prepare, epochs, int(batch_size), loss, parameters)
    runs = list(map(prepare, networks, x, y, x_validation, y_validation, seeds))
    if len({(graph, *(leaf.shape for leaf in jax.tree.leaves(arrays))) for graph, arrays in runs}) > 1:
        raise ValueError("the networks or their data differ in kind or shape; train each kind by itself")
    steps = runs[0][1].order.shape[1]
    task = _ShallowTask(runs[0][0], loss, epochs * steps)
    if together is None:
        together = jax.default_backend() != "cpu"
    arrays = [arrays for _, arrays in runs]
    results = [_run_together(task, stack(arrays), rate) for rate in rates] if together else []
    histories = []
    for i, (network, own) in enumerate(zip(networks, arrays, strict=True)):
        if together:
            outcomes = [entry(i, result) for result in results]
        else:
            outcomes = [_run(task, own, rate) for rate in rates]
        # real targets have no accuracy, which is NaN: the loss decides
        scores = [tuple(np.nan_to_num(score, nan=0.0, neginf=-np.inf)) for _, score, _, _ in outcomes]
        chosen = scores.index(max(scores))
        best, _, curves, best_step = outcomes[chosen]
        if best_step > 0:
            nnx.update(network, best)
            if own.centre.any():
                network.shift_inputs(-np.asarray(own.centre))
        losses, values, corrects = map(np.asarray, curves)
        epoch = int(best_step) // steps
        histories.append(TrainingHistory(losses, values, corrects, epoch, rates[chosen]))
        if progress is not None:
            progress(i + 1, len(networks))
    return histories


@dataclass(frozen=True)
class _ShallowTask:
    """Adam, its step in units of each parameter's scale and falling to zero along a cosine."""

    graph: nnx.GraphDef
    loss_name: str
    steps: int

    def optimizer(self, data: "_Data") -> optax.GradientTransformation:
        def update(direction: Arrays, count: jax.Array, params: Any = None) -> tuple[Arrays, jax.Array]:
            rate = data.learning_rate * (1 + jnp.cos(jnp.pi * count / self.steps)) / 2
            moves = {name: -(rate * data.scales[name] * direction[name]) for name in direction}
            return moves, count + 1

        scaled = optax.GradientTransformation(lambda params: jnp.asarray(0), update)
        return optax.chain(optax.scale_by_adam(), scaled)

    def loss(
        self, params: Arrays, rest: Any, batch: jax.Array, data: "_Data", key: jax.Array | None
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        here = jax.tree.map(lambda array: array[batch], data.train)
        value = self._mean_loss(params, data, here)[0]
        return value, (rest, value)

    def evaluate(
        self, params: Arrays, rest: Any, data: "_Data", recorded: Any
    ) -> tuple[Any, tuple[jax.Array, ...]]:
        value, outputs = self._mean_loss(params, data, data.validation)
        labels = data.validation.y
        correct = (outputs.argmax(axis=1) == labels).mean() if labels.ndim == 1 else jnp.asarray(jnp.nan)
        # outputs that are NaN all stand for label 0, and may so be right more often than before
        return (value, correct), (jnp.where(jnp.isnan(value), -jnp.inf, correct), -value)

    def _mean_loss(self, params: Arrays, data: "_Data", points: "_Points") -> tuple[jax.Array, jax.Array]:
        outputs = nnx.merge(self.graph, params, data.constants)(points.x, points.fixed)
        if self.loss_name == "cross_entropy":
            return optax.softmax_cross_entropy_with_integer_labels(outputs, points.y).mean(), outputs
        wanted = jax.nn.one_hot(points.y, outputs.shape[1]) if points.y.ndim == 1 else points.y
        return jnp.square(outputs - wanted).sum(axis=1).mean(), outputs


class _Points(NamedTuple):
    """Points as the centred network takes them, their targets, and what of them does not change."""

    x: jax.Array
    y: jax.Array
    fixed: Any


class _Data(NamedTuple):
    constants: Arrays
    train: _Points
    validation: _Points
    scales: Any
    learning_rate: Any


class _Arrays(NamedTuple):
    """What one run is made of."""

    params: Arrays
    constants: Arrays
    centre: jax.Array
    x: jax.Array
    y: jax.Array
    x_validation: jax.Array
    y_validation: jax.Array
    order: jax.Array


def _prepare(
    epochs: int,
    batch_size: int,
    loss: str,
    parameters: str,
    network: ShallowNetwork,
    x: Any,
    y: Any,
    x_validation: Any,
    y_validation: Any,
    seed: Any,
) -> tuple[nnx.GraphDef, _Arrays]:
    """The network, its inputs shifted, without its arrays; and these, with its points and their order."""
    data = (
        *_check_data(network, x, y, loss),
        *_check_data(network, x_validation, y_validation, loss, "validation "),
    )
    centre = np.zeros(network.dim, dtype=np.float32)
    if network.THRESHOLDS in nnx.to_pure_dict(nnx.state(network, PARAMETERS[parameters])):
        centre = data[0].mean(axis=0, dtype=np.float64).astype(np.float32)
    if centre.any():
        network = nnx.clone(network)
        network.shift_inputs(centre)
    graph, params, *others = nnx.split(network, PARAMETERS[parameters], ...)
    count = len(data[0])
    size = min(batch_size, count)
    rng = generator(seed)
    order = np.stack([rng.permutation(count) for _ in range(epochs)])
    order = order[:, : count // size * size].reshape(epochs, -1, size).astype(np.int32)
    arrays = map(jnp.asarray, (centre, *data, order))
    return graph, _Arrays(nnx.to_pure_dict(params), nnx.to_pure_dict(others[0]), *arrays)


def _check_data(
    network: ShallowNetwork, x: Any, y: Any, loss: str, part: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, D) in float32, and labels (M,) in int32 or targets (M, outputs) in float32."""
    points, targets = network.check_points(x), np.asarray(y)
    if len(targets) != len(points):
        raise ValueError(f"{len(points)} {part}points but {len(targets)} {part}targets; give one a point")
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        if targets.min() < 0 or targets.max() >= network.outputs:
            wrong = targets.min() if targets.min() < 0 else targets.max()
            raise ValueError(
                f"{part}label {wrong} is outside 0..{network.outputs - 1}, the network's outputs"
            )
        return points, targets.astype(np.int32)
    if loss == "cross_entropy":
        raise ValueError(
            f"{part}targets have shape {targets.shape}, {targets.dtype}; this needs integer labels (points,)"
        )
    if targets.shape != (len(points), network.outputs) or targets.dtype.kind not in "biuf":
        raise ValueError(
            f"{part}targets have shape {targets.shape}, {targets.dtype}; give integer labels, or reals"
            f" of shape ({len(points)}, {network.outputs})"
        )
    if not np.isfinite(targets).all():
        raise ValueError(
            f"{part}targets hold {targets[~np.isfinite(targets)][0]}; every value must be finite"
        )
    return points, targets.astype(np.float32)


def _train_one(task: _ShallowTask, given: _Arrays, learning_rate: float) -> Outcome:
    """One run, compiled whole."""
    start = nnx.merge(task.graph, given.params, given.constants)

    def points(x: jax.Array, y: jax.Array) -> _Points:
        seen, fixed = start.centred_inputs(x, given.centre)
        return _Points(seen, y, fixed)

    with full_precision():
        train, validation = points(given.x, given.y), points(given.x_validation, given.y_validation)
        data = _Data(given.constants, train, validation, start.step_scales(given.x), learning_rate)
    state = initial_state(given.params, (), task.optimizer(data).init(given.params), scores=2)

    def epoch(state: TrainState, batches: jax.Array) -> tuple[TrainState, tuple[jax.Array, ...]]:
        state, (value, correct) = evaluate(task, state, data)
        state, losses = take_steps(task, state, batches, data)
        return state, (losses.mean(), value, correct)

    # One round more than epochs, as each validates before it trains: compiling the validation a second
    # time, for after the last epoch, takes longer than an epoch does. What that round trains is dropped.
    order = jnp.concatenate([given.order, given.order[:1]])
    state, (losses, values, corrects) = jax.lax.scan(epoch, state, order)
    return state.best[0], state.score, (losses[:-1], values, corrects), state.best_step


_run = jax.jit(_train_one, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _run_together(task: _ShallowTask, runs: _Arrays, learning_rate: float) -> Outcome:
    return jax.vmap(partial(_train_one, task), in_axes=(0, None))(runs, learning_rate)


def _check_settings(
    epochs: int, batch_size: int, learning_rate: float | Sequence[float], loss: str, parameters: str
) -> list[float]:
    """The learning rates."""
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_whole(name, value)
    rates: list[Any] = (
        list(learning_rate) if isinstance(learning_rate, Sequence | np.ndarray) else [learning_rate]
    )
    if not rates or not all(is_real(rate) and rate > 0 for rate in rates):
        raise ValueError(f"learning_rate is {learning_rate!r}; give a finite number above 0, or several")
    for name, choice, known in (("loss", loss, LOSSES), ("parameters", parameters, PARAMETERS)):
        if choice not in known:
            raise ValueError(f"unknown {name} {choice!r}; choose one of {', '.join(known)}")
    return [float(rate) for rate in rates]
