"""What SLURM takes away: tasks near their time limit, preempted, cancelled, and lost with their node."""

import json

from qrt_tn.studies.cluster import submissions, tasks_of


def test_requeues_are_limited_and_the_rest_may_be_submitted_again(study, cluster):
    one = study(seconds=6, steps=60)
    one.submit("--requeues", 0)
    cluster.until(lambda: one.steps() and min(one.steps()) > 5, 40, "no steps yet")
    cluster.call("scancel", "--batch", "--signal=USR1", one.job)  # as SLURM's own, with less to wait for
    one.wait()
    assert "submit the study again" in one.printed()
    assert one.records() == one.failures() == []
    (reached,) = one.steps()
    one.submit()
    one.wait()
    assert one.measured("resumed") == [reached]
    assert reached > 5


def test_what_a_lost_node_did_goes_to_the_other_or_waits_for_it(study, cluster):
    both = study(seconds=12, steps=24, ranks=2)
    both.submit("--sbatch=--nodes=2", "--sbatch=--ntasks-per-node=1")
    each = study(numbers=4, seconds=5, steps=20)
    each.submit("--tasks", 2)
    cluster.until(lambda: len(each.steps()) == 2 and both.steps(), 60, "no steps yet")
    assert cluster.tasks(each.job) == [("RUNNING", "n1"), ("RUNNING", "n2")]
    assert cluster.tasks(both.job) == [("RUNNING", "n1")]
    cluster.lose_node("n2")
    try:
        # the runner on n1 finds out, SLURM itself much later
        cluster.until(lambda: cluster.tasks(both.job)[0][0] == "PENDING", 60, "the task is still at work")
    finally:
        cluster.start_node("n2")
    each.wait()
    both.wait()
    assert each.failures() == both.failures() == []
    assert len(each.records()) == 4
    # the points under way went on where they were
    assert max(each.measured("resumed")) > 0
    assert both.measured("resumed") > [0]
    assert both.measured("ranks") == [2]
    assert "a node of this job is lost" in both.printed()
    assert "back in the queue" in both.printed()
    assert "start 2" in each.printed()  # SLURM itself had requeued it
    cluster.until(cluster.idle, 40, "the lost node did not come back")


def test_scancel_leaves_nothing_half_written(study, cluster):
    one = study(numbers=4, seconds=2, steps=20)
    one.submit("--tasks", 2, "--cpus", 1)
    cluster.until(lambda: len(one.records()) >= 1 and len(one.steps()) >= 1, 60, "nothing finished yet")
    assert f"tasks of job {one.job}; " in cluster.study("cancel", one.store)
    assert one.ended()
    before = {record["id"]: record for record in one.records()}
    assert 1 <= len(before) < 4
    assert one.failures() == []
    for path in one.store.glob("results/*/*"):
        json.loads(path.read_text())  # whole, and nothing else beside
    one.submit("--tasks", 3)
    one.wait()
    after = {record["id"]: record for record in one.records()}
    assert len(after) == 4
    assert all(after[point] == record for point, record in before.items())
    assert any(one.measured("resumed"))


def test_preempted_tasks_come_back(study, cluster, monkeypatch):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    one = study(numbers=2, seconds=6, steps=60, cores=2)
    one.submit("--tasks", 2, "--partition", "debug")
    cluster.until(lambda: len(one.steps()) == 2, 40, "no steps yet")
    cluster.call("srun", "-p", "urgent", "-N", "2", "--ntasks-per-node=1", "--cpus-per-task=2", "sleep", "1")
    seen = set()

    def ended():
        seen.update(tasks_of(submissions(one.store)).counts)
        return one.ended()

    cluster.until(ended, 120, f"tasks have not ended: {one.printed()}")
    assert {"requeued", "running", "completed"} <= seen
    assert one.failures() == []
    assert len(one.records()) == 2
    assert any(one.measured("resumed"))
    assert "back in the queue" not in one.printed()  # SLURM had done it already
