"""Residual tickets: nested, reproducible, and better than what they are drawn from."""

from dataclasses import replace

import numpy as np
import pytest
from flax import nnx
from scipy import stats
from sklearn.datasets import make_friedman1

from qrt_tn import Quantizer, Ridgelet
from qrt_tn.models import RidgeNetwork, fit_output_weights, residual, residual_ticket
from qrt_tn.models.residual import round_sizes
from qrt_tn.states.filters import checked_filter


def fitted_error(phi, y):
    """Squared error of least squares with a free bias, over the variance."""
    phi = np.column_stack([np.ones(len(phi)), phi])
    return np.square(y - phi @ np.linalg.lstsq(phi, y)[0]).mean() / y.var()


@pytest.fixture(scope="module")
def friedman():
    x, y = make_friedman1(500, n_features=6, noise=0.1, random_state=0)
    quantizer = Quantizer(levels=17).fit(x)
    return quantizer.transform(x), quantizer.positions(x), y


def test_rounds_reach_powers_of_four_and_tickets_nest(friedman):
    """However many nodes are asked for, also within a round."""
    sizes = round_sizes()
    assert {16, 64, 256, 1024} <= set(np.cumsum([next(sizes) for _ in range(32)]).tolist())
    points, positions, y = friedman
    options = {"positions": positions, "subsample": 100}
    whole = residual_ticket(points, y, 50, **options, seed=3)
    for n in (5, 31):
        ticket = residual_ticket(points, y, n, **options, seed=3)
        assert np.array_equal(whole.a[:n], ticket.a)
        assert np.allclose(whole.b[:n], ticket.b, atol=1e-6)
    assert not np.array_equal(residual_ticket(points, y, 50, **options, seed=4).a, whole.a)


def test_each_round_looks_at_the_residual_of_those_before():
    """With two separate parts, large and small, the first rounds find the one, later ones the other."""
    rng = np.random.default_rng(0)
    x = rng.integers(17, size=(800, 2))
    y = 10 * np.cos(2 * np.pi * 3 * x[:, 0] / 127) + np.cos(2 * np.pi * 5 * x[:, 1] / 127)
    ticket = residual_ticket(x, y, 16, smoothing=3.0, beta=64.0)
    assert ticket.a[:2, 0].all()
    assert not ticket.a[:2, 1].any()
    assert ticket.a[2:, 1].any()
    assert fitted_error(ticket.features(x), y) < 0.01


def plain_ticket(points, positions, y, n, *, width, beta, ridge, rng):
    """The method in NumPy, one chain after the other: an independent program with other random numbers."""
    values = np.arange(-6, 7)
    log_prior = -((values / width) ** 2)
    y = y - y.mean(axis=0)
    residual, a, b = y, np.zeros((0, points.shape[1])), np.zeros(0)
    sizes = round_sizes()
    while len(a) < n:
        for _ in range(next(sizes)):
            c = residual @ rng.standard_normal(y.shape[1])
            weights = np.exp(log_prior)
            u = rng.choice(values, size=points.shape[1], p=weights / weights.sum())
            for power in (max(1.0, beta / 4), beta, beta):
                for i in rng.permutation(len(u)):
                    tried = np.tile(u, (len(values), 1))
                    tried[:, i] = values
                    z = np.exp(-2j * np.pi / 127 * (tried @ points.T)) @ c
                    logs = power * np.log(np.abs(z) ** 2) + log_prior
                    u[i] = values[(logs + rng.gumbel(size=len(values))).argmax()]
            z = np.exp(-2j * np.pi / 127 * (u @ points.T)) @ c
            a, b = np.vstack([a, u]), np.append(b, -np.angle(z) * 127 / (2 * np.pi))
        phi = np.cos(2 * np.pi / 127 * (positions @ a.T - b))
        centred = phi - phi.mean(axis=0)
        kernel = np.linalg.solve(centred.T @ centred + ridge * np.eye(len(a)), centred.T @ y)
        residual = y - centred @ kernel
    return residual


