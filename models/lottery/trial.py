"""One network to train, and what became of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from qrt_tn.models.lottery.masks import Masks, Params
from qrt_tn.models.lottery.presets import Recipe
from qrt_tn.models.lottery.steps import Program


@dataclass(frozen=True, eq=False)
class Weights:
    """The arrays of a network.

    Attributes:
        params: what training changes, nested dicts.
        rest: batch statistics, constants and random state, nested dicts.
    """

    params: Params
    rest: Any


@dataclass(frozen=True, eq=False)
class Trial:
    """One network to train.

    Attributes:
        name: names its files in a checkpoint folder; each trial of a call has its own.
        weights: where it starts.
        masks: what is pruned, or None for a dense network.
        seed: of the order of points, and of augmentation.
        start: the iteration it starts at, above 0 after rewinding.
        keep: whether its trained weights are wanted, not only its curves.
    """

    name: str
    weights: Weights
    masks: Masks | None = None
    seed: int = 0
    start: int = 0
    keep: bool = True


@dataclass(frozen=True, eq=False)
class Trained:
    """What became of a trial.

    Attributes:
        iterations: when it was evaluated, shape (E,).
        curves: by name ("train_loss", "validation_loss", "validation_accuracy", "test_loss",
            "test_accuracy"), each of shape (E,); the training loss is the mean since the last evaluation.
        weights: after the last iteration, or None where they were not to be kept.
        best: at the early stop, likewise.
        snapshots: by iteration, as asked for.
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
        """The iteration of the early stop."""
        return int(self.iterations[self.early])

    def at_early(self, curve: str) -> float:
        """A curve's value at the early stop."""
        return float(self.curves[curve][self.early])


def take_apart(network: nnx.Module, recipe: Recipe) -> tuple[Program, Weights]:
    """A network as a program, the same for all networks of its architecture, and its arrays.

    The network itself stays as it is.
    """
    network = nnx.clone(network)
    network.train()
    graph, params, *others = nnx.split(network, nnx.Param, ...)
    network.eval()
    evaluated = nnx.split(network, nnx.Param, ...)[0]
    return Program(graph, evaluated, recipe), Weights(nnx.to_pure_dict(params), nnx.to_pure_dict(others[0]))


def put_together(program: Program, weights: Weights) -> nnx.Module:
    """The network of a program and arrays, as it is evaluated."""
    network: nnx.Module = nnx.merge(program.evaluated, weights.params, weights.rest)
    return network
