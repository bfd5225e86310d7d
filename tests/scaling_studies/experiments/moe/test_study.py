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

from qrt_tn.models.moe.checkpoints.native import load_moe, load_moe_tree
from qrt_tn.models.moe.costs import parameter_count
from qrt_tn.models.moe.criteria import CRITERIA, Criterion
from qrt_tn.models.moe.merging import merge_experts
from qrt_tn.models.moe.pruning import prune_experts
from qrt_tn.models.moe.statistics import calibrate
from qrt_tn.models.moe.training import accuracy
from qrt_tn.models.moe.trees import leaves
from qrt_tn.studies.experiments.moe import pruning, run, savings, theory
from qrt_tn.studies.experiments.moe.config import MoeStudyConfig, preset
from qrt_tn.studies.experiments.moe.data import draw_points, load_set
from qrt_tn.studies.progress import StageTimer

Study = Callable[..., MoeStudyConfig]
Row = dict[str, Any]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, size=(4, 4, 4))
    y = np.arange(160) % 4
    x = np.clip(kinds[y] + rng.normal(scale=90, size=(160, 4, 4)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "kinds.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])

    def make(**changes: Any) -> MoeStudyConfig:
        settings: dict[str, Any] = {
            **{"pretrain": f"{tmp_path}/kinds.npz:0-1", "finetune": f"{tmp_path}/kinds.npz:2-3"},
            **{"pretrain_points": 40, "finetune_points": 40, "calibration_images": 20, "seeds": 1},
            **{"routers": ("token-choice",), "criteria": ("router-change", "random", "reconstruction")},
            **{"modes": ("keep-router", "renormalize"), "prune": (2,), "random_draws": 2},
            **{"hidden": 4, "layers": 1, "mlp": 4, "heads": 2, "moe_layers": (0,), "experts": 4},
            **{"pretrain_steps": 3, "finetune_steps": 3, "batch_size": 10},
            **{"tune_steps": 2, "tune_prune": (2,), "tune_criteria": ("random",)},
            **{"savings": False, "theory": False, "ridgelets": False, "out": tmp_path / "out"},
        }
        return preset("quick", **(settings | changes))

    return make


def begin(config: MoeStudyConfig) -> tuple[Path, str]:
    shown = io.StringIO()
    return run.run_study(config, "qrt-tn moe study", StageTimer(Console(file=shown))), shown.getvalue()


def table(folder: Path, name: str) -> list[Row]:
    rows: list[Row] = pq.read_table(folder / f"{name}.parquet").to_pylist()
    return rows


def test_a_study_measures_what_the_library_prunes_and_goes_on_where_it_was(study: Study) -> None:
    config = study()
    written, shown = begin(config)
    out = config.out
    assert written == out / "report.html"
    assert written.is_file()
    assert "Training of 1 networks" in shown
    (trained,) = table(out, "networks")
    place = out / "networks" / "token-choice-0"
    network = load_moe(f"{place}-finetuned.safetensors", dispatch="gather")
    before, _, _ = load_moe_tree(f"{place}-pretrained.safetensors")
    points = draw_points(load_set(config.finetune), 0, 40, config.test_points)
    assert trained["accuracy"] == accuracy(network, points.x_test, points.y_test)
    assert trained["parameters"] == parameter_count(network.config)
    rows = table(out, "pruned")
    ways = {(row["criterion"], row["draw"], row["mode"], row["pruned"]): row for row in rows}
    assert len(ways) == len(rows) == (1 + 2 + 1) * 2
    statistics = calibrate(network, points.x[:20])
    for (criterion, draw, mode, prune), row in ways.items():
        pruned = prune_experts(
            network,
            criterion,
            n_prune=prune,
            mode=mode,
            pretrained=before,
            calibration=statistics,
            seed=np.random.default_rng([0, draw]),
        )
        # the library compiles a program for each way; one criterion in each mode will do
        if criterion == "router-change":
            assert row["accuracy"] == accuracy(pruned.network, points.x_test, points.y_test)
        assert row["parameters"] == parameter_count(pruned.network.config)
        tuned = (criterion, draw, mode, prune) == ("random", 0, "keep-router", 2)
        assert (row["finetuned_accuracy"] is not None) is tuned
    scores = [row for row in table(out, "scores") if row["criterion"] == "router-change"]
    assert [(row["layer"], row["expert"]) for row in scores] == [(0, expert) for expert in range(4)]
    norms = [
        np.linalg.norm(dict(leaves(tree))["Encoder/encoderblock_0/Moe/Router/dense/kernel"], axis=0)
        for tree in (load_moe_tree(f"{place}-finetuned.safetensors")[0], before)
    ]
    np.testing.assert_allclose([row["score"] for row in scores], norms[0] - norms[1], atol=1e-6)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["datasets"]["finetune"]["test"] == len(points.x_test) == 40
    assert manifest["datasets"]["pretrain"]["train"] == 40
    drawn = draw_points(load_set(config.pretrain), 0, config.pretrain_points, config.test_points)
    assert manifest["datasets"]["pretrain"]["test"] == len(drawn.x_test)

    # what is damaged is trained again, to the same end; a table that is asked for no more goes
    Path(f"{place}-finetuned.safetensors").write_bytes(b"torn")
    (out / "savings.parquet").write_bytes(b"of an earlier call")
    _, shown = begin(replace(config, criteria=("random", "merge"), tune_steps=0, modes=("keep-router",)))
    assert "1 of 2 trainings were done by an earlier call" in shown
    assert not (out / "savings.parquet").exists()
    assert table(out, "networks") == [{**trained, "seconds": table(out, "networks")[0]["seconds"]}]
    again = {(row["criterion"], row["draw"], row["mode"], row["pruned"]): row for row in table(out, "pruned")}
    assert len(again) == 3
    for key, row in again.items():
        if key[0] == "random":
            assert row == {**ways[key], "finetuned_accuracy": None}
    merged = merge_experts(network, 2, statistics)
    row = again["merge", 0, "merge", 2]
    assert row["accuracy"] == accuracy(merged, points.x_test, points.y_test)
    assert row["parameters"] == parameter_count(merged.config)
    with pytest.raises(ValueError, match="another run"):
        begin(study(learning_rate=1e-2))


def test_ways_that_do_not_apply_are_left_out_and_told(study: Study) -> None:
    config = study(
        routers=("token-choice", "expert-choice"),
        prune=(2, 3),
        criteria=("random", "reconstruction", "merge"),
    )
    found = {router: set(pruning.candidates(config, router)) for router in config.routers}
    drawn = {("random", draw, mode) for draw in (0, 1) for mode in config.modes}
    sets = {("reconstruction", 0, mode) for mode in config.modes}
    merged = {("merge", 0, "merge")}

    def of(router: str, prune: int) -> set[tuple[str, int, str]]:
        return {(one.criterion, one.draw, one.mode) for one in found[router] if one.prune == prune}

    assert of("expert-choice", 2) == of("expert-choice", 3) == drawn | merged
    assert of("token-choice", 2) == drawn | sets | merged
    # one expert is left, and a token goes to two
    assert of("token-choice", 3) == {way for way in drawn if way[2] == "keep-router"} | merged
    notes = " ".join(pruning.what_is_left_out(config))
    assert "reconstruction: defined for token choice, left out for expert choice" in notes
    assert "Token choice with 3 experts pruned: fewer are left than the 2" in notes
    assert "Merged networks" in notes
    assert pruning.what_is_left_out(study(criteria=("random",), prune=(2,))) == []


def test_a_criterion_that_ties_all_experts_is_left_out_and_told(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CRITERIA, "flat", Criterion("flat", lambda *_: np.zeros(4)))
    config = study(criteria=("flat", "random"), modes=("keep-router",), tune_steps=0, random_draws=1)
    begin(config)
    assert [row["criterion"] for row in table(config.out, "pruned")] == ["random"]
    told = "Left out for token-choice, seed 0: criterion 'flat' gives all experts of layer 0 the score 0"
    (note,) = (
        note for note in json.loads((config.out / "manifest.json").read_text())["notes"] if "Left" in note
    )
    assert note.startswith(told)
    with pytest.raises(ValueError, match=f"nothing can be pruned; add criteria. {told}"):
        begin(replace(config, criteria=("flat",)))


def test_nothing_to_prune_is_told_before_anything_is_trained(study: Study, tmp_path: Path) -> None:
    for changes in (
        {"routers": ("expert-choice",), "criteria": ("reconstruction",)},
        {
            "routers": ("token-choice",),
            "criteria": ("router-norm",),
            "modes": ("drop-router",),
            "prune": (3,),
        },
    ):
        with pytest.raises(ValueError, match="can prune"):
            begin(study(**changes, tune_prune=()))
        assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_and_sets_that_do_not_fit_are_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds other files"):
        begin(study(out=tmp_path / "other"))
    for changes, message in (
        ({"pretrain": "digits:0-4"}, r"images of shape \(8, 8, 1\), .* of \(4, 4, 1\)"),
        ({"patch": 3}, "do not split into patches of 3"),
        ({"batch_size": 50}, "40 training images of kinds:0-1 are fewer than a batch of 50"),
        ({"finetune_points": 70}, "70 training points"),
        ({"finetune": "nowhere.npz"}, "is no data set"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(study(**changes))
        assert not (tmp_path / "out").exists()


def test_savings_are_counted_and_timed_for_each_mode(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savings, "SHARES", (0.5, 0.75))
    config = study(savings_hidden=16, savings_mlp=16, savings_experts=(4,), savings_batch=1, savings_rounds=3)
    rows = savings.measure_savings(config, StageTimer(Console(file=io.StringIO())))
    found = {(row["mode"], row["pruned"]): row for row in rows}
    # a token goes to two experts, so that three of four can go only where columns stay
    assert set(found) == {("keep-router", n) for n in (0, 2, 3)} | {("drop-router", n) for n in (0, 2)}
    whole = found["keep-router", 0]
    assert (whole["ratio"], whole["ratio_low"], whole["ratio_high"]) == (1, 1, 1)
    for (mode, pruned), row in found.items():
        assert row["latency_low"] <= row["latency_ms"] <= row["latency_high"]
        expert = 2 * 16 * 16 + 16 + 16
        columns = 16 * pruned * (mode == "drop-router")
        assert whole["parameters"] - row["parameters"] == 2 * (pruned * expert + columns)
        assert row["bytes"] == 4 * row["parameters"]
        assert (row["flops"] < whole["flops"]) is (pruned > 0)


def test_the_theory_is_measured_over_dimensions_and_fitted_where_it_can_be(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = theory.TheorySetting(dim=8, experts=4, steps=3, batch_size=4, test_points=20, neurons=2)
    monkeypatch.setattr(theory, "TheorySetting", lambda: small)
    monkeypatch.setattr(theory, "pruning", lambda seeds, setting: [{"seed": seed} for seed in seeds])
    tables, about = theory.measure_theory(
        study(theory_seeds=2, theory_dims=(8, 32)), StageTimer(Console(file=io.StringIO()))
    )
    rows = tables["theory_scaling"]
    assert [row["dim"] for row in rows] == [8, 8, 32, 32]
    assert tables["theory_pruning"] == [{"seed": 0}, {"seed": 1}]
    assert about["limits"]["without"] == 0.5
    # after three steps some relevant routers have not grown yet: no power law
    positive = {name for name in theory.FITTED if all(row[name] > 0 for row in rows)}
    assert set(about["exponents"]) == positive == {"others_size", "others_moved"}
    for name, fitted in about["exponents"].items():
        slope = np.polyfit(np.log([8, 8, 32, 32]), np.log([row[name] for row in rows]), 1)[0]
        assert fitted["fitted"] == pytest.approx(slope)
        assert fitted["low"] < fitted["fitted"] < fitted["high"]
    json.dumps(about)
