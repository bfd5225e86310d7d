import errno
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from qrt_tn.engine import Backend
from qrt_tn.studies import cli


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["qrt-tn", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_an_interrupt_says_so_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qrt_tn.studies.experiments.ticket.run.side_by_side", interrupt)
    assert call(monkeypatch, "ticket") == 130
    assert "interrupted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.name != "runs"] == []


def test_a_batch_system_that_ends_a_run_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "qrt_tn.studies.experiments.ticket.run.side_by_side",
        lambda *_: signal.raise_signal(signal.SIGTERM),
    )
    try:
        assert call(monkeypatch, "ticket") == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [path.name for path in tmp_path.rglob("*") if path.name != "runs"] == []


def test_help_and_version_without_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch) == 0
    assert "ticket" in capsys.readouterr().out
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == version("qrt-tn")


def test_info_names_every_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("qrt_tn.engine.roofline.calibrate", fail_to_measure)
    assert call(monkeypatch, "info") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("numpy", "cupy", "cuquantum", "mpi", "python", "GiB"))
    assert "numpy could not be measured: refresh is False" in shown
    assert f"cache: {tmp_path / 'cache'}" in shown
    assert call(monkeypatch, "info", "--measure") == 0
    assert "numpy could not be measured: refresh is True" in capsys.readouterr().out


def fail_to_measure(*_: object, refresh: bool, **__: object) -> None:
    raise RuntimeError(f"refresh is {refresh}")


def test_info_tells_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = Backend("cupy", False, None, "none", "it is not installed", "pip install 'qrt-tn[cuda13]'")
    monkeypatch.setattr("qrt_tn.engine.backends", lambda: {"cupy": missing})
    monkeypatch.setenv("QRT_TN_CACHE", "off")
    assert call(monkeypatch, "info") == 0
    # in one piece, however narrow the terminal
    assert "cupy is not here: it is not installed; pip install 'qrt-tn[cuda13]'\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modulus", "100"], "100 is not prime; the next prime is 101"),
        (["--nodes", "16,many"], "'many'"),
        (["--nodes", "1000000000"], "1000000000"),
        (["--seeds", "1000000000000"], "1000000000000"),
        (["--seeds", "three"], "seeds"),
        (["--smoothing", "wide"], "'wide'"),
        (["--frobnicate"], "frobnicate"),
        (["--methods", "residual,magic"], "'magic'"),
        (["--data", "nothing.npz"], "nothing.npz"),
        (["--data", "notes.txt"], "notes.txt"),
        (["--data", f"{'x' * 300}.csv"], "x" * 60),
        (["--out", "x" * 300], "x" * 60),
        (["--backend", "abacus"], "abacus"),
        (["--backend", "jax"], "jax"),
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
    assert call(monkeypatch, "ticket", *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("qrt-tn: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((30, 2), np.nan), np.arange(30) % 2, "nan"),
        (np.ones((30, 2)), np.arange(30) % 2, "constant data"),
        (np.random.default_rng(0).normal(size=(30, 2)), np.zeros(30, dtype=int), "constant data"),
        (np.empty((0, 2)), np.empty(0, dtype=int), "empty"),
        (np.random.default_rng(0).normal(size=(30, 2)), np.arange(29) % 2, "30 points but 29"),
    ],
)
def test_bad_data_ends_in_one_line_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    x: np.ndarray,
    y: np.ndarray,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x=x, y=y)
    assert call(monkeypatch, "ticket", "--data", "data.npz") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_a_ticket_from_a_table_and_its_predictions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 2))
    kinds = np.where(x[:, 0] + x[:, 1] > 0, "up", "down")
    lines = [f"{i},{a},{b},{kind}" for i, ((a, b), kind) in enumerate(zip(x, kinds, strict=True))]
    Path("t.csv").write_text("id,left,right,way\n" + "\n".join(lines) + "\n")
    few = ["--nodes", "8", "--seeds", "3", "--epochs", "0", "--methods", "residual,filter,linear"]
    chosen = ["--smoothing", "0.6", "--beta", "4", "--levels", "9", "--quantizer", "uniform"]
    assert call(monkeypatch, "ticket", "--data", "t.csv", *few, *chosen, "--out", "run") == 0
    shown = capsys.readouterr()
    assert "90 points, 2 features, target 'way', classification, 2 classes; left out: 'id'" in shown.err
    assert "logistic regression" in shown.out
    assert "model of 8 nodes: run/model" in shown.out
    Path("new.csv").write_text("right,note,left\n2,a,2\n-2,b,-2\n")
    assert call(monkeypatch, "predict", "run", "new.csv") == 0
    shown = capsys.readouterr()
    assert shown.out.split() == ["way", "up", "down"]
    assert "ignored: note" in shown.err
    assert call(monkeypatch, "predict", "run", "new.csv", "--out", "p.csv") == 0
    assert Path("p.csv").read_text().split() == ["way", "up", "down"]
    Path("half.csv").write_text("right\n2\n")
    for arguments, message in (
        (["run", "new.csv", "--out", "p.csv"], "p.csv exists"),
        (["run", "half.csv"], "left"),
        (["nowhere", "new.csv"], "nowhere"),
        (["run", "gone.csv"], "gone.csv"),
    ):
        capsys.readouterr()
        assert call(monkeypatch, "predict", *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    again = ["ticket", "--data", "t.csv", *few, *chosen, "--json", "--out"]
    assert call(monkeypatch, *again, "other") == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in found["scores"]} == {"residual", "filter", "linear"}
    assert call(monkeypatch, *again, "run") == 2


