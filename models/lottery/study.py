"""A lottery-ticket study: rounds of train, prune and rewind, each with its controls beside it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery.checks import Trial, check_fold
from qrt_tn.models.lottery.controls import keep_signs, random_masks
from qrt_tn.models.lottery.initial import masks_at_start
from qrt_tn.models.lottery.masks import Masks, counts, full_masks, layers, remaining
from qrt_tn.models.lottery.presets import Preset
from qrt_tn.models.lottery.program import Weights, merge, split
from qrt_tn.models.lottery.pruning import (
    kept_counts,
    layer_rates,
    magnitude_scores,
    prune_by_magnitude,
    prune_by_scores,
)
from qrt_tn.models.lottery.trials import TrialResult, train_trials
from qrt_tn.models.training import Progress

# What is trained beside the tickets of a round, all of the tickets' share of weights:
CONTROLS = (
    "reinit",  # the ticket's mask, redrawn weights
    "sign-reinit",  # the same with the signs that the ticket starts from
    "random",  # a random mask with as many weights a layer, the ticket's initial weights
    "oneshot",  # all pruning after the dense training, rewound like a ticket
    "oneshot-reinit",  # that mask, redrawn weights
    "magnitude-init",  # pruned before training: smallest initial weights, with as many a layer
    "snip",  # pruned before training: least |w dL/dw| on one batch, over all layers
    "synflow",  # pruned before training: least synaptic flow, over all layers
)
REWINDINGS = ("weights", "rate")
REDRAWN = ("reinit", "sign-reinit", "oneshot-reinit")
REPEATS = 1_000  # seeds of a trial's redrawn weights lie between its own and the next trial's
RANDOM_STREAM = 11  # seeds of random masks


@dataclass(frozen=True, eq=False)
class Run:
    """One trained network of a study.

    Attributes:
        method: "dense", "imp" for the tickets, or one of `CONTROLS`.
        level: how many rounds of pruning its share of weights stands for.
        trial: which network of the study it comes from; `repeat`: which redraw of its weights, from 0.
        start: the weights it was trained from, before its masks; with them, the ticket.
        trained: its curves; weights for "dense" and "imp".
    """

    method: str
    level: int
    trial: int
    repeat: int
    masks: Masks
    start: Weights
    trained: TrialResult

    @property
    def remaining(self) -> float:
        """The share of prunable weights that is left."""
        return remaining(self.masks)


class _Wanted(NamedTuple):
    """A network to train: as in `Run`, and the iteration that it starts at."""

    method: str
    level: int
    trial: int
    repeat: int
    masks: Masks
    weights: Weights
    start: int = 0

    def as_trial(self) -> Trial:
        name = f"{self.method}-{self.level:02d}-{self.trial}-{self.repeat}"
        keep = self.method in ("dense", "imp")
        return Trial(name, self.weights, self.masks, self.trial, self.start, keep)


class LotteryStudy:
    """Iterative magnitude pruning of several trials (Frankle and Carbin, arXiv 1803.03635), with controls.

    Round 0 trains dense networks. Each further round prunes the weights of smallest final magnitude of
    every trial, rewinds the survivors and trains them again. The controls of a round have the share of
    weights of its tickets; those pruned by layer have the ticket's counts in each layer too.

    All runs of a trial see the points in the same order; redrawn weights come from seeds of their own.

    Args:
        build: makes the network of a seed; all seeds give one architecture. The network returns logits: one
            of experts is wrapped in a module that does, and trains without its routers' losses and noise.
        controls: which of `CONTROLS` to train, where `control_levels` says.
        control_levels: rounds with controls; None for all from 1 on.
        rewinding: "weights": survivors go back to iteration `preset.rewind` (0: to initialisation);
            "rate": they keep their trained values, and only the schedule of the learning rate goes back
            there (Renda, Frankle and Carbin, arXiv 2003.02389).
        folder: where every run is kept, so that a study that was killed goes on where it was.

    Attributes:
        full: the masks of a dense network.
        shares: the share of weights that each round leaves, from 1 for round 0.
        notes: what could not be done, in sentences.

    Raises:
        ValueError: unknown controls, rounds or rewinding, a rewind that no evaluation meets, a layer
            pruned to nothing by the last round, or what `train_trials` refuses.
    """

    def __init__(
        self,
        build: Callable[[int], nnx.Module],
        preset: Preset,
        fold: ImageFold,
        *,
        controls: Sequence[str] = CONTROLS,
        control_levels: Sequence[int] | None = None,
        rewinding: str = "weights",
        folder: str | Path | None = None,
        together: bool | int | None = None,
    ) -> None:
        for control in controls:
            if control not in CONTROLS:
                raise ValueError(f"unknown control {control!r}; choose from {', '.join(CONTROLS)}")
        if rewinding not in REWINDINGS:
            raise ValueError(f"rewinding is {rewinding!r}; choose one of {', '.join(REWINDINGS)}")
        if preset.rewind % (every := preset.recipe.evaluate_every):
            raise ValueError(f"rewind is {preset.rewind}; give a multiple of evaluate_every, {every}")
        levels = range(1, preset.levels + 1) if control_levels is None else control_levels
        for level in levels:
            if not 1 <= level <= preset.levels:
                raise ValueError(f"control_levels holds {level}; give rounds from 1 to {preset.levels}")
        self._build, self._preset, self._fold = build, preset, fold
        self._controls, self._control_levels, self._rewinding = tuple(controls), frozenset(levels), rewinding
        self.program, first = split(build(0), preset.recipe)
        self._initial = {0: first}
        check_fold(self.program, first, fold)
        self.notes: list[str] = []
        self.full = full_masks(first.params)
        self._rates = layer_rates(self.full, preset.rate, preset.conv_rate, preset.output_rate)
        size = counts(self.full)[1]
        spared = 0
        if preset.scope == "global":
            spared = sum(mask.size for name, mask in layers(self.full).items() if not self._rates[name])
        left = (kept_counts(self.full, self._rates, n, preset.scope) for n in range(preset.levels + 1))
        self.shares = [(spared + sum(kept.values())) / size for kept in left]
        self._train = partial(train_trials, self.program, fold=fold, folder=folder, together=together)

    def runs_of(self, level: int) -> int:
        """How many networks a round trains."""
        trials, redraws = self._preset.trials, self._preset.reinitialisations
        if level not in self._control_levels:
            return trials
        each = {control: redraws if control == "reinit" else min(1, redraws) for control in REDRAWN}
        return trials * (1 + sum(each.get(control, 1) for control in self._controls))

    def initial(self, trial: int, redraw: int = 0) -> Weights:
        """The untrained network of a trial; redraws 1, 2, ... are other draws from the same distribution."""
        if redraw == 0 and trial in self._initial:
            return self._initial[trial]
        program, weights = split(self._build(trial * REPEATS + redraw), self._preset.recipe)
        if program != self.program:
            raise ValueError("build makes networks of different architectures; it may vary the seed only")
        if redraw == 0:
            self._initial[trial] = weights
        return weights

    def rounds(self, progress: Progress | None = None) -> Iterator[list[Run]]:
        """Train round after round, and yield the runs of each: the dense networks, then tickets and controls.

        The rounds end early, with a note, where the trained weights cannot be pruned any further. `progress`
        is called with (iterations done, of how many) within a round.
        """
        rewind, trials = self._preset.rewind, range(self._preset.trials)
        snapshots = [rewind] if rewind and self._rewinding == "weights" else []
        first = [_Wanted("dense", 0, t, 0, self.full, self.initial(t)) for t in trials]
        runs = self._trained(first, progress, snapshots)
        yield runs
        dense = [run.trained for run in runs]
        tickets, masks = dense, [self.full] * len(trials)
        for level in range(1, self._preset.levels + 1):
            for t in trials:
                try:
                    masks[t] = self._pruned(tickets[t], masks[t])
                except ValueError as error:
                    self.notes.append(f"The rounds ended before level {level}, for trial {t}: {error}.")
                    return
            starts = [self._rewound(t, dense[t], tickets[t]) for t in trials]
            wanted = [_Wanted("imp", level, t, 0, masks[t], starts[t], rewind) for t in trials]
            if level in self._control_levels:
                wanted += [one for t in trials for one in self._controls_of(wanted[t], dense[t])]
            runs = self._trained(wanted, progress)
            tickets = [run.trained for run in runs[: len(trials)]]
            yield runs

    def network(self, run: Run) -> nnx.Module:
        """The network of a run of "dense" or "imp", whose weights are kept, at its early stop."""
        if run.trained.best is None:
            raise ValueError(f"the weights of {run.method!r} are not kept; take a run of 'dense' or 'imp'")
        return merge(self.program, run.trained.best)

    def _pruned(self, trained: TrialResult, masks: Masks, rounds: int = 1) -> Masks:
        assert trained.weights is not None
        scope = self._preset.scope
        return prune_by_magnitude(trained.weights.params, masks, self._rates, rounds=rounds, scope=scope)

    def _rewound(self, trial: int, dense: TrialResult, last: TrialResult) -> Weights:
        if self._rewinding == "rate":
            assert last.weights is not None
            return last.weights
        return dense.snapshots[self._preset.rewind] if self._preset.rewind else self.initial(trial)

    def _trained(
        self, wanted: Sequence[_Wanted], progress: Progress | None, snapshots: Sequence[int] = ()
    ) -> list[Run]:
        trials = [one.as_trial() for one in wanted]
        found = self._train(trials, snapshots=snapshots, progress=progress)
        return [Run(*one[:-1], result) for one, result in zip(wanted, found, strict=True)]

    def _controls_of(self, ticket: _Wanted, dense: TrialResult) -> Iterator[_Wanted]:
        """What is trained beside a ticket."""
        level, trial = ticket.level, ticket.trial
        redraws = [self.initial(trial, 1 + r) for r in range(self._preset.reinitialisations)]
        for method in self._controls:
            try:
                masks = self._control_masks(method, ticket, dense)
            except ValueError as error:
                self.notes.append(f"{method} has no network at level {level}, trial {trial}: {error}.")
                continue
            starts, start = [self.initial(trial)], 0
            if method == "oneshot":
                starts, start = [self._rewound(trial, dense, dense)], self._preset.rewind
            elif method in REDRAWN:
                starts = redraws if method == "reinit" else redraws[:1]
            if method == "sign-reinit":
                signs = ticket.weights.params
                starts = [Weights(keep_signs(w.params, signs, masks), w.rest) for w in starts]
            for repeat, weights in enumerate(starts):
                yield _Wanted(method, level, trial, repeat, masks, weights, start)

    def _control_masks(self, method: str, ticket: _Wanted, dense: TrialResult) -> Masks:
        level, trial, initial = ticket.level, ticket.trial, self.initial(ticket.trial)
        if method in ("oneshot", "oneshot-reinit"):
            return self._pruned(dense, self.full, rounds=level)
        if method == "random":
            kept = {name: int(mask.sum()) for name, mask in layers(ticket.masks).items()}
            return random_masks(self.full, kept, np.random.default_rng([RANDOM_STREAM, trial, level]))
        if method == "magnitude-init":
            scores = magnitude_scores(initial.params, self.full)
            return prune_by_scores(scores, self.full, self._rates, rounds=level, scope=self._preset.scope)
        if method not in ("snip", "synflow"):
            return ticket.masks
        # both prune globally: all layers that have a rate, down to the ticket's total
        rated = {name: mask for name, mask in layers(ticket.masks).items() if self._rates[name] > 0}
        share = sum(int(mask.sum()) for mask in rated.values()) / sum(mask.size for mask in rated.values())
        names = list(rated)
        return masks_at_start(method, self.program, initial, self.full, names, share, self._fold, trial)
