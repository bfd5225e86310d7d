"""The device itself: what it is, its measured rates, what one call costs, and whose memory is free."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qrt_tn import engine
from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place

CALLS = 300  # of one kind, timed together


def machine(place: Place, checks: Checks) -> None:
    """Rates by the engine's own calibration, seconds of single calls, and memory that is free again."""
    rates, xp = place.device, place.xp
    figures = {f"products, {dtype}, flop/s": rates.gemm_rate(dtype) for dtype in rates.gemm}
    figures |= {"copies, bytes/s": rates.copy_rate, "a step, s": rates.overhead}
    about = {"device": rates.name, "from the host, bytes/s": rates.upload, **figures}
    checks.found["figures"].update(about)
    row, square = xp.ones(1024, dtype="float32"), xp.ones((16, 16), dtype="complex64")
    index, grid, host = xp.arange(1024), xp.ones((32, 4, 1024), dtype="float32"), np.ones(1024)
    calls: dict[str, Callable[[], Any]] = {
        "a sum of two arrays": lambda: row + row,
        "a sum of all elements": row.sum,
        "a matrix product": lambda: square @ square,
        "taking by an index": lambda: row[index],
        "taking by two indices": lambda: grid[index % 32, :, index],
        "a cumulative sum": lambda: grid.cumsum(axis=0),
        "a copy from the host": lambda: xp.asarray(host).sum(),
        "a wait for one number": lambda: float(row[0]),
    }
    for name, call in calls.items():
        checks.tell(f"seconds, {name}", partial(_each, place, call))
    checks.tell("seconds, looking for backends", lambda: min(place.seconds(engine.backends)[1]))

    if place.backend != "numpy":  # a host's free memory changes by itself
        before = engine.backends()[place.backend].free or 0
        xp.empty(2**32, dtype="uint8")  # given back at once, to the pool of the library
        after = engine.backends()[place.backend].free or 0
        checks.most("bytes that an array keeps when it is gone", lambda: before - after, 2**28)


def _each(place: Place, call: Callable[[], Any]) -> float:
    def loop() -> None:
        for _ in range(CALLS):
            call()

    return min(place.seconds(loop, 3)[1]) / CALLS
