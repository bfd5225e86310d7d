"""Ridge regression in closed form, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from qrt_tn.models.readout import fit_output_weights, select_ridge


def problem(points, nodes, outputs, seed):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(points, nodes)) + rng.normal(size=nodes)
    return phi, phi @ rng.normal(size=(nodes, outputs)) + 3 + rng.normal(size=(points, outputs))


@pytest.mark.parametrize(("points", "nodes"), [(50, 8), (20, 60), (30, 30)])
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0])
def test_weights_are_those_of_scikit_learn(points, nodes, ridge):
    phi, y = problem(points, nodes, 3, seed=points)
    kernel, bias = fit_output_weights(phi, y, ridge)
    oracle = Ridge(alpha=ridge).fit(phi, y)
    np.testing.assert_allclose(kernel, oracle.coef_.T, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(bias, oracle.intercept_, rtol=1e-7, atol=1e-9)


def test_without_a_penalty_it_is_least_squares():
    phi, y = problem(40, 5, 2, seed=1)
    oracle = LinearRegression().fit(phi, y)
    kernel, bias = fit_output_weights(phi, y, 0)
    np.testing.assert_allclose(kernel, oracle.coef_.T, atol=1e-10)
    np.testing.assert_allclose(bias, oracle.intercept_, atol=1e-10)
    # more nodes than points: through every point, with the least norm
    phi, y = problem(10, 30, 2, seed=2)
    kernel, bias = fit_output_weights(phi, y, 0)
    np.testing.assert_allclose(phi @ kernel + bias, y, atol=1e-9)
    centred = phi - phi.mean(axis=0)
    np.testing.assert_allclose(kernel, np.linalg.pinv(centred) @ (y - y.mean(axis=0)), atol=1e-9)


@pytest.mark.parametrize(("points", "nodes"), [(60, 12), (25, 70)])
def test_the_penalty_chosen_is_the_best_one_by_search(points, nodes):
    phi, y = problem(points + 40, nodes, 2, seed=nodes)
    ridges = np.logspace(-3, 5, 17)
    kernel, bias, chosen = select_ridge(phi[:points], y[:points], phi[points:], y[points:], ridges)
    errors = []
    for ridge in ridges:
        oracle = Ridge(alpha=ridge).fit(phi[:points], y[:points])
        errors.append(np.square(oracle.predict(phi[points:]) - y[points:]).mean())
    assert chosen == ridges[np.argmin(errors)]
    expected = fit_output_weights(phi[:points], y[:points], chosen)
    np.testing.assert_allclose(kernel, expected[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(bias, expected[1], rtol=1e-6, atol=1e-8)


def test_one_column_of_targets_needs_no_second_axis():
    phi, y = problem(20, 4, 1, seed=3)
    flat, column = fit_output_weights(phi, y[:, 0], 1.0), fit_output_weights(phi, y, 1.0)
    np.testing.assert_array_equal(flat[0], column[0])
    assert flat[0].shape == (4, 1)


def test_bad_input_is_named():
    phi, y = problem(10, 4, 2, seed=4)
    for features, targets, ridge, message in [
        (phi, y[:5], 1.0, r"\(10, 4\) and targets \(5, 2\)"),
        (phi[:0], y[:0], 1.0, "not empty"),
        (phi[0], y[:1], 1.0, r"\(4,\)"),
        (np.full_like(phi, np.nan), y, 1.0, "features hold nan"),
        (phi, np.full_like(y, np.inf), 1.0, "targets hold inf"),
        (phi, y, -1.0, "ridge is -1"),
        (phi, y, np.nan, "ridge is nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_output_weights(features, targets, ridge)
    with pytest.raises(ValueError, match="ridges is empty"):
        select_ridge(phi, y, phi, y, [])
    with pytest.raises(ValueError, match="ridges holds 0"):
        select_ridge(phi, y, phi, y, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"\(10, 3\)"):
        select_ridge(phi, y, phi[:, :3], y)
