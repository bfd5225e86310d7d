"""The sketch: nothing is lost with all points as landmarks, and blocks and devices change nothing."""

import numpy as np
import pytest

from qrt_tn.states.filters import checked_filter, chosen_sites
from qrt_tn.states.smoothing.sketch import sketched_cores


def data(modulus, dim, count):
    rng = np.random.default_rng(5)
    points = np.unique(rng.integers(modulus, size=(count, dim)), axis=0)
    return points, rng.normal(size=(len(points), 2))


def test_all_points_as_landmarks_lose_nothing(oracle):
    points, values = data(5, 3, 40)
    product = checked_filter(1.1, 3, 5)
    cores, scale = sketched_cores(points.T, values, chosen_sites(product, 0.0), len(points))
    f = oracle.filtered(oracle.placed(points, values, 5), 3, 1.1)
    norm = np.linalg.norm(f) * 5**1.5 / np.exp(0.5 * product.log_weight)  # in the sites' units
    assert np.isclose(np.linalg.norm(cores[0]) * np.exp(scale), norm, rtol=1e-9)
    for core in cores[1:]:
        rows = core.reshape(len(core), -1)
        assert np.abs(rows @ rows.conj().T - np.eye(len(core))).max() < 1e-12


def test_blocks_change_nothing(monkeypatch):
    points, values = data(7, 3, 90)
    sites = chosen_sites(checked_filter(1.5, 3, 7), 0.0)
    results = [sketched_cores(points.T, values, sites, 12)]
    monkeypatch.setattr("qrt_tn.states.smoothing.sketch._ROWS", 3)
    monkeypatch.setattr("qrt_tn.states.smoothing.sketch.PREFIX_BYTES", 1)
    results.append(sketched_cores(points.T, values, sites, 12))
    fulls = []
    for cores, scale in results:
        full = cores[0] * np.exp(scale)
        for core in cores[1:]:
            full = np.tensordot(full, core, axes=1)
        fulls.append(full)
    assert np.abs(fulls[0] - fulls[1]).max() < 1e-10 * np.abs(fulls[0]).max()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_device_computes_what_the_host_does(dtype, device):
    points, values = data(7, 4, 120)
    sites = chosen_sites(checked_filter(1.5, 4, 7), 0.0)
    host, moved = (sketched_cores(points.T, values.astype(dtype), sites, 16, xp=xp) for xp in (np, device))
    assert host[1] == moved[1]
    assert all((a == b).all() for a, b in zip(host[0], moved[0], strict=True))
