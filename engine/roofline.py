"""How long a contraction step takes on a device: a roofline from a short measured calibration.

S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model", CACM 52(4),
2009: a step takes the longer of its arithmetic and its memory traffic. Here it also pays for copies that
change a tensor's layout, and a fixed overhead. All rates are measured, none is looked up, and they are kept
in the cache (`qrt_tn.engine.cache`) under the device's name.

Flops are counted as `Plan.flops` and opt_einsum count them: a multiplication and an addition are two, be
they real or complex. A complex product therefore reaches about a quarter of the rate of a real one.
"""

import datetime
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine import cache
from qrt_tn.engine.backends import NAMES, device_memory, namespace, resolve
from qrt_tn.engine.network import DTYPES

Table = tuple[tuple[float, float], ...]
Progress = Callable[[int, int, str], None]

_KIND = "device"
_PATIENCE = 0.05  # seconds; a single product that would take longer is not measured
_BUDGET = 0.02  # seconds per figure
_EXTENTS = tuple(4**power for power in range(8))
_ELEMENTS = {"numpy": 2**15, "cupy": 2**22}  # in a batch of small matrices
_BYTES = {"numpy": (2**18, 2**22, 2**24, 2**26), "cupy": (2**26, 2**28)}  # of the arrays copied
_CHAIN = 64  # tiny products in a row, to see the overhead of one


@dataclass(frozen=True)
class Device:
    """What a device does per second, as measured on it.

    Attributes:
        name: processor or GPU, backend and threads: "AMD EPYC, 2 cores: numpy, 1 thread".
        backend: "numpy" or "cupy".
        gemm: by dtype, pairs (n, flops per second) of batched products of n x n matrices, n increasing.
        copy: pairs (bytes, bytes per second) of copies into new memory, as steps write theirs; bytes read and
            bytes written both count.
        permute: the same for copies that swap two axes.
        overhead: seconds that a step costs whatever its size.
        upload: bytes per second from host to device; None where the device is the host.
        versions: of the libraries measured.
        measured: the date, in ISO format.

    Raises:
        ValueError: a figure that is no positive number, or a table that is empty or out of order.
    """

    name: str
    backend: str
    gemm: Mapping[str, Table]
    copy: Table
    permute: Table
    overhead: float
    upload: float | None
    versions: Mapping[str, str]
    measured: str

    def __post_init__(self) -> None:
        """Check and normalise what may come from a file."""
        if not all(isinstance(text, str) for text in (self.name, self.backend, self.measured)):
            raise ValueError("name, backend and measured must be text")
        gemm = {str(name): _table(value, "gemm") for name, value in dict(self.gemm).items()}
        if not gemm:
            raise ValueError("gemm must hold one dtype at least")
        object.__setattr__(self, "gemm", gemm)
        for field in ("copy", "permute"):
            object.__setattr__(self, field, _table(getattr(self, field), field))
        figures = (self.overhead, 1.0 if self.upload is None else self.upload)
        if not all(isinstance(figure, int | float) and 0 < figure < math.inf for figure in figures):
            raise ValueError(
                f"overhead {self.overhead!r} and upload {self.upload!r} must be positive numbers"
            )

    def seconds(
        self, batch: Any, m: Any, k: Any, n: Any, dtype: Any, moved_bytes: Any, permuted_bytes: Any = 0
    ) -> np.ndarray:
        """Predicted seconds of every step.

        A step multiplies `batch` pairs of (m, k) and (k, n) matrices. With F = 2 batch m k n it takes
        max(F / gemm, moved / copy) + permuted / permute + overhead. The gemm rate is that of cubes of the
        same volume, n^3 = m k n. Where nothing is summed (k = 1) it is an element-wise product that walks its
        operands in strides: moved / permute instead of the maximum. On a GPU the overhead is the host's and
        runs beside the arithmetic: the longer of the two counts.

        Args:
            batch: number of products per step; numbers or arrays that broadcast, here and below.
            m: rows of the left matrix.
            k: summed extent.
            n: columns of the right matrix.
            dtype: one of the dtypes measured.
            moved_bytes: bytes that the product reads and writes: both operands and the result.
            permuted_bytes: bytes read and written by copies that change the layout of operands.

        Returns:
            float64, of the shape to which the arguments broadcast.

        Raises:
            ValueError: a dtype that was not measured.
        """
        table = self._gemm_table(dtype)
        batch, m, k, n, moved, permuted = (
            np.asarray(value, dtype=np.float64) for value in (batch, m, k, n, moved_bytes, permuted_bytes)
        )
        product = 2 * batch * m * k * n / _rate(table, np.cbrt(m * k * n))
        product = np.maximum(product, moved / _rate(self.copy, moved))
        work = np.where(k > 1, product, moved / _rate(self.permute, moved))
        work = work + permuted / _rate(self.permute, permuted)
        return work + self.overhead if self.backend == "numpy" else np.maximum(work, self.overhead)

    def gemm_rate(self, dtype: Any) -> float:
        """The highest measured rate of matrix products, in flops per second.

        Raises:
            ValueError: a dtype that was not measured.
        """
        return max(rate for _, rate in self._gemm_table(dtype))

    @property
    def copy_rate(self) -> float:
        """Bytes read and written per second by a copy of the largest array measured."""
        return self.copy[-1][1]

    def _gemm_table(self, dtype: Any) -> Table:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = repr(dtype)
        if name not in self.gemm:
            raise ValueError(f"{self.name} was not measured with {name}; it was with {', '.join(self.gemm)}")
        return self.gemm[name]


