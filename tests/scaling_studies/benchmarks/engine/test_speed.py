import time

import numpy as np
import pytest

from qrt_tn import engine
from qrt_tn.engine import Device
from qrt_tn.studies.benchmarks.engine import networks, overhead, speed
from qrt_tn.studies.benchmarks.engine.speed import Contender, Work

RATES = ((1.0, 1e8), (64.0, 1e10))
TABLES = dict.fromkeys(("float32", "float64", "complex64", "complex128"), RATES)
COPIES = ((1e3, 2e10), (1e8, 1e10))
DEVICE = Device("Abacus", "numpy", TABLES, COPIES, COPIES, 1e-6, None, {}, "2026-01-02")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))


def amplitudes():
    return networks.amplitudes("net", networks.mps_state(4, 5, 2), 6)


@pytest.mark.parametrize("constants", [False, True])
def test_a_row_with_every_rival(constants):
    row = speed.compare(amplitudes(), DEVICE, rounds=2, constants=constants)
    assert row["network"] == ("net, constants" if constants else "net")
    assert [other["method"] for other in row["against"]] == ["cotengra", "opt_einsum", "quimb, a loop"]
    for other in row["against"]:
        ratio = other["ratio"]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
        assert other["seconds"] > 0
    assert row["against"][-1]["timed"] == pytest.approx(4 / 6)
    assert row["bound"] in ("GEMM", "copy")
    assert row["share"] > 0
    assert row["predicted_over_measured"] > 0


def test_networks_without_a_batch_have_no_loop():
    row = speed.compare(networks.case("r", networks.regular(10, 3, 2)), DEVICE, rounds=1)
    assert [other["method"] for other in row["against"]] == ["cotengra", "opt_einsum"]


def test_many_elements():
    row = speed.compare_many(amplitudes(), DEVICE, rounds=1)
    assert row["network"] == "net, execute_many"
    assert [other["method"] for other in row["against"]] == ["cotengra", "cotengra, a loop", "quimb, a loop"]
    assert row["share"] is None


def test_results_that_disagree_are_no_figures():
    closed = []
    right = Contender("right", lambda: np.ones(3), np.asarray, close=lambda: closed.append("right"))
    wrong = Contender("wrong", lambda: np.ones(3) + 1e-6, np.asarray)
    with pytest.raises(RuntimeError, match="wrong and right disagree by 1e-06"):
        speed.timed([right, wrong], 1, "float64")
    assert closed == ["right"]
    assert set(speed.timed([right, wrong], 1, "float32")) == {"right", "wrong"}
    nothing = Contender("nothing", lambda: np.full(3, np.nan), np.asarray)
    with pytest.raises(RuntimeError, match="nothing and right disagree by nan"):
        speed.timed([right, nothing], 1, "float32")


def test_a_part_of_the_work_counts_for_all_of_it():
    first = Contender("first", lambda: np.ones(4), np.asarray)
    part = Contender("part", lambda: np.ones(1), np.asarray, share=0.25)
    rounds = {"first": [1.0, 2.0], "part": [2.0, 1.0]}
    (row,) = speed.row_of(amplitudes(), "net", [first, part], rounds, DEVICE)["against"]
    assert row["seconds"] == 6.0
    assert row["ratio"] == {"median": 5.0, "min": 2.0, "max": 8.0, "rounds": [8.0, 2.0]}
    assert row["samples"] == {"seconds": [8.0, 4.0]}


def test_work_counts_steps_among_constants_once():
    case = networks.matrix_chain(5, 4)
    path = [(0, 1), (0, 3), (0, 2), (0, 1)]
    plan = engine.plan(case.structure, optimizer=path, dtype="float64")
    whole = speed.work_of(plan, DEVICE)
    assert whole.steps == 4
    assert whole.flops == plan.flops == 4 * 2 * 4**3
    assert whole.moved == 4 * 3 * 16 * 8
    assert whole.predicted == pytest.approx(plan.predict(DEVICE))
    assert speed.work_of(plan, DEVICE, [0, 1]).steps == 3
    assert speed.work_of(plan, DEVICE, [3, 4]).steps == 4  # they meet only in the end
    assert speed.work_of(plan, DEVICE, range(5)).flops == 0


def test_the_nearer_bound_is_named():
    assert Work(1, 5e9, 1e6, 0).bound(DEVICE, "float64", 1.0) == ("GEMM", 0.5)
    assert Work(1, 1e6, 5e9, 0).bound(DEVICE, "float64", 1.0) == ("copy", 0.25)


def test_overhead_of_small_steps(monkeypatch):
    row = overhead.compare(4, DEVICE, rounds=2, count=10)
    assert row["steps"] == 9
    assert set(row["over"]) == {"tensordot", "matmul"}
    assert all(over["ratio"]["median"] > 0 for over in row["over"].values())
    assert 0 < row["seconds"] < time.perf_counter()
    monkeypatch.setattr(np.linalg, "multi_dot", lambda arrays: arrays[0])
    with pytest.raises(RuntimeError, match="10 matrices of 4 is wrong"):
        overhead.compare(4, DEVICE, rounds=1, count=10)
