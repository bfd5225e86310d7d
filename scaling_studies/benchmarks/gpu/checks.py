"""What a part of the run finds: figures, comparisons that must hold, and times beside their bounds."""

import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from qrt_tn import engine
from qrt_tn.engine import Device, Scaled
from qrt_tn.engine.backends import namespace, to_host

LONGEST = 15.0  # seconds after which a call is not timed again
Call = Callable[[], Any]


class UnavailableError(Exception):
    """A part that this machine cannot run, with the reason."""


@dataclass(frozen=True)
class Place:
    """Where a run takes place: on "cupy" or "numpy", and whether with small sizes."""

    backend: str
    small: bool

    @cached_property
    def xp(self) -> ModuleType:
        """The array module."""
        return namespace(self.backend)

    @cached_property
    def device(self) -> Device:
        """The measured rates of the device."""
        return engine.calibrate(self.backend, dtypes=("float32", "complex64"))

    def size(self, large: int, small: int) -> int:
        """The one of two sizes that fits."""
        return small if self.small else large

    def to_device(self, arrays: Any) -> list[Any]:
        """The arrays on the device."""
        return [self.xp.asarray(array) for array in arrays]

    def seconds(self, call: Call, rounds: int = 5) -> tuple[float, list[float]]:
        """Seconds of the first call, which compiles, and of each that follows; the device is waited for."""
        wait = (lambda: None) if self.backend == "numpy" else self.xp.cuda.Device().synchronize
        taken: list[float] = []
        while len(taken) <= rounds and sum(taken) < LONGEST:
            wait()
            started = time.perf_counter()
            call()
            wait()
            taken.append(time.perf_counter() - started)
        return taken[0], taken[1:] or taken


class Checks:
    """The findings of one part; a comparison that fails is named, and the part goes on.

    Args:
        keep: called with the findings after each, so that they are there if the process dies.

    Attributes:
        found: "figures" by name; "failed", the reason by name; "rows" of timings.
    """

    def __init__(self, keep: Callable[[dict[str, Any]], None] = lambda found: None) -> None:
        self.found: dict[str, Any] = {"figures": {}, "failed": {}, "rows": []}
        self._keep = keep

    def tell(self, name: str, call: Call, accepted: Callable[[Any], bool] = lambda value: True) -> None:
        """Keep what a call gives; an exception is a failure, and so is a value that is not accepted."""
        try:
            self.found["figures"][name] = value = call()
            if not accepted(value):
                self.found["failed"][name] = f"found {value!r}"
        except Exception as error:  # whatever the device or a library objects to, the next check may hold
            last = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error}"[:500]
            self.found["failed"][name] = f"{reason} ({last.filename}:{last.lineno})"
        self._keep(self.found)

    def holds(self, name: str, call: Call) -> None:
        """Something that must be true."""
        self.tell(name, lambda: bool(call()), bool)

    def most(self, name: str, call: Call, limit: float) -> None:
        """A figure that must not exceed a limit, nor be NaN."""
        self.tell(f"{name}, at most {limit:g}", lambda: float(call()), lambda value: value <= limit)

    def near(self, name: str, got: Call, wanted: Any, limit: float) -> None:
        """The relative error of what a call gives, against an array or what another call gives."""
        self.most(name, lambda: relative_error(got(), wanted() if callable(wanted) else wanted), limit)

    def timed(
        self,
        place: Place,
        what: str,
        call: Call,
        *,
        flops: float = 0.0,
        moved: float = 0.0,
        dtype: str = "complex64",
        host: Call,
        share: int = 1,
        **sizes: int,
    ) -> None:
        """Time a call; beside it what the device's rates allow at the least, and the same on NumPy.

        Args:
            place: whose device is timed.
            what: names the row.
            call: what is timed: `flops` in products of `dtype` (a multiply and an add are two), and `moved`
                bytes read and written.
            flops: see `call`.
            moved: see `call`.
            dtype: see `call`.
            host: does one part in `share` of the same by NumPy.
            share: see `host`.
            sizes: the row's parameters.
        """

        def measure() -> float:
            first, rounds = place.seconds(call)
            bound = max(flops / place.device.gemm_rate(dtype), moved / place.device.copy_rate)
            row: dict[str, Any] = {
                "what": what,
                **sizes,
                "seconds": statistics.median(rounds),
                "first_seconds": first,
            }
            row |= {"bound_seconds": bound, "host_seconds": min(place.seconds(host, 2)[1]) * share}
            self.found["rows"].append({**row, "samples": {"seconds": rounds}})
            return statistics.median(rounds)

        self.tell(f"seconds, {what}, {sizes}", measure)


def relative_error(got: Any, wanted: Any) -> float:
    """The largest difference of two arrays over the largest entry wanted; of Scaled ones by each log-scale.

    Raises:
        ValueError: their shapes differ.
    """
    if isinstance(wanted, Scaled):
        # all at the scales wanted, with mantissas of modulus 1 at most
        scale = to_host(wanted.log_scale)
        shared = tuple(axis for axis, size in enumerate(scale.shape) if size < wanted.shape[axis])
        wanted = Scaled(to_host(wanted.mantissa), scale).rescaled(shared)
        got = Scaled(to_host(got.mantissa), to_host(got.log_scale) - wanted.log_scale).value()
        wanted = wanted.mantissa
    elif isinstance(got, Scaled):
        got = got.value()
    left, right = (np.asarray(to_host(array)) for array in (got, wanted))
    if left.shape != right.shape:
        raise ValueError(f"shape {left.shape} instead of {right.shape}")
    left, right = left.astype(np.complex128), right.astype(np.complex128)
    return float(np.abs(left - right).max() / (np.abs(right).max() or 1.0))


def logs(result: Scaled) -> np.ndarray:
    """The logarithms of a result's absolute values, on the host."""
    return np.asarray(to_host(result.log_abs()))
