import numpy as np
import pytest

from qrt_tn.engine import mps
from qrt_tn.engine.mps import evaluation


@pytest.fixture(params=[0, 2**40], ids=["grouped", "gathered"])
def gathered(request, monkeypatch):
    monkeypatch.setattr(evaluation, "_GATHERED", request.param)


def picks(rng, extents, count):
    return np.stack([rng.integers(extent, size=count) for extent in extents], axis=1)


@pytest.mark.usefixtures("gathered")
@pytest.mark.parametrize("bond", [1, 5])
def test_right_vectors(bond, chains):
    rng = np.random.default_rng(7)
    cores = chains.random_cores(rng, [3, 4, 2], bond)
    sites = picks(rng, (3, 4, 2), 30)
    amplitudes = mps.right_vectors(cores, sites)
    assert amplitudes.shape == (30, 1)
    assert np.allclose(amplitudes.value()[:, 0], chains.expanded(cores)[tuple(sites.T)])
    opened = mps.right_vectors(cores[1:], sites[:, 1:])
    assert opened.shape == (30, bond)
    tail = np.tensordot(cores[1], cores[2], axes=1)[..., 0]
    assert np.allclose(opened.value(), tail[:, sites[:, 1], sites[:, 2]].T)


def test_sites_are_asked_for_from_the_last(chains):
    cores = chains.random_cores(np.random.default_rng(8), [3, 4, 2], 2)
    asked = []

    def column(site):
        asked.append(site)
        return np.full(5, site % 2)

    values = mps.right_vectors_of(cores, 5, column).value()
    assert np.allclose(values[:, 0], chains.expanded(cores)[0, 1, 0])
    assert asked == [2, 1, 0]


@pytest.mark.usefixtures("gathered")
def test_the_device_road(device, chains):
    rng = np.random.default_rng(10)
    host = chains.random_cores(rng, [3, 4, 2, 3], 3)
    sites = picks(rng, (3, 4, 2, 3), 40)
    there = mps.right_vectors([device.asarray(core) for core in host], sites)
    assert np.allclose(np.asarray(there), mps.right_vectors(host, sites).value())
