"""One point of contraction: planned, contracted, timed, and compared with complex128 by NumPy."""

import os
import statistics
import time
from collections.abc import Mapping
from typing import Any

from threadpoolctl import threadpool_limits

from qrt_tn import engine
from qrt_tn.engine import Device, Expression, Plan
from qrt_tn.engine.backends import namespace, resolve
from qrt_tn.engine.exponents import Part, on_host
from qrt_tn.engine.mpi import choose_device, spread_items
from qrt_tn.studies.benchmarks.engine.networks import BATCH, Case
from qrt_tn.studies.benchmarks.engine.speed import work_of
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.contraction.accuracy import log_norm, relative_error
from qrt_tn.studies.experiments.contraction.networks import build
from qrt_tn.studies.experiments.contraction.settings import Contraction
from qrt_tn.studies.experiments.contraction.slicing import in_slices

ON_GPU = ("cupy", "cuquantum")


def contract(settings: Contraction, seed: int, context: Context) -> Mapping[str, float | int | None]:
    """Plan and contract one network.

    Args:
        settings: which network, and on what.
        seed: of the network and of the plan's search.
        context: of the point; with a communicator all ranks call this, and share the slices.

    Returns:
        The metrics that `settings.EXPERIMENT` names, the same on every rank. `error` is None without a
        reference, and for the reference itself; `log_abs` is None for cuQuantum, whose last bits are
        not the same again.

    Raises:
        UnavailableError: the backend is missing on some rank, or ranks must share a GPU.
        ValueError: another number of ranks than the settings say, or a network of too few slices.
    """
    comm = context.comm
    size = 1 if comm is None else comm.Get_size()
    if size != settings.ranks:
        raise ValueError(
            f"ranks is {settings.ranks} and the point runs on {size}; give the study "
            'resources.ranks = "ranks"'
        )
    _check_device(settings.backend, comm)
    with threadpool_limits(context.cores):
        found = build(settings, seed)
        plan, plan_seconds = _planned(found, settings, seed, comm)
        context.say(str(plan))
        part, seconds = _timed(plan, found, settings, comm)
        context.say(f"contracted in {seconds:.4g} s")
        error = _error(plan, found, settings, part, comm)
        device = _calibrated(settings, comm)
    work = work_of(plan, device)
    return {
        "flops": plan.flops,
        "bytes_moved": round(work.moved),
        "plan_bytes": plan.peak_bytes,
        "slice_count": plan.slice_count,
        "log_abs": None if settings.backend == "cuquantum" else log_norm(part),
        "plan_seconds": plan_seconds,
        "seconds": seconds,
        "rate": plan.flops / seconds,
        "peak_flops": size * device.gemm_rate(settings.dtype),
        "bandwidth": size * max(rate for _, rate in device.copy),
        "error": error,
    }


def _check_device(backend: str, comm: Any) -> None:
    """Every rank has the backend, and a GPU of its own where that is one's."""
    try:
        resolve(backend)
        missing = ""
    except ValueError as error:
        missing = str(error)
    # all ranks learn of it, or the others would wait for one that left
    missing = missing if comm is None else max(comm.allgather(missing))
    if missing:
        raise UnavailableError(missing)
    if comm is None or backend not in ON_GPU:
        return
    choose_device(comm)
    cupy: Any = namespace("cupy")
    places = comm.allgather((os.uname().nodename, cupy.cuda.Device().pci_bus_id))
    if len(set(places)) < len(places):
        raise UnavailableError(
            f"{len(places)} ranks would share {len(set(places))} GPUs; take nodes with a GPU for each rank, "
            "or fewer ranks"
        )


def _planned(found: Case, settings: Contraction, seed: int, comm: Any) -> tuple[Plan, float]:
    """The plan, found by rank 0, and the seconds that finding its path took."""

    def work(_: int) -> tuple[Plan, float]:
        started = time.perf_counter()
        whole = engine.plan(found.structure, dtype=settings.dtype, seed=seed, use_cache=False)
        taken = time.perf_counter() - started
        return in_slices(whole, settings.slices, [BATCH] if settings.batch > 1 else []), taken

    made = spread_items(1, work, comm)
    answer: tuple[Plan, float] = made[0] if comm is None else comm.bcast(made.get(0), root=0)
    return answer


def _timed(plan: Plan, found: Case, settings: Contraction, comm: Any) -> tuple[Part, float]:
    """The result on the host, and the median over rounds of the slowest rank's seconds."""
    compute = None if settings.compute == "default" else settings.compute
    with plan.expression(settings.backend, compute=compute, comm=comm) as expression:
        arrays: list[Any] = [array.astype(settings.dtype) for array in found.arrays]
        if settings.backend in ON_GPU:
            arrays = [namespace("cupy").asarray(array) for array in arrays]
        part, _ = _once(expression, arrays, comm)  # compiles, and tunes
        seconds = [_once(expression, arrays, comm)[1] for _ in range(settings.rounds)]
    return part, statistics.median(seconds)


def _once(expression: Expression, arrays: list[Any], comm: Any) -> tuple[Part, float]:
    if comm is not None:
        comm.Barrier()
    started = time.perf_counter()
    part = on_host(expression.part(arrays))  # a device is done when its result is here
    taken = time.perf_counter() - started
    return part, taken if comm is None else max(comm.allgather(taken))


def _error(plan: Plan, found: Case, settings: Contraction, part: Part, comm: Any) -> float | None:
    """The error against the same plan in complex128 by NumPy, operands unrounded."""
    if not settings.reference or (settings.backend, settings.dtype) == ("numpy", "complex128"):
        return None
    with plan.expression("numpy", dtype="complex128", comm=comm) as expression:
        return relative_error(part, on_host(expression.part(found.arrays)))


def _calibrated(settings: Contraction, comm: Any) -> Device:
    """What the device reaches, measured by rank 0 while the others wait."""
    made = spread_items(1, lambda _: engine.calibrate(settings.backend, dtypes=(settings.dtype,)), comm)
    device: Device = made[0] if comm is None else comm.bcast(made.get(0), root=0)
    return device
