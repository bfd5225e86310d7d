"""One method on one set of data: its settings chosen, fitted, and scored once on the test points."""

import time
from collections.abc import Mapping
from typing import Any

from threadpoolctl import threadpool_limits

from qrt_tn.models import RidgeletClassifier, RidgeletRegressor
from qrt_tn.studies.experiments.catalogue import Context
from qrt_tn.studies.experiments.tickets import rivals, trained, yardsticks
from qrt_tn.studies.experiments.tickets.data import Answer, Problem, load
from qrt_tn.studies.experiments.tickets.settings import YARDSTICKS, Tickets

OURS = ("residual", "qrt", "filter")


def measure(settings: Tickets, seed: int, context: Context) -> Mapping[str, float | int | None]:
    """Choose, fit and score.

    Rivals choose on the validation points and fit to training and validation points then; the estimators are
    given both at once and choose inside, as they do for a user.

    Args:
        settings: of the point.
        seed: of the split and of the method.
        context: of the point; linear algebra and trees keep to its cores.

    Raises:
        UnavailableError: data or a package that this machine has not.
    """
    problem = load(settings.data, seed)
    with threadpool_limits(context.cores):
        started = time.perf_counter()
        answer = _answer(settings, problem, seed, context.cores)
        seconds = time.perf_counter() - started
        error = problem.loss(answer.predict(problem.test.x), problem.test)
    context.say(f"{settings.method} on {settings.data}, {settings.nodes} nodes: error {error:.4g}")
    return {
        "score": 1 - error if problem.classes else error,
        "error": error,
        "width": answer.width,
        "beta": answer.beta,
        "seconds": seconds,
        "fit_seconds": answer.fit_seconds,
    }


def _answer(settings: Tickets, problem: Problem, seed: int, cores: int) -> Answer:
    if settings.method in YARDSTICKS:
        return yardsticks.solve(settings.method, problem, seed, cores)
    if settings.method.endswith("-trained"):
        return trained.solve(settings.method, problem, settings.nodes, seed)
    if settings.method not in OURS:
        return rivals.solve(settings.method, problem, settings.nodes, seed)
    kind: Any = RidgeletClassifier if problem.classes else RidgeletRegressor
    estimator = kind(settings.nodes, method=settings.method, random_state=seed)
    estimator.fit(problem.both.x, problem.both.y)
    return Answer(estimator.predict, None, float(estimator.smoothing_), float(estimator.beta_))
