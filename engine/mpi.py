"""Spread slices and elements over MPI ranks: fixed shares, joined in a fixed order.

Every rank works through its shares; workers (ranks other than 0) send their parts to rank 0, which adds them
in order. A rank that fails sends a stop flag to all others, who look for it after each share and while they
wait. Then all meet and compare outcomes, and what is still under way is received and dropped: all ranks
return or all raise, and can go on together. What no flag can tell (an error of MPI itself, Ctrl-C while ranks
wait) ends the whole job. Waiting is polling with short sleeps: it leaves the cores to ranks that compute.

`reduce_slices`, `spread_items` and `choose_device` are collective: all ranks of `comm` call them, with the
same counts. `comm=None` is one process without MPI.
"""

import functools
import importlib.metadata
import importlib.util
import itertools
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from qrt_tn.engine.backends import Backend, array_module, namespace
from qrt_tn.engine.exponents import Part, on_host

GROUPS = 64  # another number gives other last bits: what is added in order are the groups' sums
_FIX = "pip install 'qrt-tn[mpi]', or load the cluster's MPI and pip install mpi4py"
_CHUNK = 2**26  # bytes in a message; MPI counts end at 2**31
_LOOKS = 200  # that often a rank looks for a message before it begins to sleep
_SLEEP = 1e-3  # seconds between two looks then
_ENDING = 10.0  # seconds that a launcher has for ending the ranks
_STOP, _PART = 1, 2  # tags
_METHODS = ("Get_rank", "Get_size", "Idup", "Ibarrier", "Iprobe", "Isend", "Irecv", "Bcast", "Abort")

T = TypeVar("T")


@functools.cache
def ranks() -> Backend:
    """Whether MPI can be used here, and if not, the reason and what to do.

    MPI is not started, since on some clusters that ends a process that no launcher started: another
    process loads the library. The answer's `device` is the library's name.
    """
    if importlib.util.find_spec("mpi4py") is None:
        return Backend("mpi", False, None, "none", "the package mpi4py is not installed", _FIX)
    version = importlib.metadata.version("mpi4py")
    ask = (
        "import mpi4py; mpi4py.rc.initialize = False\n"
        "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0])"
    )
    command = [sys.executable, "-c", ask]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        return Backend("mpi", False, version, "none", f"the MPI library does not load ({last})", _FIX)
    return Backend("mpi", True, version, " ".join(answer.stdout.replace("\0", "").split()))


