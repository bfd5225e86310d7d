import collections
import functools
import json
import os
import pickle
import runpy
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine import distribute
from engine.distribute import (
    GROUPS,
    choose_device,
    cutensornet_distributed,
    ending_together,
    ranks,
    reduce_slices,
    slice_groups,
    spread_items,
    world,
)

PROGRAMS = Path(__file__).parent / "mpi_programs"
MPIEXEC = Path(sys.executable).parent / "mpiexec"
needs_mpi = pytest.mark.skipif(
    not MPIEXEC.exists(), reason=f"no mpiexec beside {sys.executable}: pip install 'qrt-tn[mpi]'"
)


def run(count, program, *arguments, timeout=60):
    """Run a program on some ranks; a run that hangs fails the test."""
    # what a launcher around these tests has set is not for the ranks in here
    theirs = ("PMI", "PMIX", "HYD", "MPI", "OMPI", "PRTE", "SLURM", "PALS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environment |= {"HYDRA_LAUNCHER": "fork", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    command = [MPIEXEC, "-n", str(count), sys.executable, PROGRAMS / f"{program}.py", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{program} {arguments} on {count} ranks still ran after {timeout} s:\n{out}\n{err}")
    return SimpleNamespace(code=process.returncode, out=out, err=err)


def answers(count, program, *arguments):
    """What every rank of a program printed as JSON, in the order of ranks."""
    done = run(count, program, *arguments)
    assert (done.code, done.err) == (0, "")
    found = sorted((json.loads(line) for line in done.out.splitlines()), key=lambda answer: answer["rank"])
    assert [answer["rank"] for answer in found] == list(range(count))
    return found


# real ranks


@functools.cache
def sums():
    return SimpleNamespace(**runpy.run_path(str(PROGRAMS / "sums.py")))


@functools.cache
def plans():
    return SimpleNamespace(**runpy.run_path(str(PROGRAMS / "plans.py")))


@functools.cache
def many():
    return SimpleNamespace(**runpy.run_path(str(PROGRAMS / "many.py")))


@needs_mpi
@pytest.mark.parametrize("count", [2, 4])
def test_batches_have_the_same_bits_on_any_number_of_ranks(count, tmp_path):
    expected = many().result(None)
    for answer in answers(count, "many", str(tmp_path / "run")):
        assert answer["result"] == expected
    assert len(list((tmp_path / "run").glob("batch-*"))) == 8
    # and another number of ranks goes on with the same folder
    for answer in answers(2, "many", str(tmp_path / "run")):
        assert answer["result"] == expected


@needs_mpi
def test_a_bad_batch_on_one_rank_is_an_error_on_all():
    for answer in answers(2, "many", "bad"):
        assert "holds NaN or infinity" in answer["error"]


@needs_mpi
@pytest.mark.parametrize("count", [2, 4])
def test_sums_have_the_same_bits_on_any_number_of_ranks(count):
    expected = sums().digests(None)
    for answer in answers(count, "sums"):
        assert answer["digests"] == expected


@needs_mpi
@pytest.mark.parametrize("count", [2, 4])
def test_a_plan_gives_the_same_on_any_number_of_ranks(count):
    expected = plans().result(Threads(0, 1, {}))
    for answer in answers(count, "plans"):
        assert answer["result"] == expected


def test_the_plan_against_einsum():
    terms = ",".join(map("".join, plans().INPUTS))
    expected = np.einsum(f"{terms}->z", *plans().arrays())
    for comm in (None, Threads(0, 1, {})):
        mantissa, log_scale = plans().result(comm)
        assert np.allclose(mantissa * np.exp(log_scale), expected, rtol=1e-12)


