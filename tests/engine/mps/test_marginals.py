import itertools

import numpy as np
import pytest

from qrt_tn.engine import mps
from qrt_tn.engine.mps import marginals


def test_the_distribution_of_every_site(shape, chains):
    cores, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(0), *shape))
    probabilities = np.abs(chains.expanded(cores)) ** 2
    for site, found in enumerate(mps.site_probabilities(cores)):
        others = tuple(axis for axis in range(probabilities.ndim) if axis != site)
        assert found.dtype == np.float64
        assert np.allclose(found, probabilities.sum(axis=others))


@pytest.mark.parametrize("block", [1, 2**22])
def test_all_sets_of_sites(block, chains, monkeypatch):
    monkeypatch.setattr(marginals, "_BLOCK", block)
    rng = np.random.default_rng(1)
    extents = [3, 2, 4, 2]
    cores, _ = mps.right_canonical(chains.random_cores(rng, extents, 3))
    probabilities = np.abs(chains.expanded(cores)) ** 2
    for size in range(1, 5):
        for sites in itertools.permutations(range(4), size):
            values = np.array([rng.integers(extents[site], size=13) for site in sites]).T
            kept = probabilities.sum(axis=tuple(axis for axis in range(4) if axis not in sites))
            order = np.argsort(sites)
            wanted = kept[tuple(values[:, order].T)]
            found = mps.log_marginals(cores, np.array(sites), values)
            assert np.allclose(found, np.log(wanted), atol=1e-10)


def test_what_has_no_probability():
    core = np.array([1.0, 0.0, 2.0]).reshape(1, 3, 1)
    cores, _ = mps.right_canonical([core, core, core])
    values = np.array([[0, 2], [1, 2], [2, 1], [-1, 0], [2, 2]])
    found = mps.log_marginals(cores, np.array([0, 2]), values)
    assert np.allclose(found[[0, 4]], np.log([4 / 25, 16 / 25]))
    assert (found[1:4] == -np.inf).all()
    assert (mps.log_marginals(cores, np.array([1]), np.array([[-1]])) == -np.inf).all()


def test_many_sites_in_single_precision(chains):
    cores, _ = mps.right_canonical(
        chains.random_cores(np.random.default_rng(2), [7] * 2000, 2, dtype=np.complex64)
    )
    sites = np.arange(0, 2000, 2)
    values = np.random.default_rng(3).integers(7, size=(3, 1000))
    found = mps.log_marginals(cores, sites, values)
    assert (found < -1500).all() and np.isfinite(found).all()
    double, _ = mps.right_canonical([core.astype(np.complex128) for core in cores])
    assert np.allclose(found, mps.log_marginals(double, sites, values), rtol=1e-6)


def test_the_device_road(device, chains):
    host, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(10), [3, 4, 2, 3], 3))
    there = [device.asarray(core) for core in host]
    for a, b in zip(mps.site_probabilities(there), mps.site_probabilities(host), strict=True):
        assert np.allclose(a, b)
    values = np.array([[0, 1], [2, 0], [2, 0], [-1, 1]])
    found = mps.log_marginals(there, np.array([3, 1]), values)
    assert np.allclose(found, mps.log_marginals(host, np.array([3, 1]), values))
