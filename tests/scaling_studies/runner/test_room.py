import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrt_tn.studies.config.points import Needs
from qrt_tn.studies.runner import Room
from qrt_tn.studies.runner.room import Share, free_memory, visible_gpus

GIB = 2**30


def room(**instead: object) -> Room:
    given: dict[str, object] = {"cores": (0, 1, 2, 3), "gpus": ["0", "1"], "memory": 8 * GIB, "nodes": 1}
    return Room(**given | instead)  # type: ignore[arg-type]


NEEDS = st.builds(
    Needs,
    cores=st.integers(1, 5),
    ranks=st.integers(1, 2),
    gpus=st.integers(0, 2),
    memory=st.floats(0.5, 9.0),
    exclusive=st.booleans(),
)


@given(st.lists(NEEDS | st.integers(0, 9)), st.none() | st.integers(1, 3))
def test_shares_are_apart_fit_whenever_they_can_and_come_back(moves: list[Any], most: int | None) -> None:
    free = room(most=most)
    out: list[tuple[Needs, Share]] = []
    for move in moves:
        if isinstance(move, int):
            if out:
                free.give_back(out.pop(move % len(out))[1])
            continue
        # one that wants more cores or memory than there are gets all, once nothing else runs
        cores, gpus = min(move.cores * move.ranks, 4), move.gpus * move.ranks
        memory = min(int(move.memory * GIB), 8 * GIB)
        alone = not out or not (move.exclusive or out[0][0].exclusive)
        room_left = (most is None or len(out) < most) and alone
        room_left &= cores <= 4 - sum(len(share.cores) for _, share in out)
        room_left &= gpus <= 2 - sum(len(share.gpus) for _, share in out)
        room_left &= memory <= 8 * GIB - sum(share.memory for _, share in out)
        share = free.take(move)
        assert (share is not None) == room_left
        if share is not None:
            assert (len(share.cores), len(share.gpus), share.memory) == (cores, gpus, memory)
            out.append((move, share))
        given_out = [name for _, share in out for name in (*share.cores, *share.gpus)]
        assert len(set(given_out)) == len(given_out)


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
