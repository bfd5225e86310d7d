"""Times sampling from a matrix product state against the bare matrix products of its branches, and quimb.

    python -m qrt_tn.studies.benchmarks.sample_mps [result.json]

The bar is D products (N x chi) @ (chi x P chi) in complex64: what the branches of all values take. They run
twice, on BLAS's own threads and with the rows shared by as many threads of ours, since on a busy machine
BLAS's threads lose time waiting for each other; the faster of both is the bar. All contenders run in turn in
one process; medians and their ratios are printed and written as JSON. quimb samples shot by shot, in
complex128 since its norms underflow in complex64, so it draws few and its time a sample counts.

Where a GPU answers, CuPy runs the same, and cuTensorNet's NetworkState samples on as many sites as it can
(its MPS form overflows from D = 17 on for P = 31).
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.engine import backends, mps
from qrt_tn.engine.threads import threads_for, workers
from qrt_tn.studies.benchmarks.record import record
from qrt_tn.studies.benchmarks.timing import paired, ratios

METHODS: dict[str, Any] = {"sweep": "sweep", "search": "search", "chosen": None}
NODES = "nodes"  # the transform's: samples, their profiles with every harmonic, and thresholds b
OURS = (*METHODS, NODES)
# (D, P, chi, N): the case, and one of many values
SIZES = [(200, 31, 16, 4096), (50, 127, 16, 4096)]


def random_state(dim: int, modulus: int, bond: int, dtype: Any = np.complex64) -> mps.Cores:
    """Right-canonical cores of a random state."""
    rng = np.random.default_rng(0)
    bonds = [1] + [bond] * (dim - 1) + [1]
    shapes = [(bonds[site], modulus, bonds[site + 1]) for site in range(dim)]
    cores = [rng.normal(size=shape) + 1j * rng.normal(size=shape) for shape in shapes]
    return mps.right_canonical([core.astype(dtype) for core in cores])[0]


def measure(
    dim: int, modulus: int, bond: int, nodes: int, *, shots: int = 2, rounds: int = 5
) -> dict[str, Any]:
    """Median seconds of the products, of each sampling algorithm and of quimb's sampler, and ratios.

    Args:
        dim: the number of sites D.
        modulus: the values P of a site.
        bond: chi.
        nodes: the number N of samples.
        shots: how many quimb draws; 0 leaves it out.
        rounds: how often each is timed.

    Returns:
        Seconds by name, medians, and in `samples` those of every round; `to_products` and `to_quimb`,
        medians, least and greatest of the ratios round by round; the GPU's row where one answers.
    """
    cores = random_state(dim, modulus, bond)
    calls = {"products": _products(np, cores, nodes), "products, shared": _shared_products(cores, nodes)}
    for name, method in METHODS.items():
        calls[name] = _sampling(cores, nodes, method)
    calls[NODES] = _drawing(cores, nodes)
    if shots:
        calls["quimb"] = _quimb(cores, shots)
    seconds = paired(calls, rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    bar = seconds[min(("products", "products, shared"), key=medians.__getitem__)]
    result: dict[str, Any] = {
        "dim": dim,
        "modulus": modulus,
        "bond": bond,
        "nodes": nodes,
        "rounds": rounds,
        "quimb_shots": shots,
        "seconds": medians,
        "samples": {"seconds": seconds},
        "to_products": {name: ratios(seconds[name], bar) for name in OURS},
        "load_average": os.getloadavg()[0],
    }
    if shots:
        result["to_quimb"] = {name: ratios(seconds["quimb"], seconds[name], nodes / shots) for name in OURS}
    if backends()["cupy"].available:
        result["gpu"] = _on_gpu(cores, nodes, rounds, calls["chosen"])
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sizes, print a line for each sampler, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", type=Path, help="a JSON file for the results")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--shots", type=int, default=2, help="how many samples quimb draws")
    options = parser.parse_args(arguments)
    rows = []
    for size in SIZES:
        row = measure(*size, shots=options.shots, rounds=options.rounds)
        rows.append(row)
        print("D = {}, P = {}, chi = {}, N = {}".format(*size))
        for name, seconds in row["seconds"].items():
            line = f"  {name:16} {seconds:9.4f} s"
            if name in OURS:
                line += f"  {row['to_products'][name]['median']:6.2f} of the products"
                if options.shots:
                    line += f", {row['to_quimb'][name]['median']:6.0f} times quimb's speed"
            print(line)
        print(json.dumps(row.get("gpu", "no GPU answers")))
    record(options.output, "sample_mps", rows)


def _products(xp: Any, cores: mps.Cores, nodes: int) -> Callable[[], Any]:
    """The branches' products alone, each into the same array."""
    matrices = [core.reshape(len(core), -1) for core in cores]
    lefts = {len(matrix): xp.ones((nodes, len(matrix)), dtype=matrix.dtype) for matrix in matrices}
    outs = {matrix.shape: xp.empty((nodes, matrix.shape[1]), dtype=matrix.dtype) for matrix in matrices}

    def run() -> None:
        for matrix in matrices:
            xp.matmul(lefts[len(matrix)], matrix, out=outs[matrix.shape])

    return run


