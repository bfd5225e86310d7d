"""Times exact sampling from the unsmoothed state of M points against the bare matrix product it rests on.

    python -m qrt_tn.studies.benchmarks.sample_state [result.json]

The product is N x D by D x M in float32, the shape and type that the sampler multiplies. Both run in turn in
one process; the medians and their ratio are printed and written as JSON. The standard case is 512 nodes from
60,000 images of 28 x 28 pixels of 256 grey levels. For one core, set OMP_NUM_THREADS=1.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.studies.benchmarks.record import record

NODES = 1024


class Case(NamedTuple):
    """One size to measure.

    Attributes:
        points: the number M of random points.
        dim: their dimension D.
        outputs: the number C of components of their values.
        modulus: P.
        levels: how many values the coordinates take; 17 as the handwritten digits have.
        nodes: the number N of nodes of a batch; `NODES` where None.
        dtype: of the values, and so the precision of the sampler.
    """

    points: int
    dim: int
    outputs: int
    modulus: int = 127
    levels: int = 17
    nodes: int | None = None
    dtype: str = "float64"


# the training set of the digits, 5,000 images of 28 x 28, and the standard case
SIZES = [
    Case(1437, 64, 1),
    Case(1437, 64, 10),
    Case(5000, 784, 1),
    Case(5000, 784, 10),
    Case(60_000, 784, 1, 257, 256, 512, "float32"),
    Case(60_000, 784, 1, 257, 256, 512, "float64"),
    Case(60_000, 784, 10, 257, 256, 512, "float32"),
]


def measure(case: Case, *, runs: int = 7) -> dict[str, Any]:
    """Median seconds of one batch of nodes, and of the product alone, over interleaved runs.

    Args:
        case: what to measure.
        runs: how often each is timed.
    """
    nodes = NODES if case.nodes is None else case.nodes
    modulus = case.modulus
    rng = np.random.default_rng(0)
    x = rng.integers(case.levels, size=(case.points, case.dim), dtype=np.uint8)
    y = rng.normal(size=(case.points, case.outputs))
    started = time.perf_counter()
    state = states.from_samples(x, (y - y.mean(axis=0)).astype(case.dtype), modulus)
    built = time.perf_counter() - started
    qrt = QuantumRidgeletTransform(state, Ridgelet("triangle", modulus), backend="numpy")
    left = rng.integers(-(modulus // 2), modulus // 2 + 1, size=(nodes, case.dim)).astype(np.float32)
    right = np.ascontiguousarray(x.T, dtype=np.float32)
    product, sampling = [], []
    for run in range(runs + 1):
        product.append(_seconds(partial(np.matmul, left, right)))
        sampling.append(_seconds(partial(qrt.sample, nodes, run)))
    # the first of each warms up
    product, sampling = product[1:], sampling[1:]
    medians = [statistics.median(seconds) for seconds in (product, sampling)]
    return {
        **case._asdict(),
        "nodes": nodes,
        "runs": runs,
        "build_seconds": built,
        "product_seconds": medians[0],
        "sampling_seconds": medians[1],
        "ratio": medians[1] / medians[0],
        "samples": {
            "product_seconds": product,
            "sampling_seconds": sampling,
            "ratio": [ours / bare for ours, bare in zip(sampling, product, strict=True)],
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sizes, print a line each, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", type=Path, help="a JSON file for the results")
    parser.add_argument("--runs", type=int, default=7, help="how often each size is timed")
    options = parser.parse_args(arguments)
    rows = []
    print(
        f"{'M':>6} {'D':>5} {'C':>3} {'P':>4} {'N':>5} {'y':>8} {'product':>10} {'sampling':>10} {'ratio':>6}"
    )
    for size in SIZES:
        case = Case(*size)
        row = measure(case, runs=options.runs)
        rows.append(row)
        shape = f"{case.points:6d} {case.dim:5d} {case.outputs:3d} {case.modulus:4d} {row['nodes']:5d}"
        seconds = f"{row['product_seconds']:9.4f}s {row['sampling_seconds']:9.4f}s"
        print(f"{shape} {case.dtype:>8} {seconds} {row['ratio']:6.2f}")
    record(options.output, "sample_state", rows)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
