import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.report.lottery.folder import LotteryFolder, load
from qrt_tn.studies.report.lottery.headline import headline, matches
from qrt_tn.studies.report.lottery.paper import claims, comparison

Folder = Callable[..., Path]
METHODS = ("dense", "imp", "reinit", "oneshot")


@pytest.fixture
def results(lottery_folder: Folder) -> LotteryFolder:
    """Levels 1, 3, 7, 8 and 9, all methods alike: 90 % at iteration 1,000."""
    found = load(lottery_folder(levels=(1, 3, 7, 8, 9), methods=METHODS, evaluations=4, repeats=1))
    found.runs["early_test_accuracy"][:] = 0.9
    found.runs["early_iteration"][:] = 1000
    return found


def put(
    results: LotteryFolder,
    method: str,
    accuracy: Sequence[float] | float,
    stop: Sequence[float] | float,
    level: int | None = None,
) -> None:
    """Set what each of the three trials gives."""
    mine = results.runs["method"] == method
    if level is not None:
        mine &= results.runs["level"] == level
    for name, given in (("early_test_accuracy", accuracy), ("early_iteration", stop)):
        for trial in range(3):
            value = given[trial] if isinstance(given, Sequence) else given
            results.runs[name][mine & (results.runs["trial"] == trial)] = value


def text(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html).replace("&nbsp;", " ")


@pytest.mark.parametrize(
    ("ticket", "fresh", "parts", "passes"),
    [
        ((0.905, 800), (0.89, 1200), (True, True, True), True),
        ((0.897, 1000), (0.89, 1200), (True, True, True), True),  # 0.3 points are allowed
        ((0.8969, 1000), (0.89, 1200), (False, True, True), False),
        ((0.905, 1001), (0.89, 1200), (True, False, True), False),
        ((0.905, 800), (0.906, 1200), (True, True, False), False),  # faster, but less accurate
        ((0.905, 800), (0.89, 700), (True, True, False), False),
        ((0.905, 800), (0.905, 800), (True, True, False), False),
        ((0.905, 800), (0.905, 900), (True, True, True), True),
    ],
)
def test_the_rule(
    results: LotteryFolder,
    ticket: tuple[float, float],
    fresh: tuple[float, float],
    parts: tuple[bool, ...],
    passes: bool,
) -> None:
    put(results, "imp", *ticket)
    put(results, "reinit", *fresh)
    for match in matches(results):
        assert (match.accurate, match.early, match.better_than_fresh) == parts
        assert match.passes is passes
    said = text(headline(results))
    assert said.count("It passes.") == (2 if passes else 0)
    assert said.count("It does not pass") == (0 if passes else 2)


def test_medians_and_not_means_are_judged(results: LotteryFolder) -> None:
    put(results, "imp", (0.95, 0.95, 0.1), (500, 500, 9000))
    put(results, "reinit", 0.8, 2000)
    assert all(match.passes for match in matches(results))
    said = text(headline(results))
    assert "reaches 95.00 %, 5.00 points above the dense network, stops 50 % earlier" in said
    assert "10.00–95.00" in said


def test_the_headline_names_what_failed(results: LotteryFolder) -> None:
    put(results, "imp", 0.8, 3000)
    put(results, "reinit", 0.85, 1000)
    said = text(headline(results))
    assert "10.00 points below the dense network, stops 200 % later" in said
    assert "too much accuracy is lost, it stops later and fresh weights do as well" in said


@pytest.mark.parametrize("missing", ["dense", "reinit"])
def test_what_was_not_run_is_not_judged(lottery_folder: Folder, missing: str) -> None:
    methods = tuple(name for name in METHODS if name != missing)
    found = load(lottery_folder(levels=(7,), methods=methods, evaluations=4))
    put(found, "imp", 0.99, 100)
    for other in ("dense", "reinit"):
        put(found, other, 0.9, 1000)
    (match,) = matches(found)
    assert match.passes is None
    said = text(headline(found))
    assert "Not all was measured" in said
    assert "not measured" in said


