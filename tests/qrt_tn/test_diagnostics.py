"""Diagnostics against sums over all weights, where those can be formed."""

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, diagnose, states
from qrt_tn.baselines import filter_log_weights


@pytest.fixture
def small(oracle):
    rng = np.random.default_rng(4)
    points = oracle.grid(7, 3)[rng.permutation(343)[:40]]
    y = rng.normal(size=40)
    state = states.from_samples(points, y - y.mean(), 7, smoothing=1.5, tolerance=1e-3)
    qrt = QuantumRidgeletTransform(state, Ridgelet("triangle", 7), "numpy")
    p = (np.abs(qrt.to_dense()) ** 2).sum(axis=-1).reshape(-1)
    return qrt, p


def within(estimate, exact, sigmas=4.5):
    assert estimate.error > 0
    assert abs(estimate.value - exact) < sigmas * estimate.error, (estimate, exact)


def test_against_sums_over_all_weights(small, oracle):
    qrt, p = small
    found = diagnose(qrt, 4000, seed=1, smoothing=1.5)
    held = p[p > 0]
    within(found.entropy, -(held * np.log(held)).sum())
    within(found.log_participation, -np.log((p**2).sum()))
    within(found.log_ess_uniform, -np.log((p**2).sum()) - 3 * np.log(7))
    q = np.exp(filter_log_weights(oracle.grid(7, 3), qrt.ridgelet, 1.5))
    assert abs(q.sum() - 1) < 1e-12
    assert q[0] == 0
    assert p[0] < 1e-20
    within(found.log_ess_filter, -np.log((p[1:] ** 2 / q[1:]).sum()))
    assert found.entropy.error < 0.05
    lines = str(found).splitlines()
    assert lines[0] == "p(a) on Z_7^3, from 4000 draws"
    assert lines[1].endswith(f"nats of {3 * np.log(7):.6g}")
    assert lines[-1].startswith("sample size per filter")


def test_the_error_shrinks_as_it_should(small):
    qrt, _ = small
    few, many = diagnose(qrt, 200, seed=2), diagnose(qrt, 3200, seed=3)
    assert few.log_ess_filter is None
    for name in ("entropy", "log_participation"):
        ratio = getattr(few, name).error / getattr(many, name).error
        assert 2 < ratio < 8


def test_at_ten_thousand_dimensions_all_is_finite():
    rng = np.random.default_rng(0)
    points = rng.integers(127, size=(20, 10_000))
    state = states.from_samples(points, rng.normal(size=20), 127)
    found = diagnose(QuantumRidgeletTransform(state, Ridgelet("cosine", 127), "numpy"), 16)
    values = [found.entropy.value, found.log_participation.value, found.log_ess_uniform.value]
    assert np.isfinite(values).all()
    most = 10_000 * np.log(127)
    assert most - 50 < values[0] < most + 50  # the spectrum of few points is flat but for their coefficients
    assert -50 < values[2] < 1


def test_refusals(small):
    with pytest.raises(ValueError, match="n is 1; give at least 2 draws"):
        diagnose(small[0], 1)
    with pytest.raises(ValueError, match="widths must be positive"):
        diagnose(small[0], 8, smoothing=-1.0)
