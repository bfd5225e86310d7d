import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from qrt_tn.models.lottery import layers, load_ticket, preset
from qrt_tn.studies.experiments.lottery import run
from qrt_tn.studies.experiments.lottery.config import LotteryConfig
from qrt_tn.studies.progress import StageTimer

Study = Callable[..., LotteryConfig]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, size=(3, 6, 6))

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.permutation(np.arange(count) % 3)
        return np.clip(kinds[y] + rng.normal(scale=60, size=(count, 6, 6)), 0, 255).astype(np.uint8), y

    (x, y), (x_test, y_test) = images(120), images(40)
    np.savez(tmp_path / "kinds.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)

    def make(**changes: Any) -> LotteryConfig:
        settings: dict[str, Any] = {"levels": 2, "trials": 2, "iterations": 20}
        settings |= {"evaluate_every": 10, "batch_size": 10}
        names = {"controls", "control_levels", "seed", "out"}
        of_config = {name: changes.pop(name) for name in names & set(changes)}
        settings |= {"data": str(tmp_path / "kinds.npz"), "validation": 20}
        chosen = preset("quick", **(settings | changes))
        defaults = {"controls": ("reinit", "snip"), "shallow": False, "out": tmp_path / "out"}
        return LotteryConfig("quick", chosen, **(defaults | of_config))

    return make


def begin(config: LotteryConfig) -> tuple[Path, str]:
    shown = io.StringIO()
    return run.run_lottery(config, "qrt-tn lottery", StageTimer(Console(file=shown))), shown.getvalue()


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / f"{name}.parquet").to_pylist()
    return rows


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_study_leaves_tables_tickets_and_a_report_and_goes_on_where_it_was(study: Study) -> None:
    config = study()
    written, shown = begin(config)
    out = config.out
    assert written == out / "report.html"
    assert "Level 1 of 2: 8 networks with 80." in shown
    runs = table(out, "runs")
    # controls at level 1 only: the quick preset has them at every other round
    found = {(row["method"], row["level"]) for row in runs}
    assert found == {("dense", 0), ("imp", 1), ("reinit", 1), ("snip", 1), ("imp", 2)}
    assert len(runs) == 2 + 2 + 4 + 2 + 2
    curves = table(out, "curves")
    assert len(curves) == 2 * len(runs)
    for row in runs:
        own = [c for c in curves if all(c[k] == row[k] for k in ("method", "level", "trial", "repeat"))]
        best = min(own, key=lambda c: c["validation_loss"])
        assert row["early_iteration"] == best["iteration"]
        assert row["early_test_accuracy"] == best["test_accuracy"]
        assert row["final_test_accuracy"] == own[-1]["test_accuracy"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert " images of 6 x 6 x 1 in 3 classes: " in manifest["dataset"]["description"]
    assert manifest["dataset"]["description"] in shown.replace("\n", "")
    params, masks = load_ticket(out / "tickets" / "level-02.safetensors")
    kept = {name: int(mask.sum()) for name, mask in layers(masks).items()}
    assert manifest["layers"][2]["kept"] == kept
    assert sum(kept.values()) == next(row["kept"] for row in runs if row["level"] == 2)
    assert manifest["weights"]["prunable"] == sum(mask.size for mask in layers(masks).values())
    # a ticket is the initial weights under its mask
    from flax import nnx

    from qrt_tn.models.vision import architecture

    fresh = architecture("lenet", (6, 6, 1), 3, rngs=nnx.Rngs(0))
    kernel = np.asarray(fresh.output.kernel[...])
    assert np.array_equal(params["output"]["kernel"], np.where(masks["output"]["kernel"], kernel, 0))
    assert {row["file"] for row in table(out, "files")} >= {"dense", "mask and values", "CSR"}
    assert {row["form"] for row in table(out, "savings")} >= {"dense", "compacted", "BCSR"}

    again, _ = begin(replace(config, control_levels=(1, 2)))
    assert again == written
    extended = table(out, "runs")
    assert [r for r in without_seconds(extended) if (r["method"], r["level"]) in found] == without_seconds(
        runs
    )
    assert {(row["method"], row["level"]) for row in extended} == found | {("reinit", 2), ("snip", 2)}


def test_a_folder_of_another_study_or_with_other_files_is_refused(study: Study, tmp_path: Path) -> None:
    begin(study(levels=1, trials=1, controls=()))
    for change in ({"batch_size": 20}, {"rate": 0.3}, {"seed": 1}, {"iterations": 30}):
        with pytest.raises(ValueError, match="another run"):
            begin(study(levels=1, trials=1, controls=(), **change))
    data = dict(np.load(tmp_path / "kinds.npz"))
    data["x_train"] = data["x_train"][:, ::-1]
    np.savez(tmp_path / "kinds.npz", **data)
    with pytest.raises(ValueError, match="another run"):
        begin(study(levels=1, trials=1, controls=()))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds other files"):
        begin(study(out=tmp_path / "other"))


def test_what_cannot_work_is_refused_before_the_folder_is_made(study: Study) -> None:
    config = study(batch_size=101)
    with pytest.raises(ValueError, match="batch_size is 101 but there are 100"):
        begin(config)
    assert not config.out.exists()
    with pytest.raises(ValueError, match="is no data set"):
        begin(study(data="nowhere.npz"))


def test_convolutions_have_counted_operations_and_files(study: Study) -> None:
    config = study(architecture="conv2", levels=1, trials=1, conv_rate=0.1, controls=(), iterations=10)
    begin(config)
    rows = {row["form"]: row for row in table(config.out, "savings") if row["level"] == 1}
    assert set(rows) == {"dense", "surviving weights"}
    # 3x3 kernels at 36 places, then dense layers of 3 * 3 * 64 inputs
    kernels = 36 * 9 * (64 + 64 * 64) + 576 * 256 + 256 * 256 + 256 * 3
    assert rows["dense"]["flops"] == 2 * kernels
    assert rows["surviving weights"]["flops"] < 0.9 * 2 * kernels
    assert {row["level"] for row in table(config.out, "files")} == {0, 1}


def test_what_could_not_be_done_is_said_on_the_console_and_in_the_report(study: Study) -> None:
    config = study(optimizer="sgd", learning_rate=1e30, controls=())
    written, shown = begin(config)
    assert "The rounds ended before level 1, for trial 0" in shown
    assert "The rounds ended before level 1, for trial 0" in written.read_text()


def test_a_call_that_asks_for_less_leaves_nothing_of_the_one_before(study: Study) -> None:
    config = study(trials=1)
    begin(config)
    (config.out / "shallow.parquet").write_bytes((config.out / "runs.parquet").read_bytes())
    written, _ = begin(study(trials=1, levels=1, controls=()))
    assert [path.name for path in (config.out / "tickets").iterdir()] == ["level-01.safetensors"]
    assert not (config.out / "shallow.parquet").exists()
    assert not list((config.out / "figures").glob("controls-*"))
    assert "trained by an earlier call" in written.read_text()
