"""Ridgelet mass against router change: the rows, that they fit together, and that they are repeatable."""

from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from qrt_tn.models import Dataset
from qrt_tn.models.moe.ridgelets.initial import INITIALISATIONS
from qrt_tn.models.moe.ridgelets.rank import rank_correlation
from qrt_tn.studies.experiments.moe import ridgelets
from qrt_tn.studies.experiments.moe.ridgelets import PRUNED_BY, RidgeletSettings, Tables, compare
from qrt_tn.studies.progress import StageTimer

SHARES = {"clusters": "cluster-share", "classes": "class-share"}
EVERYWHERE = ("data", "smoothed", "smoothed-typical")


def small(**changes: Any) -> RidgeletSettings:
    settings: dict[str, Any] = {
        "experts": 4,
        "nodes": 4,
        "seeds": 2,
        "epochs": 3,
        "random_draws": 4,
        "resamples": 40,
        "levels": 9,
        "modulus": 31,
        "smoothing": 0.7,
    }
    return RidgeletSettings(**{**settings, **changes})


def prototypes(path: Path | None = None, target: str | None = None) -> Dataset:
    del path, target
    rng = np.random.default_rng(3)
    labels = np.arange(180) % 3
    x = rng.normal(size=(3, 6))[labels] * 2 + 0.5 * rng.normal(size=(180, 6))
    return Dataset(x, labels, "prototypes", ("a", "b", "c"))


