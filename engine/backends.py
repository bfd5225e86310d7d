"""Where arrays live and contractions run: NumPy, CuPy or cuQuantum, and what this machine has of them.

CuPy and cuQuantum are imported only when someone asks for them.
"""

import functools
import importlib.util
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

NAMES = ("numpy", "cupy", "cuquantum")
_JAX = (
    "contractions do not run on backend 'jax'; run a plan's path there by cotengra: "
    "cotengra.array_contract(arrays, plan.inputs, plan.output, optimize=plan.path), "
    "which jax.jit and jax.grad take"
)


@dataclass(frozen=True)
class Backend:
    """One backend as found on this machine.

    Attributes:
        name: "numpy", "cupy" or "cuquantum".
        available: whether contractions can run on it here and now.
        version: the library's version, or None where it is not installed.
        device: what it computes on, such as a GPU's name.
        reason: why it is missing; empty where it is available.
        remedy: what to do about it; empty where it is available.
        memory: bytes of the device's memory; None where it is not available or does not say.
        free: bytes of it that nothing uses now.
    """

    name: str
    available: bool
    version: str | None
    device: str
    reason: str = ""
    remedy: str = ""
    memory: int | None = field(default=None, compare=False)
    free: int | None = field(default=None, compare=False)


def backends() -> dict[str, Backend]:
    """What this machine has, and for each missing backend the reason and the remedy."""
    found = {}
    for name in NAMES:
        backend = _find(name)
        if backend.available:
            memory, free = device_memory(name)
            backend = replace(backend, memory=memory, free=free)
        found[name] = backend
    return found


def device_memory(backend: str) -> tuple[int | None, int | None]:
    """(bytes of memory, bytes that nothing uses now) of the device that a backend computes on.

    What CuPy's pool keeps for later arrays counts as unused. None stands for what the device does not say.
    """
    if backend in ("cupy", "cuquantum"):
        try:
            import cupy

            free, memory = cupy.cuda.Device().mem_info
            return int(memory), int(free) + int(cupy.get_default_memory_pool().free_bytes())
        except Exception:  # as in _find: whatever the driver objects to
            return None, None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return total, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not a Linux
        return total, None


def gpus() -> list[tuple[str, int]]:
    """(name, bytes of memory) of every CUDA device that CuPy sees; none where it sees none."""
    if not _find("cupy").available:
        return []
    import cupy

    # properties need no context on a device, so other jobs' devices are left alone
    found = map(cupy.cuda.runtime.getDeviceProperties, range(cupy.cuda.runtime.getDeviceCount()))
    return [(properties["name"].decode(), int(properties["totalGlobalMem"])) for properties in found]


def resolve(backend: str) -> str:
    """The backend that "auto" stands for here, or `backend` itself if this machine has it.

    "auto" is CuPy where a CUDA device answers, else NumPy.

    Raises:
        ValueError: an unknown name, or a backend that is missing here, with the reason and the remedy.
    """
    if backend == "auto":
        return "cupy" if _find("cupy").available else "numpy"
    if backend == "jax":
        raise ValueError(_JAX)
    if backend not in NAMES:
        raise ValueError(f"unknown backend {backend!r}; choose one of auto, {', '.join(NAMES)}")
    found = _find(backend)
    if not found.available:
        raise ValueError(f"backend {backend!r} is not available: {found.reason}; {found.remedy}")
    return backend


def namespace(backend: str) -> ModuleType:
    """The array module that a backend's operands live in: numpy, or cupy for CuPy and cuQuantum.

    Raises:
        ValueError: as `resolve`.
    """
    if resolve(backend) == "numpy":
        return np
    import cupy

    return cupy


def array_module(array: Any) -> ModuleType:
    """The module an array belongs to, without importing CuPy where nobody has."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, getattr(cupy, "ndarray", ())):
        return cupy
    return np


def to_host(array: Any) -> np.ndarray:
    """A NumPy array of the same values, copied from the device if it lives there."""
    return array.get() if array_module(array) is not np else np.asarray(array)


@functools.cache  # asking the driver takes longer than a small contraction
def _find(name: str) -> Backend:
    if name == "numpy":
        return Backend("numpy", True, np.__version__, "CPU")
    if importlib.util.find_spec(name) is None:
        extra = "pip install 'qrt-tn[cuda13]' (or [cuda12], to match the driver)"
        return Backend(name, False, None, "none", f"the package {name} is not installed", extra)
    version = _version(name)
    try:
        import cupy

        device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    except Exception as error:
        # whatever the driver, the loader or the library objects to, the answer is the same: not here
        return Backend(
            name, False, version, "none", f"no CUDA device answers ({error})", "run it on a GPU node"
        )
    if name == "cuquantum":
        try:
            from cuquantum import tensornet  # noqa: F401
        except Exception as error:
            remedy = "install cuBLAS and cuSOLVER with it: pip install 'qrt-tn[cuda13]'"
            return Backend(name, False, version, device, f"cuTensorNet does not load ({error})", remedy)
    return Backend(name, True, version, device)


def _version(name: str) -> str | None:
    import importlib.metadata

    for package in (name, f"{name}-cuda13x", f"{name}-cuda12x", f"{name}-python-cu13", f"{name}-python-cu12"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
