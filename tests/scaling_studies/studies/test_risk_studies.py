from collections.abc import Mapping
from typing import Any, get_args

import pytest

from qrt_tn.studies.config import Study, load_study
from qrt_tn.studies.experiments.risk.settings import Risk

STUDIES = {
    "nodes": "risk",
    "smoothing": "risk",
    "data": "planted",
    "tickets": "tickets",
    "yardsticks": "tickets",
}


def matches(parameters: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(
        parameters[name] in (value if isinstance(value, list) else [value]) for name, value in where.items()
    )


@pytest.fixture(params=[(name, quick) for name in STUDIES for quick in (False, True)], ids=str)
def study(request: pytest.FixtureRequest) -> Study:
    name, quick = request.param
    return load_study(name, quick=quick)


def test_a_study_runs_its_experiment(study: Study) -> None:
    assert study.experiment.name == STUDIES[study.name.removesuffix("-quick")]
    assert study.title
    assert study.description
    assert len(study.points) <= 400 or not study.quick


def test_every_figure_has_points(study: Study) -> None:
    for figure in study.figures:
        shown = [point.parameters for point in study.points if matches(point.parameters, figure.where)]
        assert shown, figure.title
        for name, value in figure.where.items():
            wanted = value if isinstance(value, list) else [value]
            present = {parameters[name] for parameters in shown}
            assert study.quick or present == set(wanted), (figure.title, name)
        if figure.kind == "ratio":
            assert any(matches(parameters, figure.reference) for parameters in shown), figure.title
            assert not all(matches(parameters, figure.reference) for parameters in shown), figure.title
        if figure.x in shown[0]:
            assert len({parameters[figure.x] for parameters in shown}) > 1, figure.title


def test_nodes_compares_every_sampler() -> None:
    samplers = {point.parameters["sampler"] for point in load_study("nodes").points}
    assert samplers == set(get_args(Risk.model_fields["sampler"].annotation))
