"""Training of all parameters: tickets from their fitted output weights, dense networks from scratch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from sklearn.base import clone

from qrt_tn import Ridgelet
from qrt_tn.engine.progress import silent
from qrt_tn.models import DenseNetwork, RidgeNetwork, select_ridge, train_many
from qrt_tn.models.choosing import Settings, draw_nodes, quantized
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.studies.experiments.ticket.methods import Fit
from qrt_tn.studies.experiments.ticket.settings import TICKET
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
        seconds: that it took to get here.
    """

    problem: Problem
    seed: int
    network: ShallowNetwork
    scale: Features
    seconds: float

    def learned(self, points: Points) -> np.ndarray:
        """What the loss compares with: labels, or standardised numbers."""
        return points.y if self.problem.classes else self.problem.targets(points)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Labels or numbers at points."""
        return self.problem.predictions(self.network.predict(self.scale(x)))


def ticket_start(problem: Problem, seed: int, fit: Fit) -> Start:
    """The ridge network of a ticket drawn from the training points alone, its output weights fitted to them.

    Its nodes have not seen the validation points, which choose epoch and learning rate; its settings have.

    Args:
        problem: the seed's data.
        seed: of nodes and batches.
        fit: of the ticket; its settings are taken.
    """
    started, known = time.perf_counter(), fit.estimator
    settings = Settings(known.quantizer_, known.smoothing_, known.beta_)
    points = quantized(clone(known.quantizer_).fit(problem.train.x), problem.train.x)
    parts = problem.train, problem.validation
    targets = [problem.targets(part) for part in parts]
    centred = targets[0] - targets[0].mean(axis=0)
    nodes = draw_nodes(
        TICKET,
        settings,
        points,
        centred,
        len(known.nodes_),
        sweeps=known.sweeps,
        subsample=known.subsample,
        seed=seed,
        progress=silent,
    )
    ridgelet = Ridgelet("cosine", nodes.modulus)
    network = RidgeNetwork(nodes, ridgelet, targets[0].shape[1], rngs=nnx.Rngs(seed))
    scale = points.quantizer.positions
    # those of the network: its cosine has variance 1
    features = [np.sqrt(2) * nodes.features(scale(part.x)) for part in parts]
    kernel, bias, _ = select_ridge(features[0], targets[0], features[1], targets[1])
    network.set_output_weights(kernel, bias)
    # the choice of settings is the fitted ticket's
    return Start(problem, seed, network, scale, fit.seconds + time.perf_counter() - started)


def dense_start(problem: Problem, seed: int, nodes: int) -> Start:
    """The dense network from the usual initialisation, its inputs standardised."""
    x = problem.train.x
    outputs = problem.targets(problem.train).shape[1]
    network = DenseNetwork(x.shape[1], nodes, outputs, rngs=nnx.Rngs(seed))
    return Start(problem, seed, network, standardiser(x, problem.images), 0.0)


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
    return [Fit(method, start.network.nodes, start.predict, start.seconds + seconds) for start in starts]