def test_residuals_are_those_of_a_plain_program(friedman):
    """Squared errors of both, over seeds, are of one distribution; with two outputs and real positions."""
    points, positions, y = friedman
    points, positions, y = points[:150], positions[:150], y[:150]
    both = np.column_stack([y, points[:, 5] / 4.0])
    both = (both - both.mean(axis=0)) / both.std(axis=0)
    options = {"width": 0.7, "beta": 8.0, "ridge": 1.0}
    theirs, ours = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        theirs.append(np.square(plain_ticket(points, positions, both, 16, **options, rng=rng)).mean())
        ticket = residual_ticket(points, both, 16, positions=positions, smoothing=0.7, beta=8.0, seed=seed)
        phi = ticket.features(positions) - ticket.features(positions).mean(axis=0)
        kernel = np.linalg.solve(phi.T @ phi + np.eye(16), phi.T @ both)
        ours.append(np.square(both - phi @ kernel).mean())
    assert stats.mannwhitneyu(theirs, ours).pvalue > 0.01


def test_residuals_are_what_ridge_regression_leaves():
    rng = np.random.default_rng(1)
    y = rng.standard_normal((60, 2))
    readout = residual._Readout(y - y.mean(axis=0), 5, 0.7)
    phi = rng.standard_normal((60, 5)).astype(np.float32) + 3
    for part in (phi[:, :2], phi[:, 2:]):
        readout.add(part)
    kernel, bias = fit_output_weights(phi, y, 0.7)
    assert np.allclose(readout.residual, y - phi @ kernel - bias, atol=1e-5)


def test_rounds_look_at_other_points_and_other_contrasts():
    """By what they are handed: subsamples differ between rounds, contrasts between nodes."""
    seen = []

    class Spy(residual._Rounds):
        def _conditionals(self, x):
            seen.append(x)
            return super()._conditionals(x)

    rng = np.random.default_rng(2)
    x, y = rng.integers(17, size=(200, 3)), rng.standard_normal((200, 3))
    rounds = Spy(x, y, checked_filter(0.7, 3, 127), 127, 50, 0)
    parts = [rounds.draw(number, 24, y - y.mean(axis=0), [16.0, 16.0]) for number in range(2)]
    assert not np.array_equal(seen[0], seen[1])
    assert len(np.unique(parts[0].a, axis=0)) > 8  # one contrast for all would leave a mode or two


def test_thresholds_are_at_the_phase_of_the_residual(friedman):
    """Of the first round, whose residual is the centred targets: no other b correlates more with them."""
    points, _, y = friedman
    ticket = residual_ticket(points, y, 2)
    centred = y - y.mean()
    own = np.abs(ticket.features(points).T @ centred)
    for shift in np.linspace(0, 127, 64, endpoint=False):
        moved = replace(ticket, b=(ticket.b + shift) % 127)
        assert (np.abs(moved.features(points).T @ centred) <= own * (1 + 1e-6)).all()


def test_constant_coordinates_are_left_out_and_ridge_networks_take_tickets(friedman):
    points, positions, y = friedman
    points, positions = (np.column_stack([part, np.full(len(part), 5)]) for part in (points, positions))
    ticket = residual_ticket(points, y, 20, positions=positions)
    assert not ticket.a[:, -1].any()
    network = RidgeNetwork(ticket, Ridgelet("cosine", 127), 1, rngs=nnx.Rngs(0))
    wanted = np.sqrt(2) * ticket.features(positions)
    np.testing.assert_allclose(network.compute_features(positions), wanted, atol=1e-4)


REFUSED = [
    ({"points": [[0, 127], [1, 2]]}, "points holds 127"),
    ({"targets": [1.0]}, r"y has shape \(1,\)"),
    ({"targets": [1.0, np.nan]}, "y holds nan"),
    ({"targets": [2.0, 2.0]}, "targets are all 2"),
    ({"targets": [1j, 2.0]}, "complex"),
    ({"positions": [[0.0, 1.0]]}, r"positions have shape \(1, 2\)"),
    ({"positions": [[0.0, np.inf], [1, 2]]}, "finite"),
    ({"n": 0}, "n is 0"),
    ({"n": 2.5}, "n is 2.5"),
    ({"modulus": 126}, "126 is not prime"),
    ({"smoothing": 0}, "smoothing holds 0"),
    ({"smoothing": 1e-3}, "no frequency but 0"),
    ({"beta": 0.9}, "beta is 0.9"),
    ({"sweeps": 0}, "sweeps is 0"),
    ({"ridge": 0}, "ridge is 0"),
    ({"subsample": 1}, "subsample is 1"),
    ({"seed": -1}, "seed is -1"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_bad_arguments_are_refused_by_value(changes, message):
    arguments = {"points": [[0, 1], [1, 2]], "targets": [1.0, 2.0], "n": 2} | changes
    with pytest.raises(ValueError, match=message):
        residual_ticket(**arguments)
