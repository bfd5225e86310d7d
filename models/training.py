"""Fit networks of any kind: optax steps, evaluations between them, the best weights kept.

A `Task` says what is particular to a kind of network: its loss, its optimiser (masked or not) and how it is
evaluated. Shallow networks, lottery trials and mixtures of experts are trained by the functions here.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

if TYPE_CHECKING:  # orbax takes long to import
    from qrt_tn.models.checkpoint import Checkpoint

Progress = Callable[[int, int], None]
# Products of matrices decide accuracy: on a GPU they would else be rounded to TF32.
full_precision = partial(jax.default_matmul_precision, "highest")
_COMPILING = threading.Lock()


class TrainState(NamedTuple):
    """A network under way.

    Attributes:
        params: what training changes.
        rest: what else changes from step to step: batch statistics, random state.
        optimizer: the optimiser's state, with the masks if it has any.
        best: params and rest of the best evaluation so far; None where none are compared.
        score: of that evaluation.
        best_step: the step it followed.
        step: steps done.
        key: of the random numbers of each step, as raw data, or None.
    """

    params: Any
    rest: Any
    optimizer: Any
    best: Any
    score: tuple[jax.Array, ...]
    best_step: jax.Array
    step: jax.Array
    key: jax.Array | None


class Task(Protocol):
    """What is trained, and how. Hashable: one compiled function serves all equal tasks."""

    def optimizer(self, data: Any) -> optax.GradientTransformation:
        """The optimiser."""

    def loss(
        self, params: Any, rest: Any, batch: jax.Array, data: Any, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[Any, Any]]:
        """What a step descends on a batch (indices of points); then the new rest, and what to record."""

    def evaluate(self, params: Any, rest: Any, data: Any, recorded: Any) -> tuple[Any, tuple[jax.Array, ...]]:
        """What an evaluation tells, also of what was recorded; and its score: the larger, the better."""


def initial_state(
    params: Any, rest: Any, optimizer: Any, *, scores: int = 0, step: int = 0, key: jax.Array | None = None
) -> TrainState:
    """The state before the first step; where a score has no numbers no best weights are kept."""
    best = (params, rest) if scores else None
    first = jnp.asarray(step, jnp.int32)
    score = (jnp.asarray(-jnp.inf, jnp.float32),) * scores
    return TrainState(params, rest, optimizer, best, score, first, first, key)


def take_steps(
    task: Task, state: TrainState, batches: jax.Array, data: Any, loop: bool = True
) -> tuple[TrainState, Any]:
    """Train on batches of points, int32 (steps, size), or without a loop on one; also what was recorded."""
    optimizer = task.optimizer(data)
    gradient = jax.value_and_grad(task.loss, has_aux=True)

    def step(carry: Any, batch: jax.Array) -> tuple[Any, Any]:
        params, rest, held, number = carry
        key = None
        if state.key is not None:
            key = jax.random.fold_in(jax.random.wrap_key_data(state.key), number)
        (_, (rest, recorded)), slopes = gradient(params, rest, batch, data, key)
        changes, held = optimizer.update(slopes, held, params)
        return (optax.apply_updates(params, changes), rest, held, number + 1), recorded

    with full_precision():
        carry = (state.params, state.rest, state.optimizer, state.step)
        carry, recorded = jax.lax.scan(step, carry, batches) if loop else step(carry, batches)
        params, rest, held, number = carry
    return state._replace(params=params, rest=rest, optimizer=held, step=number), recorded


def evaluate(task: Task, state: TrainState, data: Any, recorded: Any = None) -> tuple[TrainState, Any]:
    """Evaluate the network, and keep its weights if none were better; the state, and what was found."""
    with full_precision():
        found, score = task.evaluate(state.params, state.rest, data, recorded)
    if not score:
        return state, found
    better: Any = False
    tied: Any = True
    for new, old in zip(score, state.score, strict=True):
        better = better | (tied & (new > old))
        tied = tied & ~(new < old)  # a score that is NaN both times leaves the next to decide
    here = ((state.params, state.rest), score, state.step)
    kept = (state.best, state.score, state.best_step)
    best, score, step = jax.tree.map(partial(jnp.where, better), here, kept)
    return state._replace(best=best, score=score, best_step=step), found


def advance(task: Task, state: TrainState, batches: jax.Array, data: Any) -> tuple[TrainState, Any]:
    """Train on batches of points, int32 (steps, size), then evaluate; the state, and what was found."""
    state, recorded = take_steps(task, state, batches, data)
    return evaluate(task, state, data, recorded)


_advance = jax.jit(advance, static_argnums=0)
_take_step = jax.jit(partial(take_steps, loop=False), static_argnums=0)
_evaluate = jax.jit(evaluate, static_argnums=0)


def _advance_stepwise(task: Task, state: TrainState, batches: Any, data: Any) -> tuple[TrainState, Any]:
    """`advance` by one call a step."""
    parts = []
    for batch in batches:
        state, recorded = _take_step(task, state, batch, data)
        parts.append(recorded)
    return _evaluate(task, state, data, jax.tree.map(lambda *leaves: np.stack(leaves), *parts))


@partial(jax.jit, static_argnums=0)
def _advance_together(task: Task, states: TrainState, batches: jax.Array, data: Any) -> Any:
    """`advance` for states with one more axis in front, each with its batches (R, steps, size)."""
    return jax.vmap(partial(advance, task), in_axes=(0, 0, None))(states, batches, data)


class BatchOrder:
    """Batches of `size` points cut from one shuffled epoch after the other, every batch full.

    The batch of iteration t is a function of the seed and t alone, so a run that goes on in the middle sees
    the same batches as one that was never ended.

    Raises:
        ValueError: a batch larger than the training set.
    """

    def __init__(self, seed: int, points: int, size: int) -> None:
        if size > points:
            raise ValueError(
                f"batch_size is {size} but there are {points} training points; take a smaller one"
            )
        self._seed, self._points, self._size = seed, points, size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int32)

    def __call__(self, first: int, steps: int) -> np.ndarray:
        """Indices of the training points of iterations first .. first + steps - 1, int32 (steps, size)."""
        start, end = first * self._size, (first + steps) * self._size
        parts = []
        while start < end:
            epoch, place = divmod(start, self._points)
            if epoch != self._epoch:
                shuffled = np.random.default_rng([self._seed, epoch]).permutation(self._points)
                self._epoch, self._order = epoch, shuffled.astype(np.int32)
            taken = min(end - start, self._points - place)
            parts.append(self._order[place : place + taken])
            start += taken
        return np.concatenate(parts).reshape(steps, self._size)


class Progression(NamedTuple):
    """How far `fit` is: rows are what evaluations found, seconds are those of all sessions."""

    done: int
    state: TrainState
    rows: list[Any]
    snapshots: dict[int, Any]
    seconds: float


def fit(
    task: Task,
    state: TrainState,
    batches: Callable[[int, int], Any],
    data: Any,
    *,
    steps: int,
    every: int,
    together: bool = False,
    stepwise: bool = False,
    snapshots: Collection[int] = (),
    checkpoint: "Checkpoint | None" = None,
    after: Callable[[Progression], None] | None = None,
) -> Progression:
    """Train to the last step, with an evaluation every so many and after the last.

    Args:
        task: what is trained, and how.
        state: where it starts; with `together`, several states with one more axis in front.
        batches: gives the points of steps first .. first + n - 1, called with (first, n).
        data: what the task's functions are called with.
        steps: number of the last step.
        every: steps between two evaluations.
        together: whether several states advance at once, under jax.vmap.
        stepwise: whether each step is a call, not one of a compiled scan: in a loop XLA computes the
            gradients of convolutions on a CPU 6 to 60 times as slowly (jax-ml/jax issue 12868).
        snapshots: numbers of steps, each evaluated, after which the weights are kept.
        checkpoint: where the run is kept, and taken up again: on a CPU to the same bits.
        after: called after each evaluation; what it raises ends the run, which is saved before.

    Returns:
        The finished run. Weights in snapshots and rows are on the host.
    """
    start = int(np.ravel(state.step)[0])
    now = Progression(start, state, [], {}, 0.0)
    found = None if checkpoint is None else checkpoint.load(state)
    if found is not None:
        now = found
        if after is not None:
            after(now)
    first, saved = now.done, time.perf_counter()
    begun = saved - now.seconds
    while now.done < steps:
        if now.done in snapshots:
            now.snapshots[now.done] = jax.device_get((now.state.params, now.state.rest))
        count = min(every, steps - now.done)
        call = _advance_together if together else _advance_stepwise if stepwise else _advance
        # the first run of several compiles; the others wait instead of compiling the same once more
        with _COMPILING if now.done == first else nullcontext():
            state, row = call(task, now.state, batches(now.done, count), data)
        now.rows.append(jax.tree.map(np.asarray, row))
        moment = time.perf_counter()
        now = now._replace(done=now.done + count, state=state, seconds=moment - begun)
        due = checkpoint is not None and now.done < steps
        try:
            if after is not None:
                after(now)
            due = checkpoint is not None and due and moment - saved > checkpoint.every
        finally:
            if due and checkpoint is not None:
                checkpoint.save(now)
                saved = time.perf_counter()
    return now


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure as one tree, whose arrays have an axis of them in front."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def entry(place: int, tree: Any) -> Any:
    """One of the trees that `stack` put together."""
    return jax.tree.map(lambda leaf: leaf[place], tree)
