"""The sketch: nothing is lost with all points as landmarks."""

import numpy as np

from qrt_tn.states.filters import checked_filter, chosen_sites
from qrt_tn.states.smoothing.sketch import sketched_cores


def test_all_points_as_landmarks_lose_nothing(oracle):
    rng = np.random.default_rng(5)
    points = np.unique(rng.integers(5, size=(40, 3)), axis=0)
    values = rng.normal(size=(len(points), 2))
    product = checked_filter(1.1, 3, 5)
    cores, scale = sketched_cores(points.T, values, chosen_sites(product, 0.0), len(points))
    f = oracle.filtered(oracle.placed(points, values, 5), 3, 1.1)
    norm = np.linalg.norm(f) * 5**1.5 / np.exp(0.5 * product.log_weight)  # in the sites' units
    assert np.isclose(np.linalg.norm(cores[0]) * np.exp(scale), norm, rtol=1e-9)
    for core in cores[1:]:
        rows = core.reshape(len(core), -1)
        assert np.abs(rows @ rows.conj().T - np.eye(len(core))).max() < 1e-12
