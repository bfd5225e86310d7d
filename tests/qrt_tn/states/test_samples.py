"""The levels and crowds of sampling: small P with many points, and structured points."""

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states.samples import SampleState, _hash_apart


def crowds_of(state):
    """How many levels before the last have crowds."""
    return sum(len(level.crowd_starts) > 0 for level in state._levels if len(level.starts) > 1)


def chosen(oracle, rng, modulus, dim, count):
    return oracle.grid(modulus, dim)[rng.permutation(modulus**dim)[:count]]


def binary(oracle, rng):
    """Two-level data in Z_7 with constant coordinates, as images have."""
    bits = oracle.grid(2, 3)[:7]
    return np.column_stack([np.full(7, 3), bits[:, 0], np.zeros(7, dtype=int), bits[:, 1:] * 5])[:, :4]


def line(oracle, rng):
    return (np.arange(5)[:, None] * np.array([1, 2, 4]) + 1) % 5


def repeated(oracle, rng):
    return rng.integers(3, size=(50, 3))


# name: (P, points, classes, complex)
CASES = {
    "two-many-levels": (2, lambda o, g: chosen(o, g, 2, 7, 60), None, False),
    "two-whole-grid": (2, lambda o, g: o.grid(2, 6), None, False),
    "two-complex": (2, lambda o, g: chosen(o, g, 2, 6, 40), None, True),
    "two-classes": (2, lambda o, g: chosen(o, g, 2, 6, 50), 3, False),
    "two-two-points": (2, lambda o, g: chosen(o, g, 2, 6, 2), None, False),
    "three-many-levels": (3, lambda o, g: chosen(o, g, 3, 4, 60), None, False),
    "three-whole-grid-classes": (3, lambda o, g: o.grid(3, 4), 2, True),
    "three-repeated": (3, repeated, None, False),
    "three-repeated-classes": (3, repeated, 4, True),
    "five-random": (5, lambda o, g: chosen(o, g, 5, 3, 20), None, True),
    "five-whole-line": (5, lambda o, g: o.grid(5, 1), None, False),
    "five-one-point": (5, lambda o, g: np.array([[3, 1]]), None, False),
    "five-one-point-classes": (5, lambda o, g: np.array([[3, 1]]), 3, True),
    "five-on-a-line": (5, line, None, False),
    "seven-binary": (7, binary, None, False),
    "seven-binary-classes": (7, binary, 2, False),
    "thirteen-one-dimension": (13, lambda o, g: chosen(o, g, 13, 1, 13), None, False),
    "thirtyone-one-dimension": (31, lambda o, g: chosen(o, g, 31, 1, 20), 2, True),
    "thirteen-two-dimensions": (13, lambda o, g: chosen(o, g, 13, 2, 150), None, False),
}
MANY_CROWDS = {
    "two-many-levels": 3,
    "two-whole-grid": 4,
    "three-many-levels": 2,
    "three-whole-grid-classes": 2,
}


@pytest.mark.parametrize("case", CASES)
def test_samples_follow_the_distribution(case, oracle):
    modulus, points_of, classes, complex_values = CASES[case]
    rng = np.random.default_rng(sum(map(ord, case)))
    points = points_of(oracle, rng)
    dim = points.shape[1]
    shape = (len(points),) if classes is None else (len(points), classes)
    # a mean, so that the spectrum is far from flat
    values = rng.normal(size=shape) + 0.7 + (1j * rng.normal(size=shape) if complex_values else 0)
    state = states.from_samples(points, values, modulus)
    assert crowds_of(state) >= MANY_CROWDS.get(case, 0)

    f = oracle.placed(points, values, modulus)
    f = f / np.linalg.norm(f)
    hat = np.abs(oracle.fourier(f, dim)) ** 2
    hat = hat.sum(axis=-1) if classes else hat
    assert oracle.p_value(state.sample_spectrum(30000, seed=1), hat) > 1e-4

    ridgelet = Ridgelet("relu", modulus)
    exact = np.abs(oracle.analysed(f, dim, ridgelet.values)) ** 2
    exact = exact.sum(axis=-1) if classes else exact
    nodes = QuantumRidgeletTransform(state, ridgelet).sample(30000, seed=2)
    drawn = np.column_stack([nodes.a, nodes.b])
    assert oracle.p_value(drawn, exact) > 1e-4
    assert np.abs(nodes.log_probability - np.log(exact[tuple(drawn.T)])).max() < 1e-6


@pytest.mark.parametrize("activation", ["triangle", "cosine", "step", "sawtooth"])
@pytest.mark.parametrize("classes", [None, 2])
def test_other_ridgelets(activation, classes, oracle):
    rng = np.random.default_rng(0)
    points = chosen(oracle, rng, 5, 2, 12)
    values = rng.normal(size=12 if classes is None else (12, classes))
    f = oracle.placed(points, values, 5) / np.linalg.norm(values)
    ridgelet = Ridgelet(activation, 5)
    exact = np.abs(oracle.analysed(f, 2, ridgelet.values)) ** 2
    exact = exact.sum(axis=-1) if classes else exact
    nodes = QuantumRidgeletTransform(states.from_samples(points, values, 5), ridgelet).sample(20000, seed=2)
    assert oracle.p_value(np.column_stack([nodes.a, nodes.b]), exact) > 1e-4


