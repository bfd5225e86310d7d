"""Ridge sums: everything against dense sums, lines that coincide or cancel, and D = 10,000."""

import itertools

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states import ridges


def planted(rng, modulus, dim, count, *, classes=None, complex_values=False):
    """Random ridges of which some share a line, one repeats, and one is a constant."""
    a = rng.integers(modulus, size=(count, dim))
    a[1] = (a[0] * rng.integers(1, modulus)) % modulus
    a[2] = a[0]
    a[3] = 0
    b = rng.integers(modulus, size=count)
    shape = (count,) if classes is None else (count, classes)
    c = rng.normal(size=shape)
    return a, b, c + 1j * rng.normal(size=shape) if complex_values else c


def summed(a, b, c, r, oracle):
    """The function by its sum, (P,)*D or (P,)*D + (C,)."""
    modulus, dim = len(r), a.shape[1]
    values = r[(oracle.grid(modulus, dim) @ a.T - b) % modulus] @ c
    return values.reshape((modulus,) * dim + c.shape[1:])


@pytest.mark.parametrize("classes", [None, 2])
def test_marginals(classes, oracle):
    rng = np.random.default_rng(0)
    ridgelet = Ridgelet("relu", 3)
    a, b, c = planted(rng, 3, 4, 7, classes=classes)
    a[4, :2] = 0  # seen on the first two coordinates a constant
    a[5] = (2 * a[6]) % 3
    a[5, 3] = (a[5, 3] + 1) % 3  # and on the first three one line with another ridge
    state = states.from_ridges(a, b, c, ridgelet)
    f = summed(a, b, c, ridgelet.values, oracle)
    chance = np.abs(oracle.fourier(f / np.linalg.norm(f), 4)) ** 2
    chance = chance.sum(axis=-1) if classes else chance
    for count in range(1, 5):
        points = oracle.grid(3, count)
        for coordinates in itertools.permutations(range(4), count):
            others = tuple(set(range(4)) - set(coordinates))
            kept = chance.sum(axis=others)
            wanted = kept[tuple(points[:, np.argsort(coordinates)].T)]
            assert np.abs(np.exp(state.log_marginals(list(coordinates), points)) - wanted).max() < 1e-12


def test_ridges_on_one_line_add_up_and_those_that_cancel_leave_it():
    relu = Ridgelet("relu", 7)
    a = np.array([0, 3, 5]) * np.array([[1], [2], [6]]) % 7
    state = states.from_ridges(a, [0, 1, 2], [1.0, 2.0, -1.0], relu)
    assert state.directions.tolist() == [[0, 1, 4]]
    assert state.heights.shape == (1, 7, 1)
    state = states.from_ridges([[1, 2], [1, 2], [3, 1]], [4, 4, 0], [0.3, -0.3, 1], relu)
    assert state.directions.tolist() == [[1, 5]]
    alone = states.from_ridges([[0, 0]], [2], [2.0], relu)  # a constant
    assert np.isclose(alone.norm, abs(2 * 7 * relu.values[5]))
    assert (alone.sample_spectrum(10) == 0).all()


@pytest.mark.parametrize(
    ("a", "b", "c", "activation"),
    [
        ([[1, 2], [1, 2]], [4, 4], [0.1 + 0.2, -0.3], "relu"),
        ([[1, 2], [1, 2]], [4, 4], [1.0, -1 + 1e-14], "relu"),  # not three digits left
        ([[1, 2], [6, 5]], [5, 2], [1, -1], "triangle"),  # r(-t) = r(t): cancels in the sum over harmonics
        ([[0, 0]], [0], [1], "sine"),  # a constant, at a place where r is 0
        ([[1, 2], [3, 1]], [4, 0], [0, 0], "relu"),
    ],
)
def test_sums_that_cancel_are_refused(a, b, c, activation):
    with pytest.raises(ValueError, match="zero everywhere, or cancels up to rounding"):
        states.from_ridges(a, b, c, Ridgelet(activation, 7))
    more = states.from_ridges([*a, [1, 1]], [*b, 0], [*c, 1e-9], Ridgelet(activation, 7))  # small, but there
    assert np.isclose(more.log_norm, np.log(1e-9 * 7**0.5), atol=1e-4)


@pytest.mark.parametrize("scale", [(1e-308, 0), (1.7e308, 0), (1.7e308, 1.7e308)])
def test_coefficients_of_any_scale(scale):
    ridgelet, c = Ridgelet("relu", 5), np.array([1, -0.5, 1])
    far = (c[:, None] * scale).view(complex)[:, 0]
    plain, scaled = (states.from_ridges([[1, 2], [2, 4], [3, 1]], [0, 1, 2], x, ridgelet) for x in (c, far))
    size, phase = np.log(np.hypot(*np.array(scale) / 2)) + np.log(2), np.exp(1j * np.arctan2(*scale[::-1]))
    assert np.isclose(scaled.log_norm, plain.log_norm + size)
    u = plain.sample_spectrum(50)
    assert np.allclose(plain.spectrum(u).value() * phase, scaled.spectrum(u).value())


