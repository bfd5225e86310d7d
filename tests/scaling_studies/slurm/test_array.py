"""An array of tasks shares the points of a study; by plain scripts."""

import subprocess

import pytest


def test_every_point_is_done_once(study):
    one = study(numbers=12, seconds=0.3)
    said = one.submit("--tasks", 3, "--follow")
    assert "tried: 12 points, 12 done, 0 failed" in said
    found = one.records()
    assert len(found) == 12
    assert {record["attempt"] for record in found} == {1}
    tasks = {f"{one.jobs()[0]}_{task}" for task in range(3)}
    assert {record["job"] for record in found} <= tasks
    for task in range(3):
        assert f"task {task} on" in one.printed()
    with pytest.raises(subprocess.SubprocessError, match="no points of tried are left"):
        one.submit()


def test_needs_are_asked_for_and_seen(study, cluster):
    one = study(numbers=2, gpus=2)
    one.submit("--partition", "debug", "--setup", 'export SEEN="it\'s"', "--setup", 'echo "$SEEN here"')
    one.wait(60)
    assert [record["tables"]["points"][0]["gpus_seen"] for record in one.records()] == [2, 2]
    assert "it's here" in one.printed()
    assert "ReqTRES" not in cluster.call("scontrol", "show", "job", one.jobs()[0])
    assert "gres:gpu:2" in cluster.call("scontrol", "show", "job", one.jobs()[0])


def test_points_that_need_no_gpu_get_those_that_are_asked_for(study, cluster):
    one = study(numbers=2)
    one.submit("--gpus", 2, "--cpus", 2, "--tasks", 1)
    one.wait(60)
    assert [record["tables"]["points"][0]["gpus_seen"] for record in one.records()] == [2, 2]
    assert "gres:gpu:2" in cluster.call("scontrol", "show", "job", one.jobs()[0])


def test_failed_points_are_submitted_again_if_asked(study):
    one = study(numbers=2)
    one.file.write_text(one.file.read_text().replace("[fixed]\n", '[fixed]\nending = "error"\n'))
    one.submit("--tasks", 1)
    one.wait(60)
    assert [failure["attempt"] for failure in one.failures()] == [1, 1]
    with pytest.raises(subprocess.SubprocessError, match="2 failed: submit them again with --failed"):
        one.submit()
    assert "2 tasks for 2 points" in one.submit("--failed")
    one.wait(60)
    # each once, although two tasks share them
    assert [failure["attempt"] for failure in one.failures()] == [2, 2]


def test_setup_that_fails_runs_no_point(study):
    one = study(numbers=2)
    one.submit("--module", "no-such-module", "--tasks", 1)
    one.wait(60)
    assert "a line of the setup failed" in one.printed()
    assert one.records() == one.failures() == []
    assert "2 points" in one.submit()


def test_a_study_that_is_queued_is_not_sent_twice(study, cluster):
    one = study(numbers=4, seconds=20, steps=20)
    one.submit("--tasks", 2, "--limit", 1)
    (job,) = one.jobs()
    with pytest.raises(subprocess.SubprocessError, match=f"has tasks in SLURM already.*{job}.*--again"):
        one.submit()
    assert len(list(one.store.glob("slurm/*"))) == 1
    one.submit("--again", "--tasks", 1)
    cluster.study("cancel", one.store)
    assert one.ended()
