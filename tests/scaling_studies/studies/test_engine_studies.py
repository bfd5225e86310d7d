import math
from collections import Counter

import pytest

from qrt_tn.studies.config import Study, load_study

STATES = ("dimension", "modulus", "bond")
SCALING = ("strong-scaling", "strong-scaling-gpus", "weak-scaling", "weak-scaling-gpus")
NAMES = (*STATES, *SCALING, "precision", "backends")


@pytest.fixture(params=NAMES)
def both(request: pytest.FixtureRequest) -> tuple[Study, Study]:
    return load_study(request.param), load_study(request.param, quick=True)


def test_quick_variants_run_on_two_cores_without_a_gpu(both: tuple[Study, Study]) -> None:
    _, quick = both
    assert 2 <= len(quick.points) <= 24
    for point in quick.points:
        needs, parameters = point.needs, point.parameters
        assert needs.gpus == parameters["gpus"] == 0
        assert needs.ranks * needs.cores <= 2
        assert parameters["backend"] == "numpy"
        assert (needs.minutes, needs.memory) <= (3, 2)


def test_resources_are_those_of_the_parameters(both: tuple[Study, Study]) -> None:
    for study in both:
        for point in study.points:
            assert point.needs.exclusive  # for the sake of the times
            assert point.needs.gpus == point.parameters["gpus"]
            assert point.needs.ranks == point.parameters.get("ranks", 1)


def test_seeds_make_bands(both: tuple[Study, Study]) -> None:
    full, _ = both
    counts = Counter(point.seed for point in full.points)
    assert len(counts) >= 3
    assert len(set(counts.values())) == 1
    assert full.description.strip()


def test_figures_have_points_to_draw(both: tuple[Study, Study]) -> None:
    full, _ = both
    for figure in full.figures:
        chosen = [
            point.parameters
            for point in full.points
            if all(_holds(value, point.parameters[name]) for name, value in figure.where.items())
        ]
        assert chosen, figure.title
        if figure.x in chosen[0]:
            assert len({parameters[figure.x] for parameters in chosen}) >= 3, figure.title
        for name in filter(None, (figure.series, figure.panels)):
            assert len({parameters[name] for parameters in chosen}) >= (1 if "gpus" in full.name else 2)


def test_ratios_have_their_reference(both: tuple[Study, Study]) -> None:
    for study in both:
        for figure in study.figures:
            if figure.kind != "ratio":
                continue

            # each point differs from one reference in nothing but what the reference names
            def rest(point, figure=figure):
                kept = {k: v for k, v in point.parameters.items() if k not in figure.reference}
                return tuple(sorted(kept.items())), point.seed

            inside = [
                p for p in study.points if all(_holds(v, p.parameters[k]) for k, v in figure.where.items())
            ]
            anchors = Counter(
                rest(p) for p in inside if all(p.parameters[k] == v for k, v in figure.reference.items())
            )
            assert all(count == 1 for count in anchors.values())
            assert all(rest(point) in anchors for point in inside), figure.title


def test_dense_states_stay_small() -> None:
    for name in ("dimension", "modulus"):
        dense = [p.parameters for p in load_study(name).points if p.parameters["kind"] == "dense"]
        assert dense
        assert all(math.log2(p["modulus"]) * p["dim"] < 22 for p in dense)


def test_ranks_share_enough_slices() -> None:
    for name in SCALING:
        for quick in (False, True):
            for point in load_study(name, quick=quick).points:
                shared = point.parameters["slices"] / point.parameters["ranks"]
                assert shared >= 32
                if name.startswith("weak"):
                    assert shared == 64
                    assert point.parameters["batch"] == point.parameters["slices"]


def test_precisions_side_by_side() -> None:
    points = load_study("precision").points
    found = {(p.parameters["backend"], p.parameters["dtype"], p.parameters["compute"]) for p in points}
    assert {("cuquantum", "complex64", compute) for compute in ("TF32", "3XTF32", "default")} < found
    assert {(backend, "complex128", "default") for backend in ("numpy", "cupy", "cuquantum")} < found


def _holds(wanted: object, value: object) -> bool:
    return value in wanted if isinstance(wanted, list) else value == wanted
