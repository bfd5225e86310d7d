"""The parts of the run, each in a process of its own and under a time limit, and the JSON file they make."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qrt_tn.engine.backends import resolve
from qrt_tn.studies.benchmarks.gpu.arrays import arrays
from qrt_tn.studies.benchmarks.gpu.chains import chains, chains_speed
from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place, UnavailableError
from qrt_tn.studies.benchmarks.gpu.contractions import batches, contract, contract_speed, cuquantum
from qrt_tn.studies.benchmarks.gpu.machine import machine
from qrt_tn.studies.benchmarks.gpu.training import training
from qrt_tn.studies.benchmarks.gpu.transforms import smoothing, transforms, transforms_speed
from qrt_tn.studies.benchmarks.record import record
from qrt_tn.studies.benchmarks.sheets import seconds

Part = Callable[[Place, Checks], None]

# seconds that each gets, in the order of what must not be missed
PARTS: dict[Part, float] = {
    machine: 60,
    arrays: 60,
    contract: 75,
    chains: 60,
    transforms: 90,
    batches: 45,
    chains_speed: 90,
    transforms_speed: 60,
    contract_speed: 60,
    smoothing: 75,
    training: 90,
    cuquantum: 120,
}
NAMES = {part.__name__: part for part in PARTS}


def run(
    backend: str, out: Path, *, only: Sequence[str] = (), budget: float = 600.0, command: str = ""
) -> dict[str, Any]:
    """Run parts, tell how each ends, and write what they found after each.

    A part that raises, dies, or takes longer than its limit is reported, and the others run.

    Args:
        backend: "cupy", or "numpy" to try the run out, with small sizes.
        out: the JSON file.
        only: names of parts; left out, all.
        budget: seconds for all parts together; a part that would begin later is left out.
        command: what the user typed.

    Returns:
        By part: its state ("ok", "failed", "unavailable" or "left out"), its seconds, figures, failures
        and timings.

    Raises:
        ValueError: a backend other than these two or missing here, an unknown part, no time, or a folder
            for the file; before anything runs.
    """
    if backend not in ("cupy", "numpy"):
        raise ValueError(f"--as is {backend!r}; choose cupy or numpy")
    for name in only:
        if name not in NAMES:
            raise ValueError(f"unknown part {name!r}; choose from {', '.join(NAMES)}")
    if not budget > 0:
        raise ValueError(f"budget is {budget:g}; give a number of seconds above 0")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give the name of a file")
    try:
        resolve(backend)
    except ValueError as error:
        raise ValueError(f"{error}; or try the run out on this machine with --as numpy") from None
    out.parent.mkdir(parents=True, exist_ok=True)
    # JAX takes three quarters of a GPU at its start otherwise, beside CuPy's pool
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    place = Place(backend, small=backend == "numpy")
    ends = time.monotonic() + budget
    parts: dict[str, Any] = {}
    for name in only or NAMES:
        started = time.monotonic()
        limit = min(PARTS[NAMES[name]] * (4 if place.small else 1), ends - started)
        part = _apart(NAMES[name], place, limit) if limit > 0 else _state("left out")
        parts[name] = {**part, "seconds": time.monotonic() - started}
        rows = [{"part": name, **row} for name, part in parts.items() for row in part["rows"]]
        others = {name: {k: v for k, v in part.items() if k != "rows"} for name, part in parts.items()}
        record(out, "gpu", rows, command=command, backend=backend, parts=others)
        lines = [f"{name:17}{parts[name]['seconds']:7.1f} s  {part['state']}", *map(_line, part["rows"])]
        lines += [f"    {what}: {why}" for what, why in part["failed"].items()]
        print("\n".join(lines), flush=True)
    return parts


def _line(row: dict[str, Any]) -> str:
    sizes = ", ".join(f"{name} {value}" for name, value in row.items() if isinstance(value, int))
    times = (seconds(row[name]) for name in ("seconds", "bound_seconds", "host_seconds"))
    return "    {} ({}): {}; bound {}, NumPy {}".format(row["what"], sizes, *times)


def _state(state: str, why: str = "", found: dict[str, Any] | None = None) -> dict[str, Any]:
    made = {**(found or Checks().found), "state": state}
    if why:
        made["failed"] = {**made["failed"], "the part": why}
    return made


def _apart(part: Part, place: Place, limit: float) -> dict[str, Any]:
    """One part in a process that may die: forked from one that has loaded everything but no GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(part, place, sender))
    process.start()
    sender.close()
    ends, found = time.monotonic() + limit, Checks().found
    try:
        while receiver.poll(max(0.0, ends - time.monotonic())):
            found = receiver.recv()
        return _state("failed", f"took longer than {limit:.0f} s", found)
    except (EOFError, OSError):  # the process has ended
        process.join()
    finally:
        process.kill()
        process.join()
    if "unavailable" in found:
        return _state("unavailable", found.pop("unavailable"), found)
    if process.exitcode:
        return _state("failed", f"its process ended with code {process.exitcode}", found)
    return _state("failed" if found["failed"] else "ok", "", found)


def _work(part: Part, place: Place, sender: Connection) -> None:
    checks = Checks(sender.send)
    try:
        part(place, checks)
    except UnavailableError as error:
        sender.send({**checks.found, "unavailable": str(error)})
    except Exception as error:  # what a part does between its checks fails as they do
        checks.found["failed"]["the part"] = f"{type(error).__name__}: {error}"[:500]
        sender.send(checks.found)
