import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    # so that the commit is not looked up in every run
    monkeypatch.setattr("qrt_tn.studies.provenance.commit", lambda: "abc+")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"
