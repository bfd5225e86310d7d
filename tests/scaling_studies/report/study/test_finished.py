import numpy as np
import pandas
import pytest

from qrt_tn.studies.report.study.curves import lines, ratio
from qrt_tn.studies.report.study.finished import Finished, column
from tests.scaling_studies.report.study.conftest import (
    PRUNED,
    PRUNING,
    ROOFED,
    pruned,
    record,
    records,
    study_of,
)

TEXT = """
name = "small"
experiment = "roofed"
seeds = [3, 1]
[axes]
size = [4, 1, 2]
widths = [[1, 2], [1, 3]]
"""


def test_records_in_any_order_are_the_studys_points_in_its_order() -> None:
    study = study_of(TEXT, ROOFED)
    made = records(study, lambda p, seed: {"bond": 10 * p["size"] + seed, "seconds": 2.0})
    finished = Finished(study, list(reversed(made)), "points")
    assert len(finished) == len(study.points) == 12
    assert finished.figures("bond").tolist() == [10 * p.parameters["size"] + p.seed for p in study.points]
    assert finished.figures("seconds").tolist() == [2.0] * 12
    assert finished.figures("wall_seconds").tolist() == [1.5] * 12
    assert finished.figures("size").tolist() == [p.parameters["size"] for p in study.points]
    assert finished.column("size").values == (1, 2, 4)
    assert finished.column("seed").values == (1, 3)
    assert np.isnan(finished.figures("widths")).all()
    assert np.isnan(finished.figures("error")).all()


def test_other_points_are_counted_and_the_last_record_of_a_point_counts() -> None:
    study = study_of(TEXT, ROOFED)
    first = record(study, study.points[5], {"bond": 1})
    again = record(study, study.points[5], {"bond": 2})
    other = record(study, study.points[5], {"bond": 3}, id="f" * 20)
    finished = Finished(study, [first, other, again], "points")
    assert finished.places.tolist() == [5]
    assert finished.figures("bond").tolist() == [2]
    assert finished.earlier == 1


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({}, lambda p: True),
        ({"size": 4}, lambda p: p["size"] == 4),
        ({"size": [1, 2.0000000000001]}, lambda p: p["size"] in (1, 2)),
        ({"widths": [1, 3]}, lambda p: p["widths"] == [1, 3]),
        ({"widths": [[1, 2], [9]]}, lambda p: p["widths"] == [1, 2]),
        ({"size": 1, "widths": [1, 2]}, lambda p: p["size"] == 1 and p["widths"] == [1, 2]),
        ({"size": True}, lambda p: False),
        ({"backend": ["numpy", "jax"]}, lambda p: True),
    ],
)
def test_conditions(conditions: dict, kept: object) -> None:
    study = study_of(TEXT, ROOFED)
    found = Finished(study, [], "points").matching(conditions)
    assert found.tolist() == [kept(p.parameters) for p in study.points]  # type: ignore[operator]


def test_columns_of_other_things_than_numbers_keep_their_order() -> None:
    mixed = column("x", ["b", None, "a", "b"])
    assert mixed.values == ("b", None, "a")
    assert mixed.codes.tolist() == [0, 1, 2, 0]
    assert mixed.numbers is None
    truths = column("x", [True, False])
    assert truths.numbers is None
    assert column("x", []).values == ()


def test_figures_that_are_no_numbers_are_none() -> None:
    study = study_of(TEXT, ROOFED)
    strange = [float("inf"), None, "text", 10**400, True, 7.5]
    made = [record(study, p, {"bond": v}) for p, v in zip(study.points, strange, strict=False)]
    found = Finished(study, made, "points").figures("bond")
    assert np.isnan(found[:4]).all()
    assert found[4:].tolist() == [1.0, 7.5]


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_a_table_are_grouped_by_parameters_and_keys_as_pandas_does(seed: int) -> None:
    study = study_of(PRUNED, PRUNING)
    made = pruned(study, np.random.default_rng(seed))
    frame = pandas.DataFrame(
        [
            {"experts": one["parameters"]["experts"], "seed": one["seed"], **row}
            for one in made
            for row in one["tables"]["pruned"]
        ]
    )
    finished = Finished(study, made[::-1], "pruned")
    assert len(finished) == len(frame)
    plot = lines(finished, study.figures[0])
    shown = frame[frame.criterion.isin(["random", "norm"]) & frame.left.isin([1, 2, 4])]
    wanted = shown.groupby(["experts", "criterion", "left"]).accuracy.median().to_dict()
    assert {
        (panel, plot.lines[curve.place], x): y
        for panel, curves in plot.panels
        for curve in curves
        for x, y in zip(curve.x, curve.middle, strict=True)
    } == pytest.approx(wanted)
    assert (plot.pooled, plot.asked) == ((), len(study.points))
    # each criterion against the random pruning of the same point, with as many experts left
    against = study.figures[0].model_copy(update={"kind": "ratio", "reference": {"criterion": "random"}})
    own = frame.set_index(["experts", "seed", "left", "criterion"]).accuracy
    ratios = (own.xs("random", level="criterion") / own.xs("norm", level="criterion")).dropna()
    wanted = (
        ratios[ratios.index.isin([1, 2, 4], level="left")].groupby(["experts", "left"]).median().to_dict()
    )
    plot = ratio(finished, against)
    assert {
        (panel, x): y
        for panel, curves in plot.panels
        for curve in curves
        for x, y in zip(curve.x, curve.middle, strict=True)
    } == pytest.approx(wanted)
