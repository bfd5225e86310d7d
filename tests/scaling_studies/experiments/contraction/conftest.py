from pathlib import Path

import pytest

from qrt_tn import engine
from qrt_tn.engine import Device
from qrt_tn.studies.experiments.catalogue import Context


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, say=lambda line: None)


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device of known rates in place of a measured one."""
    table = ((1.0, 2e9), (64.0, 5e10))
    rates = {"complex64": table, "complex128": table}
    copies = ((1024.0, 4e10), (2.0**20, 1e10))
    device = Device("one", "numpy", rates, copies, copies, 1e-6, None, {}, "2026-01-01")
    monkeypatch.setattr(engine, "calibrate", lambda backend, dtypes: device)
    return device
