"""Every method on one seed's data: nodes drawn, output weights fitted, and yardsticks without nodes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone

from qrt_tn import QuantumRidgeletTransform, Ridgelet, TemperedNodes, states, uniform_nodes
from qrt_tn.models import RidgeletClassifier, RidgeletRegressor, fit_output_weights, select_ridge
from qrt_tn.models.choosing import quantized, untempered
from qrt_tn.studies.experiments.ticket.settings import NODELESS, Ticket
from qrt_tn.studies.experiments.tickets import rivals, yardsticks
from qrt_tn.studies.experiments.tickets.data import Problem

SEARCHED_WITH = 64  # nodes that settings are chosen with, at most: they serve all counts of a seed
TOLERANCE = 0.05  # of the state of "qrt"
ESTIMATED = ("residual", "filter")
TRANSFORMED = ("qrt", "qrt-unsmoothed", "uniform")  # take quantiser and width from the filter's search


@dataclass(frozen=True, eq=False)
class Fit:
    """A method fitted to training and validation points.

    Attributes:
        method: its name.
        nodes: N; None where there are none.
        predict: labels or numbers at points; None once it has been scored.
        seconds: of choosing settings, shared out among the counts, drawing and fitting.
        estimator: of "residual" and "filter".
        smoothing: the width chosen; None where there is none.
        beta: likewise.
        validation: squared error on inner validation points; None where it is not known.
        state: of "qrt".
    """

    method: str
    nodes: int | None
    predict: Callable[[np.ndarray], np.ndarray] | None
    seconds: float
    estimator: Any = None
    smoothing: float | None = None
    beta: float | None = None
    validation: float | None = None
    state: states.MPSState | None = None


def estimated(method: str, problem: Problem, settings: Ticket, seed: int) -> list[Fit]:
    """Tickets or filter nodes of all counts by the estimators.

    Settings are chosen once, with `SEARCHED_WITH` nodes or the smallest count above it, on inner validation
    parts of training and validation points.

    Args:
        method: of `ESTIMATED`.
        problem: the data.
        settings: of the run.
        seed: of folds and nodes.
    """
    first = max((n for n in settings.nodes if n <= SEARCHED_WITH), default=settings.nodes[0])
    started, both = time.perf_counter(), problem.both
    chosen = estimator(problem, settings, seed, n_components=first, method=method)
    chosen.fit(both.x, both.y)
    search = (time.perf_counter() - started) / len(settings.nodes)
    fits = []
    for n in settings.nodes:
        started = time.perf_counter()
        own = chosen if n == first else with_settings_of(chosen, n).fit(both.x, both.y)
        seconds = search + time.perf_counter() - started
        chose = float(own.smoothing_), float(own.beta_), float(own.validation_error_)
        fits.append(Fit(method, n, own.predict, seconds, own, *chose))
    return fits


def estimator(problem: Problem, settings: Ticket, seed: int, **parameters: Any) -> Any:
    """An estimator with the settings of the run, not fitted; levels of pixels are uniform."""
    kind: Any = RidgeletClassifier if problem.classes else RidgeletRegressor
    pixels = problem.images and settings.quantizer == "auto"
    return kind(
        quantizer="uniform" if pixels else settings.quantizer,
        levels=settings.levels,
        modulus=settings.modulus,
        smoothing=settings.smoothing,
        beta=settings.beta,
        random_state=seed,
        **parameters,
    )


def with_settings_of(fitted: Any, nodes: int) -> Any:
    """An estimator that has the settings which another one chose, not fitted."""
    return clone(fitted).set_params(
        n_components=nodes,
        quantizer=clone(fitted.quantizer_),
        smoothing=fitted.smoothing_,
        beta=fitted.beta_,
    )


def transformed(
    method: str, problem: Problem, chosen: Any, settings: Ticket, seed: int, bond: int
) -> list[Fit]:
    """Nodes of all counts from the transform itself, or uniform ones.

    Args:
        method: of `TRANSFORMED`.
        problem: the data.
        chosen: the filter's estimator, for its quantiser and width.
        settings: of the run.
        seed: of the nodes.
        bond: the largest of the state.
    """
    started = time.perf_counter()
    # of the training points alone: the validation points, which choose the penalty, are new to the nodes
    points = quantized(clone(chosen.quantizer_).fit(problem.train.x), problem.train.x)
    modulus, most = points.quantizer.modulus, max(settings.nodes)
    state = None
    if method == "uniform":
        nodes = uniform_nodes(most, points.levels.shape[1], modulus, seed)
    else:
        targets = problem.targets(problem.train)
        smoothing = {"smoothing": chosen.smoothing_, "tolerance": TOLERANCE, "max_bond": bond}
        state = states.from_samples(
            points.levels,
            targets - targets.mean(axis=0),
            modulus,
            **(smoothing if method == "qrt" else {}),
            backend="auto" if settings.backend in ("auto", "cuquantum") else settings.backend,
        )
        transform = QuantumRidgeletTransform(state, Ridgelet("cosine", modulus), settings.backend)
        nodes = transform.sample(most, seed)
    drawn = (time.perf_counter() - started) / len(settings.nodes)
    fits = []
    for n in settings.nodes:
        started = time.perf_counter()
        predict = readout(problem, points.quantizer.positions, untempered(nodes[:n]))
        seconds = drawn + time.perf_counter() - started
        kept = state if isinstance(state, states.MPSState) and n == most else None
        width = float(chosen.smoothing_) if method == "qrt" else None
        fits.append(Fit(method, n, predict, seconds, smoothing=width, state=kept))
    return fits


def readout(
    problem: Problem, positions: Callable[[np.ndarray], np.ndarray], nodes: TemperedNodes
) -> Callable[[np.ndarray], np.ndarray]:
    """Predictions by ridge regression on nodes, its penalty chosen on the validation points."""

    def features(x: np.ndarray) -> np.ndarray:
        return nodes.features(positions(x))

    parts = problem.train, problem.validation
    phi, other = (features(part.x) for part in parts)
    targets, wanted = (problem.targets(part) for part in parts)
    penalty = select_ridge(phi, targets, other, wanted, rivals.PENALTIES)[2]
    both = problem.both
    kernel, bias = fit_output_weights(
        features(both.x), problem.targets(both), penalty * len(both.x) / len(phi)
    )
    return lambda x: problem.predictions(features(x) @ kernel + bias)


def rival(method: str, problem: Problem, nodes: int | None, seed: int) -> list[Fit]:
    """Other nodes, or a yardstick without any."""
    started = time.perf_counter()
    if method in NODELESS:
        answer = yardsticks.solve(method, problem, seed, cores=1)
    else:
        assert nodes is not None
        answer = rivals.solve(method, problem, nodes, seed)
    seconds = time.perf_counter() - started
    # a rival's width is no filter's
    return [Fit(method, nodes, answer.predict, seconds)]


@dataclass(frozen=True)
class Task:
    """A piece of work on one seed's data that needs no other.

    Attributes:
        methods: what it fits.
        nodes: at which counts; empty for methods without nodes.
        run: does it.
    """

    methods: tuple[str, ...]
    nodes: tuple[int, ...]
    run: Callable[[Problem], list[Fit]]


def seed_tasks(methods: Sequence[str], settings: Ticket, seed: int, bond: int) -> list[Task]:
    """What one seed has to fit, in pieces that may run side by side, the longest first.

    Args:
        methods: of `settings.KNOWN`.
        settings: of the run.
        seed: of nodes and folds.
        bond: the largest of the state of "qrt".
    """
    tasks: list[Task] = []
    if "residual" in methods:
        run = partial(estimated, "residual", settings=settings, seed=seed)
        tasks.append(Task(("residual",), settings.nodes, run))
    drawn = tuple(method for method in ("filter", *TRANSFORMED) if method in methods)
    if drawn:
        run = partial(_filter_and_transformed, drawn, settings=settings, seed=seed, bond=bond)
        tasks.append(Task(drawn, settings.nodes, run))
    for method in methods:
        if method in NODELESS:
            tasks.append(Task((method,), (), partial(rival, method, nodes=None, seed=seed)))
        elif method.startswith("random-features"):
            for n in reversed(settings.nodes):
                tasks.append(Task((method,), (n,), partial(rival, method, nodes=n, seed=seed)))
    return tasks


def _filter_and_transformed(
    methods: Sequence[str], problem: Problem, settings: Ticket, seed: int, bond: int
) -> list[Fit]:
    """The filter's nodes, and those that take its quantiser and width."""
    fits = estimated("filter", problem, settings, seed)
    chosen = fits[0].estimator
    if "filter" not in methods:
        fits = []
    for method in methods:
        if method != "filter":
            fits += transformed(method, problem, chosen, settings, seed, bond)
    return fits
