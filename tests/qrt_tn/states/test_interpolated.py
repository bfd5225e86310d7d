"""States of callables: against dense sums, guard bands, errors told, and refusals."""

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states


def smooth(modulus, dim, *, classes=None, complex_values=False):
    """A function near to low rank, or several."""
    w = np.linspace(0.3, 1, dim)
    rates = np.arange(1, 1 + (classes or 1))

    def function(x):
        t = (x @ w)[:, None] / modulus
        values = 1 / (1 + rates * t) * (np.exp(2j * rates * t) if complex_values else 1)
        return values if classes else values[:, 0]

    return function


@pytest.mark.parametrize(("classes", "complex_values"), [(None, False), (None, True), (1, False), (3, True)])
@pytest.mark.parametrize(("modulus", "dim"), [(7, 3), (3, 4), (2, 5), (11, 1)])
def test_against_the_dense_transform(modulus, dim, classes, complex_values, oracle):
    function = smooth(modulus, dim, classes=classes, complex_values=complex_values)
    points = oracle.grid(modulus, dim)
    f = function(points).reshape((modulus,) * dim + ((classes,) if classes else ()))
    state = states.from_callable(function, modulus, dim, tolerance=1e-10)
    assert isinstance(state, states.MPSState)
    assert (state.modulus, state.dim, state.outputs) == (modulus, dim, classes or 1)
    assert state.vector == (classes is not None)
    assert state.interpolation_error == state.truncation_error <= 1e-10 == state.tolerance
    assert state.interpolation_error_at_points is None
    assert np.isclose(state.norm, np.linalg.norm(f))
    f = f / np.linalg.norm(f)
    hat = oracle.fourier(f, dim)
    assert np.abs(state.spectrum(points).value().reshape(f.shape) - hat).max() < 1e-9


def test_a_ridge_sum_called_point_by_point(oracle):
    """Two roads to one planted network."""
    rng = np.random.default_rng(0)
    ridgelet = Ridgelet("cosine", 13)
    a, b, c = rng.integers(13, size=(3, 6)), rng.integers(13, size=3), rng.normal(size=3)
    planted = states.from_ridges(a, b, c, ridgelet)
    called = states.from_callable(lambda x: ridgelet.values[(x @ a.T - b) % 13] @ c, 13, 6, tolerance=1e-9)
    assert max(called.bond_dimensions) == 6  # two waves a ridge
    assert np.isclose(called.log_norm, planted.log_norm)
    u = planted.sample_spectrum(200, seed=1)
    assert np.abs(called.spectrum(u).value() - planted.spectrum(u).value()).max() < 1e-9


def test_the_error_is_of_the_state_held(oracle):
    rng = np.random.default_rng(1)
    inward, outward = rng.normal(size=(3, 15)) * 0.4, rng.normal(size=15)

    def function(x):
        return np.tanh(x @ inward - 3) @ outward

    with pytest.warns(UserWarning, match=r"not the tolerance 0\.0001.*allow more max_evaluations"):
        states.from_callable(function, 11, 3, tolerance=1e-4, max_evaluations=3000)
    with pytest.warns(UserWarning, match=r"not the tolerance 0\.0001.*allow a larger max_bond"):
        state = states.from_callable(function, 11, 3, tolerance=1e-4, max_bond=5)
    f = function(oracle.grid(11, 3))
    hat = state.spectrum(oracle.grid(11, 3)).value() * state.norm
    true = np.linalg.norm(hat - oracle.fourier(f.reshape((11,) * 3), 3).reshape(-1)) / np.linalg.norm(f)
    assert 0.8 < state.interpolation_error / true < 1.25
    assert max(state.bond_dimensions) <= 5
    assert state.to("numpy").interpolation_error == state.interpolation_error


