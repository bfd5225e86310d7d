"""Trials: networks of one architecture trained side by side, evaluated as they go, and taken up again."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery.batches import BatchOrder
from qrt_tn.models.lottery.checks import check_trials, identities, with_masks
from qrt_tn.models.lottery.steps import (
    CURVES,
    Data,
    Program,
    Replica,
    advance,
    advance_together,
    evaluation_batches,
    initial,
)
from qrt_tn.models.lottery.store import TrialStore
from qrt_tn.models.lottery.trial import Trained, Trial, Weights

Progress = Callable[[int, int], None]


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
) -> list[Trained]:
    """Train networks of one architecture, each under its mask, from its weights and in its own order.

    Batches run in one compiled scan from each evaluation to the next. After every one the network is
    evaluated on all validation and test points, and the weights of least validation loss are kept;
    nothing stops early (Frankle and Carbin, arXiv 1803.03635: the stop is found afterwards).

    On a CPU each trial runs on its own core: batched products gain nothing there, and a trial has the
    same bits whatever runs beside it. On an accelerator all trials advance together under jax.vmap.

    Args:
        program: the architecture and the recipe, from `take_apart`.
        trials: what to train.
        fold: the data.
        snapshots: iterations whose weights to keep, multiples of recipe.evaluate_every.
        together: under vmap (a number: so many at once, where memory is short) or one a core; None to
            choose by the kind of device.
        folder: where trials are kept, finished ones and those under way (by orbax), so that the same
            call goes on after a kill, to the same bits on the same machine.
        save_every: seconds between two checkpoints of a trial under way.
        progress: called with (iterations done, of how many), over all trials.

    Returns:
        The outcome of each trial.

    Raises:
        ValueError: no trials, two of one name, masks that do not fit, labels beyond the network's
            outputs, images of another shape, starts or snapshots that no evaluation meets, or a batch
            larger than the training set.
    """
    if together is None:
        together = jax.default_backend() != "cpu"
    if not isinstance(together, bool | int) or together < 0:
        raise ValueError(f"together is {together}; give True, False, or how many trials at once")
    prepared = [with_masks(trial) for trial in trials]
    check_trials(program, prepared, fold, snapshots)
    data = Data(
        jnp.asarray(fold.x_train),
        jnp.asarray(fold.y_train),
        evaluation_batches(fold.x_validation, fold.y_validation),
        evaluation_batches(fold.x_test, fold.y_test),
    )
    store = None if folder is None else TrialStore(Path(folder))
    known = {} if store is None else identities(program, prepared, fold)
    run = _Run(program, data, tuple(sorted(snapshots)), bool(together), store, known, save_every)
    counter = _Counter(sum(program.recipe.iterations - trial.start for trial in trials), progress)
    outcomes: dict[str, Trained] = {}
    for trial in prepared:
        found = run.finished(trial)
        if found is not None:
            outcomes[trial.name] = found
            counter.add(program.recipe.iterations - trial.start)
    waiting = [trial for trial in prepared if trial.name not in outcomes]
    if together:
        starts = sorted({trial.start for trial in waiting})
        most = len(waiting) if together is True else int(together)
        groups = [
            same[first : first + most]
            for same in ([trial for trial in waiting if trial.start == start] for start in starts)
            for first in range(0, len(same), most)
        ]
    else:
        groups = [[trial] for trial in waiting]
    workers = 1 if together else max(1, min(len(groups), len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run.train, group, counter) for group in groups]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            counter.stop()
            pool.shutdown(cancel_futures=True)
    failed = [error for error in (f.exception() for f in futures if not f.cancelled()) if error is not None]
    for error in failed:
        if not isinstance(error, _StoppedError):
            raise error
    for future in futures:
        outcomes.update(future.result())
    if store is not None:
        for trial in waiting:
            store.forget(trial.name)
    return [outcomes[trial.name] for trial in trials]


class _StoppedError(Exception):
    """Another trial failed, or the user interrupted: what is under way ends."""


class _Counter:
    """Iterations done over all threads; tells them to stop when one has failed."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self._lock = threading.Lock()
        self.stopped = False

    def add(self, iterations: int) -> None:
        with self._lock:
            self._done += iterations
            if self._progress is not None:
                self._progress(self._done, self._total)

    def stop(self) -> None:
        self.stopped = True


