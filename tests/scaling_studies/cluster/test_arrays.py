"""Arrays from pending points: who goes where, and what a task asks for."""

import pytest

from qrt_tn.studies.cluster import Request
from qrt_tn.studies.cluster.arrays import DAY, MOST_TASKS, arrays
from qrt_tn.studies.config import load_study


def planned(study, request=None, largest=1001, left=None):
    ids = [point.id for point in study.points] if left is None else left
    return arrays(study, ids, request or Request(), largest)


def test_points_are_grouped_by_needs(study_file):
    study = load_study(study_file(numbers=(1, 2, 4), ranks="number", cores=2, gpus=1, memory=3.5, minutes=10))
    found = planned(study)
    assert [(one.group, one.needs.ranks, one.points, one.tasks) for one in found] == [
        (0, 1, 1, 1),
        (1, 2, 1, 1),
        (2, 4, 1, 1),
    ]
    assert [one.cpus for one in found] == [2, 2, 2]
    assert [one.gpus for one in found] == [1, 1, 1]
    # one rank: of the node, the points' memory and the runner's; more: shared by all cores
    assert [one.memory for one in found] == ["--mem=4096M", "--mem-per-cpu=1024M", "--mem-per-cpu=512M"]
    # ten minutes, the signal's two, and the one that it may come early
    assert [one.minutes for one in found] == [13, 13, 13]


def test_groups_without_points_left_keep_the_others_numbers(study_file):
    study = load_study(study_file(numbers=(1, 2, 4), ranks="number"))
    (found,) = planned(study, left=[study.points[2].id])
    assert found.group == 2
    assert study.needs()[found.group] == study.points[2].needs


def test_tasks_share_points(study_file):
    study = load_study(study_file(numbers=range(200), minutes=30))
    (found,) = planned(study)
    assert (found.tasks, found.minutes) == (MOST_TASKS, 4 * 30 + 3)
    (found,) = planned(study, largest=10)
    assert (found.tasks, found.minutes) == (10, 20 * 30 + 3)
    (found,) = planned(study, Request(tasks=2))
    assert (found.tasks, found.minutes) == (2, DAY)
    (found,) = planned(study, Request(tasks=2, time=60))
    assert found.minutes == 60
    assert found.warning() is None
    (found,) = planned(study, Request(tasks=2, time=20))
    assert "may take 30 minutes, a task of 20 may be told to stop after 17:" in found.warning()
    assert planned(study, Request(tasks=500))[0].tasks == 200


def test_a_larger_task_runs_several_points_at_once(study_file):
    study = load_study(study_file(numbers=range(32), cores=2, gpus=1, memory=2, minutes=30))
    (found,) = planned(study, Request(gpus=4))
    assert (found.at_once, found.cpus, found.gpus, found.tasks) == (4, 8, 4, 8)
    assert found.memory == "--mem=8704M"
    (found,) = planned(study, Request(gpus=4, cpus=4, memory="20G"))
    assert (found.at_once, found.cpus, found.tasks, found.memory) == (2, 4, 16, "--mem=20G")
    alone = load_study(study_file(numbers=range(32), exclusive=True))
    (found,) = planned(alone, Request(cpus=8))
    assert (found.at_once, found.cpus) == (1, 8)


@pytest.mark.parametrize(
    ("time", "grace", "short"), [(33, 120, False), (32, 120, True), (41, 600, False), (40, 600, True)]
)
def test_a_task_is_useful_until_it_is_told_to_stop(study_file, time, grace, short):
    # the signal comes `grace` seconds before the end, and SLURM may send it a minute earlier
    study = load_study(study_file(numbers=[1], minutes=30))
    (found,) = planned(study, Request(time=time, grace=grace))
    assert found.minutes == time
    assert (found.warning() is not None) == short


def test_points_that_need_gpus_share_only_those_that_are_there(study_file):
    study = load_study(study_file(numbers=range(8), gpus=1))
    (found,) = planned(study, Request(cpus=8))
    assert (found.at_once, found.cpus, found.gpus, found.tasks, found.granted) == (1, 8, 1, 8, None)
    (found,) = planned(study, Request(cpus=8, gpus=3))
    assert (found.at_once, found.gpus, found.granted) == (3, 3, None)


def test_points_that_need_no_gpu_are_given_all_of_a_task(study_file):
    study = load_study(study_file(numbers=range(8), cores=2, memory=2))
    (found,) = planned(study, Request(gpus=2, cpus=8))
    assert (found.at_once, found.cpus, found.gpus, found.tasks, found.granted) == (1, 8, 2, 8, 2)
    assert found.memory == "--mem=2560M"
    for none in (Request(cpus=8), Request(cpus=8, gpus=0)):
        (found,) = planned(study, none)
        assert (found.at_once, found.gpus, found.granted) == (4, 0, None)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(tasks=12), r"tasks is 12; this cluster's arrays have at most 11 \(MaxArraySize\)"),
        (Request(cpus=1), "cpus is 1; a point of group 0 needs 2"),
        (Request(gpus=0), "gpus is 0; a point of group 0 needs 1"),
    ],
)
def test_refused(study_file, request_, said):
    study = load_study(study_file(cores=2, gpus=1))
    with pytest.raises(ValueError, match=said):
        planned(study, request_, largest=11)


def test_a_cluster_without_arrays(study_file):
    with pytest.raises(ValueError, match="allows no job arrays"):
        planned(load_study(study_file()), largest=0)
