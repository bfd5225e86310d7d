import json
from pathlib import Path

import pytest

from qrt_tn.studies.benchmarks import moe


def test_rows_hold_paired_ratios(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(moe, "SIZES", ((2, 8, 16),))
    monkeypatch.setattr(moe, "HIDDEN", 4)
    monkeypatch.setattr(moe, "MLP", 4)
    monkeypatch.setattr(moe, "LEFT", (4, 1))
    monkeypatch.setattr(moe, "ROUTERS", ("expert-choice",))
    moe.main([str(tmp_path / "found.json"), "--experts", "3", "--rounds", "1"])
    found = json.loads((tmp_path / "found.json").read_text())
    forms, *removal = found["rows"]
    assert (forms["experts"], forms["group"]) == (3, 16)
    assert set(forms["milliseconds"]) == {"bare", *moe.FORMS, "gather, gradient", "einsum, gradient"}
    for name in ("einsum_over_gather", "einsum_over_gather_gradient", "gather_over_bare"):
        assert forms[name]["min"] == forms[name]["median"] == forms[name]["max"] > 0
    assert [(row["mode"], row["left"]) for row in removal] == [
        ("keep-router", 4),
        ("keep-router", 1),
        ("drop-router", 4),
        ("drop-router", 1),
    ]
    assert removal[0]["over_whole"]["median"] == 1
    assert "Forms of dispatch" in capsys.readouterr().out
    assert {"machine", "versions", "commit", "device"} <= set(found)
