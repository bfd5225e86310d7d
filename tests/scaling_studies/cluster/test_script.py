"""What generated scripts say to sbatch, and what they do when signals come."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from qrt_tn.studies.cluster import Request
from qrt_tn.studies.cluster.arrays import arrays
from qrt_tn.studies.cluster.script import SIGNALS, batch_script, run_command
from qrt_tn.studies.config import load_study

AWKWARD = 'it\'s a "folder" $HOME `x` \\ of mine'


def script_of(study, request, folder, python="/opt/py thon/bin/python", **more):
    (array,) = arrays(study, [point.id for point in study.points], request, 1001)
    place = {"folder": folder / "slurm" / "now", "store": folder, "cwd": folder}
    return batch_script(array, request, study=study.name, quick=False, python=python, **place, **more)


def asked(text):
    """The options after #SBATCH, as sbatch takes them apart."""
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    return [word for line in lines for word in shlex.split(line)]


def test_options(study_file, tmp_path):
    study = load_study(
        study_file(numbers=range(6), gpus=1, cores=3, ranks=2, memory=4, exclusive=True, minutes=20)
    )
    request = Request(
        partition="gpu",
        account="me",
        qos="low",
        constraint="a100|h100",
        limit=2,
        time=60,
        requeues=7,
        grace=90,
        setup=("module load cuda",),
    )
    text = script_of(study, request, tmp_path)
    assert asked(text) == [
        "--job-name=qrt-tn-tried",
        "--partition=gpu",
        "--account=me",
        "--qos=low",
        "--constraint=a100|h100",
        "--array=0-5%2",
        "--ntasks=2",
        "--cpus-per-task=3",
        "--gpus-per-task=1",
        "--time=23",
        "--mem-per-cpu=768M",
        "--exclusive",
        "--output=log-%A_%a.txt",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@90",
    ]
    assert "\nmodule load cuda\n" in text
    assert "\nrequeues=7\n" in text
    assert SIGNALS in text
    # all #SBATCH lines come before the first command, or sbatch does not see them
    first = next(n for n, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in text.splitlines()[first:])


def test_awkward_paths_reach_the_runner(study_file, tmp_path):
    folder = tmp_path / AWKWARD
    (folder / "slurm" / "now").mkdir(parents=True)
    python = folder / "python"
    python.write_text('#!/bin/sh\npwd > seen\nprintf "%s\\n" "$@" >> seen\n')
    python.chmod(0o755)
    text = script_of(load_study(study_file()), Request(), folder, python=str(python))
    done = subprocess.run(["bash", "-c", text], check=True, capture_output=True, text=True)
    expected = run_command(str(python), folder / "slurm" / "now" / "study.toml", folder, 0, False)
    assert (folder / "seen").read_text().splitlines() == [str(folder), *expected[1:]]
    assert "left with code 0" in done.stdout


def test_what_the_runner_is_told(study_file, tmp_path):
    def command(text):
        (line,) = [line for line in text.splitlines() if line.startswith("start ")]
        return shlex.split(line)

    plain, needing = load_study(study_file()), load_study(study_file(gpus=1))
    assert not {"--gpus", "--failed-before"} & set(command(script_of(plain, Request(), tmp_path)))
    assert "--gpus" not in command(script_of(needing, Request(gpus=2), tmp_path))
    text = script_of(plain, Request(gpus=2), tmp_path, failed_before="2026-01-02T03:04:05+00:00")
    assert command(text)[-4:] == ["--gpus", "2", "--failed-before", "2026-01-02T03:04:05+00:00"]
    assert "--gpus-per-task=2" in asked(text)


def test_syntax(study_file, tmp_path):
    path = tmp_path / "script"
    path.write_text(script_of(load_study(study_file()), Request(), tmp_path / AWKWARD))
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)


