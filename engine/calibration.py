"""The clock behind a roofline: what a backend's products and copies take on this machine.

`qrt_tn.engine.roofline.calibrate` keeps what `measure` finds.
"""

import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from qrt_tn.engine.backends import device_memory, resolve

Table = tuple[tuple[float, float], ...]
Progress = Callable[[int, int, str], None]

_PATIENCE = 0.05  # seconds; a single product that would take longer is not measured
_BUDGET = 0.02  # seconds per figure
_SIZES = tuple(4**power for power in range(8))
_ROWS = (1, 4, 16, 64, 256)
_HOST_BYTES = (2**18, 2**22, 2**24, 2**26)
_GPU_BYTES = (2**26, 2**28)
_CHAIN = 64


@dataclass(frozen=True)
class Bench:
    """The operations of one backend, on arrays that live on its device.

    `steps` runs `_CHAIN` tiny products one after the other; the rest is one operation a call.
    """

    name: str
    backend: str
    versions: Mapping[str, str]
    memory: int | None
    sizes: tuple[int, ...]  # in bytes, of the arrays copied
    elements: int  # in a batch of small matrices
    array: Callable[[tuple[int, ...], str], Any]
    wait: Callable[[Any], Any]
    matmul: Callable[[Any, Any], Any]
    multiply: Callable[[Any, Any], Any]
    copy: Callable[[Any], Any]
    permute: Callable[[Any], Any]
    steps: Callable[[Any], Any]
    upload: Callable[[], float] | None = None


