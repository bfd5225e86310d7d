"""What this machine is and how fast: the tables of `qrt-tn info`."""

import importlib.metadata
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qrt_tn import engine
from qrt_tn.engine import cache, roofline
from qrt_tn.engine.backends import Backend, gpus
from qrt_tn.engine.mpi import ranks
from qrt_tn.engine.network import DTYPES
from qrt_tn.engine.roofline import Device
from qrt_tn.studies import provenance
from qrt_tn.studies.progress import Stage, StageTimer

LIBRARIES = (
    "python",
    "qrt-tn",
    "numpy",
    "scipy",
    "quimb",
    "cotengra",
    "cotengrust",
    "opt_einsum",
    "jax",
    "cupy",
    "cuquantum",
    "cutensornet",
    "mpi4py",
)


def show_machine(console: Console, *, measure: bool = False, timer: StageTimer | None = None) -> None:
    """Print backends, devices, versions, measured rates, MPI and the cache folder.

    Args:
        console: where to.
        measure: measure the rates anew; else kept ones are shown, and only missing ones are measured.
        timer: shows the measuring, which takes a few seconds per backend.
    """
    found = engine.backends()
    mpi = ranks()
    console.print(_backend_table([*found.values(), mpi]))
    for backend in (*found.values(), mpi):
        if not backend.available:
            _print_line(console, f"{backend.name} is not here: {backend.reason}; {backend.remedy}")
    console.print(_device_table(found))
    console.print(_version_table(found, mpi))
    devices, failed = _calibrated(found, measure, timer or StageTimer())
    if devices:
        console.print(_rate_table(devices))
    for line in (*failed, f"cache: {_cache_state()}"):
        _print_line(console, line)


def _print_line(console: Console, text: str) -> None:
    """One unbroken line to copy from, whatever the width; the extras' brackets are no markup."""
    console.print(" ".join(text.split()), markup=False, highlight=False, soft_wrap=True)


def _backend_table(found: list[Backend]) -> Table:
    table = Table("backend", "here", "version", "device", title="Backends")
    for backend in found:
        here = "yes" if backend.available else "no"
        table.add_row(backend.name, here, backend.version or "-", escape(backend.device))
    return table


def _device_table(found: dict[str, Backend]) -> Table:
    table = Table("device", "memory", "free", title="Devices")
    if "numpy" in found:
        host = found["numpy"]
        table.add_row(escape(roofline.host_name()), _gib(host.memory), _gib(host.free))
    free = found["cupy"].free if "cupy" in found else None
    for place, (name, memory) in enumerate(gpus()):
        # CuPy's device is the first that it sees; asking the others would start a context on each
        table.add_row(escape(f"GPU {place}: {name}"), _gib(memory), _gib(free if place == 0 else None))
    return table


def _version_table(found: dict[str, Backend], mpi: Backend) -> Table:
    versions: dict[str, str | None] = {**provenance.versions(), "mpi4py": mpi.version}
    versions.update({name: backend.version for name, backend in found.items() if backend.version})
    table = Table("library", "version", title="Libraries")
    for name in LIBRARIES:
        table.add_row(name, versions.get(name) or _installed(name))
    table.add_row("MPI library", escape(" ".join(mpi.device.split())) if mpi.available else "-")
    return table


def _rate_table(devices: list[Device]) -> Table:
    rows: dict[str, Callable[[Device], float | None]] = {
        f"products, {dtype}, Gflop/s": partial(_best_rate, dtype=dtype) for dtype in DTYPES
    }
    rows["copies, read and written, GB/s"] = lambda device: device.copy_rate / 1e9
    rows["copies that swap axes, GB/s"] = lambda device: device.permute[-1][1] / 1e9
    rows["host to device, GB/s"] = lambda device: device.upload and device.upload / 1e9
    rows["overhead of a step, µs"] = lambda device: device.overhead * 1e6
    table = Table("rate", *(escape(device.name) for device in devices), title="Measured rates")
    for name, value in rows.items():
        values = map(value, devices)
        table.add_row(name, *("-" if value is None else f"{value:.3g}" for value in values))
    table.add_row("measured on", *(device.measured for device in devices))
    table.caption = "products at their best size; a multiplication and an addition are two flops"
    return table


def _best_rate(device: Device, dtype: str) -> float | None:
    return device.gemm_rate(dtype) / 1e9 if dtype in device.gemm else None


def _calibrated(
    found: dict[str, Backend], measure: bool, timer: StageTimer
) -> tuple[list[Device], list[str]]:
    """This machine's devices first, then all others in the cache; and a line for each that failed."""
    devices, failed = {}, []
    for backend in found.values():
        if not backend.available or backend.name == "cuquantum":  # cuQuantum's device is CuPy's
            continue
        try:
            device = _calibrate(backend.name, measure, timer)
        except Exception as error:
            # a device without room, say: the rest of the table is still worth showing
            failed.append(f"{backend.name} could not be measured: {error}")
            continue
        devices[device.name] = device
    for name, device in roofline.devices().items():
        devices.setdefault(name, device)
    return list(devices.values()), failed


def _calibrate(backend: str, measure: bool, timer: StageTimer) -> Device:
    stage: Stage | None = None
    with ExitStack() as stack:

        def progress(done: int, total: int, what: str) -> None:
            nonlocal stage
            if stage is None:  # nothing is shown where nothing is measured
                stage = stack.enter_context(timer.stage(f"measuring {backend}", total))
            elif done:
                stage.advance()

        return roofline.calibrate(backend, refresh=measure, progress=progress)


def _cache_state() -> str:
    folder = cache.folder()
    if folder is None:
        return "off; set QRT_TN_CACHE to a folder to keep plans and calibrations"
    there: Path = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return f"{folder} cannot be written, so nothing is kept; set QRT_TN_CACHE to a folder that can"
    return str(folder)


def _installed(name: str) -> str:
    for package in (name, f"{name}-cu13", f"{name}-cu12"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "-"


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**30:.1f} GiB"