def test_codes_keep_their_zeros_in_new_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    codes = rng.choice(["007", "011", "x9"], 120)
    lines = [
        f"{code},{u},{3 * (code == '007') + u}" for code, u in zip(codes, rng.normal(size=120), strict=True)
    ]
    Path("t.csv").write_text("code,u,y\n" + "\n".join(lines) + "\n")
    options = [
        "--nodes",
        "12",
        "--seeds",
        "1",
        "--epochs",
        "0",
        "--methods",
        "residual",
        "--encode",
        "onehot",
    ]
    options += ["--smoothing", "0.6", "--beta", "4", "--levels", "9", "--quantizer", "uniform"]
    assert call(monkeypatch, "ticket", "--data", "t.csv", *options, "--out", "run") == 0
    found = []
    for more in ("", "x9,0\n"):
        Path("new.csv").write_text("code,u\n007,0\n011,0\n" + more)
        capsys.readouterr()
        assert call(monkeypatch, "predict", "run", "new.csv") == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        found.append(shown.out.split()[1:3])
    assert found[0] == found[1]
    assert float(found[0][0]) > float(found[0][1]) + 1
    Path("new.csv").write_text("code,u\n008,0\n")
    assert call(monkeypatch, "predict", "run", "new.csv") == 0
    assert "'008'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/x.npz"), "Permission denied: /data/x.npz"),
        (OSError(errno.EFBIG, "File too large"), "File too large"),
        (OSError("the hub does\nnot answer"), "the hub does not answer"),
        (OSError(errno.EIO, "Input/output error", 5), "Input/output error: 5"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "a" * 150 + "z" * 150),
            f"File name too long: {'a' * 60}...{'z' * 60}",
        ),
    ],
)
def test_what_the_system_refuses_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, line: str
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", refuse)
    assert call(monkeypatch) == 2
    assert capsys.readouterr().err == f"qrt-tn: {line}\n"


def test_a_name_that_no_folder_can_have_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "bench", "engine", "--out", "x" * 300) == 2
    assert capsys.readouterr().err == f"qrt-tn: File name too long: {'x' * 60}...{'x' * 60}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    ("output", "code", "said"), [("gone", 1, ""), ("full", 2, "qrt-tn: No space left on device\n")]
)
def test_output_that_cannot_be_written(buffered: bool, output: str, code: int, said: str) -> None:
    if output == "gone":  # a pipe whose reader has ended, as head does
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open("/dev/full", os.O_WRONLY)
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    command = [sys.executable, "-m", "qrt_tn.studies.cli", "--version"]
    try:
        done = subprocess.run(
            command, stdout=write, stderr=subprocess.PIPE, env=environment, text=True, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (code, said)
