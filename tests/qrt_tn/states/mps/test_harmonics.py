import numpy as np
import pytest

from qrt_tn.engine import mps
from qrt_tn.states.mps import harmonics as module
from qrt_tn.states.mps.harmonics import harmonics


def chain(rng, modulus, dim, bond, supports=None, open_bond=1):
    """Right-canonical cores, so that no matrix is larger than 1, on the places of the supports."""
    bonds = [open_bond] + [bond] * (dim - 1) + [1]
    extents = [modulus if supports is None else len(support) for support in supports or [None] * dim]
    cores = [
        rng.normal(size=(bonds[i], extents[i], bonds[i + 1]))
        + 1j * rng.normal(size=(bonds[i], extents[i], bonds[i + 1]))
        for i in range(dim)
    ]
    return [core / np.linalg.norm(core) for core in cores]


def by_definition(cores, supports, modulus, a, v):
    """A_0[v a_0] A_1[v a_1] ... of every pair by plain products."""
    result = np.zeros((len(a), len(v), cores[0].shape[0]), dtype=complex)
    for n, row in enumerate(a):
        for j, multiplier in enumerate(v):
            vector = np.ones(1)
            for core, support, coordinate in list(zip(cores, supports, row, strict=True))[::-1]:
                place = np.flatnonzero(support == multiplier * coordinate % modulus)
                vector = core[:, place[0]] @ vector if len(place) else np.zeros(len(core))
            result[n, j] = vector
    return result


@pytest.mark.parametrize("zeros", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("elements", [1, 2**18])
@pytest.mark.parametrize(("modulus", "dim", "bond"), [(2, 3, 2), (3, 4, 3), (7, 3, 4), (13, 2, 1)])
def test_all_frequencies(modulus, dim, bond, elements, compiled, zeros, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", elements)
    monkeypatch.setattr(module, "SMALL", 100 if compiled else 0)
    monkeypatch.setattr(module, "LEAST", 4)
    monkeypatch.setattr(module, "FEWEST", 1)
    rng = np.random.default_rng(modulus + dim)
    everywhere = [np.arange(modulus)] * dim
    a = rng.integers(modulus, size=(9, dim)) * (rng.random((9, dim)) >= zeros)
    for open_bond in (1, 3):
        cores = chain(rng, modulus, dim, bond, open_bond=open_bond)
        for v in (np.arange(1, modulus), np.arange(1, modulus)[::-2], np.array([modulus - 1])):
            held = harmonics(cores, None, a, v)
            assert held.shape == (9, len(v), open_bond)
            assert np.allclose(held.value(), by_definition(cores, everywhere, modulus, a, v), atol=1e-14)


@pytest.mark.parametrize("elements", [1, 2**18])
def test_few_frequencies(elements, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", elements)
    monkeypatch.setattr(module, "FEWEST", 7 * elements)
    monkeypatch.setattr(module, "_PAIRS", 50 * elements)
    rng = np.random.default_rng(1)
    modulus, supports = 11, [np.array([0, 1, 10]), np.array([0, 2, 3, 8]), np.arange(11)]
    places = np.full((3, modulus), -1)
    for row, support in zip(places, supports, strict=True):
        row[support] = np.arange(len(support))
    cores = chain(rng, modulus, 3, 4, supports, open_bond=2)
    a = rng.integers(modulus, size=(40, 3))
    a[:20, :2] = [[1, 2]] * 20
    v = np.arange(1, modulus)
    held = harmonics(cores, places, a, v)
    exact = by_definition(cores, supports, modulus, a, v)
    assert 0 < (exact != 0).mean() < 0.5
    assert np.allclose(held.value(), exact, atol=1e-14)
    nothing = harmonics(cores, places, np.full((2, 3), [1, 5, 1]), np.array([1]))
    assert (nothing.mantissa == 0).all()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("share", [1.0, 1e-25])
def test_scales_of_their_own(share, compiled, monkeypatch):
    """Harmonics of one a that lie hundreds of decades apart, in single precision."""
    monkeypatch.setattr(module, "SMALL", 100 if compiled else 0)
    rng = np.random.default_rng(2)
    modulus, dim = 5, 60
    cores = chain(rng, modulus, dim, 2)
    for core in cores:
        core[:, 2] *= share
    a = np.ones((3, dim), dtype=np.int64)
    a[1, ::2] = 3
    v = np.arange(1, modulus)
    held = harmonics([core.astype(np.complex64) for core in cores], None, a, v)
    logs = np.stack(
        [mps.right_vectors(cores, a * multiplier % modulus).log_abs()[:, 0] for multiplier in v], 1
    )
    assert (logs.min() < -3000) == (share < 1)
    assert np.abs(held.log_abs()[:, :, 0] - logs).max() < 1e-3


@pytest.mark.parametrize("compiled", [True, False])
def test_a_frequency_without_amplitude_by_several_threads(compiled, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 100 if compiled else 0)
    monkeypatch.setattr(module, "LEAST", 4)
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(module, "threads_for", lambda array, work=0.0: 3)
    rng = np.random.default_rng(3)
    cores = chain(rng, 5, 4, 3)
    cores[1][:, 3] = 0
    a = rng.integers(5, size=(30, 4))
    v = np.arange(1, 5)
    held = harmonics(cores, None, a, v)
    assert np.allclose(held.value(), by_definition(cores, [np.arange(5)] * 4, 5, a, v), atol=1e-14)
    assert ((held.mantissa[:, :, 0] == 0) == (a[:, [1]] * v % 5 == 3)).all()


def test_on_a_device(device):
    rng = np.random.default_rng(5)
    cores = chain(rng, 5, 4, 3)
    a = rng.integers(5, size=(30, 4))
    there = [device.asarray(core) for core in cores]
    places = np.tile(np.arange(5), (4, 1))
    for v in (np.arange(1, 5), np.array([2])):
        for kept in (None, places):
            held = harmonics(there, kept, a, v)
            assert isinstance(held.mantissa, np.ndarray)
            assert np.allclose(held.value(), harmonics(cores, kept, a, v).value(), atol=1e-15)
