"""Nodes that are not ours: random features, SWIM, greedy selection, and tempering without a grid."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg.blas import sgemv
from sklearn.kernel_approximation import RBFSampler

from qrt_tn import Quantizer, Ridgelet, filter_nodes
from qrt_tn.field import centred
from qrt_tn.models import fit_output_weights, select_ridge
from qrt_tn.studies.experiments.catalogue import UnavailableError
from qrt_tn.studies.experiments.tickets.continuous import tempered_cosines
from qrt_tn.studies.experiments.tickets.data import Answer, Problem

PENALTIES = tuple(float(penalty) for penalty in np.logspace(-6, 4, 21))
CANDIDATES = 16  # for each node that greedy selection keeps
GREEDY_POINTS = 10_000  # that it looks at, at most
FIRST_NODES = 64  # that settings of tempered frequencies are chosen with, at most
# of frequencies, times the square root of their number
WIDTHS = tuple(float(width) for width in np.geomspace(0.03, 3, 9))
TEMPERED_WIDTHS = (0.1, 0.18, 0.33, 0.6, 1.1, 2.0)
BETAS = (4.0, 16.0, 64.0)
LEVELS, MODULUS = 33, 127  # of the estimators too
IMAGE_FILTERS, TABLE_FILTERS = (0.4, 0.5, 0.6), (0.4, 0.55, 0.75, 1.0, 2.0)
_DEPENDENT = 1e-3  # of a candidate's variance that is not explained yet, below which it is not taken

Features = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """One way to draw nodes.

    Attributes:
        draw: features from points (M, D), targets (M, C), a number of nodes and a seed.
        width: for the record.
        beta: for the record.
    """

    draw: Callable[[np.ndarray, np.ndarray, int, int], Features]
    width: float | None = None
    beta: float | None = None


def candidates(method: str, problem: Problem) -> list[Candidate]:
    """What the validation points choose from.

    Args:
        method: of `settings.Tickets`.
        problem: the data.

    Raises:
        UnavailableError: swimnetworks is not installed.
    """
    images = problem.images
    if method == "random-features":
        return [Candidate(partial(_random, width, images), width) for width in WIDTHS]
    if method == "random-features-greedy":
        return [Candidate(partial(_random_greedy, width, images), width) for width in WIDTHS[::2]]
    if method == "random-features-tempered":
        return [
            Candidate(partial(_tempered, width, beta, images), width, beta)
            for width in TEMPERED_WIDTHS
            for beta in BETAS
        ]
    if method == "filter-greedy":
        kinds = ("uniform",) if images else ("uniform", "quantile")
        return [
            Candidate(partial(_filter_greedy, Quantizer(kind, LEVELS, MODULUS), width), width)
            for kind in kinds
            for width in (IMAGE_FILTERS if images else TABLE_FILTERS)
        ]
    dense = _swim_layer()
    return [
        Candidate(partial(_swim, dense, activation, scaled, images))
        for activation in ("tanh", "relu")
        for scaled in (True, False)
    ]


def solve(method: str, problem: Problem, nodes: int, seed: int) -> Answer:
    """Choose a way to draw nodes and a penalty by the squared error on the validation points, then fit again.

    Args:
        method: of `settings.Tickets`.
        problem: the data; the last fit is to training and validation points.
        nodes: N.
        seed: of the draws, the same for all candidates.

    Raises:
        UnavailableError: swimnetworks is not installed.
    """
    possible = candidates(method, problem)
    few = min(nodes, FIRST_NODES) if method == "random-features-tempered" else nodes
    tried = [_try(problem, candidate, few, seed) for candidate in possible]
    best = min(range(len(tried)), key=lambda place: tried[place][0])
    chosen, penalty = possible[best], tried[best][1]
    if few < nodes:
        penalty = _try(problem, chosen, nodes, seed)[1]
    started, points = time.perf_counter(), problem.both
    targets = problem.targets(points)
    features = chosen.draw(points.x, targets, nodes, seed)
    kernel, bias = fit_output_weights(features(points.x), targets, penalty * len(points.x))
    seconds = time.perf_counter() - started
    return Answer(
        lambda x: problem.predictions(features(x) @ kernel + bias), seconds, chosen.width, chosen.beta
    )


def _try(problem: Problem, candidate: Candidate, nodes: int, seed: int) -> tuple[float, float]:
    """Squared error on the validation points, and the penalty chosen, for each training point."""
    train, validation = problem.train, problem.validation
    targets, wanted = problem.targets(train), problem.targets(validation)
    features = candidate.draw(train.x, targets, nodes, seed)
    other = features(validation.x)
    kernel, bias, penalty = select_ridge(features(train.x), targets, other, wanted, PENALTIES)
    return float(np.square(other @ kernel + bias - wanted).mean()), penalty / len(train.x)


def standardiser(x: np.ndarray, images: bool) -> Features:
    """Points by the mean and deviation of each feature, or by the one deviation of all pixels."""
    mean = x.mean(axis=0)
    scale = np.array((x - mean).std()) if images else x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return lambda other: (other - mean) / scale


def forward(phi: np.ndarray, targets: np.ndarray, n: int) -> np.ndarray:
    """Orthogonal least squares: n columns, each leaving the smallest squared error beside those before.

    A Cholesky factorisation of the candidates' covariance whose pivots are chosen by what they explain.
    Columns that those chosen explain to a thousandth come last.

    Args:
        phi: candidates, (M, K).
        targets: (M, C).
        n: how many to choose, at most K.

    Returns:
        Places of the columns in the order chosen, (n,).
    """
    z = np.asfortranarray(phi - phi.mean(axis=0), dtype=np.float32)  # columns lie together
    products = (z.T @ (targets - targets.mean(axis=0)).astype(np.float32)).astype(np.float64)
    variances = np.square(z).sum(axis=0, dtype=np.float64)
    left, rows = variances.copy(), np.empty((n, len(variances)))
    chosen = np.zeros(n, dtype=np.int64)
    for k in range(n):
        usable = left > _DEPENDENT * variances
        usable[chosen[:k]] = False
        if not usable.any():
            others = np.setdiff1d(np.arange(len(variances)), chosen[:k])
            chosen[k:] = others[: n - k]
            break
        gains = np.where(usable, np.square(products).sum(axis=1) / np.where(usable, left, 1.0), -1.0)
        best = int(gains.argmax())
        row = (sgemv(1.0, z, z[:, best], trans=1) - rows[:k, best] @ rows[:k]) / np.sqrt(left[best])
        explained = products[best] / np.sqrt(left[best])
        products -= np.outer(row, explained)
        left -= row**2
        rows[k], chosen[k] = row, best
    return chosen


def _cosines(scale: Features, weights: np.ndarray, phases: np.ndarray) -> Features:
    return lambda x: np.cos((scale(x) @ weights + phases).astype(np.float32))


def _sampled(width: float, scaled: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (D, n) of a Gaussian kernel and uniform phases."""
    sampler = RBFSampler(gamma=width**2 / 2 / scaled.shape[1], n_components=n, random_state=seed)
    sampler.fit(scaled)
    return sampler.random_weights_, sampler.random_offset_


