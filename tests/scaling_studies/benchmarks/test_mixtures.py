import json
from dataclasses import replace
from pathlib import Path

import pytest

from qrt_tn.studies.benchmarks import mixtures


def test_both_ways_end_with_as_many_parameters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []
    monkeypatch.setattr(mixtures, "_train", lambda *arguments: trained.append(arguments[2]))
    monkeypatch.setattr(mixtures, "CONFIG", replace(mixtures.CONFIG, patch=4, hidden=8, mlp=16, heads=2))
    monkeypatch.setattr(mixtures, "SHARES", (0.3,))
    mixtures.main([str(tmp_path / "found.json"), "--seeds", "1", "--steps", "8"])
    found = json.loads((tmp_path / "found.json").read_text())
    assert trained == [8, 4, 4]
    dense, weights, experts = found["rows"]
    assert [row["method"] for row in found["rows"]] == ["dense", "weights only", "4 experts, then weights"]
    # each of the eight kernels is rounded to whole weights
    assert abs(weights["parameters"] - experts["parameters"]) <= 8
    assert abs(weights["parameters"] - 0.3 * dense["parameters"]) <= 4
    assert all(0 <= row["accuracy"] <= 1 == len(row["samples"]["accuracy"]) for row in found["rows"])
    assert "4 experts, then weights" in capsys.readouterr().out
    with pytest.raises(ValueError, match="seeds is 0"):
        mixtures.main(["--seeds", "0"])