@functools.cache
def world() -> Any:
    """All ranks of this job; MPI starts here.

    From then on an exception that nobody catches ends the whole job. MPI's own way is that the failed rank
    waits at its exit for the others while they wait for it.

    Raises:
        ValueError: MPI cannot be used here, with the reason and what to do.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"MPI is not available: {' '.join(str(error).split())}; {_FIX}") from error
    comm, before = MPI.COMM_WORLD, sys.excepthook

    def end_job(*error: Any) -> None:
        before(*error)
        abort(comm)

    if comm.Get_size() > 1:
        sys.excepthook = end_job
    return comm


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
        code = error.code if isinstance(error, SystemExit) else 1
        if code and place(comm)[1] > 1:
            if not isinstance(error, SystemExit):
                traceback.print_exception(error)
            elif not isinstance(code, int):
                sys.stderr.write(f"{code}\n")
            abort(comm, code if isinstance(code, int) else 1)
        raise


def abort(comm: Any, code: int = 1) -> NoReturn:
    """End all ranks of the job now; this one does not go on."""
    sys.stdout.flush()
    sys.stderr.flush()
    comm.Abort(code)
    # MPICH only asks the launcher to end the ranks, and returns: this one must not go on meanwhile. It waits
    # to be ended, since a launcher may drop the last words of a rank that leaves by itself.
    try:
        time.sleep(_ENDING)
    finally:
        os._exit(code)


def place(comm: Any) -> tuple[int, int]:
    """(this rank, how many there are); (0, 1) without a communicator.

    Args:
        comm: mpi4py's, or anything with the same methods; or None.

    Raises:
        TypeError: `comm` is something else, or a communicator that cannot be used.
    """
    if comm is None:
        return 0, 1
    wrong = f"comm is {comm!r}; give an mpi4py communicator such as mpi4py.MPI.COMM_WORLD, or None"
    if not all(callable(getattr(comm, name, None)) for name in _METHODS):
        raise TypeError(wrong)
    try:
        return comm.Get_rank(), comm.Get_size()
    except Exception as error:  # MPI's own error of a null or freed communicator
        raise TypeError(f"{wrong} ({error})") from error


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
    if place(comm)[1] == 1:
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
        ValueError: fewer than one slice; or the same ValueError on every rank that had slices (so too with a
            TypeError).
        RuntimeError: a rank failed; it names the rank, its slices and the message. On that rank its own
            exception is the cause. In one process that exception itself passes.
    """
    if count < 1:
        raise ValueError(f"count is {count}; there must be at least one slice to add up")
    size = place(comm)[1]
    groups = slice_groups(count, size)
    names = [f"slices {group.start} to {group.stop - 1} of {count}" for group in groups]

    def add_beside(total: Part, part: Part) -> Part:
        # rank 0 contracted the first group itself, so it knows where parts live
        xp = array_module(total[0])
        return add(total, part if xp is np else (xp.asarray(part[0]), xp.asarray(part[1])))

    def lead(attempt: Callable[..., Any], receive: Callable[[int], Part]) -> Part:
        total: Part = (None, None)
        for number, group in enumerate(groups):
            part = receive(number % size) if number % size else attempt(names[number], contract_range, group)
            total = attempt("the sum of the slices", add_beside, total, part) if number else part
            del part  # it would live on while the next is made
            if progress is not None:
                attempt("the display of progress", progress, group.stop, count)
        return total

    def body(channel: _Channel) -> Part | None:
        if channel.rank == 0:
            return lead(channel.attempt, channel.receive)
        for number in range(channel.rank, len(groups), size):
            # the copy to the host is part of the work: an error of the GPU may show only there
            work = lambda group: on_host(contract_range(group))  # noqa: E731
            channel.send(channel.attempt(names[number], work, groups[number]))
        return None

    if size == 1:
        return lead(lambda name, function, *arguments: function(*arguments), lambda source: (None, None))
    return _together(comm, body, share=True)


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
    rank, size = place(comm)
    mine = range(rank, count, size)
    if size == 1:
        return {item: work(item) for item in mine}
    return _together(
        comm,
        lambda channel: {item: channel.attempt(f"item {item} of {count}", work, item) for item in mine},
    )


class _Outcome(NamedTuple):
    """How one rank's share of a call ended; a name says where it failed."""

    rank: int
    attempted: bool
    sent: int
    name: str
    message: str
    bad_input: bool
    trace: str


class _StopError(Exception):
    """This rank stops: it has failed, or another has."""


