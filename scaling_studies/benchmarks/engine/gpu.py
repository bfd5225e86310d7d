"""Executing one plan many times on a GPU: ours against cuTensorNet with its own path, and quimb in a loop."""

from typing import Any

from qrt_tn import engine
from qrt_tn.engine import Device
from qrt_tn.engine.network import by_position, numbered
from qrt_tn.studies.benchmarks.engine import finder
from qrt_tn.studies.benchmarks.engine.networks import Case
from qrt_tn.studies.benchmarks.engine.speed import (
    Contender,
    ours,
    quimb_loop,
    row_of,
    timed,
    work_of,
)

BACKENDS = ("cupy", "cuquantum")


def compare(
    found: Case, device: Device, *, rounds: int, limit: float, cuquantum: bool
) -> list[dict[str, Any]]:
    """Seconds of one contraction on the GPU, a row for each of our backends.

    Operands are on the device beforehand, for all.

    Args:
        found: the network.
        device: the calibration of CuPy.
        rounds: how often each is timed.
        limit: seconds for cuTensorNet's finder; where it does not end, cuTensorNet takes no part.
        cuquantum: whether cuTensorNet runs here.

    Raises:
        RuntimeError: two results disagree.
    """
    import cupy

    plan = engine.plan(found.structure, dtype=found.dtype)
    arrays = [cupy.asarray(array) for array in found.arrays]
    backends = BACKENDS if cuquantum else BACKENDS[:1]
    own = [ours(plan, backend, {}, arrays) for backend in backends]
    rivals = []
    if cuquantum:
        path, _, _ = finder.find(*found.structure, limit)
        if path is not None:
            rivals.append(_cutensornet(found, path, arrays))
    if found.varying and len(found.output) == 1:
        rivals.append(quimb_loop(found, found.count, cupy.asarray))
    wait = cupy.cuda.Device().synchronize
    seconds = timed([*own, *rivals], rounds, found.dtype, wait)
    work = work_of(plan, device)
    return [row_of(found, found.name, [one, *rivals], seconds, device, work) for one in own]


def _cutensornet(found: Case, path: Any, arrays: list[Any]) -> Contender:
    """A user's cuTensorNet: a network made once, autotuned, contracted again."""
    from cuquantum import tensornet

    names = numbered(found.inputs)
    terms = by_position([*found.inputs, found.output], names)
    operands = [part for pair in zip(arrays, terms[:-1], strict=True) for part in pair]
    network = tensornet.Network(*operands, terms[-1])
    network.contract_path(optimize={"path": path})
    network.autotune(iterations=5)
    return Contender("cuTensorNet", network.contract, lambda made: made.get(), close=network.free)