def calibrate(
    backend: str = "auto",
    *,
    dtypes: Sequence[str] = DTYPES,
    refresh: bool = False,
    progress: Progress | None = None,
) -> Device:
    """The calibration of this machine's device, from the cache or measured now (a few seconds).

    A kept calibration is used where it holds the dtypes asked for and the libraries have not changed.

    Args:
        backend: "auto", "numpy", "cupy" or "cuquantum" (as cupy).
        dtypes: which to measure.
        refresh: measure in any case.
        progress: called with figures measured so far, their number, and what comes next.

    Raises:
        ValueError: an unknown backend or dtype, or a backend that is missing here.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
    if not dtypes:
        raise ValueError("no dtypes given; name one at least")
    backend = "numpy" if resolve(backend) == "numpy" else "cupy"
    name, versions = _identity(backend)
    key = cache.digest(name)
    kept = _measured.get(key) or _from(cache.read(_KIND, key))
    if kept is not None and kept.versions == versions and not refresh:
        missing = [dtype for dtype in dtypes if dtype not in kept.gemm]
        if not missing:
            return kept
        dtypes = [dtype for dtype in DTYPES if dtype in kept.gemm or dtype in missing]
    figures = _measure(_Clock(backend), dtypes, progress or (lambda done, total, what: None))
    date = datetime.date.today().isoformat()
    device = Device(name=name, backend=backend, versions=versions, measured=date, **figures)
    _measured[key] = device
    cache.write(_KIND, key, asdict(device))
    return device


def devices() -> dict[str, Device]:
    """Every calibrated device by name: those kept in the cache, and those measured by this process."""
    found = [_from(body) for body in cache.entries(_KIND)]
    return {device.name: device for device in (*found, *_measured.values()) if device is not None}


def device(name: str | Path | Device) -> Device:
    """A device by name.

    Args:
        name: a backend, for this machine's device (calibrated if it was not yet); the name of a calibrated
            device (`devices`); or the path of a calibration's file, copied from another machine's cache.

    Raises:
        ValueError: a name of none of these, or a file that does not hold a whole calibration.
    """
    if isinstance(name, Device):
        return name
    if name in ("auto", *NAMES):
        return calibrate(str(name))
    known = devices()
    if str(name) in known:
        return known[str(name)]
    if Path(name).suffix == ".json":
        body = cache.read_file(name, _KIND)
        try:
            return Device(**body)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} does not hold a whole calibration ({error}); measure it again"
            ) from error
    names = "; ".join(known) or "none yet"
    raise ValueError(
        f"unknown device {str(name)!r}; give a backend, a calibration's .json file or a known device: {names}"
    )


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


_measured: dict[str, Device] = {}  # so that a process without a cache folder measures once


def _identity(backend: str) -> tuple[str, dict[str, str]]:
    """The name of the device, and the versions of what computes on it."""
    if backend == "numpy":
        from threadpoolctl import threadpool_info

        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        ours = [pool for pool in pools if "numpy" in pool["filepath"]] or pools
        threads = max((pool["num_threads"] for pool in ours), default=1)
        name = f"{host_name()}: numpy, {threads} thread{'s' if threads > 1 else ''}"
        return name, {"numpy": np.__version__}
    import cupy

    runtime = cupy.cuda.runtime
    card = runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return f"{card}: cupy", {"cupy": cupy.__version__, "cuda": str(runtime.runtimeGetVersion())}


class _Clock:
    """Seconds of operations on the arrays of one backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.xp: Any = namespace(backend)

    def array(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Random numbers: arithmetic on equal or subnormal numbers can be faster or slower."""
        numbers = np.random.default_rng(0).uniform(0.1, 0.9, 4096).astype(dtype)
        return self.xp.resize(self.xp.asarray(numbers), shape)

    def seconds(self, call: Callable[..., Any], *arrays: Any) -> float:
        """The best of several runs, each of as many calls as are long enough for the clock."""
        best, count, runs, spent = math.inf, 1, 0, 0.0
        while runs < 3 or spent < _BUDGET:  # the first compiles, allocates, loads
            start = time.perf_counter()
            for _ in range(count):
                result = call(*arrays)
            if self.backend == "cupy":
                self.xp.cuda.Device().synchronize()
            taken = time.perf_counter() - start
            best, runs, spent = min(best, taken / count), runs + 1, spent + (taken if runs else 0.0)
            if runs > 1 and taken < _BUDGET / 8:
                count *= 2
        del result
        return best


def _measure(clock: _Clock, dtypes: Sequence[str], progress: Progress) -> dict[str, Any]:
    """The figures of `Device` that a clock gives."""
    xp, total = clock.xp, len(dtypes) + 3
    gemm = {}
    for done, dtype in enumerate(dtypes):
        progress(done, total, f"products, {dtype}")
        gemm[dtype] = _measure_gemm(clock, dtype)
    progress(total - 3, total, "copies")
    copy, permute = [], []
    for size in _BYTES[clock.backend]:
        block = clock.array((size // 4096, 32, 32), "float32")
        copy.append((2.0 * size, 2 * size / clock.seconds(xp.copy, block)))
        swapped = block.swapaxes(1, 2)
        permute.append((2.0 * size, 2 * size / clock.seconds(xp.ascontiguousarray, swapped)))
    progress(total - 2, total, "overhead")
    tiny = clock.array((2, 2), dtypes[0])
    overhead = clock.seconds(lambda: [xp.matmul(tiny, tiny) for _ in range(_CHAIN)]) / _CHAIN
    progress(total - 1, total, "upload")
    upload = None
    if clock.backend == "cupy":
        # page-locked memory, from which a stream of operands is sent
        size = _BYTES["cupy"][0]
        host = np.frombuffer(xp.cuda.alloc_pinned_memory(size), dtype=np.uint8)[:size]
        upload = size / clock.seconds(xp.empty(host.shape, dtype=np.uint8).set, host)
    progress(total, total, "done")
    return {"gemm": gemm, "copy": copy, "permute": permute, "overhead": overhead, "upload": upload}


def _measure_gemm(clock: _Clock, dtype: str) -> Table:
    memory = device_memory(clock.backend)[0] or math.inf
    rows: list[tuple[float, float]] = []
    for extent in _EXTENTS:
        batch = max(1, _ELEMENTS[clock.backend] // extent**2)
        flops = 2.0 * batch * extent**3
        held = 3 * batch * extent**2 * np.dtype(dtype).itemsize
        if rows and (flops / rows[-1][1] > _PATIENCE or held > memory / 16):
            break
        left, right = (clock.array((batch, extent, extent), dtype) for _ in range(2))
        rows.append((float(extent), flops / clock.seconds(clock.xp.matmul, left, right)))
    return tuple(rows)


def _rate(table: Table, place: np.ndarray) -> np.ndarray:
    """A table read between its places, straight in the logarithms; beyond its ends, their rate."""
    places, rates = np.log(np.array(table)).T
    return np.exp(np.interp(np.log(np.maximum(place, 1)), places, rates))


def _table(pairs: Any, name: str) -> Table:
    table = tuple((float(place), float(rate)) for place, rate in pairs)
    places = [place for place, _ in table]
    if not table or places != sorted(set(places)):
        raise ValueError(f"{name} must be pairs in order of size, one at least")
    if not all(0 < figure < math.inf for pair in table for figure in pair):
        raise ValueError(f"{name} must hold positive numbers only")
    return table


def _from(body: dict[str, Any] | None) -> Device | None:
    try:
        return None if body is None else Device(**body)
    except (TypeError, ValueError):  # of another version: measured again
        return None
