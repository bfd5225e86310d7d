"""Trials: networks of one architecture trained side by side, evaluated as they go, and taken up again."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from qrt_tn.engine.arguments import is_real
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery.checks import Trial, checked_trials
from qrt_tn.models.lottery.presets import Recipe
from qrt_tn.models.lottery.program import CURVES, Data, Program, TrialTask, Weights, on_device
from qrt_tn.models.lottery.store import TrialStore
from qrt_tn.models.training import BatchOrder, Progress, Progression, entry, fit, stack

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class TrialResult:
    """What became of a trial.

    Attributes:
        iterations: when it was evaluated, shape (E,).
        curves: by the names of `CURVES`, each of shape (E,).
        weights: after the last iteration, or None where they were not to be kept; `best` at the early stop.
        snapshots: by iteration.
        seconds: of training and evaluation, over all sessions; trials side by side share the machine.
    """

    iterations: np.ndarray
    curves: dict[str, np.ndarray]
    weights: Weights | None
    best: Weights | None
    snapshots: dict[int, Weights]
    seconds: float

    @property
    def early(self) -> int:
        """The place in the curves of the least validation loss: the early stop, found afterwards."""
        losses = self.curves["validation_loss"]
        return 0 if np.isnan(losses).all() else int(np.nanargmin(losses))

    @property
    def early_iteration(self) -> int:
        """Its iteration."""
        return int(self.iterations[self.early])

    def at_early(self, curve: str) -> float:
        """A curve's value there."""
        return float(self.curves[curve][self.early])


def train_trials(
    program: Program,
    trials: Sequence[Trial],
    fold: ImageFold,
    *,
    snapshots: Sequence[int] = (),
    together: bool | int | None = None,
    folder: str | Path | None = None,
    save_every: float = 60.0,
    progress: Progress | None = None,
) -> list[TrialResult]:
    """Train networks of one architecture, each under its mask, from its weights and in its own order.

    Batches run in one compiled scan from each evaluation to the next; on a CPU those of convolutions are
    calls. After every one the network is evaluated on all validation and test points, and the weights of
    least validation loss are kept; nothing stops early (Frankle and Carbin, arXiv 1803.03635: the stop is
    found afterwards).

    On a CPU each trial runs in a thread on its own core: batched products gain nothing there, and a trial
    has the same bits whatever runs beside it. On an accelerator all trials advance together under jax.vmap.

    Args:
        program: from `split`.
        snapshots: iterations whose weights to keep, multiples of recipe.evaluate_every.
        together: under vmap (a number: so many at once, where memory is short) or one a core; None to
            choose by the kind of device.
        folder: where trials are kept, finished ones and those under way (by orbax), so that the same
            call goes on after a kill, on the same CPU to the same bits.
        save_every: seconds between two checkpoints of a trial under way.
        progress: called with (iterations done, of how many), over all trials.

    Raises:
        ValueError: no trials, names that are no file names or stand twice, networks of different shapes,
            masks or points that do not fit, starts or snapshots that no evaluation meets, or a trial in the
            folder that was trained otherwise.
    """
    if together is None:
        together = jax.default_backend() != "cpu"
    if not isinstance(together, bool | int) or together < 0:
        raise ValueError(f"together is {together}; give True, False, or how many trials at once")
    if not is_real(save_every) or save_every < 0:
        raise ValueError(f"save_every is {save_every!r}; give seconds, at least 0")
    trials = checked_trials(program, trials, fold, snapshots)
    store = None if folder is None else TrialStore(Path(folder), program, trials, fold)
    end, taken = program.recipe.iterations, sorted(snapshots)
    counter = _Counter(sum(end - trial.start for trial in trials), progress)
    results, waiting = {}, []
    for trial in trials:
        kept = None if store is None else store.load(trial, [i for i in taken if trial.start <= i])
        if kept is None:
            waiting.append(trial)
        else:
            counter.add(end - trial.start)
            results[trial.name] = _result(program.recipe, trial, *kept)
    most = len(waiting) if together is True else max(1, int(together))
    groups = [
        same[first : first + most]
        for same in ([t for t in waiting if t.start == start] for start in sorted({t.start for t in waiting}))
        for first in range(0, len(same), most)
    ]
    train = partial(_train, program, on_device(fold), taken, bool(together), store, save_every, counter)
    for found in _side_by_side([partial(train, group) for group in groups], counter, bool(together)):
        results.update(found)
    return [results[trial.name] for trial in trials]


