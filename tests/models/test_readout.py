"""Ridge regression in closed form, against the normal equations."""

import numpy as np
import pytest

from qrt_tn.models import fit_output_weights, select_ridge


def problem(points, nodes, outputs, seed):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(points, nodes)) + rng.normal(size=nodes)
    return phi, phi @ rng.normal(size=(nodes, outputs)) + 3 + rng.normal(size=(points, outputs))


def solved(phi, y, ridge):
    """Kernel and bias by one augmented least-squares problem, whose last unknown goes without penalty."""
    nodes = phi.shape[1]
    rows = np.vstack([np.column_stack([phi, np.ones(len(phi))]), np.sqrt(ridge) * np.eye(nodes, nodes + 1)])
    weights = np.linalg.lstsq(rows, np.vstack([y, np.zeros((nodes, y.shape[1]))]))[0]
    return weights[:-1], weights[-1]


@pytest.mark.parametrize(("points", "nodes"), [(50, 8), (20, 60), (30, 30)])
@pytest.mark.parametrize("ridge", [0, 1e-3, 100.0])
def test_weights_minimise_the_penalised_squares(points, nodes, ridge):
    phi, y = problem(points, nodes, 3, seed=points)
    kernel, bias = fit_output_weights(phi, y, ridge)
    if ridge == 0:  # of least norm, and through every point where there are enough nodes
        centred = phi - phi.mean(axis=0)
        wanted = np.linalg.pinv(centred, rcond=1e-10) @ (y - y.mean(axis=0))
        np.testing.assert_allclose(kernel, wanted, atol=1e-9)
        if nodes >= points:
            np.testing.assert_allclose(phi @ kernel + bias, y, atol=1e-9)
        return
    for found, wanted in zip((kernel, bias), solved(phi, y, ridge), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-8)
    flat = fit_output_weights(phi, y[:, 0], ridge)
    np.testing.assert_allclose(flat[0], kernel[:, :1], rtol=1e-9)
    assert flat[1].shape == (1,)


@pytest.mark.parametrize(("points", "nodes"), [(60, 12), (25, 70)])
def test_the_penalty_chosen_is_the_best_one_by_search(points, nodes):
    phi, y = problem(points + 40, nodes, 2, seed=nodes)
    ridges = np.logspace(-3, 5, 17)
    *found, chosen = select_ridge(phi[:points], y[:points], phi[points:], y[points:], ridges)
    fits = [solved(phi[:points], y[:points], ridge) for ridge in ridges]
    errors = [np.square(phi[points:] @ kernel + bias - y[points:]).mean() for kernel, bias in fits]
    assert chosen == ridges[np.argmin(errors)]
    for one, wanted in zip(found, fits[np.argmin(errors)], strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-6, atol=1e-7)


PHI, Y = problem(10, 4, 2, seed=4)
REFUSED = [
    (lambda: fit_output_weights(PHI, Y[:5], 1.0), "10 rows and targets 5"),
    (lambda: fit_output_weights(PHI[:0], Y[:0], 1.0), "not empty"),
    (lambda: fit_output_weights(PHI[0], Y[:1], 1.0), r"\(4,\)"),
    (lambda: fit_output_weights(PHI * np.nan, Y, 1.0), "features holds nan"),
    (lambda: fit_output_weights(PHI, np.full_like(Y, np.inf), 1.0), "targets holds inf"),
    (lambda: fit_output_weights(PHI, Y, -1.0), "ridge is -1"),
    (lambda: fit_output_weights(PHI, Y, np.nan), "ridge is nan"),
    (lambda: fit_output_weights(PHI, Y, "a"), "ridge is 'a'"),
    (lambda: select_ridge(PHI, Y, PHI, Y, []), "ridges is empty"),
    (lambda: select_ridge(PHI, Y, PHI, Y, [0.0, 1.0]), "ridges holds 0"),
    (lambda: select_ridge(PHI, Y, PHI[:, :3], Y), r"\(10, 3\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
