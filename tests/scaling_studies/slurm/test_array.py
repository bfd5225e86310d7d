"""An array of tasks shares the points of a study."""

import os
import re
import subprocess

import pytest


@pytest.fixture(scope="module", autouse=True)
def limited(study):
    """A study that meets SLURM's real time limit; the other tests of this file run beside it.

    SLURM looks every half minute, and tells up to that much too early: here 10 to 40 s after the start.
    """
    one = study(seconds=42, steps=42)
    one.submit("--time", "1", "--grace", 20)
    return one


def test_what_is_at_work_is_not_sent_twice(limited):
    with pytest.raises(subprocess.SubprocessError, match=f"tasks in SLURM already.*{limited.job}.*--again"):
        limited.submit()


def test_every_point_is_done_once(study):
    one = study(numbers=12, seconds=0.3)
    said = one.submit("--tasks", 3, "--follow")
    assert "tried: 12 points, 12 done, 0 failed" in said
    found = one.records()
    assert len(found) == 12
    assert {record["job"] for record in found} <= {f"{one.job}_{task}" for task in range(3)}
    for task in range(3):
        assert f"task {task} on" in one.printed()


def test_what_is_asked_for_reaches_slurm_and_the_points(study, cluster):
    one = study(numbers=2)
    more = ["--sbatch=--exclude=n1", "--sbatch=--mail-type=FAIL", "--setup", 'export SEEN="it\'s"']
    # the points need no GPU, and get those that are asked for
    one.submit("--gpus", "fake:2", "--cpus", 2, "--tasks", 1, *more, "--setup", 'echo "$SEEN here"')
    one.wait()
    assert one.measured("gpus_seen") == [2, 2]
    assert "it's here" in one.printed()
    told = cluster.call("scontrol", "show", "job", one.job)
    assert "gres:gpu:fake:2" in told
    assert "ExcNodeList=n1" in told


def test_setup_that_fails_runs_no_point(study):
    one = study(numbers=2)
    one.submit("--setup", "module load no-such-module", "--tasks", 1)
    one.wait()
    assert "a line of the setup failed" in one.printed()
    assert one.records() == one.failures() == []


def test_a_script_to_send_by_hand(study, cluster):
    one = study(numbers=3)
    script = one.file.with_name("by-hand.sbatch")
    script.write_text(one.submit("--tasks", 2, "--dry-run"))
    assert not one.store.exists()
    cluster.call("sbatch", script, cwd=script.parent)
    cluster.until(lambda: len(one.records()) == 3, 60, "the points are not done")


def test_ranks_of_one_node_have_a_gpu_each(study):
    one = study(ranks=2, gpus=1)
    one.submit("--sbatch=--nodes=1")
    one.wait()
    assert one.measured("ranks") == [2]
    assert sorted(re.findall(r"GPUs ([\d,]+)", one.printed("logs/*/*.log"))) == ["0", "1"]


def test_ranks_of_two_nodes_have_their_own_nodes_gpus(study, cluster):
    hold = ["srun", "-w", "n2", "--gres=gpu:1", "--cpus-per-task=1", "sleep", "600"]
    held = subprocess.Popen(hold, env=os.environ | cluster.environment)
    try:
        # of n2's GPUs the first is taken
        cluster.until(lambda: "n2 sleep" in cluster.call("squeue", "-h", "-o", "%N %j"), 40, "it is free")
        one = study(ranks=2, gpus=1)
        one.submit("--sbatch=--ntasks-per-node=1", "--sbatch=--nodes=2")
        one.wait()
    finally:
        held.terminate()
        held.wait()
    said = one.printed("logs/*/*.log")
    assert one.measured("ranks") == [2], said
    assert re.search("rank 0 sees GPUs 0(?!,)", said)
    assert re.search("rank 1 sees GPUs 1(?!,)", said)


def test_a_real_time_limit_requeues_and_the_point_goes_on(limited):
    limited.wait()
    assert limited.failures() == []
    (resumed,) = limited.measured("resumed")
    assert 0 < resumed < 42
    assert "near its time limit" in limited.printed()
    assert "back in the queue" in limited.printed()
    assert "start 2" in limited.printed()
