import numpy as np
import pytest

from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.plots import AT_MOST, NEVER, REACHED, Plot
from qrt_tn.studies.report.study.reach import reach
from tests.scaling_studies.report.study.conftest import noise, records, study_of


def study_with(sizes: str, figure: str):
    text = f"""
name = "needed"
experiment = "rehearsal"
seeds = 5
[axes]
number = [2, 4, 8, 16, 32]
steps = {sizes}
label = ["a", "b"]
[[figures]]
title = "figure"
kind = "reach"
x = "number"
y = "value"
of = "steps"
level = 0.5
{figure}
"""
    return study_of(text)


def drawn(values, figure: str = 'series = "label"', sizes: str = "[1, 2, 4, 8, 16, 32, 64, 128]") -> Plot:
    study = study_with(sizes, figure)
    return reach(Finished(study, records(study, values), "points"), study.figures[0])


def learnt(p, seed: int) -> float:
    return (
        p["steps"] / p["number"] / 4 * float(np.exp(0.3 * noise(seed, p["steps"], p["number"], p["label"])))
    )


def test_the_smallest_value_whose_median_reaches_the_level() -> None:
    plot = drawn(lambda p, seed: {"value": learnt(p, seed)})
    assert plot.lines == ("a", "b")
    steps = [1, 2, 4, 8, 16, 32, 64, 128]
    for label, curve in zip("ab", plot.panels[0][1], strict=True):
        assert curve.x.tolist() == [2, 4, 8, 16, 32]
        for place, number in enumerate(curve.x):
            medians = [
                np.median([learnt({"steps": s, "number": int(number), "label": label}, k) for k in range(5)])
                for s in steps
            ]
            first = next(k for k, median in enumerate(medians) if median >= 0.5)
            assert curve.middle[place] == curve.high[place] == steps[first]
            assert curve.low[place] == steps[first - 1]
            assert curve.bound is not None
            assert curve.bound[place] == REACHED
    assert plot.counts == plot.seeds == (5, 5)
    assert plot.remarks == []


def test_bounds_are_marked_said_and_left_out_of_the_fit() -> None:
    plot = drawn(lambda p, seed: {"value": p["steps"] / p["number"] / 4}, 'series = "label"\nfit = "power"',
                 "[4, 8, 16, 32]")  # fmt: skip
    curve = plot.panels[0][1][0]
    assert curve.bound is not None
    assert curve.bound.tolist() == [AT_MOST, REACHED, REACHED, REACHED, NEVER]
    assert curve.middle.tolist() == [4, 8, 16, 32, 32]
    assert curve.fit is not None
    assert curve.fit.count == 3
    assert curve.fit.exponent == pytest.approx(1)
    assert any("no steps that was tried" in remark for remark in plot.remarks)
    assert any("the smallest steps that was tried" in remark for remark in plot.remarks)


def test_a_goal_below_and_a_level_that_is_missed_again() -> None:
    study = study_with("[1, 2, 4]", 'goal = "below"\nwhere = { label = "a", number = 2 }')
    values = {1: 0.9, 2: 0.4, 4: 0.7}
    plot = reach(
        Finished(study, records(study, lambda p, seed: {"value": values[p["steps"]]}), "points"),
        study.figures[0],
    )
    curve = plot.panels[0][1][0]
    assert curve.middle.tolist() == [2]
    assert curve.low.tolist() == [1]
    assert plot.remarks == ["At one place the level is missed again at a larger steps."]


def test_values_that_are_no_numbers_have_no_smallest() -> None:
    study = study_of(
        'name = "n"\nexperiment = "rehearsal"\n[axes]\nlabel = ["a", "b"]\nnumber = [1, 2]\n[[figures]]\n'
        'title = "t"\nkind = "reach"\nx = "number"\ny = "value"\nof = "label"\nlevel = 0.5'
    )
    plot = reach(Finished(study, records(study, lambda p, seed: {"value": 1.0}), "points"), study.figures[0])
    assert plot.panels == []
    assert "no numbers" in plot.remarks[0]


def test_an_x_that_is_a_metric_is_said() -> None:
    study = study_of(
        'name = "n"\nexperiment = "rehearsal"\n[axes]\nnumber = [1, 2]\n[[figures]]\n'
        'title = "t"\nkind = "reach"\nx = "ranks"\ny = "value"\nof = "number"\nlevel = 0.5'
    )
    plot = reach(
        Finished(study, records(study, lambda p, seed: {"value": 1.0, "ranks": 1}), "points"),
        study.figures[0],
    )
    assert plot.panels == []
    assert "must be one" in plot.remarks[0]


def test_no_records_reach_nothing() -> None:
    study = study_with("[1, 2]", "")
    assert reach(Finished(study, [], "points"), study.figures[0]).panels == []
