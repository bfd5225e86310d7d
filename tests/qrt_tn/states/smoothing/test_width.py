"""The automatic width: near the best of a sweep, reproducible, and told with the risks tried."""

import numpy as np
import pytest

from qrt_tn import states
from qrt_tn.states.smoothing import automatic_width


def waves(rng, count, dim, frequency, modulus=127, levels=17):
    """Points, and a sum of ridge waves of up to the given frequency along few coordinates."""
    points = np.unique(rng.integers(levels, size=(count, dim)), axis=0)
    u = rng.integers(-frequency, frequency + 1, size=(6, dim)) * (rng.random((6, dim)) < 3 / dim)
    values = np.cos(2 * np.pi / modulus * (points @ u.T) + rng.uniform(0, 6, size=6)).sum(axis=1)
    return points, (values - values.mean())[:, None]


def test_faster_functions_get_broader_filters():
    slow, fast = (automatic_width(*waves(np.random.default_rng(0), 900, 6, f), 127) for f in (1, 8))
    mean = [np.mean(choice.smoothing) for choice in (slow, fast)]
    assert 1.5 * mean[0] < mean[1]


def test_the_choice_is_the_least_risk_tried_and_the_same_again():
    points, values = waves(np.random.default_rng(1), 400, 5, 2)
    choice, again = (automatic_width(points, values, 127, seed=4) for _ in range(2))
    best = min(choice.tried, key=lambda row: row["risk"])
    assert np.isclose(np.exp(np.mean(np.log(choice.smoothing))), best["width"], rtol=0.2)
    assert best["risk"] < 0.2
    assert choice.tried == again.tried
    assert choice.points == (267, 133) and choice.nodes == 128
    assert {row["power"] for row in choice.tried} == {0.0, 0.5}
    assert all(row["std"] >= 0 for row in choice.tried)


def test_vector_and_complex_values():
    points, values = waves(np.random.default_rng(2), 300, 5, 2)
    pair = np.concatenate([values, values[::-1]], axis=1)
    for given in (pair, values * (1 + 2j)):
        assert min(row["risk"] for row in automatic_width(points, given, 127).tried) < 1
    plain, turned = (automatic_width(points, given, 127) for given in (values, values * 1j))
    assert np.allclose([r["risk"] for r in plain.tried], [r["risk"] for r in turned.tried])


@pytest.mark.parametrize("constant", [False, True])
def test_a_state_says_what_was_tried(constant):
    points, values = waves(np.random.default_rng(3), 300, 5, 2)
    if constant:
        points = np.concatenate([points, np.full((len(points), 1), 3)], axis=1)
    state = states.from_samples(points, values[:, 0], 127, smoothing="auto", tolerance=0.1)
    assert state.truncation_error <= 0.1
    assert state.width_choice.smoothing is state.smoothing
    again = states.from_samples(points, values[:, 0], 127, smoothing=state.smoothing, tolerance=0.1)
    assert again.width_choice is None
    assert again.bond_dimensions == state.bond_dimensions


def test_too_little_to_choose_from():
    with pytest.raises(ValueError, match="needs at least 32 distinct ones, not 20; give a width"):
        automatic_width(np.arange(20)[:, None], np.ones((20, 1)), 31)
