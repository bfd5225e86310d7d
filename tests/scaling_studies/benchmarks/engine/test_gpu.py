import sys
import types

import numpy as np
import pytest

from qrt_tn.engine import Device
from qrt_tn.studies.benchmarks.engine import finder, gpu, networks

TABLES = {"complex128": ((1.0, 1e8), (64.0, 1e10))}
COPIES = ((1e8, 1e10),)
DEVICE = Device("GPU", "cupy", TABLES, COPIES, COPIES, 1e-6, 1e10, {}, "2026-01-02")


class Network:
    """cuTensorNet's Network, by NumPy."""

    made = ()

    def __init__(self, *operands):
        self.operands = operands
        self.calls = []
        Network.made = (*Network.made, self)

    def contract_path(self, optimize):
        self.calls.append(optimize)

    def autotune(self, iterations):
        self.calls.append("autotune")

    def contract(self):
        assert self.calls[-1] != "freed"
        arrays = [part.get() if hasattr(part, "get") else part for part in self.operands]
        return types.SimpleNamespace(get=lambda: np.einsum(*arrays, optimize="greedy"))

    def free(self):
        self.calls.append("freed")


@pytest.mark.parametrize("ends", [True, False])
def test_a_row_for_each_backend(device, monkeypatch, ends):
    monkeypatch.setenv("QRT_TN_CACHE", "off")
    device.cuda = types.SimpleNamespace(Device=lambda: types.SimpleNamespace(synchronize=lambda: None))
    library = types.ModuleType("cuquantum")
    library.tensornet = types.SimpleNamespace(Network=Network)
    monkeypatch.setitem(sys.modules, "cuquantum", library)
    path = [(0, 1)] * 9
    monkeypatch.setattr(finder, "find", lambda *_: (path, 0.1, "") if ends else (None, 5.0, "did not end"))
    monkeypatch.setattr(Network, "made", ())
    real = gpu.ours
    # the stand-in has no cuTensorNet of its own
    monkeypatch.setattr(gpu, "ours", lambda plan, backend, *more: real(plan, "cupy", *more))
    case = networks.case("net", networks.regular(10, 3, 2))
    monkeypatch.setattr(gpu, "BACKENDS", ("cupy",))
    (row,) = gpu.compare(case, DEVICE, rounds=1, limit=5, cuquantum=True)
    assert row["method"] == "qrt-tn cupy"
    assert [other["method"] for other in row["against"]] == ["cuTensorNet"] * ends
    for network in Network.made:
        assert network.calls == [{"path": path}, "autotune", "freed"]
    assert len(Network.made) == ends
