from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from qrt_tn import Ridgelet, filter_nodes
from qrt_tn.models.readout import RIDGES
from qrt_tn.studies.experiments.catalogue import Context, experiment
from qrt_tn.studies.experiments.planted.run import (
    features,
    make_problem,
    measure,
    peak_estimate,
    relative_risk,
)
from qrt_tn.studies.experiments.planted.settings import Planted

KIND = experiment("planted")


def point(folder: Path, seed: int = 0, **settings: Any) -> dict[str, Any]:
    return dict(measure(Planted(**settings), seed, Context(folder)))


def dense_peak(settings: Planted, seed: int, width: float | None) -> float:
    """The probability of u = +-a* by a dense transform; without a width, of the unsmoothed points."""
    problem = make_problem(settings, np.random.default_rng(seed))
    dim, modulus = settings.dim, settings.modulus
    dense = np.zeros((modulus,) * dim)
    np.add.at(dense, tuple(problem.x[0].T), problem.y[0] - problem.y[0].mean())
    power = np.abs(np.fft.fftn(dense)) ** 2
    if width is not None:
        u = np.minimum(np.arange(modulus), modulus - np.arange(modulus))
        for axis in range(dim):
            power *= np.exp(-(u**2) / width**2).reshape((-1,) + (1,) * (dim - 1 - axis))
    power /= power.sum()
    return float(power[tuple(problem.direction)] + power[tuple(-problem.direction)])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("support", [1, 2])
def test_peak_and_hits_of_the_transform(tmp_path: Path, support: int, seed: int) -> None:
    settings = {"dim": 4, "points": 60, "support": support, "modulus": 11, "nodes": 4000, "noise": 0.3}
    found = point(tmp_path, seed, **settings)
    wanted = dense_peak(Planted(**settings), seed, found["width"])
    assert found["peak_probability"] == pytest.approx(wanted, rel=1e-9)
    assert 0.05 < wanted < 0.98
    assert abs(found["hit_rate"] - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 4000)


def test_peak_of_unsmoothed_points_and_of_uniform_nodes(tmp_path: Path) -> None:
    settings = {"dim": 3, "points": 40, "modulus": 7, "nodes": 4000}
    found = point(tmp_path, 3, sampler="qrt-unsmoothed", **settings)
    wanted = dense_peak(Planted(**settings), 3, None)
    assert found["peak_probability"] == pytest.approx(wanted, rel=1e-9)
    assert abs(found["hit_rate"] - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 4000)
    uniform = point(tmp_path, 3, sampler="uniform", **settings)
    assert uniform["peak_probability"] == pytest.approx(2 / 7**3)
    assert abs(uniform["hit_rate"] - 2 / 7**3) < 4 * np.sqrt(2 / 7**3 / 4000)


def test_the_filter_alone_knows_no_data(tmp_path: Path) -> None:
    settings = {"dim": 3, "support": 2, "modulus": 11, "sampler": "filter", "nodes": 4000}
    few, many = (point(tmp_path, points=count, **settings) for count in (20, 2000))
    u = np.stack(np.meshgrid(*[np.arange(-5, 6)] * 3), axis=-1).reshape(-1, 3)
    weights = np.exp(-(u**2).sum(axis=1) / few["width"] ** 2)
    weights[(u == 0).all(axis=1)] = 0
    wanted = 2 * np.exp(-2 / few["width"] ** 2) / weights.sum()
    for found in (few, many):
        assert found["peak_probability"] == pytest.approx(wanted, rel=1e-9)
        assert abs(found["hit_rate"] - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 4000)


@pytest.mark.parametrize(("noise", "support", "points"), [(0.0, 1, 64), (1.0, 1, 128), (0.0, 2, 400)])
def test_the_estimate_is_met_on_average(tmp_path: Path, noise: float, support: int, points: int) -> None:
    found = [
        point(tmp_path, seed, dim=10, points=points, support=support, noise=noise, nodes=1)
        for seed in range(30)
    ]
    peaks = np.array([row["peak_probability"] for row in found])
    assert 0.2 < found[0]["estimate"] < 0.8
    assert abs(peaks.mean() - found[0]["estimate"]) < 0.03 + 3 * peaks.std() / np.sqrt(30)


def test_half_of_the_draws_hit_at_the_points_that_the_estimate_names() -> None:
    assert peak_estimate(0.01, 200, 0.0) == pytest.approx(0.5)
    assert peak_estimate(0.01, 600, 1.0) == pytest.approx(0.5)


def test_risk_by_plain_least_squares() -> None:
    settings = Planted(dim=5, points=80, modulus=13, noise=0.2)
    problem = make_problem(settings, np.random.default_rng(4))
    ridgelet = Ridgelet("cosine", 13)
    nodes = filter_nodes(20, 5, ridgelet, 0.8, 1)
    phi = []
    for x in problem.x:
        turns = (x[:, None, :] * nodes.a[None, :, :]).sum(axis=2) - nodes.b
        phi.append(np.sqrt(2) * np.cos(2 * np.pi * turns / 13))
        np.testing.assert_allclose(features(x, nodes, ridgelet), phi[-1], atol=1e-12)
    (x, validation, test), y = phi, problem.y
    tried = []
    for ridge in RIDGES:
        # the penalty as further rows of a least-squares problem, the intercept without
        rows = np.vstack([np.column_stack([x, np.ones(80)]), np.sqrt(ridge) * np.eye(20, 21)])
        weights = np.linalg.lstsq(rows, np.append(y[0], np.zeros(20)), rcond=None)[0]
        errors = [
            np.mean((values - at @ weights[:-1] - weights[-1]) ** 2) / values.var()
            for at, values in ((validation, y[1]), (test, y[2]))
        ]
        tried.append(errors)
    np.testing.assert_allclose(relative_risk(problem, phi), min(tried), rtol=1e-8)


def test_a_planted_ridge_is_learnt_and_classical_baselines_differ(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dim": 24, "points": 400, "modulus": 31}
    risks = {
        sampler: point(tmp_path, sampler=sampler, **settings)["test_risk"]
        for sampler in ("qrt", "uniform", "random-features")
    }
    assert risks["qrt"] < 1e-6
    assert risks["uniform"] > 0.9
    assert 0.3 < risks["random-features"] < 1.1


@pytest.mark.parametrize("sampler", ["qrt", "qrt-unsmoothed", "filter", "uniform", "random-features"])
def test_every_sampler_gives_all_figures_the_same_twice(tmp_path: Path, sampler: str) -> None:
    first, second = (point(tmp_path, 5, sampler=sampler, dim=6, points=50) for _ in range(2))
    assert set(first) == set(KIND.metrics)
    assert all(value is None or np.isfinite(value) for value in first.values())
    for name, metric in KIND.metrics.items():
        assert metric.measured or first[name] == second[name]


def test_high_dimensions_neither_overflow_nor_vanish(tmp_path: Path) -> None:
    found = point(tmp_path, dim=300, points=600)
    assert 0.2 < found["peak_probability"] < 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modulus": 15}, "odd prime"),
        ({"modulus": 2}, "odd prime"),
        ({"dim": 8, "support": 9}, "support is 9"),
        ({"dim": 8, "support": 6}, "entries is 6"),
        ({"dim": 8, "entries": 7.5}, "entries is 7.5"),
        ({"points": 3}, "greater than or equal to 4"),
        ({"noise": -1.0}, "greater than or equal to 0"),
        ({"sampler": "qrt-smoothed"}, "Input should be"),
    ],
)
def test_refused_parameters(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Planted(**settings)
