from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.config import Study, load_study
from qrt_tn.studies.experiments.catalogue import Context

NAMES = ("lottery", "lottery-rounds", "lottery-paper", "moe", "moe-routers")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_both_variants_are_whole(name: str, quick: bool) -> None:
    study = load_study(name, quick=quick)
    assert study.figures
    assert study.description or not quick or study.title
    if quick:
        assert len(study.points) <= 24
        assert {(point.needs.gpus, point.needs.ranks, point.needs.cores) for point in study.points} == {
            (0, 1, 1)
        }
    else:
        seeds = Counter(point.seed for point in study.points)
        assert len(seeds) >= 5
        assert len(set(seeds.values())) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_line_of_a_figure_has_points_to_go_through(name: str) -> None:
    """What a figure selects is there, with two values of x or more; quick variants may leave a figure out."""
    for quick in (False, True):
        study = load_study(name, quick=quick)
        for figure in study.figures:
            keys = study.experiment.table(figure.table).keys
            chosen = [
                point
                for point in study.points
                if all(
                    point.parameters[key] in _values(value)
                    for key, value in figure.where.items()
                    if key not in keys
                )
            ]
            if quick and not chosen:
                continue  # what is left out of the quick variant
            assert chosen, (name, figure.title)
            if figure.x in study.experiment.settings.model_fields:
                assert len({point.parameters[figure.x] for point in chosen}) >= 2, (name, figure.title)


def test_shares_pruned_meet_at_the_same_places_over_experts() -> None:
    study = load_study("moe-routers")
    shares: dict[int, set[float]] = {}
    for point in study.points:
        experts, prune = point.parameters["experts"], point.parameters["prune"]
        shares[experts] = {pruned / experts for pruned in prune}
    assert set(shares) == {4, 8, 16, 32}
    assert set.intersection(*shares.values()) == {0.25, 0.5, 0.75}


def _values(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _first(study: Study, folder: Path, **changes: object) -> dict[str, Any]:
    point = study.points[0]
    settings = study.experiment.settings.model_validate({**point.parameters, **changes})
    function = study.experiment.load()
    return dict(function(settings, point.seed, Context(folder, say=lambda _: None)))


def test_a_quick_point_runs(tmp_path: Path) -> None:
    study = load_study("lottery", quick=True)
    found = _first(study, tmp_path, iterations=20, rounds=[1], shares=[0.5])
    for name, table in study.experiment.tables.items():
        for row in found[name]:
            assert set(row) == {*table.keys, *table.metrics}
