from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from qrt_tn.studies.report.moe import (
    accuracy_panels,
    figures,
    ridgelet_panels,
    savings_panels,
    theory_panels,
)
from qrt_tn.studies.report.moe.comparison import FINETUNED, cells, panels_of
from qrt_tn.studies.report.moe.folder import MoeFolder, load
from qrt_tn.studies.report.style import METHODS, MUTED

Folder = Callable[..., Path]
SMALL: dict[str, Any] = {"routers": ("token-choice",), "modes": ("keep-router",), "prune": (2, 6)}


@pytest.fixture(scope="module")
def results(moe_folder: Folder) -> MoeFolder:
    return load(moe_folder(**SMALL))


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_only_what_was_measured_is_drawn(moe_folder: Folder) -> None:
    drawn = figures.draw_all(moe_folder(**SMALL, criteria=("router-change", "random"), tables=()))
    stem = "token-choice-keep-router"
    assert list(drawn) == [f"accuracy-{stem}", f"finetuned-{stem}", f"ranking-{stem}-2", f"ranking-{stem}-6"]
    assert "router change" in texts(drawn[f"accuracy-{stem}"])
    bare = figures.draw_all(moe_folder(**SMALL, criteria=("reap",), tables=("ridgelet_correlation",)))
    assert list(bare) == [f"accuracy-{stem}", f"finetuned-{stem}", "ridgelets-forest"]


def test_lines_are_medians_with_bands_for_three(results: MoeFolder) -> None:
    (group,) = panels_of(cells(results)).values()
    axes = accuracy_panels.against_pruned(results, group).axes[0]
    change = METHODS["imp"].colour
    line = next(line for line in axes.lines if line.get_color() == change)
    whole = np.median(list(results.whole("token-choice").values()))
    medians = [part.accuracies["router-change"].median for part in group]
    np.testing.assert_allclose(line.get_xdata(), [0, 2, 6])
    np.testing.assert_allclose(line.get_ydata(), [whole, *medians])
    # router change, the best, random
    assert len(axes.collections) == 3
    assert sum(line.get_color() == MUTED for line in axes.lines) == 13
    thin = [
        line
        for line in axes.lines
        if line.get_color() == METHODS["random"].colour and line.get_linewidth() < 1
    ]
    assert len(thin) == 3 * 4
    assert len([text for text in axes.texts if text.get_text()]) == 16


def test_fine_tuned_lines_begin_where_something_was_tuned(results: MoeFolder) -> None:
    (group,) = panels_of(cells(results, FINETUNED)).values()
    axes = accuracy_panels.against_pruned(results, group, FINETUNED).axes[0]
    line = next(line for line in axes.lines if line.get_color() == METHODS["imp"].colour)
    np.testing.assert_allclose(line.get_xdata(), [2, 6])


def test_a_ranking_shows_medians_and_ranges(results: MoeFolder) -> None:
    cell = cells(results)[0]
    figure = accuracy_panels.ranking(cell)
    assert figure is not None
    axes = figure.axes[0]
    ranked = cell.ranked()
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels[0] == "NAEE"
    assert len(labels) == len(ranked) == 15
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([dot.get_xdata()[0] for dot in dots], [part.median for _, part in ranked])
    assert [dot.get_ydata()[0] for dot in dots] == list(range(15))
    bars = [
        line
        for line in axes.lines
        if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]
    ]
    np.testing.assert_allclose(
        [bar.get_xdata() for bar in bars], [(part.low, part.high) for _, part in ranked]
    )


def test_savings_are_relative_to_the_unpruned_network(results: MoeFolder) -> None:
    found = savings_panels.savings(results)
    for item in found:
        share = item.pruned / item.experts if item.experts else 0
        assert item.relative["bytes"][1] == pytest.approx(1 - 0.9 * share, abs=1e-5)
        assert item.relative["latency"] == (item.row["ratio_low"], item.row["ratio"], item.row["ratio_high"])
    figure = savings_panels.against_pruned(results, "token-choice", "latency")
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "% of the experts pruned"
    names = {text.get_text() for text in figure.axes[0].texts}
    assert names == {
        f"{mode}, {experts}" for mode in ("router kept", "router dropped") for experts in (8, 32)
    }


def test_savings_without_an_unpruned_row_or_experts(moe_folder: Folder) -> None:
    results = load(moe_folder(**SMALL))
    results.savings[:] = [row for row in results.savings if row["pruned"] and row["experts"] == 8]
    for row in results.savings:
        del row["experts"]
    assert all(set(item.relative) == {"latency"} for item in savings_panels.savings(results))
    assert savings_panels.against_pruned(results, "token-choice", "bytes") is None
    figure = savings_panels.against_pruned(results, "token-choice", "latency")
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "experts pruned in each layer"


def test_the_theory_has_its_slope_and_its_limits(results: MoeFolder) -> None:
    figure = theory_panels.scaling(results)
    assert figure is not None
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    dotted = next(line for line in axes.lines if line.get_linestyle() == ":")
    (x, y) = dotted.get_data()
    assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(-0.5)
    for steps, expected in ((0, [0.5]), (30, [0.875, 0.6875])):
        figure = theory_panels.pruning(results, steps)
        assert figure is not None
        upright = [line for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
        assert [line.get_xdata()[0] for line in upright] == expected


def test_a_forest_has_a_row_a_correlation(moe_folder: Folder) -> None:
    results = load(moe_folder(**SMALL))
    figure = ridgelet_panels.forest(results)
    assert figure is not None
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [row["spearman"] for row in results.ridgelet_correlation]
    filled = [dot.get_markerfacecolor() != "none" for dot in dots]
    assert filled == [False] * 4 + [True]
    for row in results.ridgelet_correlation:
        row |= {"spearman": None, "low": None, "high": None}
    assert ridgelet_panels.forest(results) is None


def test_a_scatter_shows_every_expert(results: MoeFolder) -> None:
    figure = ridgelet_panels.scatter(results, "clusters", "cluster-share")
    assert figure is not None
    rows = [r for r in results.ridgelet_experts if r["measure"] == "cluster-share"]
    dots = figure.axes[0].lines[0]
    np.testing.assert_allclose(dots.get_xdata(), [row["mass"] for row in rows])
    np.testing.assert_allclose(dots.get_ydata(), [row["change"] for row in rows])
    assert ridgelet_panels.scatter(results, "clusters", "another") is None
