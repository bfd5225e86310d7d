"""Seconds and bytes of drawing nodes, by kind of state and dimension, and the power of D that fits them."""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states import State

MODULUS = 127
ACTIVATION = "triangle"
Maker = Callable[[int], State]


def samples(dim: int) -> State:
    """Two thousand random points with real values, in single precision."""
    rng = np.random.default_rng(dim)
    x = rng.integers(MODULUS, size=(2000, dim), dtype=np.uint8)
    y = rng.normal(size=2000).astype(np.float32)
    return states.from_samples(x, y - y.mean(), MODULUS)


def mps(dim: int) -> State:
    """A random chain of bond 4 in complex64."""
    rng = np.random.default_rng(dim)
    bonds = [1] + [4] * (dim - 1) + [1]
    shapes = [(bonds[site], MODULUS, bonds[site + 1]) for site in range(dim)]
    return states.from_mps([_complex(rng, shape) for shape in shapes])


def ridges(dim: int) -> State:
    """A planted network of a hundred hidden nodes."""
    rng = np.random.default_rng(dim)
    a = rng.integers(MODULUS, size=(100, dim))
    ridgelet = Ridgelet(ACTIVATION, MODULUS)
    return states.from_ridges(a, rng.integers(MODULUS, size=100), rng.normal(size=100), ridgelet)


def dense(dim: int) -> State:
    """All P^D values, in double precision."""
    rng = np.random.default_rng(dim)
    return states.from_dense(rng.normal(size=(MODULUS,) * dim))


KINDS: Mapping[str, Maker] = {"samples": samples, "MPS": mps, "ridge sum": ridges}


def measure(kind: str, make: Maker, dims: Sequence[int], nodes: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A row per dimension.

    Args:
        kind: the name of the kind.
        make: the state of a dimension.
        dims: the dimensions D.
        nodes: how many nodes are drawn.
        rounds: how often the drawing is timed; the median counts.

    Yields:
        Seconds to build the state, to draw the nodes, and of both; the most bytes that both allocate
        beyond what is there before (`tracemalloc`, in a run that is not timed); the least and the largest
        log-probability drawn.

    Raises:
        RuntimeError: a log-probability that is not finite.
    """
    # the first of a kind loads what it needs, or compiles it
    _transform(make, dims[0]).sample(nodes)
    for dim in dims:
        started = time.perf_counter()
        qrt = _transform(make, dim)
        built = time.perf_counter() - started
        drawn = qrt.sample(nodes)
        if not np.isfinite(drawn.log_probability).all():
            raise RuntimeError(f"{kind} at D = {dim} gave a log-probability that is not finite")
        seconds = []
        for seed in range(rounds):
            started = time.perf_counter()
            qrt.sample(nodes, seed)
            seconds.append(time.perf_counter() - started)
        del qrt
        yield {
            "kind": kind,
            "dim": dim,
            "nodes": nodes,
            "build_seconds": built,
            "seconds": statistics.median(seconds),
            "total_seconds": built + statistics.median(seconds),
            "fastest": min(seconds),
            "bytes": _peak(make, dim, nodes),
            "log_probability": [float(drawn.log_probability.min()), float(drawn.log_probability.max())],
        }


def exponent(dims: Sequence[int], values: Sequence[float]) -> float:
    """The power p of D in values ~ D^p, by least squares in the logarithms."""
    return float(np.polyfit(np.log(dims), np.log(values), 1)[0])


def _transform(make: Maker, dim: int) -> QuantumRidgeletTransform:
    return QuantumRidgeletTransform(make(dim), Ridgelet(ACTIVATION, MODULUS), "numpy")


def _peak(make: Maker, dim: int, nodes: int) -> int:
    tracemalloc.start()
    try:
        _transform(make, dim).sample(nodes)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _complex(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
