import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qrt_tn.studies import cli
from qrt_tn.studies.benchmarks.states import growth, run


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["qrt-tn", "bench", "states", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = run.Sizes
    monkeypatch.setattr(run, "Sizes", lambda nodes: sizes((4, 8, 16), (1, 2), nodes, 1))


def test_the_folder_holds_every_figure(
    tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, "--nodes", "2", "--out", str(out)) == 0
    assert f"written: {out}" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["states.json", "states.md", "states.svg"]
    found = json.loads((out / "states.json").read_text())
    assert (found["format"], found["version"], found["modulus"]) == ("qrt-tn.bench-states", 1, 127)
    assert found["command"] == f"qrt-tn bench states --nodes 2 --out {out}"
    kinds = [(row["kind"], row["dim"]) for row in found["rows"]]
    assert kinds == [
        *((kind, dim) for kind in growth.KINDS for dim in (4, 8, 16)),
        ("dense", 1),
        ("dense", 2),
    ]
    for fit in found["exponents"]:
        own = [row for row in found["rows"] if row["kind"] == fit["kind"]]
        for what in ("seconds", "total_seconds", "bytes"):
            expected = growth.exponent([row["dim"] for row in own], [row[what] for row in own])
            assert fit[what] == pytest.approx(expected)
    text = (out / "states.md").read_text()
    assert "## Growth with the dimension" in text
    for fit in found["exponents"]:
        powers = " | ".join(f"{fit[what]:.2f}" for what in ("seconds", "total_seconds", "bytes"))
        assert f"| {fit['kind']} | {powers} |" in text
    root = ElementTree.parse(out / "states.svg").getroot()
    words = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "dense, P^D beyond D = 2" in words
    assert any(word.startswith("ridge sum, ~ D^") for word in words)


def test_bad_input_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "--nodes", "0", "--out", str(tmp_path / "out")) == 2
    assert "nodes is 0; give at least 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
