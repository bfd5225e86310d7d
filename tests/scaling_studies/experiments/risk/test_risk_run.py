from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydantic
import pytest

from qrt_tn import states
from qrt_tn.models import Dataset, RidgeNetwork
from qrt_tn.models.images import Images
from qrt_tn.models.readout import RIDGES
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError, experiment
from qrt_tn.studies.experiments.folds import Fold, make_fold
from qrt_tn.studies.experiments.risk import data as risk_data
from qrt_tn.studies.experiments.risk.data import load_named
from qrt_tn.studies.experiments.risk.run import REPORTED, measure
from qrt_tn.studies.experiments.risk.samplers import WIDTHS, grid_config, make_sampler
from qrt_tn.studies.experiments.risk.settings import Risk
from qrt_tn.studies.experiments.sources import Setting

KIND = experiment("risk")
SAMPLERS = get_args(Risk.model_fields["sampler"].annotation)
Point = Callable[..., dict[str, Any]]


def prototypes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    centres, labels = 2 * rng.normal(size=(3, 6)), np.arange(150) % 3
    return centres[labels] + rng.normal(size=(150, 6)), labels


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Risk]:
    x, labels = prototypes()
    np.savez(tmp_path / "prototypes.npz", x=x, y=labels)

    def make(**changes: Any) -> Risk:
        small = {"data": str(tmp_path / "prototypes.npz"), "modulus": 31, "levels": 9, "nodes": 6}
        return Risk(**{**small, "smoothing": 0.8, **changes})

    return make


@pytest.fixture
def point(tmp_path: Path, settings: Callable[..., Risk]) -> Point:
    def run(seed: int = 0, **changes: Any) -> dict[str, Any]:
        return dict(measure(settings(**changes), seed, Context(tmp_path, say=lambda _: None)))

    return run


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_gives_all_figures_the_same_twice(point: Point, sampler: str) -> None:
    epochs = 20 if sampler == "dense-trained" else 0
    first, second = (point(1, sampler=sampler, epochs=epochs) for _ in range(2))
    assert set(first) == set(KIND.metrics)
    assert all(value is None or np.isfinite(value) for value in first.values())
    for name, metric in KIND.metrics.items():
        assert metric.measured or first[name] == second[name]
    assert (first["entropy"] is not None) == sampler.startswith("qrt-")
    assert (first["bond"] is not None) == (sampler in ("qrt-smoothed", "qrt-teacher"))
    assert first["test_error"] == pytest.approx(1 - first["test_accuracy"])
    if sampler not in ("uniform", "qrt-unsmoothed"):
        assert first["test_accuracy"] > 0.5
    other = point(2, sampler=sampler, epochs=epochs)
    assert other["train_risk"] != first["train_risk"]


def plain_scores(fold: Fold, phi: np.ndarray) -> tuple[float, float, float]:
    """Validation risk, test risk and test accuracy of the best penalty, by least squares."""
    train, validation, test = fold.split.train, fold.split.validation, fold.split.test
    count, tried = phi.shape[1], []
    for ridge in RIDGES:
        # the penalty as further rows, the intercept without
        rows = np.vstack(
            [np.column_stack([phi[train], np.ones(len(train))]), np.sqrt(ridge) * np.eye(count, count + 1)]
        )
        wanted = np.vstack([fold.targets[train], np.zeros((count, fold.outputs))])
        weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        outputs = phi @ weights[:-1] + weights[-1]
        errors = ((outputs - fold.targets) ** 2).sum(axis=1)
        right = outputs.argmax(axis=1) == fold.targets.argmax(axis=1)
        tried.append((errors[validation].mean(), errors[test].mean(), right[test].mean()))
    return min(tried)


@pytest.mark.parametrize("sampler", ["qrt-smoothed", "filter", "leverage"])
def test_risk_by_plain_least_squares_from_the_same_nodes(
    point: Point, settings: Callable[..., Risk], tmp_path: Path, sampler: str
) -> None:
    chosen = settings(sampler=sampler)
    config = grid_config(chosen)
    fold = make_fold(load_named(chosen.data), config, 4)
    draws = 8
    made = make_sampler(chosen, config, fold, 6 * draws)
    setting = Setting("cosine", 0.8)
    made.prepare(setting)
    networks = made.networks(setting, 6, draws, REPORTED)
    found = []
    for network in networks:
        assert isinstance(network, RidgeNetwork)
        a, b = (np.asarray(part[...]).astype(np.int64) for part in (network.a, network.b))
        turns = (fold.grid[:, None, :] * a[None, :, :]).sum(axis=2) - b
        found.append(plain_scores(fold, np.sqrt(2) * np.cos(2 * np.pi * turns / 31)))
    result = point(4, sampler=sampler)
    assert result["draws"] == draws
    named = [result[name] for name in ("validation_risk", "test_risk", "test_accuracy")]
    np.testing.assert_allclose(named, np.mean(found, axis=0), rtol=2e-4)


