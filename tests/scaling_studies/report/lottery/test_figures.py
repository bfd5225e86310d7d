from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from qrt_tn.studies.report.axes import thousand
from qrt_tn.studies.report.lottery import (
    figures,
    level_panels,
    savings_panels,
    shallow_panels,
    training_panels,
)
from qrt_tn.studies.report.lottery.folder import load
from qrt_tn.studies.report.style import METHODS

Folder = Callable[..., Path]
SMALL: dict[str, Any] = {"levels": (1, 3, 7, 9, 15), "evaluations": 12}
TRAINING = ["training-tickets", "training-fresh"]
LEVELS = [f"levels-{name.replace('_', '-')}" for name in level_panels.TITLES]
CONTROLS = ["controls-early-iteration", "controls-early-test-accuracy"]
RANDOM = ["random-early-iteration", "random-early-test-accuracy"]
SHALLOW = ["shallow-accuracy", "shallow-risk", "shallow-flops", "shallow-seconds"]
OVERLAP = ["overlap-1", "overlap-2"]
SAVINGS = ["savings-files", "savings-memory", "savings-flops", "savings-seconds", "savings-seconds-small"]
ALL = [*TRAINING, *LEVELS, *RANDOM, *CONTROLS, *SHALLOW, *OVERLAP, *SAVINGS]


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_every_panel_is_drawn_in_the_order_of_the_report(lottery_folder: Folder) -> None:
    folder = lottery_folder(**SMALL)
    drawn = figures.draw_all(folder)
    assert list(drawn) == ALL
    assert sorted(path.stem for path in (folder / "figures").iterdir()) == sorted(ALL)
    assert {"100", "50", "20", "10", "5"} <= set(texts(drawn["levels-early-test-accuracy"]))
    assert METHODS["oneshot"].label in texts(drawn["levels-early-iteration"])


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        (
            {"methods": ("dense", "imp"), "shallow": False, "overlap": False},
            [*TRAINING[:1], *LEVELS, *SAVINGS],
        ),
        ({"methods": ("dense",), "shallow": False, "overlap": False, "savings": False}, []),
        (
            {"methods": ("dense", "imp", "random"), "shallow": False, "overlap": False, "savings": False},
            [TRAINING[0], *LEVELS, *RANDOM],
        ),
        ({"methods": ("dense", "snip"), "shallow": False, "overlap": False, "savings": False}, CONTROLS),
        ({"methods": ("reinit",), "savings": False, "overlap": False}, [*LEVELS, *SHALLOW]),
    ],
)
def test_only_what_was_measured_is_drawn(
    lottery_folder: Folder, options: dict[str, Any], drawn: list[str]
) -> None:
    assert list(figures.draw_all(lottery_folder(levels=(3, 7), evaluations=6, **options))) == drawn


def test_a_level_panel_shows_the_means(lottery_folder: Folder) -> None:
    results = load(lottery_folder(**SMALL, methods=("dense", "imp", "reinit")))
    figure = level_panels.levels(results, ("imp", "reinit", "snip"), "early_iteration")
    assert figure is not None
    axes = figure.axes[0]
    by_colour = {line.get_color(): line for line in axes.lines}
    for method in ("imp", "reinit"):
        found = results.points(method, "early_iteration").values()
        line = by_colour[METHODS[method].colour]
        np.testing.assert_allclose(line.get_xdata(), [point.remaining for point in found])
        np.testing.assert_allclose(line.get_ydata(), [point.mean for point in found])
    assert axes.get_xlim()[0] > axes.get_xlim()[1]  # falling to the right, as in the paper
    assert [text.get_text() for text in axes.texts if text.get_text() == "SNIP"] == []


def test_an_accuracy_axis_shows_where_networks_compare(lottery_folder: Folder) -> None:
    results = load(lottery_folder(**SMALL, methods=("dense", "imp", "reinit")))
    collapsed = (results.runs["method"] == "reinit") & (results.runs["level"] == 15)
    results.runs["early_test_accuracy"][collapsed] = 0.1
    figure = level_panels.levels(results, ("imp", "reinit"), "early_test_accuracy")
    assert figure is not None
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    dense = results.points("dense", "early_test_accuracy")[0].mean
    assert dense - 0.05 < low < dense < high < dense + 0.05
    name = next(text for text in axes.texts if text.get_text() == METHODS["reinit"].label)
    assert name.xyann[1] < 0.1  # the line left the panel at the bottom


def test_names_of_lines_stay_beside_the_panel(lottery_folder: Folder) -> None:
    """Also where all lines but one end at the same point."""
    results = load(lottery_folder(**SMALL))
    assert results.shallow is not None
    results.shallow["test_accuracy"][:] = np.where(results.shallow["method"] == "uniform", 0.1, 0.97)
    figure = shallow_panels.scores(results, "parameters", "test_accuracy")
    assert figure is not None
    heights = sorted(text.xyann[1] for text in figure.axes[0].texts)
    assert len(heights) == 9
    assert np.diff(heights).min() * 0.745 * 3.4 * 72 > figure.axes[0].texts[0].get_fontsize()
    assert 0 <= heights[0] <= heights[-1] <= 1


def test_training_is_shown_until_twice_the_latest_stop(lottery_folder: Folder) -> None:
    results = load(lottery_folder(**SMALL, methods=("dense", "imp", "reinit")))
    results.runs["early_iteration"][:] = 10_000
    assert training_panels.shown_until(results) == 20_000
    results.runs["early_iteration"][:] = 30_000
    assert training_panels.shown_until(results) == 50_000
    figure = training_panels.against_fresh(results)
    assert figure is not None
    names = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(names) == sorted(["dense", "51.3 %", "51.3 %, fresh", "21.1 %", "21.1 %, fresh"])


