import sys

import numpy as np
import pytest

from qrt_tn.models import fit_output_weights
from qrt_tn.studies.experiments.catalogue import UnavailableError
from qrt_tn.studies.experiments.tickets import rivals
from qrt_tn.studies.experiments.tickets.continuous import tempered_cosines
from qrt_tn.studies.experiments.tickets.data import load
from qrt_tn.studies.experiments.tickets.rivals import candidates, forward, solve, standardiser


def left_over(columns: np.ndarray, targets: np.ndarray) -> float:
    full = np.column_stack([np.ones(len(columns)), columns])
    return float(np.square(targets - full @ np.linalg.lstsq(full, targets)[0]).sum())


def test_greedy_selection_takes_the_best_next_column_each_time() -> None:
    rng = np.random.default_rng(0)
    phi, targets = rng.normal(size=(60, 25)) @ rng.normal(size=(25, 25)) + 3, rng.normal(size=(60, 2))
    chosen = forward(phi, targets, 12)
    for k, column in enumerate(chosen):
        errors = [
            np.inf if j in chosen[:k] else left_over(phi[:, [*chosen[:k], j]], targets) for j in range(25)
        ]
        assert column == np.argmin(errors)


def test_greedy_selection_puts_dependent_columns_last() -> None:
    rng = np.random.default_rng(1)
    base, targets = rng.normal(size=(40, 4)), rng.normal(size=(40, 1))
    phi = np.hstack([base, base @ rng.normal(size=(4, 3)), np.ones((40, 1))])
    chosen = forward(phi, targets, 8)
    assert sorted(chosen) == list(range(8))
    assert np.linalg.matrix_rank(phi[:, chosen[:4]]) == 4


def test_random_features_are_those_of_the_gaussian_kernel() -> None:
    problem = load("diabetes", 0)
    width = candidates("random-features", problem)[4].width
    assert width is not None
    features = candidates("random-features", problem)[4].draw(problem.train.x, np.empty(0), 20_000, 0)
    scaled = standardiser(problem.train.x, False)(problem.test.x[:20])
    gram = 2 / 20_000 * features(problem.test.x[:20]) @ features(problem.test.x[:20]).T
    distances = np.square(scaled[:, None] - scaled[None]).sum(axis=2)
    np.testing.assert_allclose(gram, np.exp(-(width**2) / 20 * distances), atol=0.03)


def test_pixels_share_a_scale_and_constant_features_survive() -> None:
    x = np.array([[0.0, 5, 1], [2, 5, 3]])
    np.testing.assert_allclose(standardiser(x, False)(x), [[-1, 0, -1], [1, 0, 1]])
    assert np.ptp(standardiser(x, True)(x)[:, 0]) == pytest.approx(2 / np.sqrt(2 / 3))


def test_the_phase_is_that_of_the_spectrum() -> None:
    rng = np.random.default_rng(2)
    x, targets = rng.normal(size=(300, 3)), rng.normal(size=(300, 1))
    # in the first round the residual is the centred target, whatever the contrast's size
    u, phase = tempered_cosines(x, targets, 2, 1.0, 4.0, rng)
    z = (targets - targets.mean()).T @ np.exp(-1j * x @ u)
    assert np.abs(np.cos(np.angle(z) - phase)).min() > 1 - 1e-6


def test_sweeps_have_the_tempered_law_as_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 1))
    targets = np.cos(2 * x)
    monkeypatch.setattr("qrt_tn.studies.experiments.tickets.continuous.SWEEPS", 40)
    monkeypatch.setattr("qrt_tn.studies.experiments.tickets.continuous.round_sizes", lambda: iter([4000]))
    u, _ = tempered_cosines(x, targets, 4000, 1.5, 2.0, rng)
    grid = np.linspace(-8, 8, 4001)
    sizes = np.abs((targets - targets.mean()).T @ np.exp(-1j * x * grid))[0]
    law = sizes**4 * np.exp(-(grid**2) / 2 / 1.5**2)
    wanted = np.cumsum(law) / law.sum()
    found = np.searchsorted(np.sort(u[0]), grid) / 4000
    assert np.abs(found - wanted).max() < 0.04


def test_tempering_beats_random_features_at_few_nodes() -> None:
    problem = load("friedman1", 0)
    errors = {}
    for method in ("random-features", "random-features-tempered", "random-features-greedy", "filter-greedy"):
        answer = solve(method, problem, 16, 0)
        errors[method] = problem.loss(answer.predict(problem.test.x), problem.test)
    assert errors["random-features-tempered"] < 0.75 * errors["random-features"]
    assert errors["random-features-greedy"] < 0.9 * errors["random-features"]
    assert errors["filter-greedy"] < 0.8 * errors["random-features"]


def test_swim_has_the_nodes_of_its_package() -> None:
    swimnetworks = pytest.importorskip("swimnetworks", reason="swimnetworks is not installed")
    problem = load("wine", 0)
    x, targets = problem.train.x, problem.targets(problem.train)
    features = candidates("swim", problem)[0].draw(x, targets, 7, 3)
    scale = standardiser(x, False)
    layer = swimnetworks.Dense(layer_width=7, activation="tanh", parameter_sampler="tanh", random_seed=3)
    np.testing.assert_allclose(
        features(problem.test.x), layer.fit(scale(x), targets).transform(scale(problem.test.x))
    )


def test_swim_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swimnetworks", None)
    with pytest.raises(UnavailableError, match=r"qrt-tn\[rivals\]"):
        candidates("swim", load("wine", 0))


def test_the_last_fit_sees_validation_points_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(phi: np.ndarray, targets: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(phi))
        return fit_output_weights(phi, targets, ridge)

    monkeypatch.setattr(rivals, "fit_output_weights", counted)
    problem = load("wine", 0)
    solve("random-features", problem, 8, 0)
    assert seen == [len(problem.train.x) + len(problem.validation.x)]