def _shared_products(cores: mps.Cores, nodes: int) -> Callable[[], Any]:
    """The same products, each thread doing all of them for its share of the rows."""
    count = threads_for(cores[0])
    parts = [_products(np, cores, -(-nodes // count)) for _ in range(count)]

    def run() -> None:
        with workers(count) as share:
            list(share(lambda part: part(), parts))

    return run


def _sampling(cores: mps.Cores, nodes: int, method: Any) -> Callable[[], Any]:
    return lambda: mps.sample(cores, nodes, np.random.default_rng(1), method=method)


def _drawing(cores: mps.Cores, nodes: int) -> Callable[[], Any]:
    modulus = cores[0].shape[1]
    state = states.MPSState(cores, [np.arange(modulus)] * len(cores), modulus)
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", modulus), "numpy")
    return lambda: qrt.sample(nodes)


def _quimb(cores: mps.Cores, shots: int) -> Callable[[], Any]:
    """Draw with quimb's own sampler of the same state."""
    arrays = [core.astype(np.complex128) for core in cores]
    arrays[0], arrays[-1] = arrays[0][0], arrays[-1][..., 0]
    state = qtn.MatrixProductState(arrays, shape="lpr")
    return lambda: list(state.sample(shots, seed=1, info={"cur_orthog": (0, 0)}))


def _on_gpu(cores: mps.Cores, nodes: int, rounds: int, on_host: Callable[[], Any]) -> dict[str, Any]:
    """The same on the first GPU, and cuTensorNet's sampler of a state of as many sites as it takes."""
    import cupy

    wait = cupy.cuda.Device().synchronize
    moved = [cupy.asarray(core) for core in cores]
    calls = {"products": _products(cupy, moved, nodes), "host": on_host}
    calls["sweep"] = _sampling(moved, nodes, "sweep")
    seconds = paired(calls, rounds, wait=wait)
    result: dict[str, Any] = {
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "samples": {"seconds": seconds},
        "to_products": ratios(seconds["sweep"], seconds["products"]),
        "to_host": ratios(seconds["host"], seconds["sweep"]),
        "networkstate": "cuQuantum is not available",
    }
    if backends()["cuquantum"].available:
        try:
            result["networkstate"] = _network_state(nodes, cores[0].shape[1], len(cores[1]))
        except Exception as error:  # whatever the library objects to is the result
            result["networkstate"] = f"{type(error).__name__}: {error}"
    return result


def _network_state(nodes: int, modulus: int, bond: int, sites: int = 16) -> dict[str, Any]:
    """Seconds of cuTensorNet's NetworkState and of ours for the same samples of a short state."""
    import cupy
    from cuquantum.tensornet.experimental import NetworkState, TNConfig

    wait = cupy.cuda.Device().synchronize
    cores = [cupy.asarray(core) for core in random_state(sites, modulus, bond)]
    operands = [cores[0][0], *cores[1:-1], cores[-1][..., 0]]
    own = statistics.median(paired({"own": _sampling(cores, nodes, None)}, 3, wait=wait)["own"])
    with NetworkState((modulus,) * sites, dtype="complex64", config=TNConfig(num_hyper_samples=1)) as state:
        state.set_initial_mps(operands)
        state.compute_sampling(1, seed=1)  # plans, once
        wait()
        started = time.perf_counter()
        state.compute_sampling(nodes, seed=2)
        wait()
        theirs = time.perf_counter() - started
    return {"sites": sites, "seconds": theirs, "own_seconds": own, "ratio": theirs / own}


if __name__ == "__main__":
    main()
