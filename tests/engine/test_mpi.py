"""Ranks that are threads of this process, and real ones under mpiexec."""

import collections
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qrt_tn import engine
from qrt_tn.engine import mpi
from qrt_tn.engine.mpi import (
    GROUPS,
    choose_device,
    ending_together,
    ranks,
    reduce_slices,
    slice_groups,
    spread_items,
    world,
)
from tests.engine.ranks import PROGRAMS, Ended, Threads, on_threads, together

MPIEXEC = Path(sys.executable).parent / "mpiexec"
needs_mpi = pytest.mark.skipif(
    not MPIEXEC.exists(), reason=f"no mpiexec beside {sys.executable}: pip install 'qrt-tn[mpi]'"
)
ONE = (np.ones(()), np.array(0))


def run(count, program, *arguments, timeout=60):
    """Run a program on some ranks; a run that hangs fails the test."""
    # what a launcher around these tests has set is not for the ranks in here
    theirs = ("PMI", "PMIX", "HYD", "MPI", "OMPI", "PRTE", "SLURM", "PALS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environment |= {"HYDRA_LAUNCHER": "fork", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    command = [MPIEXEC, "-n", str(count), sys.executable, PROGRAMS / f"{program}.py", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{program} {arguments} on {count} ranks still ran after {timeout} s:\n{out}\n{err}")
    return SimpleNamespace(code=process.returncode, out=out, err=err)


# real ranks


@needs_mpi
def test_ranks_have_the_bits_of_one_process_and_hear_of_failures(tmp_path):
    for count in (3, 2):  # the second finds the first's checkpoint
        found = run(count, "together", str(tmp_path / "run"), timeout=300)
        assert (found.code, found.err, found.out) == (0, "", "done\n" * count)
    assert len(list((tmp_path / "run").glob("batch-*"))) == 8


@needs_mpi
@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("killed", ""),
        ("exit", ""),
        ("uncaught", "failed at slices 1 to 2 of 100; all ranks stop: KeyError: 'nobody catches this'"),
        ("alone", "KeyError: 'before the others could know'"),
        ("leaves", "this rank leaves"),
        ("aborts", ""),
        ("interrupt", "KeyboardInterrupt"),
    ],
)
def test_a_failed_rank_ends_the_job(ending, message, tmp_path):
    done = run(2, "endings", ending, str(tmp_path))
    assert done.code != 0
    assert message in "".join(path.read_text() for path in sorted(tmp_path.iterdir()))
    assert "the end" not in done.out


# ranks that are threads


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 70])
def test_parts_are_added_in_order(size):
    """Numbers of ranks that do not divide the groups, and more ranks than groups."""
    for count in (1, 1000):
        starts = [group.start for group in slice_groups(count, size)]
        expected = functools.reduce(lambda total, start: (total * 31 + start) % together().PRIME, starts)
        for mantissa, exponent in on_threads(size, lambda comm, n=count: together().numbered(n, (2,), comm)):
            assert (mantissa == expected).all()
            assert exponent == count


@pytest.mark.parametrize("count", [2, 200])
def test_arrays_on_a_device_stay_there(device, count):
    """With fewer slices than ranks, too: who contracted nothing gets the result where the others have it."""

    def contract_range(group):
        return device.asarray(np.full(3, float(sum(group)))), device.asarray(np.arange(3))

    def add(left, right):
        return left[0] + right[0], left[1]

    for part in on_threads(3, lambda comm: reduce_slices(count, contract_range, add, comm)):
        assert all(isinstance(array, device.ndarray) for array in part)
        assert (part[0].get() == count * (count - 1) / 2).all()
        assert (part[1].get() == np.arange(3)).all()


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
            return ONE

        if kind == "items":
            return spread_items(99, work, comm)
        return reduce_slices(99, work, lambda left, right: left, comm)

    assert all(isinstance(outcome, RuntimeError) for outcome in on_threads(3, call))
    assert len(made) == 2
    assert max(made.values()) < 20  # of 21 or more


def test_at_most_one_part_waits_for_rank_0():
    """A worker that is ahead waits before it makes more parts than one under way and one in hand."""
    made = collections.Counter()
    most = []

    def total(comm):
        def contract_range(group):
            if comm.rank == 0 and not most:
                deadline = time.monotonic() + 10
                while made[1] < 2 and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(0.05)
                most.append(made[1])
            made[comm.rank] += 1
            return np.ones(4), np.array(0)

        return reduce_slices(64, contract_range, lambda a, b: (a[0] + b[0], a[1]), comm)

    assert all((mantissa == 64).all() for mantissa, _ in on_threads(2, total))
    assert most == [2]