def run(settings: RidgeletSettings) -> tuple[Tables, StageTimer]:
    timer = StageTimer(Console(file=StringIO()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ridgelets, "load_dataset", prototypes)
        return compare(settings, timer), timer


@cache
def result() -> tuple[Tables, StageTimer]:
    return run(small())


def test_every_initialisation_seed_expert_and_measure_has_its_row() -> None:
    tables, timer = result()
    measures = {i: (*EVERYWHERE, *([SHARES[i]] if i in SHARES else [])) for i in INITIALISATIONS}
    rows = tables["ridgelet_experts"]
    found = [(row["init"], row["seed"], row["measure"], row["expert"]) for row in rows]
    expected = {
        (i, s, m, e) for i in INITIALISATIONS for s in range(2) for m in measures[i] for e in range(4)
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    assert all(set(row) == {"init", "seed", "expert", "measure", "mass", "change", "kept"} for row in rows)
    for table in ("ridgelet_correlation", "ridgelet_controls"):
        assert all(row["experts"] == 4 for row in tables[table])
    pairs = [(row["init"], row["measure"]) for row in tables["ridgelet_correlation"]]
    assert pairs == [(i, m) for i in INITIALISATIONS for m in measures[i]]
    assert set(measures) == set(PRUNED_BY)
    assert all(PRUNED_BY[i] in measures[i] for i in INITIALISATIONS)
    controls = [(row["init"], row["measure"]) for row in tables["ridgelet_controls"]]
    assert controls == [(i, load) for i in INITIALISATIONS for load in ("load-before", "load-after")]
    assert len(timer.seconds) == 4


def of(tables: Tables, name: str, init: str, measure: str) -> np.ndarray:
    """A column of "ridgelet_experts", shape (seeds, experts)."""
    rows = [r for r in tables["ridgelet_experts"] if (r["init"], r["measure"]) == (init, measure)]
    return np.array([row[name] for row in rows], dtype=np.float64).reshape(2, 4)


def test_half_of_the_experts_are_kept_by_change() -> None:
    tables, _ = result()
    for init in INITIALISATIONS:
        change, kept = (of(tables, name, init, "data") for name in ("change", "kept"))
        for values, stay in zip(change, kept.astype(bool), strict=True):
            assert stay.sum() == 2
            assert values[stay].min() >= values[~stay].max()
        assert (np.abs(change) > 1e-3).any()


def test_correlations_are_those_of_the_rows() -> None:
    tables, _ = result()
    defined = 0
    for row in tables["ridgelet_correlation"]:
        mass = of(tables, "mass", row["init"], row["measure"])
        change = of(tables, "change", row["init"], row["measure"])
        seeds = [
            r["spearman"]
            for r in tables["ridgelet_seeds"]
            if (r["init"], r["measure"]) == (row["init"], row["measure"])
        ]
        assert len(seeds) == 2
        if row["seeds"] < 2 or np.isnan(mass).any():
            continue
        rhos = [spearmanr(*both).statistic for both in zip(mass, change, strict=True)]
        assert seeds == pytest.approx(rhos)
        assert row["spearman"] == pytest.approx(np.mean(rhos))
        assert -1 <= row["low"] <= row["spearman"] <= row["high"] <= 1
        assert 0 < row["p_value"] <= 1
        defined += 1
    assert defined >= 10


def test_masses_of_nothing_leave_no_correlation() -> None:
    """Uniform nodes lie outside the few frequencies that a narrow filter keeps: the logarithms are -inf."""
    tables, _ = run(small(initialisations=("uniform",), smoothing=0.25, seeds=1, epochs=1))
    (row,) = [r for r in tables["ridgelet_correlation"] if r["measure"] == "smoothed-typical"]
    names = ("spearman", "kendall", "low", "high", "p_value", "seeds")
    assert [row[name] for name in names] == [None] * 5 + [0]
    assert {r["mass"] for r in tables["ridgelet_experts"] if r["measure"] == "smoothed-typical"} == {None}
    (seed,) = [r for r in tables["ridgelet_seeds"] if r["measure"] == "smoothed-typical"]
    assert (seed["spearman"], seed["kendall"]) == (None, None)


def test_permutations_treat_classes_as_the_same_in_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def watched(*values: Any, same_members: bool, **settings: Any) -> Any:
        asked.append(same_members)
        return rank_correlation(*values, same_members=same_members, **settings)

    monkeypatch.setattr(ridgelets, "rank_correlation", watched)
    run(small(initialisations=("transform", "classes"), epochs=1, seeds=1))
    assert asked == [False] * 5 + [True] * 6


def test_accuracies_of_whole_and_pruned_networks() -> None:
    rows = result()[0]["ridgelet_accuracy"]
    found = [(row["init"], row["seed"], row["trained"], row["pruned_by"]) for row in rows]
    kinds = [(False, "none"), *((True, by) for by in ("none", "change", "mass", "random"))]
    assert sorted(found) == sorted((i, s, *k) for i in INITIALISATIONS for s in range(2) for k in kinds)
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    mean = {
        kind: np.mean([r["accuracy"] for r in rows if (r["trained"], r["pruned_by"]) == kind])
        for kind in kinds
    }
    assert mean[True, "none"] > 0.8
    assert mean[True, "random"] < mean[True, "none"]


def test_the_same_settings_give_the_same_rows_and_a_seed_stays_what_it_was() -> None:
    first = run(small(initialisations=("clusters",), seeds=1))[0]
    assert run(small(initialisations=("clusters",), seeds=1))[0] == first
    among = [row for row in result()[0]["ridgelet_experts"] if (row["init"], row["seed"]) == ("clusters", 0)]
    assert among == first["ridgelet_experts"]


def test_real_targets_have_no_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset(np.random.default_rng(0).normal(size=(60, 3)), np.arange(60.0)[:, None], "heights")
    monkeypatch.setattr(ridgelets, "load_dataset", lambda path, target: data)
    with pytest.raises(ValueError, match="heights has real targets"):
        compare(small(), StageTimer(Console(file=StringIO())))


def test_quick_takes_changes() -> None:
    settings = RidgeletSettings.quick(seeds=3)
    assert settings.seeds == 3
    assert settings.epochs < RidgeletSettings().epochs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": 1}, "experts is 1"),
        ({"selected": 5}, "selected is 5, more than 4 experts"),
        ({"initialisations": ("transform", "gauss")}, "gauss"),
        ({"initialisations": ()}, r"initialisations is \(\)"),
        ({"initialisations": ("transform", "transform")}, "each once"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"modulus": 30}, "not prime"),
        ({"activation": "swosh"}, "swosh"),
    ],
)
def test_bad_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**changes)