@needs_mpi
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_hear_of_a_failure_and_go_on(count):
    slices = 2 * GROUPS
    for answer in answers(count, "failures"):
        rank, met = answer["rank"], answer["met"]

        def heard(name, culprit, place, message, *, rank=rank, met=met):
            kind, text, cause, trace = met.pop(name)
            assert kind == "RuntimeError"
            assert text == f"rank {culprit} of {count} failed at {place}; all ranks stop: {message}"
            # the failed rank has its own exception as the cause, the others its traceback
            assert bool(cause) == (rank == culprit)
            assert (f"On rank {culprit}:" in trace) == (rank != culprit)
            assert message.split(":")[0] in trace
            return cause

        for culprit in range(count):
            first, last = 2 * culprit, slices - 2 * count + 2 * culprit
            for shape in ("()", "(300, 1000)"):
                for when, start in (("early", first), ("late", last)):
                    place = f"slices {start} to {start + 1} of {slices}"
                    heard(f"{when} {culprit} {shape}", culprit, place, "KeyError: 'broken'")
            place = f"item {3 * count + culprit} of {5 * count}"
            heard(f"item {culprit}", culprit, place, "OSError: disk full")
        heard("add", 0, "the sum of the slices", "TypeError: no sum")
        heard("progress", 0, "the display of progress", "TypeError: no sum")
        heard("bad input on one rank", 1, f"slices 2 to 3 of {slices}", "limit is 3; give 4")
        for name, message in (
            ("bad input", "limit is 3; give 4"),
            ("bad input, one slice", "limit is 3; give 4"),
            ("bad input in items", "invalid literal for int() with base 10: 'x'"),
            ("not slices", "count is 0; there must be at least one slice to add up"),
        ):
            kind, text, _, _ = met.pop(name)
            assert (kind, text) == ("ValueError", message)
        for name, message in (("bad input that differs", "limit is 0"), ("all ranks", "KeyError: 'broken'")):
            kind, text, _, _ = met.pop(name)
            place = f"slices 0 to 1 of {slices}"
            assert kind == "RuntimeError"
            assert text == f"rank 0 of {count} failed at {place}; all ranks stop: {message}"
        if rank == 1:
            assert met.pop("interrupt")[0] == "KeyboardInterrupt"
        else:
            heard("interrupt", 1, f"slices 2 to 3 of {slices}", "KeyboardInterrupt: ")
        assert not met


@needs_mpi
@pytest.mark.parametrize(
    ("ending", "count", "message"),
    [
        ("killed", 4, ""),
        ("exit", 2, ""),
        ("uncaught", 2, "failed at slices 1 to 2 of 100; all ranks stop: KeyError: 'nobody catches this'"),
        ("alone", 2, "KeyError: 'before the others could know'"),
        ("leaves", 2, "this rank leaves"),
        ("interrupt", 2, ""),  # the launcher may end before it has passed on what the rank said
    ],
)
def test_a_failed_rank_ends_the_job(ending, count, message):
    done = run(count, "endings", ending)
    assert done.code != 0
    assert message in done.err
    assert "the end" not in done.out


# one process


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000, 12345])
def test_groups_are_fixed(count):
    groups = slice_groups(count)
    assert [number for group in groups for number in group] == list(range(count))
    assert len(groups) == min(count, GROUPS)
    lengths = {len(group) for group in groups}
    assert max(lengths) - min(lengths) <= 1
    assert all(slice_groups(count, size) == groups for size in (1, 2, 4, 48, GROUPS))
    assert len(slice_groups(count, 100)) == min(count, 100)


def test_sums_against_double_precision():
    for root, dtype, tolerance in (
        (3, "complex128", 1e-12),
        (3, "complex64", 1e-4),
        (12, "complex128", 1e-12),
    ):
        count, contract_range = sums().ring_slices(sums().ring(root, root), dtype)
        mantissa, exponent = reduce_slices(count, contract_range, sums().add)
        a, b, c, d = sums().ring(root, root)
        values = np.einsum("asz,sbz,btz,taz->stz", a, b, c, d).reshape(count, 3)
        spread = np.array([0, 900, -900]) * (np.arange(count)[:, None] % 3 - 1)
        expected = (values * 2.0**spread).sum(axis=0)
        assert mantissa.dtype == dtype
        assert np.allclose(mantissa * 2.0**exponent, expected, rtol=tolerance, atol=0)


def test_groups_are_added_in_order():
    for count in (1, 3, 64, 1000):
        starts = [group.start for group in slice_groups(count)]
        expected = functools.reduce(lambda total, start: (total * 31 + start) % sums().PRIME, starts)
        mantissa, exponent = sums().numbered(count, (), None)
        assert (mantissa, exponent) == (expected, count)


def test_progress_and_errors_in_one_process():
    shown = []
    ones = lambda group: (np.ones(()), np.array(0))  # noqa: E731
    reduce_slices(130, ones, lambda left, right: left, progress=lambda *done: shown.append(done))
    assert shown == [(group.stop, 130) for group in slice_groups(130)]
    assert spread_items(3, str) == {0: "0", 1: "1", 2: "2"}
    assert spread_items(0, str) == {}
    with pytest.raises(ValueError, match="count is 0; there must be at least one slice"):
        reduce_slices(0, ones, lambda left, right: left)
    with pytest.raises(ValueError, match="count is -1; it must be 0 or more"):
        spread_items(-1, str)
    with pytest.raises(KeyError):  # as it is: there is nobody to tell
        spread_items(1, lambda item: {}[item])


# ranks that are threads