@pytest.mark.parametrize(
    ("modulus", "count", "dim"), [(2, 300, 40), (3, 200, 25), (127, 400, 64), (2, 64, 6)]
)
def test_levels_group_the_points(modulus, count, dim):
    """The groups of every level against their definition, for points of which many share coordinates."""
    rng = np.random.default_rng(modulus)
    points = np.unique(rng.integers(min(modulus, 4), size=(count, dim)), axis=0)
    points = points[rng.permutation(len(points))]
    weights = rng.normal(size=(len(points), 2))
    state = SampleState(points, weights, modulus, vector=True)
    hashes = (state.points @ state._functionals.T) % modulus
    assert (hashes == state._hashes).all()
    assert {tuple(x) for x in state.points} == {tuple(x) for x in points}
    assert len(np.unique(hashes, axis=0)) == len(points)
    norms = np.abs(state.coefficients.T) ** 2
    for number, level in enumerate(state._levels):
        later, own = hashes[:, number + 1 :], hashes[:, number:]
        same_later = (later[:, None] == later[None]).all(axis=2)
        same_own = (own[:, None] == own[None]).all(axis=2)
        owners = level.owner
        assert ((owners[:, None] == owners[None]) == same_later).all()
        assert (np.diff(owners) >= 0).all()
        for run, (start, length) in enumerate(zip(level.starts, level.lengths, strict=True)):
            assert (np.flatnonzero(owners == run) == np.arange(start, start + length)).all()
        alone = same_own.sum(axis=1) == 1
        assert np.allclose(level.alone, np.cumsum(norms * alone, axis=1))
        crowded = np.arange(len(points))[level.crowd_points]
        assert (crowded == np.flatnonzero(~alone)).all()
        ends = [*level.crowd_starts[1:], len(crowded)][: len(level.crowd_starts)]
        for start, end, first in zip(level.crowd_starts, ends, level.crowd_firsts, strict=True):
            assert crowded[start] == first
            assert (np.flatnonzero(same_own[first]) == crowded[start:end]).all()
    assert len(state._levels[-1].starts) == 1


@pytest.mark.parametrize(("modulus", "dim"), [(2, 12), (3, 5), (127, 10), (5, 1)])
def test_frequencies_change_with_the_basis(modulus, dim):
    """u' . (x_others, L x) = u . x, and back."""
    rng = np.random.default_rng(0)
    points = np.unique(rng.integers(modulus, size=(30, dim)), axis=0)
    state = SampleState(points, np.ones((len(points), 1)), modulus, vector=False)
    u = rng.integers(modulus, size=(20, dim))
    hashed = state._hashed(u)
    mapped = np.hstack([state.points[:, state._others], state._hashes])
    assert ((hashed @ mapped.T) % modulus == (u @ state.points.T) % modulus).all()
    assert (state._unhashed(hashed) == u).all()


def test_few_functionals_tell_points_apart():
    # 2,000 points that differ in their first three coordinates of 784 only
    rng = np.random.default_rng(0)
    points = np.zeros((2000, 784), dtype=np.int64)
    points[:, :3] = np.stack(np.unravel_index(rng.permutation(17**3)[:2000], (17, 17, 17)), axis=1)
    functionals, pivots = _hash_apart(points, 127)
    assert len(functionals) <= 4
    assert (functionals[:, pivots] == np.eye(len(pivots))).all()
    assert len(np.unique((points @ functionals.T) % 127, axis=0)) == 2000


def test_destructive_interference_is_never_drawn(oracle):
    # |00> - |10> in Z_2^2: f^ vanishes at u_0 = 0
    state = states.from_samples([[0, 0], [1, 0]], [1.0, -1.0], 2)
    assert (state.sample_spectrum(2000, seed=0)[:, 0] == 1).all()
    # centred targets: f^(0) = 0, so a = 0 is never drawn
    points = oracle.grid(3, 2)
    values = np.random.default_rng(0).normal(size=9)
    qrt = QuantumRidgeletTransform(
        states.from_samples(points, values - values.mean(), 3), Ridgelet("relu", 3)
    )
    assert (qrt.sample(3000, seed=0).a != 0).any(axis=1).all()


def test_the_network_too_large():
    points = np.arange(3000)[:, None] % 127 * np.ones((1, 784), dtype=int)
    points[:, 1:3] = np.stack(np.unravel_index(np.arange(3000), (60, 50)), axis=1)
    state = states.from_samples(points, np.ones(3000), 127)
    with pytest.raises(
        ValueError, match="network of 3000 points takes 298704000 elements, above 268435456; use"
    ):
        state.network()


def test_on_the_same_backend(oracle):
    state = states.from_samples([[0, 1], [2, 2]], [1.0, 2.0], 3)
    moved = state.on("numpy")
    assert (moved.sample_spectrum(50, seed=0) == state.sample_spectrum(50, seed=0)).all()
    assert "SampleState(modulus=3, dim=2, outputs=1" in repr(state)
