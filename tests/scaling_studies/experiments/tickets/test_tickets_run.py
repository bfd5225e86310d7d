from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydantic
import pytest
from threadpoolctl import threadpool_limits

from qrt_tn.models import RidgeletClassifier
from qrt_tn.studies.experiments.catalogue import Context, experiment
from qrt_tn.studies.experiments.tickets import yardsticks
from qrt_tn.studies.experiments.tickets.data import load
from qrt_tn.studies.experiments.tickets.run import measure
from qrt_tn.studies.experiments.tickets.settings import YARDSTICKS, Tickets

METHODS = get_args(Tickets.model_fields["method"].annotation)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, say=lambda _: None)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_finite_row(
    method: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "swim":
        pytest.importorskip("swimnetworks", reason="swimnetworks is not installed")
    monkeypatch.setattr(yardsticks, "TREES", 20)
    monkeypatch.setattr(yardsticks, "ROUNDS", 20)
    for data in ("wine", "diabetes") if method not in ("qrt", "residual") else ("wine",):
        settings = Tickets.model_validate(
            {"data": data, "method": method, "nodes": 0 if method in YARDSTICKS else 4}
        )
        found = measure(settings, 0, context)
        assert set(found) == set(experiment("tickets").metrics)
        assert all(value is None or np.isfinite(value) for value in found.values())
        error = found["error"]
        assert error is not None
        assert error < (0.5 if data == "wine" else 1.1)
        assert found["score"] == (pytest.approx(1 - error) if data == "wine" else error)


def test_estimators_are_given_training_and_validation_points(context: Context) -> None:
    problem = load("wine", 2)
    estimator = RidgeletClassifier(4, method="filter", random_state=2)
    estimator.fit(problem.both.x, problem.both.y)
    found = measure(Tickets(data="wine", method="filter", nodes=4), 2, context)
    assert found["score"] == pytest.approx(estimator.score(problem.test.x, problem.test.y))
    assert found["width"] == estimator.smoothing_


def test_a_support_vector_machine_sees_fewer_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fitted(model: Any, problem: Any, points: Any) -> Any:
        seen.append(len(points.x))
        return model.fit(points.x, points.y)

    monkeypatch.setattr(yardsticks, "MANY", 50)
    monkeypatch.setattr(yardsticks, "KEPT", 40)
    monkeypatch.setattr(yardsticks, "_fitted", fitted)
    yardsticks.solve("svm", load("wine", 0), 0, 1)
    assert set(seen) == {40}


def test_boosting_keeps_the_number_of_rounds_that_was_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardsticks, "ROUNDS", 30)
    monkeypatch.setattr(yardsticks, "RATES", (0.5,))
    problem = load("diabetes", 0)
    model = next(yardsticks._models("boosting", problem, 0, 1))
    losses = {}
    with threadpool_limits(1):
        loss, chosen = yardsticks._tried(model, problem, problem.train)
        for rounds in (chosen.max_iter, 2 * chosen.max_iter, 30):
            again = yardsticks._fitted(chosen.set_params(max_iter=rounds), problem, problem.train)
            losses[rounds] = problem.loss(
                yardsticks._predicted(again, problem, problem.validation.x), problem.validation
            )
    assert loss == pytest.approx(min(losses.values()))
    assert next(iter(losses)) < 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "svm", "nodes": 16}, "give nodes = 0"),
        ({"method": "residual", "nodes": 0}, "give nodes of at least 1"),
        ({"method": "boost", "nodes": 0}, "Input should be"),
        ({"data": "mnist"}, "Input should be"),
        ({"nodes": -1}, "greater than or equal to 0"),
        ({"width": 0.5}, "Extra inputs"),
    ],
)
def test_refused_parameters(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Tickets.model_validate(settings)
