"""Training of all parameters: tickets from their fitted output weights, dense networks from scratch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from qrt_tn import Ridgelet
from qrt_tn.models import DenseNetwork, RidgeNetwork, select_ridge, train_many
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.studies.experiments.ticket.methods import Fit
from qrt_tn.studies.experiments.tickets.data import Points, Problem
from qrt_tn.studies.experiments.tickets.rivals import Features, standardiser

LEARNING_RATES = (0.01, 0.03, 0.1)  # of which the validation points choose, for each network


@dataclass(frozen=True, eq=False)
class Start:
    """A network before training, and how it takes the points of one seed.

    Attributes:
        problem: the seed's data.
        seed: of the order of batches.
        network: trained in place.
        scale: from points to the network's inputs.
    """

    problem: Problem
    seed: int
    network: ShallowNetwork
    scale: Features

    def learned(self, points: Points) -> np.ndarray:
        """What the loss compares with: labels, or standardised numbers."""
        return points.y if self.problem.classes else self.problem.targets(points)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Labels or numbers at points."""
        return self.problem.predictions(self.network.predict(self.scale(x)))


def ticket_start(problem: Problem, seed: int, fit: Fit) -> Start:
    """The ridge network of a fitted ticket, its output weights fitted to the training points alone.

    Its nodes have seen the validation points too, which choose epoch and learning rate; the test points
    nobody has.
    """
    drawn = fit.estimator
    parts = problem.train, problem.validation
    outputs = problem.targets(problem.train).shape[1]
    ridgelet = Ridgelet("cosine", drawn.nodes_.modulus)
    network = RidgeNetwork(drawn.nodes_, ridgelet, outputs, rngs=nnx.Rngs(seed))
    scale = drawn.quantizer_.positions
    features = [network.compute_features(scale(part.x)) for part in parts]
    targets = [problem.targets(part) for part in parts]
    kernel, bias, _ = select_ridge(features[0], targets[0], features[1], targets[1])
    network.set_output_weights(kernel, bias)
    return Start(problem, seed, network, scale)


def dense_start(problem: Problem, seed: int, nodes: int) -> Start:
    """The dense network from the usual initialisation, its inputs standardised."""
    x = problem.train.x
    outputs = problem.targets(problem.train).shape[1]
    network = DenseNetwork(x.shape[1], nodes, outputs, rngs=nnx.Rngs(seed))
    return Start(problem, seed, network, standardiser(x, problem.images))


def train_together(method: str, starts: Sequence[Start], epochs: int) -> list[Fit]:
    """Train networks of one kind and shape, with one compilation.

    Args:
        method: "residual" or "dense", for the fits.
        starts: one a seed.
        epochs: passes over the training points.
    """
    started = time.perf_counter()
    inputs: dict[str, list[Any]] = {}
    for start in starts:
        for part, suffix in ((start.problem.train, ""), (start.problem.validation, "_validation")):
            inputs.setdefault(f"x{suffix}", []).append(start.scale(part.x))
            inputs.setdefault(f"y{suffix}", []).append(start.learned(part))
    train_many(
        [start.network for start in starts],
        inputs["x"],
        inputs["y"],
        x_validation=inputs["x_validation"],
        y_validation=inputs["y_validation"],
        seeds=[start.seed for start in starts],
        epochs=epochs,
        learning_rate=LEARNING_RATES,
    )
    seconds = (time.perf_counter() - started) / len(starts)
    return [Fit(method, start.network.nodes, start.predict, seconds) for start in starts]