class _Channel:
    """What the ranks send each other in one call."""

    def __init__(self, comm: Any) -> None:
        self.rank, self.size = place(comm)
        # on a communicator of its own, no message can meet one of the caller's
        self.comm, made = comm.Idup()
        self.error: BaseException | None = None
        self._name = ""  # what was attempted last
        self._sent = 0
        self._received = [0] * self.size
        self._under_way: list[Any] = []
        _wait(made.Test)

    def attempt(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """Run the caller's code; what it raises is this rank's failure at `name`."""
        self._name = name
        try:
            result = function(*arguments)
        except BaseException as error:
            self.error = error
            raise _StopError from error
        self._check()
        return result

    def send(self, part: Part) -> None:
        """Start sending a part to rank 0, once the one before has gone; it must not change any more."""
        _wait(self._gone, self._check)
        header = [(array.shape, array.dtype) for array in part]
        self._under_way = [self.comm.isend(header, dest=0, tag=_PART)]
        self._under_way += [self.comm.Isend(chunk, dest=0, tag=_PART) for chunk in _chunks(*part)]
        self._sent += 1

    def receive(self, source: int) -> Part:
        """The next part of a worker; another rank's failure ends the wait for it."""
        _wait(lambda: self.comm.Iprobe(source=source, tag=_PART), self._check)
        return self._take(source)

    def share(self, part: Part | None) -> Part:
        """Rank 0's part on every rank, where it lives."""
        arrays = [] if part is None else on_host(part)
        header = [(array.shape, array.dtype) for array in arrays]
        on_device = part is not None and array_module(part[0]) is not np
        header, on_device = self.comm.bcast((header, on_device), root=0)
        if part is None:
            arrays = [np.empty(shape, dtype) for shape, dtype in header]
        for chunk in _chunks(*arrays):
            self.comm.Bcast(chunk, root=0)
        xp = namespace("cupy") if on_device else np
        return (xp.asarray(arrays[0]), xp.asarray(arrays[1])) if part is None else part

    def finish(self) -> list[_Outcome]:
        """How all ranks ended; afterwards nothing is under way between them."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        outcome = _Outcome(self.rank, bool(self._name), self._sent, "", "", False, "")
        if self.error is not None:
            self._under_way += [self.comm.isend(None, dest=other, tag=_STOP) for other in others]
            bad_input = isinstance(self.error, ValueError | TypeError)
            known = isinstance(self.error, ValueError)
            message = str(self.error) if known else f"{type(self.error).__name__}: {self.error}"
            trace = "".join(traceback.format_exception(self.error))
            outcome = outcome._replace(name=self._name, message=message, bad_input=bad_input, trace=trace)
        _wait(self.comm.Ibarrier().Test)
        outcomes: list[_Outcome] = self.comm.allgather(outcome)
        for other in others:
            if outcomes[other].name:
                self.comm.recv(source=other, tag=_STOP)
            while self.rank == 0 and self._received[other] < outcomes[other].sent:
                self._take(other)  # and dropped
        _wait(self._gone)
        return outcomes

    def _check(self) -> None:
        if self.comm.Iprobe(tag=_STOP):
            raise _StopError

    def _take(self, source: int) -> Part:
        # no look at the other ranks in between: what is announced is on its way
        header = self.comm.recv(source=source, tag=_PART)
        mantissa, exponent = (np.empty(shape, dtype) for shape, dtype in header)
        for chunk in _chunks(mantissa, exponent):
            _wait(self.comm.Irecv(chunk, source=source, tag=_PART).Test)
        self._received[source] += 1
        return mantissa, exponent

    def _gone(self) -> bool:
        self._under_way = [request for request in self._under_way if not request.Test()]
        return not self._under_way


def _together(comm: Any, body: Callable[[_Channel], Any], *, share: bool = False) -> Any:
    """Run `body` on every rank; all return, or all raise.

    Args:
        comm: the communicator, of two ranks or more.
        body: this rank's share of the work.
        share: whether the part that rank 0's body returns is everybody's result.
    """
    result = None
    try:
        channel = _Channel(comm)
        with suppress(_StopError):
            result = body(channel)
        outcomes = channel.finish()
        failures = [outcome for outcome in outcomes if outcome.name]
        if share and not failures:
            result = channel.share(result)
        channel.comm.Free()
    except BaseException as error:
        # the ranks cannot agree any more, and must not wait for each other
        traceback.print_exception(error)
        abort(comm)
    if not failures:
        return result
    first, mine = failures[0], channel.error
    if mine is not None and not isinstance(mine, Exception):
        raise mine  # Ctrl-C stays what it is
    same = all(failure.bad_input and failure.message == first.message for failure in failures)
    if same and len(failures) == sum(outcome.attempted for outcome in outcomes):
        raise ValueError(first.message) if mine is None else mine
    told = RuntimeError(
        f"rank {first.rank} of {channel.size} failed at {first.name}; all ranks stop: {first.message}"
    )
    if first.rank != channel.rank:
        told.add_note(f"On rank {first.rank}:\n{first.trace}")
    raise told from mine


def _wait(ready: Callable[[], Any], check: Callable[[], None] = lambda: None) -> None:
    for looks in itertools.count():
        if ready():
            return
        check()
        time.sleep(0 if looks < _LOOKS else _SLEEP)  # at first only let others run


def _chunks(*arrays: np.ndarray) -> Iterator[np.ndarray]:
    """The arrays' bytes in pieces that fit a message; they share memory where that is contiguous."""
    for array in arrays:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        yield from (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
