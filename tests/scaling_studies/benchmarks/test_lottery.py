import json
from pathlib import Path

import pytest

from qrt_tn.studies.benchmarks import lottery


def test_a_row_holds_rates_and_paired_ratios(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lottery, "ITERATIONS", {"lenet": 4})
    monkeypatch.setattr(lottery, "TOGETHER", 2)
    monkeypatch.setattr(lottery, "EVALUATED", {"lenet": 50})
    lottery.main([str(tmp_path / "found.json"), "--architectures", "lenet", "--rounds", "1"])
    found = json.loads((tmp_path / "found.json").read_text())
    (row,) = found["rows"]
    assert row["architecture"] == "lenet"
    assert row["evaluated_points"] == 100
    assert row["trials_together"] == 2
    plain, ours = row["iterations_per_second_plain"], row["iterations_per_second"]
    assert plain > 0
    assert ours > 0
    for name in ("plain_over_ours", "together_over_one", "together_over_one_evaluated"):
        assert row[name]["min"] <= row[name]["median"] <= row[name]["max"]
    assert "lenet" in capsys.readouterr().out
    assert {"machine", "versions", "commit"} <= set(found)
