"""What is usually reached for on such data, and has no nodes: how good is good?"""

import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC, SVR

from qrt_tn.studies.experiments.tickets.data import Answer, Points, Problem
from qrt_tn.studies.experiments.tickets.rivals import standardiser

TREES = 200
ROUNDS = 300  # of boosting, at most; how many is chosen
RATES = (0.05, 0.15)
MANY, KEPT = 20_000, 10_000  # a support-vector machine with more points than MANY sees KEPT of them


def solve(method: str, problem: Problem, seed: int, cores: int) -> Answer:
    """Choose settings by the loss on the validation points, then fit again to them too.

    - linear: logistic or ridge regression on standardised inputs, its penalty chosen.
    - forest: 200 trees; for numbers, a third or all of the features at each split, chosen.
    - boosting: scikit-learn's histogram gradient boosting, its rate and the number of rounds chosen.
    - svm: radial kernel on standardised inputs, C and gamma chosen; of over 20,000 points it sees 10,000.

    Args:
        method: one of `settings.YARDSTICKS`.
        problem: the data.
        seed: of trees and subsamples.
        cores: for the forest.
    """
    train, both, rng = problem.train, problem.both, np.random.default_rng([seed, 44])
    if method == "svm":
        train, both = _fewer(train, rng), _fewer(both, rng)
    best: tuple[float, Any] | None = None
    for model in _models(method, problem, seed, cores):
        loss, chosen = _tried(model, problem, train)
        if best is None or loss < best[0]:
            best = loss, chosen
    assert best is not None
    started = time.perf_counter()
    model = _fitted(best[1], problem, both)
    return Answer(lambda x: _predicted(model, problem, x), time.perf_counter() - started)


def _models(method: str, problem: Problem, seed: int, cores: int) -> Iterator[Any]:
    """Models to choose from, not fitted."""
    labels, count = problem.classes > 0, problem.train.x.shape[1]
    if method == "linear":
        for strength in np.logspace(-3, 2, 6):
            model = LogisticRegression(C=strength, max_iter=300) if labels else Ridge(1 / strength)
            yield _scaled(model, problem)
    elif method == "forest":
        for share in ("sqrt",) if labels else (1 / 3, 1.0):
            forest = RandomForestClassifier if labels else RandomForestRegressor
            yield forest(TREES, max_features=share, n_jobs=cores, random_state=seed)
    elif method == "boosting":
        for rate in RATES:
            boosting = HistGradientBoostingClassifier if labels else HistGradientBoostingRegressor
            model = boosting(learning_rate=rate, max_iter=ROUNDS, early_stopping=False, random_state=seed)
            yield _one_by_one(model, problem)
    else:
        for strength in (1.0, 10.0, 100.0):
            for gamma in (0.1, 0.3, 1.0, 3.0):
                kernel = {"C": strength, "gamma": gamma / count}
                yield _scaled(SVC(**kernel) if labels else _one_by_one(SVR(**kernel), problem), problem)


def _tried(model: Any, problem: Problem, train: Points) -> tuple[float, Any]:
    """The loss on the validation points, and the model with what it chose itself."""
    validation = problem.validation
    model = _fitted(model, problem, train)
    if not hasattr(model, "staged_predict"):
        return problem.loss(_predicted(model, problem, validation.x), validation), model
    stages = model.staged_predict(validation.x)
    losses = [problem.loss(_original(stage, problem), validation) for stage in stages]
    rounds = int(np.argmin(losses))
    return losses[rounds], model.set_params(max_iter=rounds + 1)


def _fitted(model: Any, problem: Problem, points: Points) -> Any:
    y = points.y
    if not problem.classes:
        y = problem.targets(points)
        y = y[:, 0] if y.shape[1] == 1 else y
    with warnings.catch_warnings():
        # a weak penalty on classes that a plane separates: weights grow for ever, predictions do not
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(points.x, y)


def _predicted(model: Any, problem: Problem, x: np.ndarray) -> np.ndarray:
    return _original(model.predict(x), problem)


def _original(predicted: np.ndarray, problem: Problem) -> np.ndarray:
    """Labels as they are, numbers in the units of the targets."""
    return predicted if problem.classes else problem.predictions(predicted.reshape(len(predicted), -1))


def _scaled(model: Any, problem: Problem) -> Any:
    scale = standardiser(problem.train.x, problem.images)
    return make_pipeline(FunctionTransformer(scale), model)


def _one_by_one(model: Any, problem: Problem) -> Any:
    """A model for each of several outputs, where it can have only one."""
    return MultiOutputRegressor(model) if problem.train.y.ndim > 1 else model


def _fewer(points: Points, rng: np.random.Generator) -> Points:
    if len(points.x) <= MANY:
        return points
    rows = rng.choice(len(points.x), KEPT, replace=False)
    return Points(points.x[rows], points.y[rows])
