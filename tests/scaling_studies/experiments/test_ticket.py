import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from qrt_tn import models
from qrt_tn.models import Dataset
from qrt_tn.studies.config.messages import checked
from qrt_tn.studies.experiments.ticket import costs
from qrt_tn.studies.experiments.ticket.methods import SEARCHED_WITH, estimated, seed_tasks
from qrt_tn.studies.experiments.ticket.problems import filled, make_problem
from qrt_tn.studies.experiments.ticket.run import _plan, run_ticket
from qrt_tn.studies.experiments.ticket.settings import KNOWN, NODELESS, Ticket
from qrt_tn.studies.experiments.ticket.training import dense_start, ticket_start, train_together
from qrt_tn.studies.experiments.tickets import yardsticks
from qrt_tn.studies.experiments.tickets.data import Points
from qrt_tn.studies.progress import StageTimer
from tests.scaling_studies.experiments.conftest import prototypes

SMALL: dict[str, Any] = {
    "nodes": (4, 20),
    "seeds": 2,
    "epochs": 2,
    "modulus": 31,
    "levels": 9,
    "smoothing": 0.6,
    "beta": 16.0,
    "quantizer": "uniform",
}


def run(folder: Path, **changes: Any) -> dict[str, Any]:
    timer = StageTimer(Console(quiet=True))
    return run_ticket(Ticket(**SMALL | changes), folder, "qrt-tn ticket", timer)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "metrics.parquet").to_pylist()


@pytest.fixture
def points(tmp_path: Path) -> Path:
    x, labels = prototypes()
    np.savez(tmp_path / "prototypes.npz", x=x, y=np.array(["a", "b", "c"])[labels])
    return tmp_path / "prototypes.npz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modulus": 2}, "modulus is 2"),
        ({"levels": 1}, "1"),
        ({"levels": 200}, "levels is 200"),
        ({"quantizer": "round"}, "'round'"),
        ({"smoothing": -1.0}, "-1.0"),
        ({"beta": 0.5}, "beta is 0.5: give a finite number of at least 1, or auto"),
        ({"beta": float("inf")}, "inf"),
        ({"smoothing": float("nan")}, "smoothing is nan: give a finite number above 0, or auto"),
        ({"levels": 127, "modulus": 3}, "levels is 127, above the modulus 3"),
        ({"nodes": (16, 0)}, "0"),
        ({"nodes": (1_000_000_000,)}, "1000000000"),
        ({"nodes": (16, 16)}, "twice"),
        ({"nodes": ()}, "nodes is ()"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": 10**12}, "1000000000000"),
        ({"epochs": -1}, "epochs is -1"),
        ({"methods": ("residual", "magic")}, "'magic'"),
        ({"methods": ("filter",)}, "leave out residual"),
        ({"task": "clustering"}, "'clustering'"),
        ({"encode": "hash"}, "'hash'"),
        ({"impute": "guess"}, "'guess'"),
        ({"backend": "abacus"}, "'abacus'"),
        ({"node": (3,)}, "did you mean 'nodes'"),
    ],
)
def test_settings_that_cannot_work_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        checked(Ticket, change, "")
    assert "\n" not in str(refused.value)


def test_every_method_end_to_end(points: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    found = run(folder, data=points, methods=KNOWN, epochs=0)
    rows = rows_of(folder)
    drawn = [method for method in KNOWN if method not in (*NODELESS, "dense")]
    wanted = {(m, "fitted", n) for m in drawn for n in (4, 20)} | {(m, "fitted", None) for m in NODELESS}
    assert {(row["method"], row["training"], row["nodes"]) for row in rows} == wanted
    assert {row["seed"] for row in rows} == {0, 1}
    scores = {
        method: np.mean([row["score"] for row in rows if (row["method"], row["nodes"]) == (method, 20)])
        for method in ("residual", "qrt", "uniform", "qrt-unsmoothed")
    }
    # the classes lie far apart: nodes that are smooth tell them apart, the others know no more than chance
    assert min(scores["residual"], scores["qrt"]) > 0.9
    assert max(scores["uniform"], scores["qrt-unsmoothed"]) < 0.7
    # the folder is whole, and what it tells agrees
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert "<h1" in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(found))
    (told,) = [row for row in found["scores"] if (row["method"], row["nodes"]) == ("qrt", 20)]
    assert told["mean"] == pytest.approx(scores["qrt"])
    assert found["verdict"] == "2 seeds decide nothing: run at least three."
    # and the model reads the points it learnt from, by their names
    model = models.load(folder)
    x, labels = prototypes()
    assert (model.predict(x) == np.array(["a", "b", "c"])[labels]).mean() > 0.95
    assert "points" in (folder / "README.md").read_text(encoding="utf-8")
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds <= {".html", ".json", ".md", ".parquet", ".safetensors", ".svg"}


