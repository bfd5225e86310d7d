import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from qrt_tn.studies.store import runners as room
from qrt_tn.studies.store.runners import SILENT, Registration, Runner, Runners, slurm_job, this_runner

DIGEST = 20 * "0"


@pytest.fixture
def runners(tmp_path: Path) -> Runners:
    (tmp_path / "runners").mkdir()
    return Runners(tmp_path / "runners")


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def ended() -> Runner:
    """A runner of this machine whose process is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(this_runner(DIGEST), token="ended", pid=process.pid, born="123")


@pytest.fixture
def other_process() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


def put(runners: Runners, runner: Runner, age: float = 0.0) -> Runner:
    path = runners.path(runner.token)
    path.write_text(json.dumps(asdict(runner)), encoding="utf-8")
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return runner


def test_this_process_is_a_runner_while_it_is_registered(runners: Runners) -> None:
    mine = this_runner(DIGEST)
    with Registration(runners, mine):
        assert runners.read(mine.token) == mine
        assert runners.living() == [mine]
        assert f"process {os.getpid()} on " in str(mine)
    assert runners.all() == []
    assert runners.read(mine.token) is None
    assert list(runners.folder.iterdir()) == []


def test_two_runners_of_one_process_have_two_names() -> None:
    assert this_runner(DIGEST).token != this_runner(DIGEST).token


def test_a_registered_runner_shows_that_it_lives(runners: Runners, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BEAT", 0.02)
    mine = this_runner(DIGEST)
    with Registration(runners, mine):
        path = runners.path(mine.token)
        os.utime(path, (1.0, 1.0))
        for _ in range(500):
            if path.stat().st_mtime > 1.0:
                break
            time.sleep(0.02)
        assert path.stat().st_mtime > time.time() - 60


def test_a_runner_lives_as_long_as_its_process(runners: Runners, ended: Runner, other_process: int) -> None:
    put(runners, ended)
    assert not runners.alive(ended)
    born = Path(f"/proc/{other_process}/stat").read_text().rpartition(")")[2].split()[19]
    living = put(runners, replace(ended, token="living", pid=other_process, born=born))
    assert runners.alive(living)
    # on its own machine the process tells, however old the file
    put(runners, living, age=10 * SILENT)
    assert runners.living() == [living]
    assert not runners.doubtful(living)


def test_a_later_process_of_the_same_number_is_another_one(runners: Runners, other_process: int) -> None:
    later = put(runners, replace(this_runner(DIGEST), token="later", pid=other_process, born="1"))
    assert not runners.alive(later)


def test_the_remains_of_a_process_are_not_alive(runners: Runners) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    runner = put(runners, replace(this_runner(DIGEST), token="zombie", pid=process.pid, born=born))
    assert runners.alive(runner)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet fetched
    try:
        assert not runners.alive(runner)
    finally:
        process.communicate()


@pytest.mark.parametrize(
    ("age", "alive", "doubtful"),
    [(0.0, True, False), (30.0, True, True), (SILENT + 5, False, False), (1e6, False, False)],
)
def test_on_another_machine_the_age_of_the_last_sign_tells(
    runners: Runners, ended: Runner, age: float, alive: bool, doubtful: bool
) -> None:
    far = put(runners, replace(ended, token="far", host="far", space="other boot/pid:[1]"), age=age)
    assert (runners.alive(far), runners.doubtful(far)) == (alive, doubtful)
    assert [path.name for path in runners.folder.iterdir()] == ["far.json"]


def test_a_store_that_may_only_be_read_still_tells_who_lives(
    runners: Runners, ended: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a login node, say, with somebody else's store
    far = put(runners, replace(ended, token="far", space="other boot/pid:[1]"))
    silent = put(runners, replace(ended, token="silent", space="other boot/pid:[1]"), age=2 * SILENT)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    assert runners.alive(far)
    assert not runners.alive(silent)


def test_a_far_runner_that_has_signed_off_is_dead(runners: Runners, ended: Runner) -> None:
    assert not runners.alive(replace(ended, token="gone", space="other boot/pid:[1]"))


def test_a_job_begun_again_knows_that_its_predecessor_is_gone(runners: Runners, ended: Runner) -> None:
    far = replace(ended, host="far", space="other boot/pid:[1]", job="12_3")
    first = put(runners, replace(far, token="first", restart=0))
    second = replace(this_runner(DIGEST), job="12_3", restart=1)
    assert runners.alive(first)
    assert not runners.alive(first, second)
    assert runners.alive(first, replace(second, job="12_4"))
    assert runners.living(second) == []
    # and the other way round: a predecessor that lingers does not take over from its successor
    later = put(runners, replace(far, token="later", restart=2))
    assert runners.alive(later, second)


def test_a_runner_that_died_in_the_same_start_of_a_job_is_dead(runners: Runners, ended: Runner) -> None:
    # two commands in one batch script or one salloc: the first was killed, the second goes on
    first = put(runners, replace(ended, job="12", restart=0))
    second = replace(this_runner(DIGEST), job="12", restart=0)
    assert not runners.alive(first)
    assert not runners.alive(first, second)
    silent = replace(first, token="silent", space="other boot/pid:[1]")
    assert not runners.alive(put(runners, silent, age=2 * SILENT), second)


def test_files_that_are_no_runners_are_passed_over(runners: Runners, ended: Runner) -> None:
    put(runners, ended)
    (runners.folder / "half.json").write_text('{"token": "half', encoding="utf-8")
    (runners.folder / "other.json").write_text('{"token": "other"}', encoding="utf-8")
    (runners.folder / "list.json").write_text("[]", encoding="utf-8")
    assert runners.all() == [ended]
    assert Runners(runners.folder / "absent").all() == []


def test_the_job_is_told_as_slurm_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (slurm_job(), this_runner(DIGEST).job, this_runner(DIGEST).restart) == (None, None, 0)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert slurm_job() == "77"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert (this_runner(DIGEST).job, this_runner(DIGEST).restart) == ("70_3", 2)
    assert "SLURM job 70_3" in str(this_runner(DIGEST))


def test_a_runner_that_was_taken_for_dead_registers_again(
    runners: Runners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BEAT", 0.01)
    mine = this_runner(DIGEST)
    with Registration(runners, mine):
        runners.path(mine.token).unlink()
        until = time.monotonic() + 20
        while runners.read(mine.token) is None and time.monotonic() < until:
            time.sleep(0.01)
        assert runners.read(mine.token) == mine