def end_with(slurm, study, tmp_path, runner, sent, environment=None):
    """Run a script around a runner, send it a signal, and give its code and what it printed."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{runner}\n")
    python.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(script_of(study, Request(requeues=2), tmp_path, python=str(python)))
    own = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "9"}
    process = subprocess.Popen(
        ["bash", script], stdout=subprocess.PIPE, text=True, env=os.environ | own | (environment or {})
    )
    if sent is not None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        process.send_signal(sent)
    said, _ = process.communicate(timeout=20)
    requeued = [call for call in slurm.calls("scontrol") if call[0] == "requeue"]
    return process.returncode, said, requeued


# waits for the signal, ends in its own time, and only then with its code
STOPS = "trap 'sleep 0.3; touch stopped; exit 75' {}\ntouch ready\nwhile :; do sleep 0.02; done"


@pytest.fixture
def study(study_file):
    return load_study(study_file())


def test_near_the_time_limit_the_task_is_requeued(slurm, study, tmp_path):
    code, said, requeued = end_with(slurm, study, tmp_path, STOPS.format("USR1"), signal.SIGUSR1)
    assert (tmp_path / "stopped").exists()  # it was waited for
    assert code == 75
    assert requeued == [["requeue", "7_3"]]
    assert "back in the queue" in said


def test_requeues_end(slurm, study, tmp_path):
    restarts = {"SLURM_RESTART_COUNT": "2"}
    code, said, requeued = end_with(slurm, study, tmp_path, STOPS.format("USR1"), signal.SIGUSR1, restarts)
    assert (code, requeued) == (75, [])
    assert "after 2 restarts, for whatever reason, this task gives up: points are left" in said
    assert "submit the study again" in said


def test_a_requeue_that_fails_is_told(slurm, study, tmp_path):
    slurm.tell(scontrol=[[1, "slurm_load_jobs error"]])
    code, said, requeued = end_with(slurm, study, tmp_path, STOPS.format("USR1"), signal.SIGUSR1)
    assert (code, len(requeued)) == (75, 1)
    assert "scontrol requeue failed; submit the study again" in said


def test_what_slurm_takes_away_is_not_requeued_twice(slurm, study, tmp_path):
    code, _, requeued = end_with(slurm, study, tmp_path, STOPS.format("TERM"), signal.SIGTERM)
    assert (code, requeued) == (75, [])
    assert (tmp_path / "stopped").exists()


def test_a_signal_before_the_runner_listens(slurm, study, tmp_path):
    code, _, requeued = end_with(slurm, study, tmp_path, "touch ready\nexec sleep 10", signal.SIGUSR1)
    assert (code, requeued) == (75, [["requeue", "7_3"]])


def test_a_runner_that_stops_by_itself_is_requeued(slurm, study, tmp_path):
    # it leaves with this code when it finds that another node of its job is lost
    code, said, requeued = end_with(slurm, study, tmp_path, "exit 75", None)
    assert (code, requeued) == (75, [["requeue", "7_3"]])
    assert "the runner stopped by itself: back in the queue, after 0 restarts so far" in said


@pytest.mark.parametrize("first", [signal.SIGUSR1, signal.SIGTERM])
def test_once_taken_away_a_task_is_not_requeued(slurm, study, tmp_path, first):
    second = {signal.SIGUSR1: "TERM", signal.SIGTERM: "USR1"}[first]
    # the other signal comes while the runner is stopping
    runner = f"trap 'kill -{second} $PPID; sleep 0.2; exit 75' {first.name[3:]}\ntrap '' {second}\n"
    runner += "touch ready\nwhile :; do sleep 0.02; done"
    code, _, requeued = end_with(slurm, study, tmp_path, runner, first)
    assert (code, requeued) == (75, [])


@pytest.mark.parametrize("code", [0, 1, 2, 130, 143])
def test_codes_of_a_runner_that_was_not_told_to_stop(slurm, study, tmp_path, code):
    found, said, requeued = end_with(slurm, study, tmp_path, f"exit {code}", None)
    assert (found, requeued) == (code, [])
    assert f"left with code {code}" in said


def test_the_finished_task_wins_over_a_late_signal(slurm, study, tmp_path):
    runner = "trap 'exit 0' USR1\ntouch ready\nwhile :; do sleep 0.02; done"
    code, _, requeued = end_with(slurm, study, tmp_path, runner, signal.SIGUSR1)
    assert (code, requeued) == (0, [])


MODULE = 'module() { false; [ -n "$LOADED" ] && true; [ "$2" = there ]; }'


@pytest.mark.parametrize(
    "line",
    [
        "false",
        "exit-is-no-such-program",
        "module load missing",
        ". ./no-such-file",
        ". ./fails",
        "cd no-such-folder",
        "(exit 3)  # a comment",
    ],
)
def test_setup_that_fails_ends_the_task(study, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails").write_text("true\nfalse\n")
    (tmp_path / "python").write_text("#!/bin/sh\ntouch ran\n")
    (tmp_path / "python").chmod(0o755)
    request = Request(setup=(MODULE, "module load there", line, "touch later"))
    text = script_of(study, request, tmp_path, python=str(tmp_path / "python"))
    done = subprocess.run(["bash", "-c", text], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "qrt-tn: a line of the setup failed with code" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "later").exists()


def test_setup_may_fail_on_its_way(slurm, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    (tmp_path / "env").write_text("false\nexport SEEN=here\n")
    # functions, sourced files and tests may fail inside; a user's own options do not stay
    setup = (
        MODULE,
        "module load there",
        ". ./env",
        "if false; then",
        "false",
        "fi",
        "false || true",
        "set -e",
    )
    (tmp_path / "python").write_text('#!/bin/sh\necho "$SEEN" > seen\nexit 75\n')
    (tmp_path / "python").chmod(0o755)
    script = tmp_path / "script"
    script.write_text(script_of(study, Request(setup=setup), tmp_path, python=str(tmp_path / "python")))
    done = subprocess.run(["bash", script], check=False, capture_output=True, text=True)
    assert done.returncode == 75
    assert (tmp_path / "seen").read_text() == "here\n"
    assert len([call for call in slurm.calls("scontrol") if call[0] == "requeue"]) == 1


def test_commands_name_what_they_run(tmp_path):
    command = run_command("python", Path("/s/study.toml"), Path("/s"), 2, True)
    expected = "python -m qrt_tn.studies.cli study run /s/study.toml --store /s --group 2 --plain --quick"
    assert command == expected.split()