def test_the_same_settings_give_the_same_numbers(points: Path, tmp_path: Path) -> None:
    tables = []
    for name in ("one", "two"):
        run(tmp_path / name, data=points, methods=("residual", "qrt", "dense"), nodes=(4,))
        tables.append(pq.read_table(tmp_path / name / "metrics.parquet").drop(["seconds"]).to_pylist())
    assert tables[0] == tables[1]
    trained = [row for row in tables[0] if row["training"] == "trained"]
    assert {(row["method"], row["seed"]) for row in trained} == {
        (m, k) for m in ("residual", "dense") for k in (0, 1)
    }
    assert min(row["score"] for row in trained if row["method"] == "residual") > 0.6


def test_a_table_of_text_and_gaps_in_the_targets_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size, colour = rng.normal(size=240), rng.choice(["red", "blue"], 240)
    price = 1e4 * (np.sin(size) + (colour == "red") + 0.02 * rng.normal(size=240))
    frame = pd.DataFrame({"id": np.arange(240), "size": size, "colour": colour, "price": price})
    frame.loc[::17, "size"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    folder = tmp_path / "run"
    found = run(
        folder,
        data=tmp_path / "t.csv",
        methods=("residual", "linear"),
        nodes=(20,),
        epochs=0,
        encode="onehot",
        impute="mean",
    )
    assert found["score"] == "R^2"
    (row,) = [row for row in found["scores"] if row["method"] == "residual"]
    assert row["mean"] > 0.85
    assert 300 < row["rmse"] < 4000  # in the units of the price
    assert f"{row['rmse']:.4g}" in (folder / "README.md").read_text()  # of the card
    shuffled = frame.drop(columns=["price", "id"])[["colour", "size"]]
    predicted = models.load(folder).predict(shuffled)
    assert 1 - np.square(predicted - price).mean() / price.var() > 0.85


def test_several_real_targets(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 3))
    y = np.c_[np.sin(x[:, 0]), 100 * x[:, 1]]
    np.savez(tmp_path / "two.npz", x=x, y=y)
    methods = ("residual", "filter", "random-features", "linear", "svm", "boosting")
    found = run(tmp_path / "run", data=tmp_path / "two.npz", methods=methods, nodes=(30,), epochs=0)
    (row,) = [r for r in found["scores"] if r["method"] == "residual"]
    assert row["mean"] > 0.9
    assert "rmse" not in row  # no common unit
    assert models.load(tmp_path / "run").predict(x).shape == (150, 2)


