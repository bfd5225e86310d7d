import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qrt_tn.engine import distribute
from qrt_tn.engine.distribute import (
    GROUPS,
    choose_device,
    cutensornet_distributed,
    ranks,
    reduce_slices,
    slice_groups,
    spread_items,
    world,
)
from tests.engine.ranks import PROGRAMS, Threads, many, plans, sums

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
        ("aborts", 2, ""),
        ("interrupt", 2, "KeyboardInterrupt"),
    ],
)
def test_a_failed_rank_ends_the_job(ending, count, message, tmp_path):
    done = run(count, "endings", ending, str(tmp_path))
    assert done.code != 0
    assert message in "".join(path.read_text() for path in sorted(tmp_path.iterdir()))
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
