"""Seconds and bytes of drawing nodes, by kind of state and dimension, and the power of D that fits them."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from qrt_tn import QuantumRidgeletTransform, Ridgelet
from qrt_tn.studies.experiments.growth import makers
from qrt_tn.studies.experiments.growth.makers import Build
from qrt_tn.studies.experiments.growth.measuring import measured

MODULUS = 127
ACTIVATION = "triangle"
Maker = Callable[[int], Build]


def samples(dim: int) -> Build:
    """Two thousand random points with real values, in single precision."""
    return makers.samples(dim, MODULUS, 2000, np.random.default_rng(dim))


def mps(dim: int) -> Build:
    """A random chain of bond 4 in complex64."""
    return makers.mps(dim, MODULUS, 4, np.random.default_rng(dim))


def ridges(dim: int) -> Build:
    """A planted network of a hundred hidden nodes."""
    return makers.ridges(dim, 100, Ridgelet(ACTIVATION, MODULUS), np.random.default_rng(dim))


def dense(dim: int) -> Build:
    """All P^D values, in double precision."""
    return makers.dense(dim, MODULUS, np.random.default_rng(dim))


KINDS: Mapping[str, Maker] = {"samples": samples, "MPS": mps, "ridge sum": ridges}


def measure(kind: str, make: Maker, dims: Sequence[int], nodes: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A row per dimension.

    Args:
        kind: the name of the kind.
        make: draws the data of a dimension, and gives back what builds its state.
        dims: the dimensions D.
        nodes: how many nodes are drawn.
        rounds: how often the drawing is timed; the median counts.

    Yields:
        Seconds to build the state, its data given, to draw the nodes (in `samples` those of every round), and
        of both; the most bytes of data, state and drawing beyond what is there before (`tracemalloc`, in a
        run that is not timed); the least and the largest log-probability drawn.

    Raises:
        RuntimeError: a log-probability that is not finite.
    """
    ridgelet = Ridgelet(ACTIVATION, MODULUS)
    # the first of a kind loads what it needs, or compiles it
    QuantumRidgeletTransform(make(dims[0])(), ridgelet, "numpy").sample(nodes)
    for dim in dims:
        try:
            found = measured(partial(make, dim), ridgelet, nodes, rounds)
        except RuntimeError as error:
            raise RuntimeError(f"{kind} at D = {dim}: {error}") from error
        log_probability = found.nodes.log_probability
        yield {
            "kind": kind,
            "dim": dim,
            "nodes": nodes,
            "build_seconds": found.build,
            "seconds": statistics.median(found.draws),
            "total_seconds": found.build + statistics.median(found.draws),
            "fastest": min(found.draws),
            "samples": {"seconds": found.draws},
            "bytes": found.bytes,
            "log_probability": [float(log_probability.min()), float(log_probability.max())],
        }


def exponent(dims: Sequence[int], values: Sequence[float]) -> float:
    """The power p of D in values ~ D^p, by least squares in the logarithms."""
    return float(np.polyfit(np.log(dims), np.log(values), 1)[0])
