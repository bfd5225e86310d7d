import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from qrt_tn.engine import Device
from qrt_tn.studies import cli
from qrt_tn.studies.benchmarks.engine import finder, networks, run
from qrt_tn.studies.progress import StageTimer

TABLES = dict.fromkeys(("float32", "float64", "complex64", "complex128"), ((1.0, 1e8), (64.0, 1e10)))
COPIES = ((1e8, 1e10),)
DEVICE = Device("Abacus", "numpy", TABLES, COPIES, COPIES, 1e-6, None, {}, "2026-01-02")


def tiny() -> run.Sizes:
    amplitudes = networks.amplitudes("MPS", networks.mps_state(4, 3, 2), 5)
    regular = networks.case("regular", networks.regular(10, 3, 2))
    makers = (lambda: amplitudes, lambda: regular)
    return run.Sizes(makers, makers, 20, 12, (4,), 1, 1.0)


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("qrt_tn.engine.calibrate", lambda backend: DEVICE)
    monkeypatch.setattr(finder, "is_installed", lambda: False)
    monkeypatch.setattr(run, "quick", tiny)
    monkeypatch.setattr("qrt_tn.studies.benchmarks.engine.quality.warm_up", lambda: None)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["qrt-tn", "bench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_folder_holds_every_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    assert call(monkeypatch, "engine", "--out", str(out)) == 0
    shown = capsys.readouterr()
    assert f"written: {out}" in shown.out
    assert "planning: " in shown.err
    assert {path.name for path in out.iterdir()} == {"engine.json", "engine.md", "engine.svg"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    found = json.loads((out / "engine.json").read_text())
    assert (found["format"], found["version"]) == ("qrt-tn.bench-engine", 1)
    assert found["command"] == f"qrt-tn bench engine --out {out}"
    assert {"python", "numpy", "quimb", "cotengra", "opt_einsum"} <= found["versions"].keys()
    assert found["machine"]["cores"] >= 1
    assert all(threads >= 1 for threads in found["threads"].values())
    assert found["devices"]["numpy"]["name"] == "Abacus"
    assert found["settings"] == {"rounds": 1, "finder_limit": 1.0, "extents": [4]}
    methods = ("qrt-tn", "cotengra, as long", "opt_einsum auto")
    planned = [(row["network"], row["method"]) for row in found["quality"]]
    assert planned[:6] == [(network, method) for network in ("MPS", "regular") for method in methods]
    assert planned[6] == ("amplitudes, D=12", "qrt-tn")
    assert [row["network"] for row in found["chains"]] == ["20 matrices", "amplitudes, D=20"]
    contracted = [row["network"] for row in found["speed"]]
    assert contracted == ["MPS", "MPS, constants", "MPS, execute_many", "regular"]
    (small,) = found["overhead"]
    assert small["network"] == "200 matrices of 4"
    assert [row["batch"] for row in found["speed"]] == [5, 5, 5, 1]
    for row in (*found["speed"], small):
        assert row["seconds"] > 0
    # as is written, so was shown
    assert all(row["network"] in (out / "engine.md").read_text() for row in found["speed"])


def test_results_that_disagree_leave_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "qrt_tn.studies.benchmarks.engine.speed.TOLERANCE", {"complex128": -1.0, "float64": -1.0}
    )
    timer = StageTimer(Console(file=io.StringIO()))
    with pytest.raises(RuntimeError, match="cotengra and qrt-tn disagree"):
        run.run(tmp_path / "out", tiny(), "qrt-tn bench engine", timer)
    assert not (tmp_path / "out").exists()


def test_the_sizes_that_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    small, large = run.quick(), run.full()
    assert (small.chain, small.compared) == (large.chain, large.compared) == (10_000, 1000)
    assert small.rounds < large.rounds
    cases = [make() for make in small.planned + small.contracted]
    names = [case.name for case in cases]
    shapes = {case.name: [array.shape for array in case.arrays] for case in cases}
    assert all([array.shape for array in case.arrays] == shapes[case.name] for case in cases)
    for kind in ("MPS", "open", "tree", "grid", "3-regular", "circuit", "chain"):
        assert any(kind in name for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine", "--out", "full"], "full exists and is not an empty folder"),
        (["engine", "--out", "file/out"], "file"),
        (["engine", "--frobnicate"], "frobnicate"),
        (["engine", "--rounds", "3"], "rounds"),
        (["abacus"], "abacus"),
        (["sample-state", "--runs", "0"], "runs is 0"),
        (["sample-mps", "--rounds", "0"], "rounds is 0"),
        (["mixtures", "--seeds", "0"], "seeds is 0"),
        (["checkpoints", "--shards", "0"], "shards 0"),
    ],
)
def test_bad_input_ends_in_one_line_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    place = tmp_path / "place"
    (place / "full").mkdir(parents=True)
    (place / "full" / "kept").write_text("kept")
    (place / "file").write_text("")
    monkeypatch.chdir(place)
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("measured"))
    assert call(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qrt-tn: ")
    assert message in line
    assert sorted(path.name for path in place.rglob("*")) == ["file", "full", "kept"]


def test_an_interrupt_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure", interrupt)
    assert call(monkeypatch, "engine", "--out", str(tmp_path / "out")) == 130
    assert not (tmp_path / "out").exists()


def test_benchmarks_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "engine" in shown
    assert "sample-state" in shown


def test_the_other_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("qrt_tn.studies.benchmarks.sample_state.SIZES", [(12, 3, 1)])
    monkeypatch.setattr("qrt_tn.studies.benchmarks.sample_state.NODES", 8)
    out = tmp_path / "state.json"
    assert call(monkeypatch, "sample-state", "--runs", "1", "--out", str(out)) == 0
    assert json.loads(out.read_text())["benchmark"] == "sample_state"


def test_matrix_product_states_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("qrt_tn.studies.benchmarks.sample_mps.SIZES", [(4, 3, 2, 8)])
    out = tmp_path / "mps.json"
    assert call(monkeypatch, "sample-mps", "--rounds", "1", "--out", str(out)) == 0
    assert json.loads(out.read_text())["benchmark"] == "sample_mps"
