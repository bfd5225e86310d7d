"""Slices and batches over MPI ranks: the one room that knows mpi4py.

`reduce_slices`, `spread_items` and `choose_device` are collective: all ranks of `comm` call them, with the
same counts. `comm=None` is one process without MPI. How ranks talk and fail: `qrt_tn.engine.agreement`.
"""

import functools
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from qrt_tn.engine.agreement import Exchange, abort, together
from qrt_tn.engine.backends import Backend, array_module, namespace
from qrt_tn.engine.exponents import Part, on_host

GROUPS = 64  # another number gives other last bits: what is added in order are the groups' sums
_MEND = "pip install 'qrt-tn[mpi]', or load the cluster's MPI and pip install mpi4py"

T = TypeVar("T")


@functools.cache
def ranks() -> Backend:
    """Whether MPI can be used here, and if not, the reason and the mend.

    MPI is not started, since on some clusters that ends a process that no launcher started: another
    process loads the library. The answer's `device` is the library's name.
    """
    if importlib.util.find_spec("mpi4py") is None:
        return Backend("mpi", False, None, "none", "the package mpi4py is not installed", _MEND)
    version = importlib.metadata.version("mpi4py")
    ask = (
        "import mpi4py; mpi4py.rc.initialize = False\n"
        "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0])"
    )
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Backend("mpi", False, version, "none", f"the MPI library does not load ({error})", _MEND)
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        return Backend("mpi", False, version, "none", f"the MPI library does not load ({last})", _MEND)
    return Backend("mpi", True, version, " ".join(answer.stdout.replace("\0", "").split()))


def world() -> Any:
    """All ranks of this job; MPI starts here.

    From then on an exception that nobody catches ends the whole job. MPI's own way is that the failed rank
    waits at its exit for the others while they wait for it.

    Raises:
        ValueError: MPI cannot be used here, with the reason and the mend.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"MPI is not available: {reason}; {_MEND}") from error
    comm = MPI.COMM_WORLD
    if comm.Get_size() > 1 and not isinstance(sys.excepthook, _EndJob):
        sys.excepthook = _EndJob(comm, sys.excepthook)
    return comm


class _EndJob:
    """An exception hook that ends the job once the hook before it has printed the error."""

    def __init__(self, comm: Any, before: Callable[..., Any]) -> None:
        self.comm = comm
        self.before = before

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self.before(kind, error, trace)
        abort(self.comm)


@contextmanager
def ending_together(comm: Any) -> Iterator[None]:
    """A block whose failure on any rank ends the whole job: for a program's outermost call.

    Unlike the hook that `world` leaves behind it sees `sys.exit` with an error too, which is how command
    lines fail. Without other ranks the exception just passes.

    Args:
        comm: the communicator, or None.
    """
    try:
        yield
    except BaseException as error:
        left = isinstance(error, SystemExit)
        code = error.code if isinstance(error, SystemExit) else 1
        if _size(comm) > 1 and code:
            if not left:
                traceback.print_exception(error)
            elif not isinstance(code, int):
                sys.stderr.write(f"{code}\n")
            abort(comm, code if isinstance(code, int) else 1)
        raise


def choose_device(comm: Any) -> int | None:
    """Give this rank a GPU of its own: its number on the node, modulo the GPUs it sees.

    CuPy's current device becomes that one, for this thread. A launcher that shows each rank its own GPUs
    (CUDA_VISIBLE_DEVICES) is followed: the rank counts only those it sees. One rank alone keeps the device
    it has.

    Args:
        comm: the communicator, or None.

    Returns:
        The device's number among those this process sees; None where nothing is chosen: one rank alone, no
        CuPy, no GPU.
    """
    if _size(comm) == 1:
        return None
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    local = node.Get_rank()
    node.Free()
    try:
        cuda = namespace("cupy").cuda
    except ValueError:
        return None
    number = local % cuda.runtime.getDeviceCount()
    cuda.Device(number).use()
    return number


def cutensornet_distributed() -> bool:
    """Whether cuTensorNet's MPI interface is here: the library file that CUTENSORNET_COMM_LIB names."""
    library = os.environ.get("CUTENSORNET_COMM_LIB", "")
    return bool(library) and Path(library).is_file()


