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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine import cache
from qrt_tn.engine.backends import NAMES
from qrt_tn.engine.calibration import Bench, Progress, Table, host_name, measure, operations, processor
from qrt_tn.engine.network import DTYPES

__all__ = ["DTYPES", "Device", "calibrate", "device", "devices", "host_name", "processor"]

KIND = "device"


@dataclass(frozen=True)
class Device:
    """What a device does per second, as measured on it.

    Attributes:
        name: processor or GPU, backend and threads: "AMD EPYC, 2 cores: numpy, 1 thread".
        backend: "numpy", "cupy" or "jax".
        gemm: by dtype, pairs (n, flops per second) of batched products of n x n matrices, n increasing.
        multiply: by dtype, pairs (n, products per second) of batched outer products of n with n elements.
        copy: pairs (bytes, bytes per second) of copies into new memory, as steps write theirs; bytes read and
            bytes written both count.
        permute: the same for copies that swap two axes.
        overhead: seconds that a step costs whatever its size.
        upload: bytes per second from host to device; None where the device is the host.
        memory: bytes; None where the device does not say.
        versions: of the libraries measured.
        measured: the date, in ISO format.
    """

    name: str
    backend: str
    gemm: Mapping[str, Table]
    multiply: Mapping[str, Table]
    copy: Table
    permute: Table
    overhead: float
    upload: float | None
    memory: int | None
    versions: Mapping[str, str]
    measured: str

    def __post_init__(self) -> None:
        """Check and normalise what may come from a file.

        Raises:
            ValueError: a figure that is no positive number, or a table that is empty or out of order.
        """
        if not all(isinstance(text, str) for text in (self.name, self.backend, self.measured)):
            raise ValueError("name, backend and measured must be text")
        for field in ("gemm", "multiply"):
            tables = {str(name): _table(value, field) for name, value in dict(getattr(self, field)).items()}
            object.__setattr__(self, field, tables)
        if not self.gemm or set(self.gemm) != set(self.multiply):
            raise ValueError("gemm and multiply must hold the same dtypes, one at least")
        for field in ("copy", "permute"):
            object.__setattr__(self, field, _table(getattr(self, field), field))
        figures = [self.overhead, *(value for value in (self.memory, self.upload) if value is not None)]
        if not all(isinstance(value, int | float) and 0 < value < math.inf for value in figures):
            raise ValueError("overhead, memory and upload must be positive numbers")

    def seconds(
        self,
        batch: Any,
        m: Any,
        k: Any,
        n: Any,
        dtype: Any,
        moved_bytes: Any,
        permuted_bytes: Any = 0,
    ) -> np.ndarray:
        """Predicted seconds of every step.

        A step multiplies `batch` pairs of (m, k) and (k, n) matrices. With F = 2 batch m k n it takes
        max(F / gemm, moved / copy) + permuted / permute + overhead; where nothing is summed (k = 1) it is
        batch m n products instead. The gemm rate is that of cubes of the same volume, n^3 = m k n. On a GPU
        the overhead is the host's and runs beside the arithmetic: the longer of the two counts.

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
        kind = self._measured_dtype(dtype)
        batch, m, k, n, moved, permuted = (
            np.asarray(value, dtype=np.float64) for value in (batch, m, k, n, moved_bytes, permuted_bytes)
        )
        products = batch * m * n
        work = np.where(
            k > 1,
            2 * products * k / _rate(self.gemm[kind], np.cbrt(m * k * n)),
            products / _rate(self.multiply[kind], np.sqrt(m * n)),
        )
        work = np.maximum(work, moved / _rate(self.copy, moved)) + permuted / _rate(self.permute, permuted)
        return work + self.overhead if self.upload is None else np.maximum(work, self.overhead)

    def step_seconds(
        self, batch: int, m: int, k: int, n: int, dtype: Any, moved_bytes: int, permuted_bytes: int = 0
    ) -> float:
        """Predicted seconds of one step; the arguments are those of `seconds`."""
        return float(self.seconds(batch, m, k, n, dtype, moved_bytes, permuted_bytes))

    def gemm_rate(self, dtype: Any) -> float:
        """The highest measured rate of matrix products, in flops per second.

        Raises:
            ValueError: a dtype that was not measured.
        """
        return max(rate for _, rate in self.gemm[self._measured_dtype(dtype)])

    @property
    def copy_rate(self) -> float:
        """Bytes read and written per second by a copy of the largest array measured."""
        return self.copy[-1][1]

    def _measured_dtype(self, dtype: Any) -> str:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = repr(dtype)
        if name not in self.gemm:
            raise ValueError(f"{self.name} was not measured with {name}; it was with {', '.join(self.gemm)}")
        return name


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
        backend: "auto", "numpy", "cupy", "cuquantum" (as cupy) or "jax".
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
    bench = operations(backend)
    key = cache.digest(bench.name)
    kept = _measured.get(key) or _from(cache.read(KIND, key))
    if kept is not None and kept.versions == bench.versions and not refresh:
        missing = [dtype for dtype in dtypes if dtype not in kept.gemm]
        if not missing:
            return kept
        dtypes = [dtype for dtype in DTYPES if dtype in kept.gemm or dtype in missing]
    device = _measure(bench, dtypes, progress or (lambda done, total, what: None))
    _measured[key] = device
    cache.write(KIND, key, asdict(device))
    return device


def devices() -> dict[str, Device]:
    """Every calibrated device by name: those kept in the cache, and those measured by this process."""
    found = [_from(body) for body in cache.entries(KIND)]
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
    if name in ("auto", "jax", *NAMES):
        return calibrate(str(name))
    known = devices()
    if str(name) in known:
        return known[str(name)]
    if Path(name).suffix == ".json":
        body = cache.read_file(name, KIND)
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


_measured: dict[str, Device] = {}  # so that a process without a cache folder measures once


def _measure(bench: Bench, dtypes: Sequence[str], progress: Progress) -> Device:
    return Device(
        name=bench.name,
        backend=bench.backend,
        memory=bench.memory,
        versions=dict(bench.versions),
        measured=datetime.date.today().isoformat(),
        **measure(bench, dtypes, progress),
    )


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
