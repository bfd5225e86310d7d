"""Arrays from pending points: who goes where, and what a task asks for."""

import pytest

from qrt_tn.studies.cluster import Request
from qrt_tn.studies.cluster.arrays import DAY, MOST_TASKS, arrays
from qrt_tn.studies.config import load_study


def planned(study, request=None, largest=1001, left=None):
    return arrays(study, left or study.by_id, request or Request(), largest)


def test_points_are_grouped_by_needs(study_file):
    study = load_study(study_file(numbers=(1, 2, 4), ranks="number", cores=2, gpus=1, memory=3.5, minutes=10))
    found = planned(study)
    assert [(one.group, one.needs.ranks, one.points, one.tasks) for one in found] == [
        (0, 1, [study.points[0].id], 1),
        (1, 2, [study.points[1].id], 1),
        (2, 4, [study.points[2].id], 1),
    ]
    assert [(one.cpus, one.gpus) for one in found] == [(2, "1")] * 3
    # one rank: of the node, the points' memory and the runner's; more: shared by all cores
    assert [one.memory for one in found] == ["--mem=4096M", "--mem-per-cpu=1024M", "--mem-per-cpu=512M"]
    # ten minutes, the signal's two, and the one that it may come early
    assert [one.minutes for one in found] == [13, 13, 13]
    # groups without points left keep the others' numbers
    (found,) = planned(study, left=[study.points[2].id])
    assert (found.group, study.needs()[2]) == (2, study.points[2].needs)


def test_tasks_share_points(study_file):
    study = load_study(study_file(numbers=range(200), minutes=30))
    for request, largest, tasks, minutes in (
        (Request(), 1001, MOST_TASKS, 4 * 30 + 3),
        (Request(), 10, 10, 20 * 30 + 3),
        (Request(tasks=2), 1001, 2, DAY),
        (Request(tasks=2, time=60), 1001, 2, 60),
        (Request(tasks=500), 1001, 200, 33),
    ):
        (found,) = planned(study, request, largest)
        assert (found.tasks, found.minutes, found.warning) == (tasks, minutes, None)
        assert sorted(found.points) == sorted(study.by_id)


def test_a_larger_task_runs_several_points_at_once(study_file):
    study = load_study(study_file(numbers=range(32), cores=2, gpus=1, memory=2, minutes=30))
    (found,) = planned(study, Request(gpus="a100:4"))
    assert (found.minutes, found.cpus, found.gpus, found.tasks) == (33, 8, "a100:4", 8)
    assert found.memory == "--mem=8704M"
    (found,) = planned(study, Request(gpus="4", cpus=4, memory="20G"))
    assert (found.cpus, found.tasks, found.memory) == (4, 16, "--mem=20G")
    (found,) = planned(study, Request(cpus=16, gpus="3"))
    assert (found.gpus, found.tasks, found.granted) == ("3", 11, None)
    (found,) = planned(study, Request(cpus=16))
    assert (found.gpus, found.tasks, found.granted) == ("1", 32, None)
    (found,) = planned(load_study(study_file(numbers=range(32), exclusive=True)), Request(cpus=8))
    assert (found.tasks, found.cpus) == (32, 8)


def test_points_that_need_no_gpu_are_given_all_of_a_task(study_file):
    study = load_study(study_file(numbers=range(8), cores=2, memory=2))
    (found,) = planned(study, Request(gpus="a100:2", cpus=8))
    assert (found.cpus, found.gpus, found.tasks, found.granted) == (8, "a100:2", 8, 2)
    assert found.memory == "--mem=2560M"
    for none in (Request(cpus=8), Request(cpus=8, gpus="0")):
        (found,) = planned(study, none)
        assert (found.tasks, found.gpus, found.granted) == (2, None, None)


@pytest.mark.parametrize(
    ("time", "grace", "short"),
    [(33, 120, False), (32, 120, True), (41, 600, False), (40, 600, True), (3, 120, True), (1, 10, True)],
)
def test_a_task_is_useful_until_it_is_told_to_stop(study_file, time, grace, short):
    # the signal comes `grace` seconds before the end, and SLURM may send it a minute earlier
    (found,) = planned(load_study(study_file(numbers=[1], minutes=30)), Request(time=time, grace=grace))
    assert found.minutes == time
    assert (found.warning is not None) == short
    if short:
        assert f"30 minutes, longer than a task of {time} lets it" in found.warning
        assert " 0 minutes" not in found.warning


@pytest.mark.parametrize(
    ("options", "largest", "said"),
    [
        ({"tasks": 12}, 11, "tasks is 12"),
        ({}, 0, "at most 0"),
        ({"cpus": 1}, 11, "cpus is 1"),
        ({"gpus": "a100:0"}, 11, "gpus is 0"),
    ],
)
def test_refused(study_file, options, largest, said):
    with pytest.raises(ValueError, match=said):
        planned(load_study(study_file(cores=2, gpus=1)), Request(**options), largest)