def test_bond_and_error_are_those_of_the_state(
    point: Point, settings: Callable[..., Risk], tmp_path: Path
) -> None:
    fold = make_fold(load_named(settings().data), grid_config(settings()), 0, 60)
    state = states.from_samples(
        fold.grid[fold.split.train], fold.state_targets, 31, smoothing=0.8, tolerance=0.02, backend="numpy"
    )
    found = point(tolerance=0.02, points=60)
    assert isinstance(state, states.SmoothedState)
    assert found["bond"] == max(state.bond_dimensions)
    assert found["truncation_error"] == pytest.approx(state.truncation_error)
    assert 0 < found["truncation_error"] <= 0.02
    assert point(tolerance=0.3, points=60)["bond"] < found["bond"]


def test_a_width_that_was_chosen_gives_what_it_gives_when_named(point: Point) -> None:
    chosen = point(sampler="filter", smoothing=None)
    assert chosen["width"] in WIDTHS
    named = point(sampler="filter", smoothing=chosen["width"])
    assert named["test_risk"] == chosen["test_risk"]
    assert point(sampler="filter", smoothing=None, activation="auto")["width"] in WIDTHS
    assert point(sampler="random-features")["bandwidth"] is not None


def test_training_goes_on_from_fitted_weights(point: Point) -> None:
    fitted, trained = point(sampler="filter"), point(sampler="filter", epochs=15)
    assert trained["validation_risk"] != fitted["validation_risk"]
    assert trained["test_accuracy"] > 0.5


def test_fewer_points_are_among_more(settings: Callable[..., Risk], tmp_path: Path) -> None:
    dataset = load_named(settings().data)
    config = grid_config(settings())
    few, more, everything = (make_fold(dataset, config, 2, points) for points in (20, 50, None))
    assert len(few.split.train) == 20
    assert set(few.split.train) < set(more.split.train) < set(everything.split.train)
    np.testing.assert_array_equal(few.split.test, everything.split.test)
    # the quantiser too sees only the points that were kept
    assert not np.array_equal(few.grid, everything.grid)
    with pytest.raises(ValueError, match="points is 1000"):
        make_fold(dataset, config, 2, 1000)


def test_real_targets_have_no_accuracy(point: Point, tmp_path: Path) -> None:
    x, _ = prototypes()
    np.savez(tmp_path / "real.npz", x=x, y=np.sin(x[:, 0]) + 0.1 * x[:, 1])
    found = point(data=str(tmp_path / "real.npz"))
    assert found["test_accuracy"] is None
    assert found["test_error"] is None
    assert found["test_risk"] > 0


def test_sets_of_images_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(12, 4, 5, 1), dtype=np.uint8), np.arange(12) % 2
    images = Images(x[:8], y[:8], x[8:], y[8:], "mnist", ("a", "b"))
    monkeypatch.setattr(risk_data, "load_images", lambda name: images)
    found = load_named("mnist")
    assert isinstance(found, Dataset)
    np.testing.assert_array_equal(found.x, x.reshape(12, 20))
    np.testing.assert_array_equal(found.y, y)
    assert found.image_shape == (4, 5)


def test_data_that_are_not_here(point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match=r"no file nowhere\.npz"):
        point(data="nowhere.npz")

    def missing(name: str) -> None:
        raise ValueError("fashion-mnist is not here; install dataset-fashion-mnist")

    monkeypatch.setattr(risk_data, "load_images", missing)
    with pytest.raises(UnavailableError, match="install dataset-fashion-mnist"):
        point(data="fashion-mnist")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modulus": 16}, "odd prime"),
        ({"sampler": "dense-trained"}, "needs epochs"),
        ({"levels": 200}, "levels is 200"),
        ({"nodes": 0}, "greater than or equal to 1"),
        ({"smoothing": 0.0}, "greater than 0"),
        ({"tolerance": 1.0}, "less than 1"),
        ({"sampler": "qrt"}, "Input should be"),
        ({"width": 0.5}, "Extra inputs"),
    ],
)
def test_refused_parameters(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Risk(**settings)


def test_an_unknown_activation_is_refused_before_any_work(point: Point) -> None:
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        point(activation="swish")