@dataclass(frozen=True, eq=False)
class _Run:
    """What the trials of one call share."""

    program: Program
    data: Data
    snapshots: tuple[int, ...]
    together: bool
    store: TrialStore | None
    identities: dict[str, str]
    save_every: float

    def finished(self, trial: Trial) -> Trained | None:
        """The outcome of a trial that the store has.

        Raises:
            ValueError: a trial of this name was trained otherwise.
        """
        if self.store is None:
            return None
        weights = (trial.weights.params, trial.weights.rest)
        like = self._tree(trial, weights, weights, dict.fromkeys(self._due(trial.start, self._end), weights))
        found = self.store.finished(trial.name, self.identities[trial.name], like)
        return None if found is None else self._outcome(trial, *found)

    def train(self, trials: list[Trial], counter: _Counter) -> dict[str, Trained]:
        """Train one trial, or several of one start together; outcomes by name."""
        start, count = trials[0].start, len(trials)
        name = self._place(trials)
        replica = _stacked(
            [initial(self.program, t.weights.params, t.weights.rest, t.masks, t.seed, start) for t in trials],
            self.together,
        )
        rows: list[np.ndarray] = []
        kept: dict[int, Any] = {}
        done, before = start, 0.0
        found = None if self.store is None else self.store.under_way(name, partial(self._saved_like, replica))
        if found is not None:
            done, (replica, curves, kept, spent) = found
            rows, before = list(curves), float(spent)
            counter.add((done - start) * count)
        orders = [BatchOrder(t.seed, len(self.data.x), self.program.recipe.batch_size) for t in trials]
        step = advance_together if self.together else advance
        begun = saved = time.perf_counter()
        while done < self._end:
            if done in self.snapshots:
                kept[done] = jax.device_get((replica.params, replica.rest))
            steps = min(self.program.recipe.evaluate_every, self._end - done)
            batches = _stacked([order.batches(done, steps) for order in orders], self.together)
            with _COMPILING if done == start else nullcontext():
                replica, measured = step(self.program, start, replica, batches, self.data)
            rows.append(np.asarray(measured))
            done += steps
            counter.add(steps * count)
            now = time.perf_counter()
            if (
                self.store is not None
                and done < self._end
                and (counter.stopped or now - saved > self.save_every)
            ):
                spent = np.asarray(before + now - begun)
                self.store.save(name, done, (replica, np.stack(rows), kept, spent))
                saved = time.perf_counter()
            if counter.stopped and done < self._end:
                raise _StoppedError
        seconds = before + time.perf_counter() - begun
        final = jax.device_get(replica)
        outcomes = {}
        for place, trial in enumerate(trials):
            own = partial(_entry, place) if self.together else _whole
            tree = self._tree(trial, *own(((final.params, final.rest), final.best, kept)))
            curves = np.stack([own(row) for row in rows])
            if self.store is not None:
                self.store.finish(trial.name, self.identities[trial.name], tree, curves, seconds)
            outcomes[trial.name] = self._outcome(trial, tree, curves, seconds)
        return outcomes

    def _place(self, trials: list[Trial]) -> str:
        """Where trials under way are kept; another set, or the same set one by one, has another place."""
        if self.store is None:
            return trials[0].name
        every = repr((self.together, [self.identities[trial.name] for trial in trials]))
        return f"{trials[0].name}@{hashlib.blake2b(every.encode(), digest_size=8).hexdigest()}"

    @property
    def _end(self) -> int:
        return self.program.recipe.iterations

    def _due(self, start: int, done: int) -> list[int]:
        """The snapshots that a run from `start` has taken before iteration `done`."""
        return [iteration for iteration in self.snapshots if start <= iteration < done]

    def _saved_like(self, replica: Replica, done: int) -> Any:
        """The shapes of what `train` saves at an iteration."""
        start = int(np.ravel(replica.iteration)[0])
        evaluations = -(-(done - start) // self.program.recipe.evaluate_every)
        shape = (evaluations, *np.shape(replica.iteration), len(CURVES))
        kept = dict.fromkeys(self._due(start, done), jax.device_get((replica.params, replica.rest)))
        return replica, np.zeros(shape, np.float32), kept, np.zeros(())

    def _tree(self, trial: Trial, weights: Any, best: Any, kept: dict[int, Any]) -> dict[str, Any]:
        """What is kept of a finished trial."""
        return {"kept": kept, **({"weights": weights, "best": best} if trial.keep else {})}

    def _outcome(self, trial: Trial, tree: dict[str, Any], curves: np.ndarray, seconds: float) -> Trained:
        ends = trial.start + self.program.recipe.evaluate_every * np.arange(1, len(curves) + 1)
        return Trained(
            np.minimum(ends, self._end),
            {name: curves[:, place] for place, name in enumerate(CURVES)},
            Weights(*tree["weights"]) if trial.keep else None,
            Weights(*tree["best"]) if trial.keep else None,
            {iteration: Weights(*held) for iteration, held in tree["kept"].items()},
            seconds,
        )


# The first step of one trial compiles; the others wait for it instead of compiling the same once more.
_COMPILING = threading.Lock()


def _stacked(trees: list[Any], together: bool) -> Any:
    if not together:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _entry(place: int, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[place], tree)


def _whole(tree: Any) -> Any:
    return tree
