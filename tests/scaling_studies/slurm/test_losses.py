"""What SLURM takes away: tasks at their time limit, preempted, cancelled, and lost with their node."""

import contextlib
import json

import pytest


@pytest.mark.parametrize("way", ["sbatch", "submitit"])
def test_a_real_time_limit_requeues_and_the_point_goes_on(study, way):
    if way == "submitit":
        pytest.importorskip("submitit", reason="submitit is not installed; pip install 'qrt-tn[slurm]'")
    # SLURM looks every half minute, and tells up to that much too early: 20 to 50 s after the start
    one = study(seconds=60, steps=60)
    one.submit("--time", "1", "--grace", 10, "--via", way)
    one.wait(180)
    assert one.failures() == []
    (record,) = one.records()
    assert 0 < record["tables"]["points"][0]["resumed"] < 60
    assert record["attempt"] >= 2
    if way == "sbatch":
        assert "back in the queue" in one.printed()
        assert "start 2" in one.printed()


def test_requeues_are_limited_and_the_rest_may_be_submitted_again(study):
    one = study(seconds=60, steps=60)
    one.submit("--time", "1", "--grace", 10, "--requeues", 0)
    one.wait(120)
    assert "submit the study again" in one.printed()
    assert one.records() == one.failures() == []
    (reached,) = one.steps()
    one.submit()
    one.wait(120)
    (record,) = one.records()
    assert record["tables"]["points"][0]["resumed"] == reached > 0


def test_points_of_a_lost_node_go_to_the_other(study, cluster):
    one = study(numbers=4, seconds=8, steps=8, cores=2)
    one.submit("--tasks", 2)
    cluster.until(lambda: len(one.steps()) == 2 and min(one.steps()) > 1, 40, "no steps yet")
    running = cluster.call("squeue", "-h", "-r", "-j", one.jobs()[0], "-o", "%T %N").split()
    assert sorted(running) == ["RUNNING", "RUNNING", "n1", "n2"]
    cluster.lose_node("n2")
    try:
        one.wait(120)
    finally:
        cluster.start_node("n2")
    assert one.failures() == []
    found = one.records()
    assert len(found) == 4
    # the lost point went on where it was, and none that was finished was done again
    assert sorted(record["attempt"] for record in found) == [1, 1, 1, 2]
    assert max(record["tables"]["points"][0]["resumed"] for record in found) >= 1
    cluster.until(
        lambda: cluster.call("sinfo", "-h", "-N", "-p", "debug", "-o", "%T").split() == ["idle"] * 2,
        40,
        "the lost node did not come back",
    )


def test_a_task_of_several_nodes_comes_back_when_it_loses_one(study, cluster):
    one = study(seconds=30, steps=30, cores=2, ranks=2)
    one.submit()
    cluster.until(lambda: one.steps() and min(one.steps()) > 1, 60, "no steps yet")
    assert cluster.call("squeue", "-h", "-r", "-j", one.jobs()[0], "-o", "%B %D").split() == ["n1", "2"]
    cluster.lose_node("n2")
    try:
        cluster.until(lambda: "RUNNING" not in " ".join(cluster.live()), 60, "the task has not ended")
    finally:
        cluster.start_node("n2")
    one.wait(150)
    assert one.failures() == []
    (record,) = one.records()
    assert record["attempt"] == 2
    assert record["tables"]["points"][0]["resumed"] > 1
    assert record["tables"]["points"][0]["ranks"] == 2
    assert "the runner stopped by itself: back in the queue" in one.printed()


def test_scancel_leaves_nothing_half_written(study, cluster):
    one = study(numbers=6, seconds=4, steps=40)
    one.submit("--tasks", 2, "--cpus", 1)
    cluster.until(lambda: len(one.records()) >= 1 and len(one.steps()) >= 1, 60, "nothing finished yet")
    assert "points are left to run" in cluster.study("cancel", one.store)
    assert one.ended()
    before = {record["id"]: record for record in one.records()}
    assert 1 <= len(before) < 6
    assert one.failures() == []
    for path in one.store.glob("results/*/*"):
        json.loads(path.read_text())  # whole, and nothing else beside
    status = json.loads(cluster.study("status", "--json", one.store))
    assert (status["done"], status["failed"], status["left"]) == (len(before), 0, 6 - len(before))
    one.submit("--tasks", 3)
    one.wait(90)
    after = {record["id"]: record for record in one.records()}
    assert len(after) == 6
    assert all(after[point] == record for point, record in before.items())
    assert any(record["tables"]["points"][0]["resumed"] > 0 for record in after.values())


def test_preempted_tasks_come_back(study, cluster):
    one = study(numbers=2, seconds=10, steps=50, cores=2)
    one.submit("--tasks", 2, "--partition", "debug")
    cluster.until(lambda: len(one.steps()) == 2, 40, "no steps yet")
    cluster.call("srun", "-p", "urgent", "-N", "2", "--ntasks-per-node=1", "--cpus-per-task=2", "sleep", "1")
    seen = set()

    def requeued():
        with contextlib.suppress(ValueError):
            seen.update(json.loads(cluster.study("status", "--json", one.store))["tasks"])
        return one.ended()

    cluster.until(requeued, 120, f"tasks have not ended: {one.printed()}")
    assert "requeued" in seen
    assert one.failures() == []
    assert [record["attempt"] for record in one.records()] == [2, 2]
    assert min(record["tables"]["points"][0]["resumed"] for record in one.records()) > 0
    assert "back in the queue" not in one.printed()  # SLURM had done it already
