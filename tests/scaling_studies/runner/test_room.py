import os

import pytest

from qrt_tn.studies.config.points import Needs
from qrt_tn.studies.runner import Room
from qrt_tn.studies.runner.room import free_memory, visible_gpus

GIB = 2**30


def room(**instead: object) -> Room:
    given: dict[str, object] = {"cores": (0, 1, 2, 3), "gpus": ["0", "1"], "memory": 8 * GIB, "nodes": 1}
    return Room(**given | instead)  # type: ignore[arg-type]


def test_cores_are_given_once_and_again_when_they_are_free() -> None:
    free = room()
    first, second = free.take(Needs(cores=2)), free.take(Needs(cores=2))
    assert first is not None
    assert second is not None
    assert sorted(first.cores + second.cores) == [0, 1, 2, 3]
    assert free.take(Needs()) is None
    free.give_back(first)
    third = free.take(Needs())
    assert third is not None
    assert set(third.cores) < set(first.cores)


def test_ranks_multiply_cores_and_gpus() -> None:
    share = room().take(Needs(ranks=2, cores=2, gpus=1))
    assert share is not None
    assert share.cores == (0, 1, 2, 3)
    assert share.gpus == ("0", "1")


def test_memory_of_all_points_together_stays_within_bounds() -> None:
    free = room()
    large = free.take(Needs(memory=6.0))
    assert large is not None
    assert free.take(Needs(memory=3.0)) is None
    small = free.take(Needs(memory=2.0))
    assert small is not None
    free.give_back(large)
    assert free.take(Needs(memory=6.0)) is not None


@pytest.mark.parametrize("needs", [Needs(cores=64), Needs(memory=500.0), Needs(cores=9, memory=9.0)])
def test_a_point_that_wants_more_than_there_is_gets_all_once_nothing_else_runs(needs: Needs) -> None:
    free = room()
    other = free.take(Needs(memory=0.5))
    assert other is not None
    assert free.take(needs) is None
    free.give_back(other)
    share = free.take(needs)
    assert share is not None
    assert len(share.cores) == min(needs.cores, 4)
    assert share.memory == min(int(needs.memory * GIB), 8 * GIB)
    free.give_back(share)
    assert free.take(Needs(cores=4, memory=8.0)) is not None


def test_an_exclusive_point_runs_alone() -> None:
    free = room()
    first = free.take(Needs(memory=0.5))
    assert first is not None
    assert free.take(Needs(exclusive=True)) is None
    free.give_back(first)
    alone = free.take(Needs(exclusive=True))
    assert alone is not None
    assert free.take(Needs(memory=0.1)) is None
    free.give_back(alone)
    assert free.take(Needs()) is not None


def test_at_most_so_many_at_once() -> None:
    free = room(most=1)
    first = free.take(Needs(memory=0.1))
    assert first is not None
    assert free.take(Needs(memory=0.1)) is None
    free.give_back(first)
    assert free.take(Needs(memory=0.1)) is not None


def test_every_gpu_is_one_points_at_a_time() -> None:
    free = room()
    first, second = free.take(Needs(gpus=1)), free.take(Needs(gpus=1))
    assert first is not None
    assert second is not None
    assert {*first.gpus, *second.gpus} == {"0", "1"}
    assert free.take(Needs(gpus=1)) is None
    without = free.take(Needs())
    assert without is not None
    assert without.gpus == ()
    free.give_back(first)
    again = free.take(Needs(gpus=1))
    assert again is not None
    assert again.gpus == first.gpus


def test_gpus_that_are_not_here_are_refused_by_number() -> None:
    assert room().refusal(Needs(gpus=2)) is None
    assert room(gpus=[]).refusal(Needs()) is None
    assert "3 GPUs" in str(room().refusal(Needs(gpus=3)))
    assert "4 GPUs" in str(room().refusal(Needs(gpus=2, ranks=2)))
    assert "1 GPU," in str(room(gpus=[]).refusal(Needs(gpus=1)))


def test_points_of_several_ranks_may_use_the_gpus_of_all_nodes_of_a_job() -> None:
    both = room(nodes=2)
    assert both.refusal(Needs(gpus=1, ranks=4)) is None
    assert both.refusal(Needs(gpus=1, ranks=5)) is not None
    assert both.refusal(Needs(gpus=3)) is not None  # one rank has one node
    share = both.take(Needs(gpus=1, ranks=4))
    assert share is not None
    assert share.gpus == ("0", "1")


def test_nothing_is_lost_however_often_shares_go_out_and_come_back() -> None:
    free = room()
    for number in range(50):
        shares = [free.take(Needs(cores=1 + number % 2, gpus=number % 2, memory=1.0)) for _ in range(6)]
        for share in filter(None, shares):
            free.give_back(share)
    whole = free.take(Needs(cores=4, gpus=2, memory=8.0))
    assert whole is not None
    assert (whole.cores, set(whole.gpus), whole.memory) == ((0, 1, 2, 3), {"0", "1"}, 8 * GIB)


@pytest.mark.parametrize(
    ("named", "gpus"),
    [
        ("", []),
        ("0,1", ["0", "1"]),
        ("3", ["3"]),
        (" GPU-a , MIG-b ", ["GPU-a", "MIG-b"]),
        ("-1", []),
        ("2,-1,0", ["2"]),
    ],
)
def test_gpus_are_those_that_cuda_is_to_see(
    monkeypatch: pytest.MonkeyPatch, named: str, gpus: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus == Room().gpus


def test_cores_and_memory_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(Room().cores) == os.sched_getaffinity(0)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**28 <= free_memory() <= total
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "300")
    assert free_memory() <= 300 * 2**20


def test_cores_come_in_the_first_order_again() -> None:
    # two runners on one machine begin with different cores; a claim that was lost must not change that
    free = room(cores=(2, 3, 0, 1))
    lost = free.take(Needs())
    assert lost is not None
    free.give_back(lost)
    again = free.take(Needs())
    assert again is not None
    assert lost.cores == again.cores == (2,)


def test_ranks_that_are_timed_are_not_squeezed_onto_fewer_cores() -> None:
    assert room().refusal(Needs(ranks=8)) is None
    assert room().refusal(Needs(ranks=8, exclusive=True)) == "8 cores for 8 ranks, and here are 4"
    assert room(nodes=2).refusal(Needs(ranks=8, exclusive=True)) is None


def test_memory_that_slurm_gives_by_the_core_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "300")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert free_memory() == 600 * 2**20
