from pathlib import Path

import pytest

from qrt_tn.studies import cli
from qrt_tn.studies.config.study import shipped
from qrt_tn.studies.experiments.lottery.config import LotteryConfig


def test_a_folder_left_out_is_no_store_of_a_shipped_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[LotteryConfig] = []

    def run(config: LotteryConfig, *_: object) -> Path:
        seen.append(config)
        return tmp_path / "report.html"

    monkeypatch.setattr("qrt_tn.studies.experiments.lottery.run.run_lottery", run)
    monkeypatch.setattr("sys.argv", ["qrt-tn", "lottery"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert seen[0].out.name not in {f"{name}{ending}" for name in shipped() for ending in ("", "-quick")}
