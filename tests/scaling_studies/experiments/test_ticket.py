import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from qrt_tn import Quantizer, RidgeNodes
from qrt_tn.models import RidgeNetwork
from qrt_tn.studies.experiments.ticket import run_ticket
from qrt_tn.studies.experiments.ticket_config import TicketConfig
from qrt_tn.studies.progress import StageTimer
from tests.scaling_studies.experiments.conftest import prototypes


def run(config: TicketConfig) -> Path:
    return run_ticket(config, "qrt-tn ticket", StageTimer(Console(quiet=True)))


@pytest.fixture
def points(tmp_path: Path) -> Path:
    x, labels = prototypes()
    np.savez(tmp_path / "prototypes.npz", x=x, y=labels)
    return tmp_path / "prototypes.npz"


def test_the_main_job_end_to_end(config: Callable[..., TicketConfig], points: Path) -> None:
    settings = config(data=points, broad=1.0, broad_tolerance=0.1)
    report = run(settings)
    folder = settings.out
    assert report == folder / "report.html"
    assert "<h1" in report.read_text(encoding="utf-8")
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    kinds = {(row["method"], row["training"]) for row in rows}
    drawn = ("qrt-smoothed", "qrt-unsmoothed", "filter", "uniform", "random-features")
    wanted = {(method, training) for method in drawn for training in ("fitted", "trained")}
    others = {
        ("dense", "trained"),
        ("qrt-importance", "none"),
        ("qrt-broad", "fitted"),
        ("filter-broad", "fitted"),
    }
    assert kinds == wanted | others
    # the classes lie far apart: smoothed tickets tell them apart, unsmoothed ones know no more than chance
    score = {
        method: np.mean([r["test_accuracy"] for r in rows if (r["method"], r["nodes"]) == (method, 20)])
        for method in ("qrt-smoothed", "qrt-unsmoothed", "qrt-importance")
    }
    assert score["qrt-smoothed"] > 0.9
    assert score["qrt-unsmoothed"] < 0.6
    # what was saved computes what was measured
    quantizer = Quantizer.load(folder / "quantizer-seed0.safetensors")
    network = RidgeNetwork.load(folder / "qrt-smoothed-20-seed0-trained.safetensors")
    nodes = RidgeNodes.load(folder / "qrt-smoothed-20-seed0-nodes.safetensors")
    x, labels = prototypes()
    accuracy = np.mean(network.predict(quantizer.transform(x)).argmax(axis=1) == labels)
    (row,) = [
        r
        for r in rows
        if (r["method"], r["training"], r["nodes"], r["seed"]) == ("qrt-smoothed", "trained", 20, 0)
    ]
    parts = json.loads((folder / "manifest.json").read_text())["dataset"]
    weights = [parts[name] / parts["points"] for name in ("train", "validation", "test")]
    recorded = [row[f"{name}_accuracy"] for name in ("train", "validation", "test")]
    assert accuracy == pytest.approx(np.dot(weights, recorded))
    np.testing.assert_array_equal(nodes.a % 31, np.asarray(network.a[...]) % 31)


def test_the_same_settings_give_the_same_numbers(config: Callable[..., TicketConfig], points: Path) -> None:
    tables = []
    for name in ("one", "two"):
        settings = config(
            data=points, methods=("qrt-smoothed", "dense"), nodes=(4,), out=points.parent / name
        )
        run(settings)
        tables.append(pq.read_table(settings.out / "metrics.parquet").drop(["seconds"]).to_pylist())
    assert tables[0] == tables[1]


def test_real_targets_from_a_table(config: Callable[..., TicketConfig], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1]
    np.savetxt(tmp_path / "t.csv", np.column_stack([x, y]), delimiter=",", header="a,b,c,y", comments="")
    settings = config(data=tmp_path / "t.csv", methods=("qrt-smoothed", "uniform"))
    run(settings)
    rows = pq.read_table(settings.out / "metrics.parquet").to_pylist()
    risks = {
        method: np.mean(
            [
                r["test_risk"]
                for r in rows
                if (r["method"], r["nodes"], r["training"]) == (method, 20, "fitted")
            ]
        )
        for method in ("qrt-smoothed", "uniform")
    }
    assert risks["qrt-smoothed"] < 0.3 < risks["uniform"]
    assert all(row["test_accuracy"] is None for row in rows)


def test_a_run_that_fails_leaves_nothing(
    config: Callable[..., TicketConfig], points: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("qrt_tn.studies.folders.write_table", fail)
    settings = config(data=points, methods=("qrt-smoothed",), nodes=(4,))
    with pytest.raises(RuntimeError, match="disk full"):
        run(settings)
    assert [path.name for path in points.parent.iterdir()] == [points.name]
