"""In the process of one point: run the experiment, and write down what came out or what went wrong."""

import os
import resource
import sys
import time
import traceback
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from qrt_tn.engine.mpi import abort
from qrt_tn.studies import provenance
from qrt_tn.studies.experiments.catalogue import (
    POINTS,
    Context,
    Experiment,
    Table,
    UnavailableError,
    experiment,
)
from qrt_tn.studies.runner.process import thread_pools
from qrt_tn.studies.runner.room import visible_gpus
from qrt_tn.studies.runner.task import FULL_DISK, Task
from qrt_tn.studies.store.records import FULL

thread_pools()  # found once, in the server that points are forked from


def measure(task: Task, comm: Any = None) -> None:
    """Run a task to its end and leave its outcome; all ranks of `comm` call it.

    The outcome is {"tables", "peak_bytes", ...} or {"kind", "reason", "traceback"}. Where the
    disk is full there is none, and the process ends at once with the code `FULL_DISK`.
    """
    rank = 0 if comm is None else comm.Get_rank()
    before, began = _peak_bytes(), time.perf_counter()
    outcome: dict[str, Any] = {}
    try:
        kind = experiment(task.experiment)
        settings = kind.settings.model_validate(dict(task.parameters))
        context = Context(task.kept, len(os.sched_getaffinity(0)), len(visible_gpus()), comm, _say)
        outcome = _tables(kind, kind.load()(settings, task.seed, context), rank)
    except UnavailableError as error:
        outcome = {"kind": "unavailable", "reason": _line(error), "traceback": None}
    except MemoryError as error:
        outcome = _failure("error", f"out of memory: {_line(error)}")
    except OSError as error:
        if error.errno in FULL:
            _leave(FULL_DISK)
        outcome = _failure("error", _line(error))
    except Exception as error:
        outcome = _failure("error", _line(error))
    outcome |= {"seconds": time.perf_counter() - began, "device": _device()}
    peaks = [_peak_bytes()]
    if comm is not None:
        if "kind" in outcome:
            # the others may be waiting for this rank for ever: it tells, and ends them
            _leave_outcome(task, outcome | {"reason": f"rank {rank}: {outcome['reason']}"}, peaks, before)
            abort(comm)
        peaks = comm.gather(peaks[0])
    if rank == 0:
        _leave_outcome(task, outcome, peaks, before)


def _leave_outcome(task: Task, outcome: dict[str, Any], peaks: list[int], before: int) -> None:
    try:
        task.leave(outcome | {"peak_bytes": sum(peaks), "baseline_bytes": before * len(peaks)})
    except OSError as error:
        if error.errno not in FULL:
            raise
        _leave(FULL_DISK)


def _tables(kind: Experiment, found: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """The rows of each table as plain numbers and texts; a failure where they are not what was announced."""
    if rank:
        return {}
    if not any(isinstance(value, list) for value in found.values()) and list(kind.tables) == [POINTS]:
        found = {POINTS: [found]}
    try:
        _same(found, kind.tables, "table")
        return {"tables": {name: _rows(table, name, found[name]) for name, table in kind.tables.items()}}
    except ValueError as error:
        return {"kind": "metrics", "reason": str(error), "traceback": None}


def _rows(table: Table, name: str, found: Any) -> list[dict[str, Any]]:
    """The rows of one table; ValueError where one has other columns, no numbers, or the keys of another."""
    rows = []
    for row in found:
        _same(row, (*table.keys, *table.metrics), f"metric of {name}" if table.keys else "metric")
        rows.append({column: getattr(row[column], "item", lambda v=row[column]: v)() for column in row})
        for column, value in rows[-1].items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if column in table.keys:
                if not number and not isinstance(value, str | bool | None):
                    raise ValueError(f"the key {column} is {value!r}")
            elif value is not None and not (number and abs(value) < float("inf")):
                raise ValueError(f"the metric {column} is {value!r}")
    keys = [tuple(row[key] for key in table.keys) for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"two rows of {name} are of {dict(zip(table.keys, twice, strict=True))}")
    return rows


def _same(found: Iterable[str], known: Collection[str], what: str) -> None:
    for name in dict.fromkeys([*known, *found]):
        if name not in found or name not in known:
            raise ValueError(f"the {what} {name} is {'missing' if name in known else 'unknown'}")


def _failure(kind: str, reason: str) -> dict[str, Any]:
    text = traceback.format_exc()
    print(text, file=sys.stderr, flush=True)  # as it is; records go round the world
    relative = provenance.relative
    return {"kind": kind, "reason": relative(reason), "traceback": relative(text)}


def _line(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return said if isinstance(error, UnavailableError) else f"{type(error).__name__}: {said}"


def _device() -> dict[str, Any]:
    """What it ran on; the GPU's name only where the point has started it already."""
    found = {**provenance.host(), "gpu": None}
    if "cupy" in sys.modules and os.environ.get("CUDA_VISIBLE_DEVICES"):
        from qrt_tn.engine.backends import gpus

        found["gpu"] = ", ".join(dict.fromkeys(name for name, _ in gpus())) or None
    elif "jax" in sys.modules and os.environ.get("CUDA_VISIBLE_DEVICES"):
        import jax

        if jax.default_backend() == "gpu":
            found["gpu"] = jax.devices()[0].device_kind
    return found


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _say(text: str) -> None:
    print(text, flush=True)


def _leave(code: int) -> None:
    os._exit(code)
