"""All ranks return or all ranks raise: the protocol under every call that is spread over MPI ranks.

Rank 0 leads. A worker (any other rank) sends it the parts it has contracted, in order, and at its end
exactly one report: how many parts it sent, and what failed, if anything. A worker looks for the word to
stop after each piece of its work. Rank 0 looks for reports after each piece of its own and while it waits;
at the first failure it tells the workers to stop, takes what is still under way from them, and only then
gives its verdict to all. So nobody waits for a rank that has stopped, no message is left over, and the
ranks can go on together after an error. What no report can tell (an error of MPI itself, Ctrl-C while ranks
exchange) ends the whole job with `Abort`. All waiting is polling with short sleeps: it leaves the cores to
ranks that compute, and Ctrl-C gets through.

A communicator is mpi4py's, or anything with the same methods; nothing here imports mpi4py.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from qrt_tn.engine.backends import array_module, namespace
from qrt_tn.engine.exponents import Part, on_host

_CHUNK = 2**26  # bytes in a message; MPI counts end at 2**31
_LOOKS = 200  # that often a rank looks for a message before it begins to sleep
_SLEEP = 1e-3  # seconds between two looks then
_ENDING = 10.0  # seconds that a launcher has for ending the ranks
_CONTROL, _STREAM = 1, 2  # tags: reports and orders; parts

T = TypeVar("T")


class Failure(NamedTuple):
    """What went wrong on one rank, in words that travel."""

    rank: int
    name: str
    bad_input: bool
    message: str
    trace: str


class _Report(NamedTuple):
    """A worker's only word to rank 0 beside its parts."""

    parts: int
    attempted: bool
    failure: Failure | None


class _Verdict(NamedTuple):
    """Rank 0's last word: the failure, if any, and whether every rank that had work met the same one."""

    failure: Failure | None
    everywhere: bool


class _WorkError(Exception):
    """The caller's own code failed here; its exception is the cause."""

    def __init__(self, name: str, cause: BaseException) -> None:
        super().__init__(name)
        self.name = name
        self.cause = cause


class _StopError(Exception):
    """Another rank has failed, so this one stops."""


