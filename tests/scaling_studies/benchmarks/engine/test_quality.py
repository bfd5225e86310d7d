import cotengra as ctg
import numpy as np
import opt_einsum as oe
import pytest

from qrt_tn import engine
from qrt_tn.engine.network import numbered
from qrt_tn.studies.benchmarks.engine import finder, networks, quality


@pytest.mark.filterwarnings("ignore")
def test_every_finder_has_a_row(monkeypatch):
    asked = []

    def find(inputs, output, sizes, limit):
        asked.append(limit)
        return None, limit, "did not end within 3 s"

    monkeypatch.setattr(finder, "is_installed", lambda: True)
    monkeypatch.setattr(finder, "find", find)
    case = networks.case("net", networks.regular(14, 3, 2))
    rows = list(quality.compare(case, limit=3))
    assert [row["method"] for row in rows] == [
        "qrt-tn",
        "cotengra, as long",
        "opt_einsum auto",
        "cuTensorNet",
    ]
    assert asked == [3]
    assert rows[-1]["log10_flops"] is None
    assert rows[-1]["note"] == "did not end within 3 s"
    assert all(row["network"] == "net" and row["tensors"] == 14 and row["seconds"] >= 0 for row in rows)
    # opt_einsum's own count of its own path
    names = {index: oe.get_symbol(place) for index, place in numbered(case.inputs).items()}
    equation = ",".join("".join(names[index] for index in term) for term in case.inputs) + "->"
    count = oe.contract_path(equation, *case.arrays, optimize=quality._opt_einsum(case.structure))[1].opt_cost
    assert 10 ** rows[2]["log10_flops"] == pytest.approx(float(count), rel=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_without_cutensornet_it_takes_no_part(monkeypatch):
    monkeypatch.setattr(finder, "is_installed", lambda: False)
    rows = list(quality.compare(networks.matrix_chain(4, 2)))
    assert "cuTensorNet" not in [row["method"] for row in rows]


@pytest.mark.filterwarnings("ignore")
def test_cotengra_searches_as_long(monkeypatch):
    given = []
    real = ctg.HyperOptimizer

    def make(**settings):
        given.append(settings)
        return real(**{**settings, "max_time": 0.05})

    monkeypatch.setattr(ctg, "HyperOptimizer", make)
    rows = list(quality.compare(networks.matrix_chain(6, 2)))
    assert [settings["max_time"] for settings in given] == [rows[0]["seconds"]] * 2
    assert [settings.get("reconf_opts") for settings in given] == [None, {}]
    assert all(settings["minimize"] == "flops" for settings in given)


def test_the_batch_of_amplitudes_over_a_thousand_sites():
    plan = engine.plan(networks.long_chain(1000, 31, 16, 64), use_cache=False)
    assert plan.flops < 10**10.6  # what cotengra's greedy path costs is 10**11.71


def test_cotengra_plans_long_chains_too():
    rows = list(quality.compare_long(12))
    assert [row["method"] for row in rows[:2]] == ["qrt-tn", "cotengra greedy"]
    ours, greedy, *reconfigured = [row["log10_flops"] for row in rows]
    assert ours <= min(reconfigured)
    assert greedy >= max(reconfigured)
    assert all(row["tensors"] == 38 for row in rows)


def test_chains():
    rows = list(quality.chains(30))
    assert [row["tensors"] for row in rows] == [30, 92]
    assert 10 ** rows[0]["log10_flops"] == pytest.approx(29 * 2 * 8**3)
    assert np.isfinite([row["seconds"] for row in rows]).all()