def slice_groups(count: int, size: int = 1) -> list[range]:
    """Slices 0 to count - 1 in consecutive groups, the same for any number of ranks up to `GROUPS`.

    Args:
        count: how many slices.
        size: how many ranks; where they are more than `GROUPS`, so are the groups.
    """
    groups = min(count, max(GROUPS, size))
    return [range(count * i // groups, count * (i + 1) // groups) for i in range(groups)]


def reduce_slices(
    count: int,
    contract_range: Callable[[range], Part],
    add: Callable[[Part, Part], Part],
    comm: Any = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Part:
    """The sum of all slices, contracted by all ranks and added in one fixed order.

    Rank r contracts groups r, r + n, ... of `slice_groups`; rank 0 adds all of them, first to last. So the
    result has the same bits on one rank and on n <= `GROUPS`. Rank 0 holds three parts at most (the sum, the
    next part, the new sum), the others two (one under way and the next). GPU arrays travel through the host.

    Args:
        count: how many slices.
        contract_range: the sum of a range of slices, a pair of arrays (mantissa, exponent), NumPy's or
            CuPy's, with value = mantissa * 2**exponent. Later calls must not write to them.
        add: the sum of two parts; only rank 0 calls it.
        comm: the communicator; None is one process.
        progress: rank 0 calls it after each group with (slices done, count).

    Returns:
        The sum, on every rank.

    Raises:
        ValueError: fewer than one slice; or the same ValueError on every rank that had slices.
        RuntimeError: a rank failed; it names the rank, its slices and the message. On that rank its own
            exception is the cause. In one process that exception itself passes.
    """
    if count < 1:
        raise ValueError(f"count is {count}; there must be at least one slice to add up")
    groups = slice_groups(count, _size(comm))
    if _size(comm) == 1:
        return _in_order(groups, lambda number: contract_range(groups[number]), add, progress)

    def contract(exchange: Exchange, number: int) -> Part:
        group = groups[number]

        def part_of() -> Part:
            part = contract_range(group)
            # a worker's copy to the host is part of its work: an error of the GPU may show only there
            return on_host(part) if exchange.rank else part

        return exchange.attempt(f"slices {group.start} to {group.stop - 1} of {count}", part_of)

    def lead(exchange: Exchange) -> Part:
        def part_of(number: int) -> Part:
            source = number % exchange.size
            part = exchange.receive(source) if source else contract(exchange, number)
            exchange.check()
            return part

        def sum_of(total: Part, part: Part) -> Part:
            # rank 0 contracted the first group itself, so it knows where parts live
            return exchange.attempt("the sum of the slices", add, total, _beside(part, total))

        def told(done: int, count: int) -> None:
            if progress is not None:
                exchange.attempt("the display of progress", progress, done, count)

        return _in_order(groups, part_of, sum_of, told)

    def work(exchange: Exchange) -> None:
        for number in range(exchange.rank, len(groups), exchange.size):
            part = contract(exchange, number)
            exchange.check()
            exchange.send(part)

    return together(comm, lambda exchange: (work if exchange.rank else lead)(exchange), share=True)


def spread_items(count: int, work: Callable[[int], T], comm: Any = None) -> dict[int, T]:
    """Independent items over ranks: rank r does r, r + n, ...

    Args:
        count: how many items; may be 0.
        work: does one item.
        comm: the communicator; None is one process.

    Returns:
        What `work` returned for each of this rank's own items; ranks return once all items are done.

    Raises:
        ValueError: a negative count; or the same ValueError on every rank that had items.
        RuntimeError: a rank failed, as in `reduce_slices`.
    """
    if count < 0:
        raise ValueError(f"count is {count}; it must be 0 or more")
    if _size(comm) == 1:
        return {item: work(item) for item in range(count)}

    def body(exchange: Exchange) -> dict[int, T]:
        done = {}
        for item in range(exchange.rank, count, exchange.size):
            done[item] = exchange.attempt(f"item {item} of {count}", work, item)
            exchange.check()
        return done

    return together(comm, body)


def _size(comm: Any) -> int:
    return 1 if comm is None else comm.Get_size()


def _in_order(
    groups: list[range],
    part_of: Callable[[int], Part],
    add: Callable[[Part, Part], Part],
    progress: Callable[[int, int], None] | None,
) -> Part:
    """The sum of all groups' parts, first to last."""
    total: Part = (None, None)
    for number, group in enumerate(groups):
        # (no name for a part: it would live on while the next is made)
        total = add(total, part_of(number)) if number else part_of(number)
        if progress is not None:
            progress(group.stop, groups[-1].stop)
    return total


def _beside(part: Part, other: Part) -> Part:
    """This part where the other one lives."""
    xp = array_module(other[0])
    return part if xp is np else (xp.asarray(part[0]), xp.asarray(part[1]))
