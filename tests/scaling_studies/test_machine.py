import importlib
import io
import sys
import types

import pytest
from rich.console import Console

from qrt_tn.engine import Backend, roofline
from qrt_tn.engine.roofline import Device
from qrt_tn.studies import machine
from qrt_tn.studies.machine import show_machine
from qrt_tn.studies.progress import StageTimer

GPU = Backend("cupy", True, "14.2.0", "GPU [9000]", memory=80 * 2**30, free=5 * 2**30)
NO_MPI = Backend("mpi", False, "4.1.2", "none", "cannot load\nMPI library", "pip install 'qrt-tn[mpi]'")


def sample(name: str, backend: str, upload: float | None = None, **more: tuple) -> Device:
    tables = {"float32": ((64.0, 1.5e12), (256.0, 3.21e12)), "complex128": ((64.0, 4.5e9),), **more}
    copies = ((1e6, 1e9), (1e8, 1.25e11))
    date = "2026-01-02"
    return Device(name, backend, tables, copies, copies, 2.5e-6, upload, {}, date)


@pytest.fixture(autouse=True)
def rooms(monkeypatch, tmp_path):
    """A machine without GPU and MPI whose calibration costs nothing; what was measured."""
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(roofline, "_measured", {})
    monkeypatch.setattr(machine, "ranks", lambda: NO_MPI)
    monkeypatch.setattr(machine, "gpus", list)
    numpy = Backend("numpy", True, "2.4.6", "CPU", memory=24 * 2**30, free=21 * 2**30)
    missing = Backend(
        "cupy", False, None, "none", "the package cupy is not installed", "pip install it [now]"
    )
    monkeypatch.setattr("qrt_tn.engine.backends", lambda: {"numpy": numpy, "cupy": missing})
    made = []

    def measure(clock, dtypes, progress):
        made.append(clock.backend)
        progress(0, 2, "products")
        progress(2, 2, "done")
        plain = ((1.0, 2e9),)
        device = sample("any", clock.backend, float64=plain, complex64=plain)
        return {name: getattr(device, name) for name in ("gemm", "copy", "permute", "overhead", "upload")}

    monkeypatch.setattr(roofline, "_measure", measure)
    return made


def shown(**settings) -> str:
    console = Console(file=io.StringIO(), width=200)
    log = Console(file=io.StringIO(), width=200)
    show_machine(console, timer=StageTimer(log), **settings)
    return console.file.getvalue() + log.file.getvalue()


def row(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {start}")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_machine_without_gpu_and_mpi(tmp_path):
    text = shown()
    assert "│ numpy   │ yes  │ 2.4.6   │ CPU    │\n" in text
    assert "│ cupy    │ no   │ -       │ none   │\n" in text
    # what is missing, in one line each, to copy from
    assert "cupy is not here: the package cupy is not installed; pip install it [now]\n" in text
    assert "mpi is not here: cannot load MPI library; pip install 'qrt-tn[mpi]'\n" in text
    assert row(text, roofline.processor()) == [roofline.host_name(), "24.0 GiB", "21.0 GiB"]
    assert row(text, "mpi4py")[1] == "4.1.2"
    assert row(text, "MPI library")[1] == "-"
    for library in ("numpy", "scipy", "quimb", "cotengra", "opt_einsum", "jax"):
        assert any(line.split("│")[2].strip() != "-" for line in text.splitlines() if f"│ {library} " in line)
    assert f"cache: {tmp_path / 'cache'}\n" in text


def test_rates(rooms):
    text = shown()
    assert row(text, "products, float32, Gflop/s")[1] == "3.21e+03"  # the best size
    assert row(text, "products, complex128, Gflop/s")[1] == "4.5"
    assert row(text, "products, float64, Gflop/s")[1] == "2"
    assert row(text, "copies, read and written, GB/s")[1] == "125"  # the largest array
    assert row(text, "host to device, GB/s")[1] == "-"
    assert row(text, "overhead of a step, µs")[1] == "2.5"
    assert rooms == ["numpy"]


def test_kept_rates_are_shown_and_measured_anew_only_when_asked(rooms):
    assert "measuring numpy" in shown()
    assert "measuring numpy" not in shown()
    assert rooms == ["numpy"]
    assert "measuring numpy" in shown(measure=True)
    assert rooms == ["numpy", "numpy"]


def test_a_machine_with_gpus(monkeypatch):
    cuquantum = Backend("cuquantum", True, "26.9.0", "GPU [9000]")
    monkeypatch.setattr("qrt_tn.engine.backends", lambda: {"cupy": GPU, "cuquantum": cuquantum})
    monkeypatch.setattr(machine, "gpus", lambda: [("GPU [9000]", 80 * 2**30), ("GPU [9000]", 80 * 2**30)])
    asked = []

    def calibrate(backend, **_):
        asked.append(backend)
        return sample("GPU [9000]: cupy", backend, upload=2.5e10)

    monkeypatch.setattr(roofline, "calibrate", calibrate)
    mpi = Backend("mpi", True, "4.1.2", "MPICH Version:\t5.0.2")
    monkeypatch.setattr(machine, "ranks", lambda: mpi)
    text = shown()
    assert asked == ["cupy"]  # cuQuantum computes on the same device
    assert row(text, "GPU 0") == ["GPU 0: GPU [9000]", "80.0 GiB", "5.0 GiB"]
    assert row(text, "GPU 1") == ["GPU 1: GPU [9000]", "80.0 GiB", "-"]
    assert "GPU [9000]: cupy" in text
    assert row(text, "host to device, GB/s")[1] == "25"
    assert row(text, "MPI library")[1] == "MPICH Version: 5.0.2"
    assert "is not here" not in text


def test_devices_measured_elsewhere_are_shown_too(monkeypatch):
    far = sample("Far Away: cupy", "cupy", upload=1e10)
    monkeypatch.setattr(roofline, "devices", lambda: {far.name: far})
    text = shown()
    assert "Far Away: cupy" in text
    assert row(text, "host to device, GB/s")[1:] == ["-", "10"]
    assert row(text, "products, float64, Gflop/s")[1:] == ["2", "-"]  # not measured there


def test_a_device_that_cannot_be_measured_is_said(monkeypatch):
    def fail(backend, **_):
        raise MemoryError("out of memory:\n81 GiB in use")

    monkeypatch.setattr(roofline, "calibrate", fail)
    assert "numpy could not be measured: out of memory: 81 GiB in use\n" in shown()


def test_where_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("QRT_TN_CACHE", "off")
    assert "cache: off; set QRT_TN_CACHE to a folder" in shown()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "file" / "cache"))
    assert f"cache: {tmp_path / 'file' / 'cache'} cannot be written" in shown()


def test_gpus_are_asked_by_their_properties(monkeypatch):
    backends = importlib.import_module("qrt_tn.engine.backends")
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 2,
        getDeviceProperties=lambda place: {"name": b"GPU %d" % place, "totalGlobalMem": 2**30 * (place + 1)},
    )
    cuda = types.SimpleNamespace(runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(backends, "_find", lambda name: GPU)
    assert backends.gpus() == [("GPU 0", 2**30), ("GPU 1", 2**31)]