def test_dimension_ten_thousand():
    rng = np.random.default_rng(2)
    dim, modulus = 10_000, 127
    ridgelet = Ridgelet("relu", modulus)
    a, b, c = planted(rng, modulus, dim, 200)
    state = states.from_ridges(a, b, c, ridgelet)
    with pytest.raises(OverflowError, match="use log_norm"):
        state.norm  # noqa: B018
    qrt = QuantumRidgeletTransform(state, ridgelet)
    nodes = qrt.sample(300, seed=0)
    again = qrt.log_probabilities(nodes.a, nodes.b)
    assert np.isfinite(nodes.log_probability).all()
    assert np.abs(again - nodes.log_probability).max() < 1e-9
    # every ridge but those on the shared line and the constant is alone on its own, where R follows from its
    # harmonics: f^(v a_k) conj r^(v) = c_k |r^(v)|^2 omega^{-v b_k} / norm
    alone = states.from_ridges(a[:4], b[:4], c[:4], ridgelet)
    norm = np.sqrt(np.exp(2 * (alone.log_norm - (dim - 1) / 2 * np.log(modulus))) + (c[4:] ** 2).sum())
    assert np.isclose(np.log(norm) + (dim - 1) / 2 * np.log(modulus), state.log_norm)
    power = np.abs(ridgelet.spectrum) ** 2
    profile = np.fft.ifft(power * np.exp(-2j * np.pi * np.arange(modulus) * b[7] / modulus), norm="ortho")
    got = qrt.profiles(a[7:8]).value()[0]
    assert np.abs(got - c[7] * profile / norm).max() < 1e-12
    # a point that is on no line
    assert np.isneginf(qrt.log_probabilities(rng.integers(modulus, size=(1, dim)), [0])).all()


def test_blocks_change_nothing_and_costs_grow_with_the_work(oracle, monkeypatch):
    ridgelet = Ridgelet("relu", 5)
    a, b, c = planted(np.random.default_rng(0), 5, 3, 6, classes=2)
    state, points = states.from_ridges(a, b, c, ridgelet), oracle.grid(5, 3)
    whole = state.profiles(points, ridgelet).value()
    monkeypatch.setattr(ridges, "_BLOCK", 40)
    again = states.from_ridges(a, b, c, ridgelet)
    assert (again.directions == state.directions).all()
    assert np.abs(again.profiles(points, ridgelet).value() - whole).max() < 1e-15
    wide = states.from_ridges(np.ones((1, 2000), dtype=int), [0], [1], ridgelet)
    assert state._drawing(10, 4).memory < state._drawing(1000, 4).memory < wide._drawing(1000, 4).memory
    assert wide._drawing(1000, 4).memory > 1000 * 2000 * 8
    assert wide.held_bytes > 2 * 2000


@pytest.mark.parametrize(
    ("a", "b", "c", "shown"),
    [
        ([[1, 5]], [0], [1], "a holds 5, outside Z_5"),
        ([1, 2], [0], [1], r"a has shape \(2,\)"),
        ([[1, 2]], [0, 1], [1], r"b has shape \(2,\)"),
        ([[1, 2]], [7], [1], "b holds 7, outside Z_5"),
        ([[1, 2]], [0], [1, 2], r"coefficients have shape \(2,\)"),
        ([[1, 2]], [0], np.empty((1, 0)), r"coefficients have shape \(1, 0\)"),
        ([[1, 2]], [0], [np.nan], "coefficients holds nan"),
        ([[1, 2]], [0], ["x"], "coefficients has dtype"),
        ([[0.5, 2]], [0], [1], "dtype float64"),
    ],
)
def test_refusals(a, b, c, shown):
    with pytest.raises(ValueError, match=shown):
        states.from_ridges(a, b, c, Ridgelet("relu", 5))


def test_other_refusals():
    with pytest.raises(ValueError, match="the ridgelet is 5"):
        states.from_ridges([[1, 2]], [0], [1], 5)
    rng = np.random.default_rng(0)
    a = rng.integers(127, size=(200, 100))
    state = states.from_ridges(a, np.zeros(200, int), np.ones(200), Ridgelet("relu", 127))
    with pytest.raises(ValueError, match="network of 200 lines takes 322580000 elements, above"):
        state.network()
