import importlib
import json

import pytest

from qrt_tn import engine
from qrt_tn.studies import cli
from qrt_tn.studies.benchmarks.gpu import run
from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place

FAULTY = """
import os, time

def wrong(place, checks):
    checks.most("too large", lambda: 2, 1)

def raises(place, checks):
    checks.tell("before", lambda: 7)
    raise RuntimeError("out of luck")

def dies(place, checks):
    checks.tell("before", lambda: 7)
    os._exit(9)

def hangs(place, checks):
    checks.tell("before", lambda: 7)
    time.sleep(600)

def works(place, checks):
    checks.holds("one", lambda: 1)
"""


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["qrt-tn", "bench", "gpu", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_every_part_runs_on_numpy(monkeypatch, capsys, tmp_path):
    out = tmp_path / "gpu.json"
    assert call(monkeypatch, "--as", "numpy", "--out", str(out)) == 0
    found = json.loads(out.read_text())
    states = {name: part["state"] for name, part in found["parts"].items()}
    assert states == {name: "unavailable" if name == "cuquantum" else "ok" for name in run.NAMES}
    assert found["backend"] == "numpy"
    assert found["command"] == f"qrt-tn bench gpu --as numpy --out {out}"
    assert {"python", "numpy"} <= found["versions"].keys()
    assert {row["part"] for row in found["rows"]} == {
        "chains_speed", "transforms_speed", "contract_speed", "smoothing"
    }  # fmt: skip
    assert all(row["seconds"] > 0 and row["host_seconds"] > 0 for row in found["rows"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*run.NAMES, "samples of a chain", f"written: {out}"))


@pytest.mark.parametrize("name", ["arrays", "contract", "chains", "transforms"])
def test_parts_keep_to_the_device(device, name):
    """The stand-in for CuPy refuses what CuPy refuses."""
    checks = Checks()
    run.NAMES[name](Place("cupy", small=True), checks)
    assert checks.found["failed"] == {}
    assert len(checks.found["figures"]) > 5


def test_a_part_that_fails_ends_no_other(monkeypatch, capsys, tmp_path):
    (tmp_path / "faulty_parts.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    faulty = importlib.import_module("faulty_parts")
    parts = {getattr(faulty, name): 60.0 for name in ("wrong", "raises", "dies", "hangs", "works")}
    parts[faulty.hangs] = 0.5
    monkeypatch.setattr(run, "PARTS", parts)
    monkeypatch.setattr(run, "NAMES", {part.__name__: part for part in parts})
    out = tmp_path / "gpu.json"
    assert call(monkeypatch, "--as", "numpy", "--out", str(out)) == 1
    found = json.loads(out.read_text())["parts"]
    assert {name: part["state"] for name, part in found.items()} == {
        "wrong": "failed", "raises": "failed", "dies": "failed", "hangs": "failed", "works": "ok"
    }  # fmt: skip
    assert found["wrong"]["failed"] == {"too large, at most 1": "found 2.0"}
    for name, reason in (("raises", "out of luck"), ("dies", "code 9"), ("hangs", "longer than 2 s")):
        assert reason in found[name]["failed"]["the part"]
        assert found[name]["figures"] == {"before": 7}
    assert call(monkeypatch, "--as", "numpy", "--only", "works", "--out", str(out)) == 0
    assert list(json.loads(out.read_text())["parts"]) == ["works"]


def test_parts_without_time_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "_apart", lambda *_: pytest.fail("ran"))
    found = run.run("numpy", tmp_path / "new" / "gpu.json", only=["arrays", "contract"], budget=1e-9)
    assert {part["state"] for part in found.values()} == {"left out"}


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--as", "jax"], "jax"),
        (["--as", "numpy", "--only", "contract,abacus"], "abacus"),
        (["--as", "numpy", "--budget", "0"], "budget is 0"),
        (["--as", "numpy", "--budget", "nan"], "nan"),
        (["--as", "numpy", "--out", "."], ". is a folder"),
    ],
)
def test_refusals(monkeypatch, capsys, tmp_path, arguments, value):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert value in line
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_the_reason_is_told(monkeypatch, capsys, tmp_path):
    cupy = engine.backends()["cupy"]
    if cupy.available:
        pytest.skip("a GPU answers here")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert cupy.reason in line
    assert "--as numpy" in line