def test_an_error_of_mpi_itself_aborts(capsys):
    comm = Threads(0, 2, {})
    comm.Idup = lambda: {}["no MPI"]
    with pytest.raises(Ended):
        spread_items(3, str, comm)
    assert comm.aborted == [1]
    assert "KeyError: 'no MPI'" in capsys.readouterr().err


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
    for comm, met in ((Threads(1, 2, {}), codes), (Threads(0, 1, {}), []), (None, [])):
        with pytest.raises(Ended if met else type(error)), ending_together(comm):
            raise error
        assert comm is None or comm.aborted == met
        assert capsys.readouterr().err.endswith(text if met else "")


# one process


def test_groups_are_fixed():
    for count in (1, 2, 63, 64, 65, 1000, 12345):
        groups = slice_groups(count)
        assert [number for group in groups for number in group] == list(range(count))
        assert len(groups) == min(count, GROUPS)
        lengths = {len(group) for group in groups}
        assert max(lengths) - min(lengths) <= 1
        assert all(slice_groups(count, size) == groups for size in (1, 2, 4, 48, GROUPS))
        assert len(slice_groups(count, 100)) == min(count, 100)


def test_the_plan_against_einsum():
    terms = ",".join(map("".join, together().INPUTS))
    expected = np.einsum(f"{terms}->z", *together().plan_arrays())
    for comm in (None, Threads(0, 1, {})):
        assert np.allclose(together().plan_result(comm).value(), expected, rtol=1e-12)


def test_progress_and_errors_in_one_process():
    shown = []
    reduce_slices(130, lambda group: ONE, lambda a, b: a, progress=lambda *done: shown.append(done))
    assert shown == [(group.stop, 130) for group in slice_groups(130)]
    assert spread_items(3, str) == {0: "0", 1: "1", 2: "2"}
    assert spread_items(0, str) == {}
    with pytest.raises(ValueError, match="count is 0"):
        reduce_slices(0, lambda group: ONE, lambda a, b: a)
    with pytest.raises(ValueError, match="count is -1"):
        spread_items(-1, str)
    with pytest.raises(KeyError):  # as it is: there is nobody to tell
        spread_items(1, lambda item: {}[item])


def test_what_is_no_communicator_is_refused():
    plan = engine.plan(([("i",)], (), {"i": 2}))
    for comm in (5, True, "world", np.ones(3), Threads):
        for call in (
            choose_device,
            lambda comm: spread_items(1, str, comm),
            lambda comm: reduce_slices(1, lambda group: ONE, lambda a, b: a, comm),
            lambda comm: plan.execute([np.ones(2)], "numpy", comm=comm),
            lambda comm: plan.execute_many([np.ones((3, 2))], "numpy", comm=comm),
        ):
            with pytest.raises(TypeError, match="comm is") as caught:
                call(comm)
            assert repr(comm) in str(caught.value)


@pytest.fixture
def asked_again():
    ranks.cache_clear()
    world.cache_clear()
    yield
    ranks.cache_clear()


def test_whether_mpi_is_here(asked_again):
    started = "mpi4py.MPI" in sys.modules
    found = ranks()
    assert found.name == "mpi"
    assert bool(found.reason) == bool(found.remedy) == (not found.available)
    if MPIEXEC.exists():
        assert found.available
        assert "MPI" in found.device
    assert ("mpi4py.MPI" in sys.modules) == started, "asking must not start MPI in this process"


def test_no_mpi(asked_again, monkeypatch):
    if MPIEXEC.exists():
        error = subprocess.CalledProcessError(1, "python", "", "Traceback ...\nRuntimeError: no library\n")
        monkeypatch.setattr(mpi.subprocess, "run", lambda *command, **options: (_ for _ in ()).throw(error))
        assert ranks().reason == "the MPI library does not load (RuntimeError: no library)"
        ranks.cache_clear()
    monkeypatch.setattr(mpi.importlib.util, "find_spec", lambda name: None)
    assert not ranks().available
    assert ranks().reason == "the package mpi4py is not installed"
    assert "pip install 'qrt-tn[mpi]'" in ranks().remedy
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ValueError, match=r"MPI is not available: .*mpi4py.*; pip install 'qrt-tn\[mpi\]'"):
        world()


def test_one_rank_alone_keeps_its_device():
    assert choose_device(None) is None
    assert choose_device(Threads(0, 1, {})) is None