def test_a_run_that_fails_leaves_nothing(
    points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("qrt_tn.studies.folders.write_table", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        run(tmp_path / "run", data=points, methods=("residual",), nodes=(4,), epochs=0)
    assert [path.name for path in tmp_path.iterdir()] == [points.name]


def test_the_test_points_take_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = prototypes()
    problem = make_problem(Dataset(x, labels, "prototypes", ("a", "b", "c")), 0)
    rng = np.random.default_rng(2)
    test = Points(rng.normal(size=problem.test.x.shape), rng.permutation(problem.test.y))
    other = type(problem)(problem.train, problem.validation, test, problem.classes, problem.images)
    settings = Ticket(**SMALL | {"nodes": (4,)})
    monkeypatch.setattr(yardsticks, "TREES", 10)
    monkeypatch.setattr(yardsticks, "ROUNDS", 10)
    answers = []
    for one in (problem, other):
        fits = [fit for task in seed_tasks(KNOWN, settings, 0, 32) for fit in task.run(one)]
        starts = ticket_start(one, 0, fits[0]), dense_start(one, 0, 4)
        fits += [fit for start in starts for fit in train_together("any", [start], 2)]
        answers.append([fit.predict(x) for fit in fits if fit.predict is not None])
    for first, second in zip(*answers, strict=True):
        np.testing.assert_array_equal(first, second)


def test_settings_are_chosen_once_a_seed() -> None:
    x, labels = prototypes()
    problem = make_problem(Dataset(x, labels, "prototypes", ("a", "b", "c")), 0)
    settings = Ticket(**SMALL | {"nodes": (4, SEARCHED_WITH, 100), "smoothing": "auto"})
    fits = estimated("residual", problem, settings, 0)
    assert [fit.nodes for fit in fits] == [4, SEARCHED_WITH, 100]
    assert len({(fit.smoothing, fit.beta) for fit in fits}) == 1
    assert [len(fit.estimator.search_results_) > 1 for fit in fits] == [False, True, False]
    rows = fits[1].estimator.search_results_
    finalists = [row["squared_error"] for row in rows if row["nodes"] == SEARCHED_WITH][-3:]
    assert fits[1].validation == min(finalists)


def test_missing_numbers_become_those_of_the_training_points() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(100, 2))
    x[90:, 0] = 50.0  # would move the mean
    x[::10, 0] = np.nan
    dataset = Dataset(x, np.arange(100) % 2, "gaps", ("a", "b"), impute="mean")
    known = np.arange(80)
    whole, fills = filled(dataset, known)
    assert fills is not None
    assert fills[0] == pytest.approx(np.nanmean(x[known, 0]))
    np.testing.assert_array_equal(whole[::10, 0], fills[0])


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("part", ["x", "y"])
def test_sizes_that_leave_floating_point_are_refused_before_work(part: str, scale: float) -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 1))
    data = Dataset(x * scale, y, "far") if part == "x" else Dataset(x, y * scale, "far")
    with pytest.raises(ValueError, match=r"rescale it"):
        make_problem(data, 0)


@pytest.mark.parametrize("y", [np.c_[np.arange(60.0), np.full(60, 3.0)], np.r_[1.0, np.zeros(59)]])
def test_targets_that_do_not_vary_are_refused_before_work(y: np.ndarray) -> None:
    x = np.random.default_rng(5).normal(size=(60, 2))
    with pytest.raises(ValueError, match=r"same|one value in all"):
        make_problem(Dataset(x, y.reshape(60, -1), "flat"), 0)


def test_what_cannot_pay_is_left_out_and_the_ticket_never() -> None:
    small = costs.usual_methods(1500, 64, 10, (16, 64, 256), 40)
    assert small[1] == []
    kept, left_out = costs.usual_methods(60_000, 784, 10, (16, 64, 256), 40)
    names = {method for method, _ in left_out}
    assert "svm" in names
    assert "residual" in kept
    assert not names & set(kept)
    assert all(seconds > costs.MOST_SECONDS for _, seconds in left_out)
    assert "dense" not in costs.usual_methods(1500, 64, 10, (16,), 0)[0]


def test_training_that_cannot_pay_is_left_out_unless_asked_for() -> None:
    rng = np.random.default_rng(4)
    big = type(make_problem(Dataset(*prototypes(), "p", ("a", "b", "c")), 0))(
        *(Points(rng.normal(size=(n, 800)), np.arange(n) % 3) for n in (40_000, 5_000, 5_000)), 3
    )
    said = Console(file=io.StringIO(), width=200)
    timer = StageTimer(said)
    plan, left_out = _plan(Ticket(), big, timer)
    assert plan.epochs == 0
    assert "training" in {one["method"] for one in left_out}
    assert "left out: training" in said.file.getvalue()  # type: ignore[attr-defined]
    assert _plan(Ticket(methods=("residual", "filter")), big, timer)[0].epochs == 0
    said.file = io.StringIO()
    asked, left_out = _plan(Ticket(epochs=30), big, timer)
    assert asked.epochs == 30
    assert "dense" in (asked.methods or ())
    assert "dense" not in said.file.getvalue()
    assert _plan(Ticket(methods=("residual",), epochs=30), big, timer)[0].epochs == 30


@pytest.mark.parametrize("method", [m for m in KNOWN if m not in ("uniform", "qrt-unsmoothed", "boosting")])
def test_more_points_cost_more(method: str) -> None:
    seconds = [costs.predicted_seconds(method, points, 50, 3, (16, 64), 40) for points in (500, 20_000)]
    # a state of more points may have a smaller bond
    assert 0 < seconds[0] < seconds[1] or (method == "qrt" and max(seconds) <= costs.BOND_SECONDS)
