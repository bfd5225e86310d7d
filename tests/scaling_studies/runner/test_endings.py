"""Runners that are killed, or asked to stop, as processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from qrt_tn.studies.benchmarks.studies.kills import kill_often
from qrt_tn.studies.config import Study, load_study
from qrt_tn.studies.runner.process import launcher_missing
from qrt_tn.studies.runner.stopping import Stop
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_results

TEXT = """name = "s"
experiment = "rehearsal"
[fixed]
seconds = {seconds}
steps = {steps}
[axes]
number = {numbers}
[resources]
memory = 0.1
ranks = {ranks}
"""


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def write(folder: Path, points: int, seconds: float, steps: int = 1, ranks: int = 1) -> Path:
    file = folder / "s.toml"
    file.write_text(
        TEXT.format(numbers=list(range(1, points + 1)), seconds=float(seconds), steps=steps, ranks=ranks),
        encoding="utf-8",
    )
    return file


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qrt_tn.studies.cli", "study", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def begin_run(file: Path, place: Path) -> subprocess.Popen[str]:
    return begin("run", file, "--store", place, "--no-report", "--processes", 2)


def wait_until(condition: Callable[[], object], runner: subprocess.Popen[str] | None = None) -> None:
    for _ in range(1200):
        if condition():
            return
        if runner is not None and runner.poll() is not None:
            break
        time.sleep(0.05)
    if runner is not None:
        runner.kill()
        pytest.fail(f"it did not come to pass: {runner.communicate()}")
    pytest.fail("it did not come to pass")


def left_behind(place: Path) -> list[str]:
    """Processes that hold a file of a store, or name it."""
    found = []
    for process in psutil.process_iter():
        try:
            said = " ".join(process.cmdline())
            files = [str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
        except (psutil.Error, OSError):
            continue
        if process.pid != os.getpid() and (str(place) in said or any(str(place) in name for name in files)):
            found.append(said)
    return found


def steps_reached(place: Path) -> int:
    """Of the point that is furthest."""
    return max((int(path.read_text()) for path in place.glob("work/*/*/kept/step")), default=0)


def attempts(place: Path, study: Study) -> list[int]:
    logs = (StudyStore(place).log(point.id).read_text(encoding="utf-8") for point in study.points)
    return [log.count("=== attempt ") for log in logs]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 75, "asked to end"),
        (signal.SIGUSR1, 75, "near its time limit"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_signal_stops_a_run_and_frees_its_points(
    tmp_path: Path, number: signal.Signals, code: int, said: str
) -> None:
    place = tmp_path / "store"
    runner = begin_run(write(tmp_path, 4, 120, steps=1000), place)
    wait_until(lambda: steps_reached(place) >= 1, runner)
    os.kill(runner.pid, number)
    out, err = runner.communicate(timeout=60)
    assert runner.returncode == code, err
    assert "Traceback" not in err
    assert f"{said}; go on with: qrt-tn study resume {place}" in out
    assert "4 left" in out
    assert list((place / "locks").iterdir()) == []
    assert StudyStore(place).failed.ids() == set()
    wait_until(lambda: not left_behind(place))


def test_a_killed_runner_takes_its_points_along_and_they_go_on_where_they_were(tmp_path: Path) -> None:
    place, file = tmp_path / "store", write(tmp_path, 2, 3.0, steps=60)
    runner = begin_run(file, place)
    wait_until(lambda: steps_reached(place) >= 4, runner)
    runner.kill()
    runner.communicate()
    wait_until(lambda: not left_behind(place))
    reached = steps_reached(place)
    assert 4 <= reached < 60
    assert StudyStore(place).results.ids() == set()
    assert list((place / "locks").iterdir()) != []  # of the dead
    second = begin_run(file, place)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "2 points finished" in out
    found, damaged = read_results(StudyStore(place))
    assert damaged == []
    assert max(record["tables"]["points"][0]["resumed"] for record in found) == reached
    assert [record["attempt"] for record in found] == attempts_of(found, place)


def attempts_of(found: list[dict[str, object]], place: Path) -> list[int]:
    logs = ((place / str(record["log"])).read_text(encoding="utf-8") for record in found)
    return [log.count("=== attempt ") for log in logs]


def test_a_killed_runner_takes_its_ranks_along(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    if launcher_missing():
        pytest.skip(f"{launcher_missing()}")
    place = tmp_path / "store"
    runner = begin_run(write(tmp_path, 1, 600, steps=6000, ranks=2), place)
    wait_until(lambda: steps_reached(place) >= 1, runner)
    assert left_behind(place)
    runner.kill()
    runner.communicate()
    wait_until(lambda: not left_behind(place))


def test_ten_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    counts = kill_often(tmp_path, 10, points=40, seconds=0.15, latest=3.0)
    assert counts["kills"] == 10
    assert counts["finished"] >= 40
    wrong = ("lost", "changed", "repeated", "unreadable", "orphans", "different")
    assert {name: counts[name] for name in wrong} == dict.fromkeys(wrong, 0)


def test_of_two_runs_on_one_machine_the_second_is_refused_in_a_line(tmp_path: Path) -> None:
    place, file = tmp_path / "store", write(tmp_path, 1, 120, steps=1000)
    first = begin_run(file, place)
    wait_until(lambda: steps_reached(place) >= 1, first)
    told, _ = begin("status", file, "--store", place).communicate(timeout=60)
    assert "at work on this machine: run" in told
    _, err = begin_run(file, place).communicate(timeout=60)
    assert (
        err
        == f"qrt-tn: {place} is being run on this machine already (run); wait until that ends, or stop it\n"
    )
    first.kill()
    first.communicate()
    told, _ = begin("status", file, "--store", place).communicate(timeout=60)
    assert "at work" not in told.replace("nothing is at work", "")


def test_tasks_at_once_share_the_points(tmp_path: Path) -> None:
    place, file = tmp_path / "store", write(tmp_path, 24, 0.15)
    tasks = [
        begin(
            "run", file, "--store", place, "--processes", 1, "--plain", "--task", f"{number}/3", "--group", 0
        )
        for number in range(3)
    ]
    said = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], said
    study = load_study(file)
    assert StudyStore(place).done(study) == study.by_id.keys()
    # again at most what was under way as the others came to their end
    assert sum(attempts(place, study)) <= 24 + 9


def test_ranks_that_are_asked_to_end_have_the_time_for_it_and_no_more(tmp_path: Path) -> None:
    # the leader dies of TERM at once, as Python does; what it has started tidies up first
    place = tmp_path / "store"
    launcher = tmp_path / "launcher"
    launcher.write_text(
        f"#!/bin/sh\ntrap 'sleep 0.5; touch {tmp_path}/tidied; exit' TERM\ntouch {tmp_path}/begun\n"
        "while :; do sleep 0.05; done\n"
    )
    launcher.chmod(0o755)
    file = write(tmp_path, 1, 0.0, ranks=2)
    file.write_text(file.read_text() + "minutes = 0.01\n", encoding="utf-8")
    environment = os.environ | {"QRT_TN_MPIEXEC": str(launcher)}
    command = [
        sys.executable,
        "-m",
        "qrt_tn.studies.cli",
        "study",
        "run",
        file,
        "--store",
        place,
        "--no-report",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "timeout" in done.stderr) == (1, True), done
    assert (tmp_path / "tidied").exists()
    wait_until(lambda: not left_behind(place))
    (failure,) = (tmp_path / "store" / "failed").glob("*/*.json")
    # ranks that never begin have as long again for it
    assert json.loads(failure.read_text())["wall_seconds"] >= 1.2


def test_a_retry_that_is_stopped_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    place, file = tmp_path / "store", write(tmp_path, 1, 120, steps=1000)
    study = load_study(file)
    failure = {"id": study.points[0].id, "kind": "error", "reason": "RuntimeError: no", "attempt": 1}
    store = StudyStore.make(place, study)
    store.keep(study)
    store.publish_failure(failure)
    runner = begin("retry", "--failed", file, "--store", place, "--no-report")
    wait_until(lambda: steps_reached(place) >= 1, runner)
    runner.terminate()
    out, err = runner.communicate(timeout=60)
    assert runner.returncode == 75, out + err
    # `resume` leaves failed points alone
    assert "study retry --failed" in out
    assert json.loads(store.failed.path(study.points[0].id).read_text())["reason"] == "RuntimeError: no"


@pytest.mark.parametrize(
    ("number", "then", "remembered"),
    [
        (signal.SIGINT, signal.SIGTERM, signal.SIGINT),
        (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM),
        (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR1),
        # what is taken away near its time limit is not to be requeued
        (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM),
    ],
)
def test_the_first_signal_is_remembered(number: int, then: int, remembered: int) -> None:
    before = signal.getsignal(number)
    with Stop() as stop:
        assert stop.reason is None
        signal.raise_signal(number)
        signal.raise_signal(then)
        assert stop.number == remembered
        assert stop.reason
    assert signal.getsignal(number) is before


def test_a_second_interrupt_is_the_usual_one() -> None:
    with Stop():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