class _StoppedError(Exception):
    """Another trial failed, or the user interrupted: what is under way ends."""


class _Counter:
    """Iterations done over all threads; tells them to stop when one has failed."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._lock, self.stopped = threading.Lock(), False

    def add(self, iterations: int) -> None:
        with self._lock:
            self._done += iterations
            if self._progress is not None:
                self._progress(self._done, self._total)


def _side_by_side(jobs: Sequence[Callable[[], _T]], counter: _Counter, together: bool) -> list[_T]:
    """Run jobs, one a core. When one fails the others are stopped; then its error is raised."""
    workers = 1 if together else max(1, min(len(jobs), len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            counter.stopped = True
            pool.shutdown(cancel_futures=True)
    for error in (future.exception() for future in futures if not future.cancelled()):
        if error is not None and not isinstance(error, _StoppedError):
            raise error
    return [future.result() for future in futures]


def _train(
    program: Program,
    data: Data,
    snapshots: list[int],
    together: bool,
    store: TrialStore | None,
    save_every: float,
    counter: _Counter,
    trials: list[Trial],
) -> dict[str, TrialResult]:
    """Train one trial, or several of one start together; results by name."""
    recipe, start = program.recipe, trials[0].start
    task, counted = TrialTask(program, start), start
    states = [task.state(trial.weights, trial.masks, trial.seed) for trial in trials]
    orders = [BatchOrder(trial.seed, len(data.x), recipe.batch_size) for trial in trials]
    convolves = any(leaf.ndim == 4 for leaf in jax.tree.leaves(states[0].params))
    checkpoint = None
    if store is not None:
        about = (together, [iteration for iteration in snapshots if start <= iteration])
        checkpoint = store.checkpoint(trials, about, save_every)

    def after(now: Progression) -> None:
        nonlocal counted
        counter.add((now.done - counted) * len(trials))
        counted = now.done
        if counter.stopped and now.done < recipe.iterations:
            raise _StoppedError

    def batches(first: int, steps: int) -> Any:
        found = [order(first, steps) for order in orders]
        return stack(found) if together else found[0]

    ended = fit(
        task,
        stack(states) if together else states[0],
        batches,
        data,
        steps=recipe.iterations,
        every=recipe.evaluate_every,
        together=together,
        stepwise=jax.default_backend() == "cpu" and convolves,
        snapshots=snapshots,
        checkpoint=checkpoint,
        after=after,
    )
    final = jax.device_get(ended.state)
    taken = {iteration: Weights(*held) for iteration, held in ended.snapshots.items()}
    whole = (Weights(final.params, final.rest), Weights(*final.best), taken), ended.rows
    results = {}
    for place, trial in enumerate(trials):
        (weights, best, kept), rows = entry(place, whole) if together else whole
        tree = (weights, best, kept) if trial.keep else (None, None, kept)
        if store is not None:
            store.save(trial, tree, np.stack(rows), ended.seconds)
        results[trial.name] = _result(recipe, trial, tree, np.stack(rows), ended.seconds)
    return results


def _result(recipe: Recipe, trial: Trial, tree: Any, curves: np.ndarray, seconds: float) -> TrialResult:
    ends = trial.start + recipe.evaluate_every * np.arange(1, len(curves) + 1)
    by_name = dict(zip(CURVES, curves.T, strict=True))
    weights, best, snapshots = tree
    ends = np.minimum(ends, recipe.iterations)
    return TrialResult(ends, by_name, weights, best, snapshots, seconds)
