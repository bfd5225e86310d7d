"""What generated scripts say to sbatch, and what they do before the runner takes over."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qrt_tn.studies.cluster import Request
from qrt_tn.studies.cluster.arrays import arrays
from qrt_tn.studies.cluster.script import batch_script
from qrt_tn.studies.config import load_study

AWKWARD = 'it\'s a "folder" $HOME `x` \\ of mine'


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """The current folder, of an awkward name, where the interpreter tells how it was called."""
    folder = tmp_path / AWKWARD
    folder.mkdir()
    monkeypatch.chdir(folder)
    python = folder / "python"
    python.write_text(
        '#!/bin/sh\npwd > seen\nprintf "%s\\n" "$@" >> seen\nenv > environment\nkill -USR1 $$\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return folder


def script_of(study, request=None, **more):
    request = request or Request()
    (array,) = arrays(study, study.by_id, request, 1001)
    target = ["a study.toml", "--store", AWKWARD]
    return batch_script(array, request, study.name, target, **more)


def asked(text):
    """The options after #SBATCH, as sbatch takes them apart; none comes after the first command."""
    lines = text.splitlines()
    head = lines[: next(n for n, line in enumerate(lines) if line and not line.startswith("#"))]
    found = [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH ")]
    assert len(found) == text.count("#SBATCH")
    return [word for line in found for word in shlex.split(line)]


def run(text, **environment):
    Path("script").write_text(text)
    return subprocess.run(
        ["bash", "script"], check=False, capture_output=True, text=True, env=os.environ | environment
    )


def test_options(study_file):
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
        gpus="a100:1",
        grace=90,
        sbatch=("--reservation=x", "--mail-type=END --comment='two words'"),
    )
    assert asked(script_of(study, request)) == [
        "--job-name=qrt-tn-tried",
        "--partition=gpu",
        "--account=me",
        "--qos=low",
        "--constraint=a100|h100",
        "--array=0-5%2",
        "--ntasks=2",
        "--cpus-per-task=3",
        "--gpus-per-task=a100:1",
        "--time=23",
        "--mem-per-cpu=768M",
        "--exclusive",
        "--output=log-%A_%a.txt",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@90",
        "--reservation=x",
        "--mail-type=END",
        "--comment=two words",
    ]


def test_what_the_runner_is_told(study_file, runner):
    text = script_of(
        load_study(study_file()),
        Request(gpus="2", requeues=7),
        order=runner / "o",
        failed_before="2026-01-02",
    )
    # the runner is the script itself by then, and a signal before it listens does not end it
    assert run(text, SLURM_ARRAY_TASK_ID="1").returncode == 0
    assert (runner / "seen").read_text().splitlines() == [
        str(runner),
        *("-m", "qrt_tn.studies.cli", "study", "run", "a study.toml", "--store", AWKWARD, "--plain"),
        *("--group", "0", "--requeues", "7", "--order", str(runner / "o"), "--gpus", "2"),
        *("--failed-before", "2026-01-02", "--task", "1/3"),
    ]
    assert run(script_of(load_study(study_file()))).returncode == 0
    assert (runner / "seen").read_text().splitlines()[-4:] == ["--requeues", "20", "--task", "0/3"]


@pytest.mark.parametrize(
    ("nodes", "launcher", "bootstrap", "kept"),
    [("1", "", "fork", True), ("2", "mpirun -n {ranks}", None, False), ("2", "srun --mpi=pmix", None, True)],
)
def test_what_launchers_of_ranks_find(study_file, runner, nodes, launcher, bootstrap, kept):
    text = script_of(load_study(study_file(numbers=[1], ranks=2, cores=3, gpus=1)))
    run(text, SLURM_JOB_NUM_NODES=nodes, SLURM_GPUS_PER_TASK="1", QRT_TN_MPIEXEC=launcher)
    found = dict(line.partition("=")[::2] for line in (runner / "environment").read_text().splitlines())
    assert found.get("HYDRA_BOOTSTRAP") == bootstrap
    assert ("SLURM_GPUS_PER_TASK" in found) == kept


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
def test_setup_that_fails_ends_the_task(study_file, runner, line):
    (runner / "fails").write_text("true\nfalse\n")
    request = Request(setup=(MODULE, "module load there", line, "touch later"))
    done = run(script_of(load_study(study_file()), request))
    assert done.returncode == 2
    assert "qrt-tn: a line of the setup failed with code" in done.stderr
    assert not (runner / "seen").exists()
    assert not (runner / "later").exists()


def test_setup_may_fail_on_its_way(study_file, runner):
    (runner / "env").write_text("false\nexport SEEN=here\n")
    # functions, sourced files and tests may fail inside; a user's own options do not stay
    lines = ("module load there", ". ./env", "if false; then", "false", "fi", "false || true", "set -e")
    assert run(script_of(load_study(study_file()), Request(setup=(MODULE, *lines)))).returncode == 0
    assert "SEEN=here\n" in (runner / "environment").read_text()
