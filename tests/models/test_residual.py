"""Residual tickets: nested, reproducible, and better than what they are drawn from."""

import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import make_friedman1

from qrt_tn import Quantizer, Ridgelet, filter_nodes
from qrt_tn.models import RidgeNetwork, residual_ticket
from qrt_tn.models.residual import round_sizes


def fitted_error(phi, y):
    """Squared error of least squares with a free bias, over the variance."""
    phi = np.column_stack([np.ones(len(phi)), phi])
    return np.square(y - phi @ np.linalg.lstsq(phi, y)[0]).mean() / y.var()


@pytest.fixture(scope="module")
def friedman():
    x, y = make_friedman1(500, n_features=6, noise=0.1, random_state=0)
    quantizer = Quantizer(levels=17).fit(x)
    return quantizer.transform(x), quantizer.positions(x), y


def test_rounds_reach_powers_of_four():
    sizes = round_sizes()
    totals = np.cumsum([next(sizes) for _ in range(32)])
    assert {16, 64, 256, 1024} <= set(totals.tolist())


@pytest.mark.parametrize("subsample", [None, 100])
def test_tickets_nest(friedman, subsample):
    """However many nodes are asked for, also within a round."""
    points, positions, y = friedman
    ticket = {
        n: residual_ticket(points, y, n, positions=positions, subsample=subsample, seed=3)
        for n in (5, 16, 31, 70)
    }
    for n in (5, 16, 31):
        assert np.array_equal(ticket[70].a[:n], ticket[n].a)
        assert np.allclose(ticket[70].b[:n], ticket[n].b, atol=1e-6)
    other = residual_ticket(points, y, 16, positions=positions, subsample=subsample, seed=4)
    assert not np.array_equal(other.a, ticket[16].a)


def test_a_ticket_beats_its_filter(friedman):
    points, positions, y = friedman
    ticket = residual_ticket(points, y, 40, positions=positions, smoothing=0.6, beta=4.0)
    unit = 2 * np.pi / 127
    plain = filter_nodes(40, 6, Ridgelet("cosine", 127), 0.6)
    a = np.where(plain.a > 63, plain.a - 127, plain.a)
    before = fitted_error(np.cos(unit * (positions @ a.T - plain.b)), y)
    assert fitted_error(ticket.features(positions), y) < 0.5 * before


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


def test_thresholds_are_at_the_phase_of_the_residual(friedman):
    """Of the first round, whose residual is the centred targets: no other b correlates more with them."""
    points, _, y = friedman
    ticket = residual_ticket(points, y, 2)
    centred = y - y.mean()
    own = np.abs(ticket.features(points).T @ centred)
    for shift in np.linspace(0, 127, 64, endpoint=False):
        moved = (ticket.b + shift) % 127
        a = np.where(ticket.a > 63, ticket.a - 127, ticket.a)
        assert (
            np.abs(np.cos(2 * np.pi / 127 * (points @ a.T - moved)).T @ centred) <= own * (1 + 1e-6)
        ).all()


def test_coordinates_that_never_change_are_left_out(friedman):
    points, _, y = friedman
    constant = np.column_stack([points, np.full(len(points), 5)])
    assert not residual_ticket(constant, y, 20).a[:, -1].any()


def test_ridge_networks_take_tickets(friedman):
    points, positions, y = friedman
    ticket = residual_ticket(points, y, 20, positions=positions)
    network = RidgeNetwork(ticket, Ridgelet("cosine", 127), 1, rngs=nnx.Rngs(0))
    wanted = np.sqrt(2) * ticket.features(positions)
    assert np.allclose(network.compute_features(positions), wanted, atol=1e-4)


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
    ({"beta": 0.9}, "beta is 0.9"),
    ({"sweeps": 0}, "sweeps is 0"),
    ({"ridge": 0}, "ridge is 0"),
    ({"subsample": 0}, "subsample is 0"),
    ({"seed": -1}, "seed is -1"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_bad_arguments_are_refused_by_value(changes, message):
    arguments = {"points": [[0, 1], [1, 2]], "targets": [1.0, 2.0], "n": 2} | changes
    with pytest.raises(ValueError, match=message):
        residual_ticket(**arguments)