@pytest.mark.parametrize("guard", ["fold", "zero"])
@pytest.mark.parametrize(("modulus", "levels"), [(11, 4), (7, 6), (5, 5), (13, 2)])
def test_levels_and_a_guard_band(modulus, levels, guard, oracle):
    seen = []

    def function(x):
        seen.append(x.max())
        return np.cos(x @ [0.5, 1.0]) + 0.3 * x[:, 0]

    state = states.from_callable(function, modulus, 2, levels=levels, guard=guard, tolerance=1e-9)
    assert max(seen) == levels - 1
    inside = function(oracle.grid(levels, 2)).reshape(levels, levels)
    f = np.zeros((modulus, modulus))
    for x in np.ndindex(modulus, modulus):
        if max(x) < levels or guard == "fold":
            # a guard level is a mean of two levels, in each coordinate
            t = [q if q < levels else (modulus - q) * (levels - 1) / (modulus - levels + 1) for q in x]
            for low in np.ndindex(2, 2):
                corner = [min(int(q) + step, levels - 1) for q, step in zip(t, low, strict=True)]
                share = [q % 1 if step else 1 - q % 1 for q, step in zip(t, low, strict=True)]
                f[x] += share[0] * share[1] * inside[tuple(corner)]
    hat = oracle.fourier(f / np.linalg.norm(f), 2).reshape(-1)
    assert np.abs(state.spectrum(oracle.grid(modulus, 2)).value() - hat).max() < 1e-8
    assert np.isclose(state.norm, np.linalg.norm(f))


def test_points_of_the_caller():
    place = np.array([3, 1, 4, 1, 5, 2])

    def function(x):
        return np.exp(-4.0 * ((x - place) ** 2).sum(axis=1))

    state = states.from_callable(function, 31, 6, points=np.stack([place, place + 1]))
    assert state.interpolation_error_at_points < 1e-3
    assert np.isclose(state.norm, (np.exp(-8.0 * np.arange(-9, 10) ** 2)).sum() ** 3, rtol=1e-3)


def test_single_precision_and_the_device_road(device):
    def function(x):
        return (1 / (1 + x.sum(axis=1))).astype(np.float32)

    state = states.from_callable(function, 7, 5)
    assert {core.dtype for core in state.cores} == {np.dtype(np.complex64)}
    qrt = [QuantumRidgeletTransform(state, Ridgelet("relu", 7), backend=b) for b in ("numpy", "cupy")]
    first, again = (one.sample(50, seed=1) for one in qrt)
    assert (first.a == again.a).all()


def test_seeds_and_progress():
    told = []
    first, again, other = (
        states.from_callable(smooth(7, 4), 7, 4, seed=seed, progress=lambda *done: told.append(done))
        for seed in (1, 1, 2)
    )
    assert first.interpolation_error == again.interpolation_error != other.interpolation_error
    assert told[-1][1] == 10**7


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"function": 3}, "a int"),
        ({"modulus": 6}, "6 is not prime"),
        ({"dim": 0}, "dim is 0"),
        ({"max_bond": 0}, "max_bond is 0"),
        ({"max_evaluations": 2.5}, "max_evaluations is 2.5"),
        ({"max_evaluations": 1200}, "1200 evaluations"),
        ({"tolerance": 0}, "tolerance is 0"),
        ({"tolerance": True}, "tolerance is True"),
        ({"tolerance": "a"}, "tolerance is 'a'"),
        ({"points": [[0, 1]]}, r"points has shape \(1, 2\)"),
        ({"points": [[0, 1, 5]]}, "points holds 5, outside Z_5"),
        ({"points": [[0, 1, 4]], "levels": 4}, "points hold 4, beyond the 4 levels"),
        ({"levels": 6}, "levels is 6"),
        ({"levels": 1}, "levels is 1"),
        ({"guard": "open"}, "'open'"),
        ({"seed": -1}, "seed is -1"),
        ({"function": lambda x: np.full(len(x), np.nan)}, "gave nan at"),
        ({"function": lambda x: np.zeros(len(x))}, "is 0 at all 1024 points"),
        ({"function": lambda x: x[:, :, None]}, r"gave shape \(1024, 3, 1\)"),
    ],
)
def test_refusals(change, shown):
    arguments = {"function": lambda x: np.ones(len(x)), "modulus": 5, "dim": 3} | change
    with pytest.raises(ValueError, match=shown):
        states.from_callable(**arguments)
