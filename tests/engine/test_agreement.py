"""The protocol under every spread call, on ranks that are threads."""

import collections
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from qrt_tn.engine.distribute import (
    GROUPS,
    ending_together,
    reduce_slices,
    slice_groups,
    spread_items,
)
from tests.engine.ranks import Ended, Threads, done, on_threads, sums


@pytest.mark.parametrize("size", [2, 3, 5, 70])
def test_sums_on_threads(size):
    """Numbers of ranks that do not divide the groups, and more ranks than groups."""
    alone = sums().numbered(1000, (2,), None)
    for mantissa, exponent in on_threads(size, lambda comm: sums().numbered(1000, (2,), comm)):
        if size <= GROUPS:
            assert (mantissa == alone[0]).all()
        else:
            starts = [group.start for group in slice_groups(1000, size)]
            assert (
                mantissa == functools.reduce(lambda total, start: (total * 31 + start) % sums().PRIME, starts)
            ).all()
        assert exponent == 1000


@pytest.mark.parametrize("count", [2, 200])
def test_arrays_on_a_device_stay_there(device, count):
    """With fewer slices than ranks, too: who contracted nothing gets the result where the others have it."""

    def contract_range(group):
        return device.asarray(np.full(3, float(sum(group)))), device.asarray(np.arange(3))

    def add(left, right):
        return left[0] + right[0], left[1]

    def total(comm):
        return reduce_slices(count, contract_range, add, comm)

    for mantissa, exponent in on_threads(3, total):
        assert isinstance(mantissa, device.ndarray)
        assert isinstance(exponent, device.ndarray)
        assert (mantissa.get() == count * (count - 1) / 2).all()
        assert (exponent.get() == np.arange(3)).all()


@pytest.mark.parametrize("culprit", [0, 1, 2])
@pytest.mark.parametrize("kind", ["slices", "items"])
def test_nobody_works_to_the_end_after_a_failure(kind, culprit):
    made = collections.Counter()
    failed = threading.Event()

    def call(comm):
        def work(*_):
            if comm.rank == culprit:
                failed.set()
                raise KeyError("broken")
            assert failed.wait(10)
            time.sleep(0.02)
            made[comm.rank] += 1
            return np.ones(()), np.array(0)

        if kind == "items":
            return spread_items(99, work, comm)
        return reduce_slices(99, work, lambda left, right: left, comm)

    assert all(isinstance(outcome, RuntimeError) for outcome in on_threads(3, call))
    assert len(made) == 2
    assert max(made.values()) < 20  # of 21 or more


def test_at_most_one_part_waits_for_rank_0():
    """A worker that is ahead waits before it makes more parts than one under way and one in hand."""
    made = collections.Counter()
    begin = threading.Event()

    class Slow(Threads):
        """A message has gone once it is taken."""

        def Idup(self):
            self.made += 1
            return Slow(self.rank, self.size, self.boxes, self.made), done(True)

        def Isend(self, buffer, dest, tag):
            box = self.box(self.rank, dest, tag)
            message = buffer.copy()
            box.append(message)
            return SimpleNamespace(Test=lambda: not any(item is message for item in box))

    boxes = collections.defaultdict(collections.deque)

    def total(rank):
        def contract_range(group):
            if rank == 0:
                begin.wait(10)
            made[rank] += 1
            return np.ones(4), np.array(0)

        comm = Slow(rank, 2, boxes)
        return reduce_slices(64, contract_range, lambda a, b: (a[0] + b[0], a[1]), comm)

    with ThreadPoolExecutor(2) as pool:
        results = pool.map(total, range(2))
        deadline = time.monotonic() + 10
        while made[1] < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert made[1] == 2
        begin.set()
        assert all((mantissa == 64).all() for mantissa, _ in results)


def test_an_error_of_mpi_itself_aborts(capsys):
    comm = Threads(0, 2, {})
    comm.Idup = lambda: {}["no MPI"]
    with pytest.raises(Ended):
        spread_items(3, str, comm)
    assert comm.aborted == [1]
    assert "KeyError: 'no MPI'" in capsys.readouterr().err


# the rest of the room


@pytest.mark.parametrize(
    ("error", "codes", "text"),
    [
        (SystemExit(), [], ""),
        (SystemExit(0), [], ""),
        (SystemExit(3), [3], ""),
        (SystemExit("no such file"), [1], "no such file\n"),
        (ValueError("bad"), [1], "ValueError: bad\n"),
        (KeyboardInterrupt(), [1], "KeyboardInterrupt\n"),
    ],
)
def test_ending_together(error, codes, text, capsys):
    comm = Threads(1, 2, {})
    with pytest.raises(Ended if codes else type(error)), ending_together(comm):
        raise error
    assert comm.aborted == codes
    assert capsys.readouterr().err.endswith(text)
    for alone in (None, Threads(0, 1, {})):
        with pytest.raises(type(error)), ending_together(alone):
            raise error
        assert alone is None or not alone.aborted
    with ending_together(comm):
        pass
