import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrt_tn.models.moe.checkpoints import load_vmoe_checkpoint, save_vmoe_checkpoint
from qrt_tn.studies import cli
from qrt_tn.studies.experiments.moe.config import MoeStudyConfig


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["qrt-tn", "moe", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def tree(seed: int) -> dict[str, Any]:
    """Of what pruning looks at, no more: one layer of four experts."""
    rng = np.random.default_rng(seed)
    dense = [
        {"kernel": rng.normal(size=(4, *shape)), "bias": rng.normal(size=(4, shape[1]))}
        for shape in ((3, 5), (5, 3))
    ]
    moe = {
        "Router": {"dense": {"kernel": rng.normal(size=(3, 4))}},
        "Mlp": {"Dense_0": dense[0], "Dense_1": dense[1]},
    }
    return {"Encoder": {"encoderblock_1": {"Moe": moe}}, "head": {"kernel": rng.normal(size=(3, 2))}}


def test_a_checkpoint_is_pruned_and_inspected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    save_vmoe_checkpoint("before", tree(0))
    save_vmoe_checkpoint("after", tree(1))
    pair = ["--pretrained", "before", "--finetuned", "after"]
    assert call(monkeypatch, "prune", *pair, "--prune", "2", "--out", "smaller") == 0
    shown = capsys.readouterr().out
    assert "Experts pruned by router-change, keep-router" in shown
    about = json.loads(Path("smaller.json").read_text())
    gone = about["experts"]["1"]["gone"]
    assert f" {gone[0]}, {gone[1]} " in shown
    before, after = about["bytes"].values()
    assert f"{before:,} bytes before, {after:,} after" in shown
    kernel = load_vmoe_checkpoint("smaller")["Encoder"]["encoderblock_1"]["Moe"]["Mlp"]["Dense_0"]["kernel"]
    assert kernel.shape == (2, 3, 5)
    assert call(monkeypatch, "inspect", "smaller", "--json", "--norms") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"]["1"]["original"] == about["experts"]["1"]["kept"]
    assert found["pruning"]["criterion"] == "router-change"
    assert found["bytes"] == after
    assert call(monkeypatch, "inspect", "smaller") == 0
    shown = capsys.readouterr().out
    assert "Pruned from after by router-change, keep-router." in shown
    assert "not read (--norms)" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere"], "no file nowhere.index"),
        (["prune", "--finetuned", "after", "--out", "x", "--prune", "2"], "give it as --pretrained"),
        (["prune", "--finetuned", "after", "--out", "x", "--budget", "lots"], "budget is 'lots'"),
        (
            ["prune", "--finetuned", "after", "--out", "x", "--criterion", "router-norm", "--prune", "4"],
            "4 experts of layer 1 cannot go; prune at most 3",
        ),
        (
            [
                *("prune", "--finetuned", "after", "--out", "x", "--criterion", "router-norm"),
                *("--prune", "3", "--mode", "drop-router", "--selected", "2"),
            ],
            "keep 1 experts, but a token goes to 2",
        ),
        (["study", "--preset", "huge"], "unknown preset 'huge'"),
        (["study", "--set", "setps=3"], "did you mean"),
        (["study", "--criteria", "luck"], "unknown criterion 'luck'"),
        (["study", "--prune", "2,x"], "prune holds 'x'"),
        (["study", "--prune", "8"], "prune holds 8, but a layer has 8 experts"),
        (["study", "--seeds", "2", "--set", "seeds=3"], "seeds is given twice"),
        (["study", "--finetune", "digits:5-12"], "digits has no class 10"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_vmoe_checkpoint("after", tree(1))
    before = sorted(path.name for path in tmp_path.iterdir())
    assert call(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    line = shown.err.splitlines()[-1]
    assert line.startswith("qrt-tn: ")
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_options_become_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen: list[tuple[MoeStudyConfig, str]] = []

    def run_study(config: MoeStudyConfig, command: str, _: object) -> Path:
        seen.append((config, command))
        return tmp_path / "report.html"

    monkeypatch.setattr("qrt_tn.studies.experiments.moe.run.run_study", run_study)
    arguments = ["--preset", "small", "--pretrain", "digits:0-4", "--seeds", "2", "--criteria", "reap, merge"]
    arguments += [
        "--prune",
        "2,3",
        "--set",
        "hidden=16",
        "--modes",
        "drop-router",
        "--routers",
        "expert-choice",
    ]
    assert call(monkeypatch, "study", *arguments) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    ((config, command),) = seen
    assert (config.name, config.pretrain, config.finetune, config.seeds) == (
        "small",
        "digits:0-4",
        "mnist",
        2,
    )
    assert (config.criteria, config.modes, config.hidden) == (("reap", "merge"), ("drop-router",), 16)
    assert (config.prune, config.tune_prune, config.routers) == ((2, 3), (2,), ("expert-choice",))
    assert config.out == Path("runs/small-moe")  # moe-... are the stores of studies
    assert command.startswith("qrt-tn moe study --preset small")


def test_the_package_runs_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "qrt_tn.studies.cli", "moe"], capture_output=True, text=True, check=True
    )
    assert all(name in found.stdout for name in ("study", "prune", "inspect"))