def test_the_way_of_training_is_chosen_by_validation(lottery_folder: Folder) -> None:
    results = load(lottery_folder(levels=(1,), evaluations=2))
    assert results.shallow is not None
    fitted = results.shallow["training"] == "fitted"
    results.shallow["validation_accuracy"][:] = np.where(fitted, 0.9, 0.8)
    results.shallow["test_accuracy"][:] = np.where(fitted, 0.1, 0.9)
    ways = {size.method: size.training for size in shallow_panels.sizes(results)}
    assert ways.pop("imp-weights") == "trained"  # it has no other
    assert set(ways.values()) == {"fitted"}
    found = [size for size in shallow_panels.sizes(results) if size.method == "filter"]
    assert [size.nodes for size in found] == [16, 32, 64, 128, 256]
    assert found[0].median("test_accuracy") == 0.1


def test_overlap_is_held_against_the_null(lottery_folder: Folder) -> None:
    results = load(lottery_folder(levels=(1,), evaluations=2))
    assert results.overlap is not None
    rows = results.overlap
    rows["null_low"][:], rows["null_high"][:] = 0.4, 0.6
    rows["value"][:] = np.select([rows["nodes"] == 16, rows["nodes"] == 64], [0.3, 0.5], 0.7)
    assert shallow_panels.overlap_measures(results) == ["direction overlap", "subspace overlap"]
    found = shallow_panels.overlaps(results, "direction overlap")
    assert [(row.nodes, row.side) for row in found] == [(16, -1), (64, 0), (256, 1)] * 2


def test_files_are_relative_to_the_dense_one_of_their_level(lottery_folder: Folder) -> None:
    results = load(lottery_folder(levels=(0, 2, 5)))
    rows = results.files
    assert rows is not None
    shares, ratios = savings_panels.file_sizes(results, "CSR")
    wanted = rows["bytes"][rows["file"] == "CSR"] / rows["bytes"][rows["file"] == "dense"]
    assert shares.tolist() == rows["remaining"][rows["file"] == "CSR"].tolist()
    assert ratios.tolist() == wanted.tolist()
    assert len(shares) == 3


def test_savings_are_relative_to_the_dense_network_of_the_same_batch(lottery_folder: Folder) -> None:
    results = load(lottery_folder(levels=(3, 7), evaluations=2))
    assert results.savings is not None
    rows = results.savings
    rows["seconds"][:] = np.where(rows["form"] == "dense", 2.0, 3.0) * rows["batch"]
    found = savings_panels.costs(results)
    assert len(found) == 2 * 2 * 5
    assert {cost.relative["seconds"] for cost in found if cost.form == "compacted"} == {1.5}
    # a dense network measured once serves all levels
    rows["level"][rows["form"] == "dense"] = 0
    later = [cost for cost in savings_panels.costs(results) if cost.form == "BCSR"]
    assert {cost.relative["seconds"] for cost in later} == {1.5}
    rows["form"][rows["form"] == "dense"] = "other"
    assert savings_panels.against_share(results, "seconds", 256) is None


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (500, "500"), (2000, "2K"), (12_500, "12.5K"), (50_000, "50K")]
)
def test_iterations_in_short(value: float, text: str) -> None:
    assert thousand(value) == text


def test_networks_that_are_all_right_have_panels_too(lottery_folder: Folder) -> None:
    results = load(lottery_folder(levels=(0, 1, 2), evaluations=3))
    for name in ("early_test_accuracy", "final_test_accuracy"):
        results.runs[name][:] = 1.0
    results.curves["test_accuracy"][:] = 1.0
    for figure in (
        training_panels.tickets(results),
        training_panels.against_fresh(results),
        level_panels.levels(results, ["imp", "reinit"], "early_test_accuracy"),
    ):
        assert figure is not None
        low, high = figure.axes[0].get_ylim()
        assert low < 1.0 < high


def test_the_noise_of_timings_is_what_equal_work_differs_by(lottery_folder: Folder) -> None:
    results = load(lottery_folder(levels=(0, 3), evaluations=2))
    rows = results.savings
    assert rows is not None
    rows["seconds"][:] = 1.0
    rows["flops"][(rows["form"] == "compacted") & (rows["level"] == 0)] = rows["flops"][
        rows["form"] == "dense"
    ][0]
    compacted = (rows["form"] == "compacted") & (rows["batch"] == 256)
    rows["seconds"][compacted & (rows["level"] == 0)] = 0.8
    rows["seconds"][compacted & (rows["level"] == 3)] = 0.5
    assert savings_panels.timing_noise(results, 256) == pytest.approx(0.2)
    assert savings_panels.timing_noise(results, 1) == 0.0


def test_an_overlap_tells_on_which_side_each_seed_lies(lottery_folder: Folder) -> None:
    results = load(lottery_folder(levels=(1,), evaluations=2))
    rows = results.overlap
    assert rows is not None
    rows["null_low"][:], rows["null_high"][:] = 0.4, 0.6
    rows["value"][:] = np.select([rows["seed"] == 0, rows["seed"] == 1], [0.3, 0.5], 0.7)
    for row in shallow_panels.overlaps(results, "direction overlap"):
        assert row.sides == (-1, 0, 1)
