"""Seconds and bytes of building one state and of drawing nodes from its transform."""

import math
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qrt_tn import QuantumRidgeletTransform, Ridgelet, RidgeNodes
from qrt_tn.states import State
from qrt_tn.studies.experiments.growth.makers import Build


@dataclass(frozen=True)
class Measured:
    """What one state took.

    Attributes:
        build: seconds of building the state, its data given.
        draws: seconds of every drawing.
        bytes: most bytes held at once by data, state and drawing together, beyond what was there before: on
            the host as `tracemalloc` counts them, on a GPU the growth of CuPy's pool.
        nodes: the first ones drawn.
        state: as built, before a transform moved it to a device.
    """

    build: float
    draws: list[float]
    bytes: int
    nodes: RidgeNodes
    state: State


def measured(
    prepare: Callable[[], Build], ridgelet: Ridgelet, nodes: int, rounds: int, backend: str = "numpy"
) -> Measured:
    """Build a state and draw nodes from it, once for its memory and once for its time.

    Args:
        prepare: draws the state's data and gives back what builds it; called twice.
        ridgelet: of the state's modulus.
        nodes: how many nodes are drawn.
        rounds: how often drawing is timed.
        backend: "numpy" or "cupy".

    Raises:
        RuntimeError: a log-probability that is not finite.
    """
    peak = _device_peak if backend == "cupy" else _host_peak
    most = peak(lambda: QuantumRidgeletTransform(prepare()(), ridgelet, backend).sample(nodes))
    build = prepare()
    started = time.perf_counter()
    state = build()
    qrt = QuantumRidgeletTransform(state, ridgelet, backend)
    _wait(backend)
    built = time.perf_counter() - started
    drawn = qrt.sample(nodes)
    if not np.isfinite(drawn.log_probability).all():
        raise RuntimeError("a log-probability that is not finite was drawn")
    draws = []
    for seed in range(rounds):
        started = time.perf_counter()
        qrt.sample(nodes, seed)
        draws.append(time.perf_counter() - started)
    return Measured(built, draws, most, drawn, state)


def mean(values: np.ndarray) -> float:
    """The mean, rounded once, so that the order of summation leaves no trace."""
    return math.fsum(values.tolist()) / len(values)


def _host_peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _device_peak(call: Callable[[], object]) -> int:
    import cupy

    # the pool keeps what is given back to it, so its size after the call is the most that the call held
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    call()
    return int(pool.total_bytes() - before)


def _wait(backend: str) -> None:
    """Wait until a device has done what it was told."""
    if backend == "cupy":
        import cupy

        cupy.cuda.Device().synchronize()