def test_each_level_is_told_once(lottery_folder: Folder) -> None:
    found = load(lottery_folder(levels=(3,), methods=METHODS, evaluations=4))
    assert [match.level for match in matches(found)] == [3]
    assert text(headline(found)).count("51.3 % of the weights left") == 1
    assert headline(load(lottery_folder(levels=(3,), methods=("dense",), evaluations=4))) == ""


def ours(results: LotteryFolder) -> dict[str, str]:
    return {claim.what: claim.ours(results).replace("−", "-") for claim in claims(results)}


def test_our_figures_of_lenet_are_means(results: LotteryFolder) -> None:
    put(results, "imp", (0.92, 0.92, 0.89), (600, 600, 900))
    put(results, "imp", 0.93, 500, level=1)
    put(results, "imp", (0.901, 0.903, 0.905), 2000, level=9)
    put(results, "reinit", (0.9, 0.9, 0.87), (2100, 2100, 2100))
    put(results, "oneshot", 0.89, 1500)
    put(results, "oneshot", 0.91, 1000, level=3)
    found = ours(results)
    assert list(found.values()) == [
        "30 % earlier",  # 700 of 1,000 iterations
        "+0.30 points",  # 0.903 at level 9
        "+1.00 points",  # 0.91 at level 8
        "down to 13.5 %",
        "not by 13.5 %",
        "80 %",
        "3.00 ×",
        "+2.00 points",
        "down to 51.3 %",
        "51.3 %",
        "16.9 %",  # level 9 stops too late
    ]


def test_a_dash_stands_where_no_level_is_near(lottery_folder: Folder) -> None:
    found = load(lottery_folder(levels=(1, 3), methods=("dense", "imp"), evaluations=4))
    values = list(ours(found).values())
    assert values[:3] == ["–"] * 3
    assert values[5:10] == ["–"] * 5
    near = load(lottery_folder(levels=(6,), methods=("dense", "imp"), evaluations=4))
    put(near, "dense", 0.9, 1000)
    put(near, "imp", 0.9, 1000)
    assert next(iter(ours(near).values())) == "–"  # a whole round away


def test_figures_from_memory_are_marked(lottery_folder: Folder) -> None:
    found = load(lottery_folder(levels=(1, 3), methods=METHODS, evaluations=4, architecture="conv4"))
    put(found, "dense", 0.7, 8000)
    put(found, "imp", 0.74, 2000, level=1)
    put(found, "imp", 0.71, 4000, level=3)
    assert list(ours(found).values()) == [
        "4.00 × at 80 %",
        "+4.00 points at 80 %",
        "down to 51.3 %",
        "51.3 %",
    ]
    html = comparison(found)
    assert re.search(r"3\.5&nbsp;× at 9\.2&nbsp;%<sup[^>]*>†", html)
    assert "4.17&nbsp;× at 9.2&nbsp;%</td>" in html
    assert "From memory, not checked" in html
    assert "Other data and more iterations than the paper’s: no reproduction." in html
    lenet = load(lottery_folder(levels=(7,), methods=METHODS, evaluations=4))
    assert "†" not in comparison(lenet)
    assert "no reproduction" not in comparison(lenet)


def test_deep_networks_are_compared_at_the_papers_learning_rate(lottery_folder: Folder) -> None:
    options: dict[str, Any] = {"levels": (6,), "methods": METHODS, "evaluations": 4}
    found = load(lottery_folder(**options, architecture="resnet20"))
    assert list(ours(found).values())[:2] == ["–", "–"]
    found.recipe["learning_rate"] = 0.03
    found.runs["final_test_accuracy"][:] = 0.912
    assert next(iter(ours(found).values())) == "91.2 % at 26.3 %"
    found.recipe["learning_rate"] = 0.1
    put(found, "dense", 0.9, 1000)
    put(found, "imp", 0.95, 900)
    assert list(ours(found).values())[1] == "26.3 %"
    assert "30,000<sup" in comparison(found)