def measure(bench: Bench, dtypes: Sequence[str], progress: Progress) -> dict[str, Any]:
    """The figures of `qrt_tn.engine.roofline.Device` that a clock gives.

    Args:
        bench: the operations.
        dtypes: which to measure.
        progress: called with figures measured so far, their number, and what comes next.
    """
    total = 2 * len(dtypes) + 3
    gemm, multiply = {}, {}
    for place, dtype in enumerate(dtypes):
        progress(2 * place, total, f"products, {dtype}")
        gemm[dtype] = _gemm_table(bench, dtype)
        progress(2 * place + 1, total, f"outer products, {dtype}")
        multiply[dtype] = tuple((float(row), _outer_rate(bench, row, dtype)) for row in _ROWS)
    progress(total - 3, total, "copies")
    copy, permute = [], []
    for size in bench.sizes:
        array = bench.array((size // 4096, 32, 32), "float32")
        copy.append((2.0 * size, 2 * size / _seconds(bench, bench.copy, array)))
        permute.append((2.0 * size, 2 * size / _seconds(bench, bench.permute, array)))
    progress(total - 2, total, "overhead")
    overhead = _seconds(bench, bench.steps, bench.array((2, 2), dtypes[0])) / _CHAIN
    progress(total - 1, total, "upload" if bench.upload else "done")
    upload = bench.upload() if bench.upload else None
    progress(total, total, "done")
    return {
        "gemm": gemm,
        "multiply": multiply,
        "copy": tuple(copy),
        "permute": tuple(permute),
        "overhead": overhead,
        "upload": upload,
    }


def _gemm_table(bench: Bench, dtype: str) -> Table:
    rows: list[tuple[float, float]] = []
    for size in _SIZES:
        batch = max(1, bench.elements // size**2)
        flops = 2.0 * batch * size**3
        bytes_ = 3 * batch * size**2 * np.dtype(dtype).itemsize
        if rows and (flops / rows[-1][1] > _PATIENCE or bytes_ > (bench.memory or math.inf) / 16):
            break
        left, right = (bench.array((batch, size, size), dtype) for _ in range(2))
        rows.append((float(size), flops / _seconds(bench, bench.matmul, left, right)))
    return tuple(rows)


def _outer_rate(bench: Bench, row: int, dtype: str) -> float:
    batch = max(1, bench.elements // row**2)
    left, right = bench.array((batch, row, 1), dtype), bench.array((batch, 1, row), dtype)
    return batch * row**2 / _seconds(bench, bench.multiply, left, right)


def _seconds(bench: Bench, call: Callable[..., Any], *arrays: Any) -> float:
    """Seconds of one call: the best of a few runs, each long enough for the clock and for one wait."""
    start = time.perf_counter()
    bench.wait(call(*arrays))  # compiles, allocates, loads
    first = time.perf_counter() - start
    best, count, runs, spent = math.inf, 1, 0, 0.0
    while runs < 2 or spent < _BUDGET:
        start = time.perf_counter()
        for _ in range(count):
            result = call(*arrays)
        bench.wait(result)
        taken = time.perf_counter() - start
        best, runs, spent = min(best, taken / count), runs + 1, spent + taken
        if taken < _BUDGET / 8:
            count *= 2
    return min(best, first)


def operations(backend: str) -> Bench:
    """The operations of a backend.

    Args:
        backend: "auto", "numpy", "cupy", "cuquantum" (as cupy) or "jax".

    Raises:
        ValueError: an unknown backend, or one that is missing here.
    """
    if backend == "jax":  # a hard dependency, on the CPU at least
        return _jax_bench()
    return _numpy_bench() if resolve(backend) == "numpy" else _cupy_bench()


def _numpy_bench() -> Bench:
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    ours = [pool for pool in pools if "numpy" in pool["filepath"]] or pools
    threads = max((pool["num_threads"] for pool in ours), default=1)
    # NumPy's own allocations are part of what its operations cost
    return Bench(
        name=f"{host_name()}: numpy, {threads} thread{'s' if threads > 1 else ''}",
        backend="numpy",
        versions={"numpy": np.__version__},
        memory=device_memory("numpy")[0],
        sizes=_HOST_BYTES,
        elements=2**15,
        array=partial(_tiled, np),
        wait=lambda result: None,
        matmul=np.matmul,
        multiply=np.multiply,
        copy=np.copy,
        permute=lambda array: np.ascontiguousarray(array.swapaxes(1, 2)),
        steps=lambda array: [np.matmul(array, array) for _ in range(_CHAIN)],
    )


def _cupy_bench() -> Bench:
    import cupy

    card = cupy.cuda.Device()
    runtime = cupy.cuda.runtime
    return Bench(
        name=f"{runtime.getDeviceProperties(card.id)['name'].decode()}: cupy",
        backend="cupy",
        versions={"cupy": cupy.__version__, "cuda": str(runtime.runtimeGetVersion())},
        memory=device_memory("cupy")[0],
        sizes=_GPU_BYTES,
        elements=2**22,
        array=partial(_tiled, cupy),
        wait=lambda result: card.synchronize(),
        matmul=cupy.matmul,
        multiply=cupy.multiply,
        copy=cupy.copy,
        permute=lambda array: cupy.ascontiguousarray(array.swapaxes(1, 2)),
        steps=lambda array: [cupy.matmul(array, array) for _ in range(_CHAIN)],
        upload=_cupy_upload,
    )


def _cupy_upload() -> float:
    import cupy

    # page-locked memory, from which a stream of operands is sent
    host = np.frombuffer(cupy.cuda.alloc_pinned_memory(_GPU_BYTES[0]), dtype=np.uint8)[: _GPU_BYTES[0]]
    target = cupy.empty(host.shape, dtype=cupy.uint8)
    return host.nbytes / min(_timed(lambda: target.set(host), cupy.cuda.Device().synchronize))


def _jax_bench() -> Bench:
    import jax
    import jax.numpy as jnp

    place = jax.devices()[0]
    host = place.platform == "cpu"
    # float64 is off by default; inside the context the functions are compiled for it
    wide = jax.enable_x64
    product = partial(jnp.matmul, precision="highest")  # no TF32

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        jitted = jax.jit(function)

        def call(*arrays: Any) -> Any:
            with wide(True):
                return jitted(*arrays)

        return call

    def chain(array: Any) -> Any:
        result = array
        for _ in range(_CHAIN):
            result = product(result, array)
        return result

    def array(shape: tuple[int, ...], dtype: str) -> Any:
        with wide(True):
            return jax.device_put(_tiled(np, shape, dtype), place)

    def upload() -> float:
        values = np.zeros(_GPU_BYTES[0], dtype=np.uint8)
        return values.nbytes / min(_timed(lambda: jax.device_put(values, place).block_until_ready()))

    limit = (place.memory_stats() or {}).get("bytes_limit")
    return Bench(
        name=f"{host_name() if host else place.device_kind}: jax",
        backend="jax",
        versions={name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        memory=int(limit) if limit else device_memory("numpy")[0] if host else None,
        sizes=_HOST_BYTES if host else _GPU_BYTES,
        elements=2**18 if host else 2**22,
        array=array,
        wait=lambda result: result.block_until_ready(),
        matmul=compiled(product),
        multiply=compiled(jnp.multiply),
        copy=compiled(jnp.copy),
        permute=compiled(lambda array: jnp.swapaxes(array, 1, 2)),
        steps=compiled(chain),
        upload=None if host else upload,
    )


def _tiled(xp: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Small random numbers, repeated: arithmetic on equal or subnormal numbers can be faster or slower."""
    numbers = np.random.default_rng(0).uniform(0.1, 0.9, 4096).astype(dtype)
    return xp.resize(xp.asarray(numbers), shape)


def _timed(call: Callable[[], Any], wait: Callable[[], Any] = lambda: None, runs: int = 5) -> list[float]:
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        wait()
        taken.append(time.perf_counter() - start)
    return taken


def processor() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def host_name() -> str:
    """The processor's model name and the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    return f"{processor()}, {cores} core{'s' if cores > 1 else ''}"