def _random(width: float, images: bool, x: np.ndarray, targets: np.ndarray, n: int, seed: int) -> Features:
    del targets
    scale = standardiser(x, images)
    return _cosines(scale, *_sampled(width, scale(x), n, seed))


def _random_greedy(
    width: float, images: bool, x: np.ndarray, targets: np.ndarray, n: int, seed: int
) -> Features:
    scale = standardiser(x, images)
    weights, phases = _sampled(width, scale(x), CANDIDATES * n, seed)
    kept = _selected(_cosines(scale, weights, phases), x, targets, n, seed)
    return _cosines(scale, weights[:, kept], phases[kept])


def _filter_greedy(
    quantizer: Quantizer, width: float, x: np.ndarray, targets: np.ndarray, n: int, seed: int
) -> Features:
    fitted = Quantizer(**quantizer.get_params()).fit(x)
    nodes = filter_nodes(CANDIDATES * n, fitted.dim, Ridgelet("cosine", MODULUS), width, seed)
    turn = 2 * np.pi / MODULUS
    weights, phases = turn * centred(nodes.a, MODULUS).T.astype(np.float64), -turn * nodes.b
    kept = _selected(_cosines(fitted.positions, weights, phases), x, targets, n, seed)
    return _cosines(fitted.positions, weights[:, kept], phases[kept])


def _selected(features: Features, x: np.ndarray, targets: np.ndarray, n: int, seed: int) -> np.ndarray:
    if len(x) > GREEDY_POINTS:
        rows = np.random.default_rng([seed, 42]).choice(len(x), GREEDY_POINTS, replace=False)
        x, targets = x[rows], targets[rows]
    return forward(features(x), targets, n)


def _tempered(
    width: float, beta: float, images: bool, x: np.ndarray, targets: np.ndarray, n: int, seed: int
) -> Features:
    scale, rng = standardiser(x, images), np.random.default_rng([seed, 43])
    return _cosines(scale, *tempered_cosines(scale(x), targets, n, width / x.shape[1] ** 0.5, beta, rng))


def _swim_layer() -> Any:
    try:
        from swimnetworks import Dense
    except ImportError as error:
        raise UnavailableError("swim needs swimnetworks; run: pip install 'qrt-tn[rivals]'") from error
    return Dense


def _swim(
    dense: Any,
    activation: str,
    scaled: bool,
    images: bool,
    x: np.ndarray,
    targets: np.ndarray,
    n: int,
    seed: int,
) -> Features:
    scale = standardiser(x, images)
    if not scaled:
        largest = np.abs(x).max()
        scale = partial(np.multiply, 1 / largest)
    layer = dense(layer_width=n, activation=activation, parameter_sampler=activation, random_seed=seed)
    layer.fit(scale(x), targets)
    return lambda other: np.asarray(layer.transform(scale(other)))