class Threads:
    """A communicator whose ranks are threads of this process."""

    def __init__(self, rank, size, boxes, context=0):
        self.rank, self.size, self.boxes, self.context = rank, size, boxes, context
        self.made = 0
        self.aborted = []

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def Idup(self):
        self.made += 1
        return Threads(self.rank, self.size, self.boxes, self.made), done(True)

    def Free(self):
        mine = [key for key in self.boxes if key[0] == self.context and key[2] == self.rank]
        assert not any(self.boxes[key] for key in mine), "messages nobody took"

    def Abort(self, code):
        self.aborted.append(code)

    def box(self, source, dest, tag):
        return self.boxes[self.context, source, dest, tag]

    def isend(self, message, dest, tag):
        self.box(self.rank, dest, tag).append(pickle.dumps(message))
        return done(True)

    def Isend(self, buffer, dest, tag):
        assert isinstance(buffer, np.ndarray)
        self.box(self.rank, dest, tag).append(buffer.copy())
        return done(True)

    def Iprobe(self, source, tag):
        return bool(self.box(source, self.rank, tag))

    def recv(self, source, tag):
        while not self.Iprobe(source, tag):
            time.sleep(1e-4)
        return pickle.loads(self.box(source, self.rank, tag).popleft())

    def Irecv(self, buffer, source, tag):
        def arrived():
            if not self.Iprobe(source, tag):
                return False
            buffer[:] = self.box(source, self.rank, tag).popleft()
            return True

        return SimpleNamespace(Test=arrived)

    def bcast(self, message, root):
        return self.Bcast(message, root, pickled=True)

    def Bcast(self, buffer, root, *, pickled=False):
        if self.rank != root:
            received = self.recv(root, "bcast")
            if not pickled:
                buffer[:] = received
            return received
        for dest in range(self.size):
            if dest != root:
                self.isend(buffer, dest, "bcast")
        return buffer


def done(answer):
    return SimpleNamespace(Test=lambda: answer)


def on_threads(size, function):
    """What the function returns on every rank, or the exception it raises."""
    boxes = collections.defaultdict(collections.deque)

    def outcome(rank):
        try:
            return function(Threads(rank, size, boxes))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(outcome, range(size)))


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
    with pytest.raises(KeyError):
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
    with pytest.raises(type(error)), ending_together(comm):
        raise error
    assert comm.aborted == codes
    assert capsys.readouterr().err.endswith(text)
    for alone in (None, Threads(0, 1, {})):
        with pytest.raises(type(error)), ending_together(alone):
            raise error
        assert alone is None or not alone.aborted
    with ending_together(comm):
        pass


@pytest.fixture
def asked_again():
    ranks.cache_clear()
    yield
    ranks.cache_clear()


def test_whether_mpi_is_here(asked_again):
    started = "mpi4py.MPI" in sys.modules
    found = ranks()
    assert found.name == "mpi"
    assert bool(found.reason) == bool(found.mend) == (not found.available)
    if MPIEXEC.exists():
        assert found.available
        assert "MPI" in found.device
    assert ("mpi4py.MPI" in sys.modules) == started, "asking must not start MPI in this process"


def test_no_mpi4py(asked_again, monkeypatch):
    monkeypatch.setattr(distribute.importlib.util, "find_spec", lambda name: None)
    found = ranks()
    assert not found.available
    assert found.reason == "the package mpi4py is not installed"
    assert "pip install 'qrt-tn[mpi]'" in found.mend
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ValueError, match=r"MPI is not available: .*mpi4py.*; pip install 'qrt-tn\[mpi\]'"):
        world()


def test_no_mpi_library(asked_again, monkeypatch):
    pytest.importorskip("mpi4py", reason="no mpi4py: pip install 'qrt-tn[mpi]'")
    answer = SimpleNamespace(
        returncode=1, stdout="", stderr="Traceback ...\nRuntimeError: cannot load MPI library\n"
    )
    monkeypatch.setattr(distribute.subprocess, "run", lambda *command, **options: answer)
    found = ranks()
    assert not found.available
    assert found.reason == "the MPI library does not load (RuntimeError: cannot load MPI library)"
    assert "pip install 'qrt-tn[mpi]'" in found.mend


def test_one_rank_alone_keeps_its_device():
    assert choose_device(None) is None
    assert choose_device(Threads(0, 1, {})) is None


def test_cutensornet_distributed(tmp_path, monkeypatch):
    monkeypatch.delenv("CUTENSORNET_COMM_LIB", raising=False)
    assert not cutensornet_distributed()
    library = tmp_path / "libcutensornet_distributed_interface_mpi.so"
    monkeypatch.setenv("CUTENSORNET_COMM_LIB", str(library))
    assert not cutensornet_distributed()
    library.touch()
    assert cutensornet_distributed()
