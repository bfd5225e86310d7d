"""Networks of which everything is trained: from a residual ticket, or dense from the usual initialisation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx
from sklearn.preprocessing import StandardScaler

from qrt_tn import Ridgelet
from qrt_tn.models import (
    DenseNetwork,
    RidgeletClassifier,
    RidgeletRegressor,
    RidgeNetwork,
    select_ridge,
    train,
)
from qrt_tn.studies.experiments.tickets.data import Answer, Problem

LEARNING_RATES = (0.01, 0.03, 0.1)  # the one best on the validation points is kept, and so is the best epoch


def solve(method: str, problem: Problem, nodes: int, seed: int) -> Answer:
    """Train "residual-trained" or "dense-trained" on the training points alone.

    Args:
        method: which of them.
        problem: the data; the validation points choose learning rate and epoch.
        nodes: N.
        seed: of weights, nodes and the order of points.
    """
    start = _ticket if method == "residual-trained" else _dense
    network, scale, width, beta = start(problem, nodes, seed)
    learning = [
        part.y if problem.classes else problem.targets(part) for part in (problem.train, problem.validation)
    ]
    train(
        network,
        scale(problem.train.x),
        learning[0],
        x_validation=scale(problem.validation.x),
        y_validation=learning[1],
        learning_rate=LEARNING_RATES,
        seed=seed,
    )
    return Answer(lambda x: problem.predictions(network.predict(scale(x))), None, width, beta)


def _ticket(problem: Problem, nodes: int, seed: int) -> tuple[Any, Callable[..., np.ndarray], float, float]:
    """The ridge network of the nodes that the estimator draws, its output weights fitted."""
    kind: Any = RidgeletClassifier if problem.classes else RidgeletRegressor
    drawn = kind(nodes, random_state=seed).fit(problem.train.x, problem.train.y)
    scale = drawn.quantizer_.positions
    targets = [problem.targets(part) for part in (problem.train, problem.validation)]
    ridgelet = Ridgelet("cosine", drawn.nodes_.modulus)
    network = RidgeNetwork(drawn.nodes_, ridgelet, targets[0].shape[1], rngs=nnx.Rngs(seed))
    features = [network.compute_features(scale(part.x)) for part in (problem.train, problem.validation)]
    kernel, bias, _ = select_ridge(features[0], targets[0], features[1], targets[1])
    network.set_output_weights(kernel, bias)
    return network, scale, float(drawn.smoothing_), float(drawn.beta_)


def _dense(problem: Problem, nodes: int, seed: int) -> tuple[Any, Callable[..., np.ndarray], None, None]:
    """The dense network, its inputs standardised, those of images by one scale."""
    x = problem.train.x
    scaler = StandardScaler(with_std=not problem.images).fit(x)
    unit = x.std() if problem.images else 1.0
    outputs = problem.classes or 1
    network = DenseNetwork(x.shape[1], nodes, outputs, rngs=nnx.Rngs(seed))
    return network, lambda other: scaler.transform(other) / unit, None, None