class Exchange:
    """What the ranks say to each other in one call, over a communicator of its own.

    Attributes:
        rank: this rank.
        size: how many there are.
    """

    def __init__(self, comm: Any) -> None:
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        # on a communicator of its own, no message can meet one of the caller's
        self._comm, made = comm.Idup()
        self._wait(made.Test)
        self._workers = range(1, self.size)
        self._attempted = False
        self._parts = [0] * self.size  # sent by this worker; on rank 0, received from each
        self._reports: dict[int, _Report] = {}
        self._told = False  # whether the workers have been told to stop
        self._under_way: list[Any] = []

    def attempt(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """Run the caller's code; what it raises becomes this rank's failure at `name`."""
        self._attempted = True
        try:
            return function(*arguments)
        except BaseException as error:
            raise _WorkError(name, error) from error

    def check(self) -> None:
        """Stop here if another rank is known to have failed."""
        # before a worker has reported, rank 0 has nothing to say to it but to stop
        failed = self._comm.Iprobe(source=0, tag=_CONTROL) if self.rank else self._collect()
        if failed:
            raise _StopError

    def send(self, part: Part) -> None:
        """Start sending a part to rank 0, once the one before has gone; it must not change any more."""
        self._wait(self._sent, self.check)
        arrays = [np.asarray(array) for array in part]
        header = [(array.shape, array.dtype) for array in arrays]
        self._under_way = [self._comm.isend(header, dest=0, tag=_STREAM)]
        for array in arrays:
            self._under_way += [self._comm.Isend(chunk, dest=0, tag=_STREAM) for chunk in _chunks(array)]
        self._parts[self.rank] += 1

    def receive(self, source: int) -> Part:
        """The next part of a worker; another rank's failure ends the wait for it."""
        self._wait(lambda: self._comm.Iprobe(source=source, tag=_STREAM), self.check)
        return self._received(source)

    def share(self, part: Part | None) -> Part:
        """Rank 0's part on every rank."""
        if part is None:
            header, on_device = self._comm.bcast(None, root=0)
            arrays = [np.empty(shape, dtype) for shape, dtype in header]
        else:
            arrays = list(on_host(part))
            on_device = array_module(part[0]) is not np
            self._comm.bcast(([(array.shape, array.dtype) for array in arrays], on_device), root=0)
        for array in arrays:
            for chunk in _chunks(array):
                self._comm.Bcast(chunk, root=0)
        if part is not None:
            return part
        xp = namespace("cupy") if on_device else np
        return xp.asarray(arrays[0]), xp.asarray(arrays[1])

    def agree(self, failure: Failure | None) -> _Verdict:
        """All ranks learn whether all went well; afterwards nothing is under way between them."""
        return self._report(failure) if self.rank else self._judge(failure)

    def free(self) -> None:
        """Give the communicator back."""
        self._comm.Free()

    def _report(self, failure: Failure | None) -> _Verdict:
        report = _Report(self._parts[self.rank], self._attempted, failure)
        self._under_way.append(self._comm.isend(report, dest=0, tag=_CONTROL))
        self._wait(self._sent)
        while True:
            self._wait(lambda: self._comm.Iprobe(source=0, tag=_CONTROL))
            verdict = self._comm.recv(source=0, tag=_CONTROL)
            if verdict is not None:  # None is the word to stop
                return verdict

    def _judge(self, failure: Failure | None) -> _Verdict:
        self._reports[0] = _Report(0, self._attempted, failure)
        self._wait(self._reported)
        for worker in self._workers:
            while self._parts[worker] < self._reports[worker].parts:
                self._received(worker)  # and dropped
        failures = [report.failure for _, report in sorted(self._reports.items()) if report.failure]
        attempts = sum(report.attempted for report in self._reports.values())
        everywhere = (
            len(failures) == attempts
            and all(failure.bad_input for failure in failures)
            and len({failure.message for failure in failures}) == 1
        )
        verdict = _Verdict(failures[0] if failures else None, everywhere)
        self._tell(self._workers, verdict)
        self._wait(self._sent)
        return verdict

    def _reported(self) -> bool:
        """Whether all workers have reported; from the first failure on they are told to stop."""
        if self._collect() and not self._told:
            self._told = True
            self._tell([worker for worker in self._workers if worker not in self._reports], None)
        return len(self._reports) == self.size

    def _collect(self) -> bool:
        """Take the reports that have come in; whether anyone has failed."""
        for worker in self._workers:
            if worker not in self._reports and self._comm.Iprobe(source=worker, tag=_CONTROL):
                self._reports[worker] = self._comm.recv(source=worker, tag=_CONTROL)
        return any(report.failure for report in self._reports.values())

    def _received(self, source: int) -> Part:
        # no look at the other ranks in between: what is announced is on its way
        mantissa, exponent = (
            np.empty(shape, dtype) for shape, dtype in self._comm.recv(source=source, tag=_STREAM)
        )
        for array in (mantissa, exponent):
            for chunk in _chunks(array):
                self._wait(self._comm.Irecv(chunk, source=source, tag=_STREAM).Test)
        self._parts[source] += 1
        return mantissa, exponent

    def _tell(self, workers: Sequence[int], word: _Verdict | None) -> None:
        self._under_way += [self._comm.isend(word, dest=worker, tag=_CONTROL) for worker in workers]

    def _sent(self) -> bool:
        self._under_way = [request for request in self._under_way if not request.Test()]
        return not self._under_way

    def _wait(self, ready: Callable[[], Any], check: Callable[[], None] | None = None) -> None:
        looks = 0
        while not ready():
            if check is not None:
                check()
            # at first only let others run
            time.sleep(0 if looks < _LOOKS else _SLEEP)
            looks += 1


def together(comm: Any, body: Callable[[Exchange], Any], *, share: bool = False) -> Any:
    """Run `body` on every rank; all return, or all raise.

    Args:
        comm: the communicator, of two ranks or more.
        body: this rank's share of the work.
        share: whether the part that rank 0's body returns is everybody's result.

    Raises:
        ValueError: every rank that attempted some work met the same one.
        RuntimeError: a rank failed: its number, what it did, and the message.
    """
    own: BaseException | None = None
    failure = result = None
    try:
        exchange = Exchange(comm)
        try:
            result = body(exchange)
        except _WorkError as error:
            own = error.cause
            failure = _described(exchange.rank, error.name, own)
        except _StopError:
            pass
        verdict = exchange.agree(failure)
        if share and verdict.failure is None:
            result = exchange.share(result)
        exchange.free()
    except BaseException as error:
        # the ranks cannot agree any more, and must not wait for each other
        traceback.print_exception(error)
        abort(comm)
    if verdict.failure is None:
        return result
    if own is not None and not isinstance(own, Exception):
        raise own  # Ctrl-C stays what it is
    if verdict.everywhere:
        raise ValueError(verdict.failure.message) if own is None else own
    raise _told(verdict.failure, exchange) from own


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


def _described(rank: int, name: str, error: BaseException) -> Failure:
    bad_input = isinstance(error, ValueError)
    message = str(error) if bad_input else f"{type(error).__name__}: {error}"
    return Failure(rank, name, bad_input, message, "".join(traceback.format_exception(error)))


def _told(failure: Failure, exchange: Exchange) -> RuntimeError:
    error = RuntimeError(
        f"rank {failure.rank} of {exchange.size} failed at {failure.name}; all ranks stop: {failure.message}"
    )
    if failure.rank != exchange.rank:
        error.add_note(f"On rank {failure.rank}:\n{failure.trace}")
    return error


def _chunks(array: np.ndarray) -> list[np.ndarray]:
    """An array's bytes in pieces that fit a message; they share its memory where that is contiguous."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK)]
