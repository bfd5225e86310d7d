"""Exact sampling from data points: small P with many points, structured points, large P."""

import tracemalloc

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states.samples import conditionals, rows, tiles
from qrt_tn.states.samples import state as module

# name: (P, D, points, classes, complex); points drawn with repeats where there are more than the grid holds
CASES = {
    "two": (2, 7, 60, None, False),
    "two-whole-grid": (2, 6, 64, None, False),
    "two-complex-classes": (2, 6, 50, 3, True),
    "three-repeated": (3, 3, 50, 4, True),
    "five-one-point": (5, 2, 1, 3, False),
    "five-whole-line": (5, 1, 5, None, True),
    "five-on-a-line": (5, 3, (np.arange(5)[:, None] * [1, 2, 4] + 1) % 5, None, False),
    "seven-binary": (7, 4, np.array([[3, i % 2, 0, i // 2 * 5] for i in range(4)]), 2, False),
    "thirtyone": (31, 1, 20, 2, True),
    "thirteen": (13, 2, 150, None, False),
}
# share of the points in crowds from which on all are summed: as it is, always, never
REGIMES = {"usual": 0.25, "dense": 0.0, "sparse": 2.0}


def make(oracle, modulus, dim, points, classes, complex_values, dtype=np.float64):
    """A state with a mean, so that its spectrum is far from flat, and the normalised function."""
    rng = np.random.default_rng(modulus + dim)
    if isinstance(points, int):
        points = oracle.grid(modulus, dim)[rng.permutation(modulus**dim)[:points]]
        points = np.concatenate([points, points[: len(points) // 4]])
    shape = (len(points),) if classes is None else (len(points), classes)
    values = rng.normal(size=shape) + 0.7 + (1j * rng.normal(size=shape) if complex_values else 0)
    values = values.astype(np.result_type(dtype, np.complex64) if complex_values else dtype)
    f = oracle.placed(points, values.astype(np.result_type(values, float)), modulus)
    return states.from_samples(points, values, modulus), f / np.linalg.norm(f)


def check_draws(oracle, state, f, activation="relu", count=12000, close=1e-6):
    ridgelet = Ridgelet(activation, state.modulus)
    exact = np.abs(oracle.analysed(f, state.dim, ridgelet.values)) ** 2
    hat = np.abs(oracle.fourier(f, state.dim)) ** 2
    exact, hat = (each.sum(axis=-1) if state.vector else each for each in (exact, hat))
    assert oracle.p_value(state.sample_spectrum(count, seed=1), hat) > 1e-4
    qrt = QuantumRidgeletTransform(state, ridgelet, backend="numpy")
    nodes = qrt.sample(count, seed=2)
    drawn = np.column_stack([nodes.a, nodes.b])
    assert oracle.p_value(drawn, exact) > 1e-4
    assert np.abs(nodes.log_probability - np.log(exact[tuple(drawn.T)])).max() < close
    again = qrt.log_probabilities(nodes.a[:300], nodes.b[:300])
    assert np.abs(again - nodes.log_probability[:300]).max() < close


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("case", CASES)
def test_samples_follow_the_distribution(case, regime, oracle, monkeypatch):
    monkeypatch.setattr(conditionals, "_DENSE", REGIMES[regime])
    check_draws(oracle, *make(oracle, *CASES[case]))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize(("modulus", "dim", "classes"), [(2, 6, None), (5, 3, 2), (7, 2, None)])
def test_narrow_tiles_and_short_blocks_in_single_precision(
    regime, modulus, dim, classes, oracle, monkeypatch
):
    monkeypatch.setattr(conditionals, "_DENSE", REGIMES[regime])
    monkeypatch.setattr(tiles, "CACHED", 2**8)
    monkeypatch.setattr(conditionals, "CACHED", 2**8)
    monkeypatch.setattr(conditionals, "_WIDEST", 64)
    monkeypatch.setattr(rows, "BLOCK", 64)
    state, f = make(oracle, modulus, dim, 48, classes, False, np.float32)
    state.memory_limit = 2**14
    check_draws(oracle, state, f, "triangle" if modulus > 2 else "relu", 6000, 1e-4)


def without_phases(state):
    state._weighted.table = np.ones_like(state._weighted.table)


def with_every_point_alone(state):
    # runs weighted by sum |c|^2 in place of |sum c omega|^2
    weights, own = np.abs(state.coefficients) ** 2, state._conditionals
    assert any(len(level.firsts) for level in own._sparse)
    running = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), own._stride), axis=0), axis=0)
    alone = {"alone": np.ones(len(weights), dtype=bool), "running": running, "firsts": np.empty(0, int)}
    own._sparse = [level._replace(**alone) for level in own._sparse]


def with_the_first_class_alone(state):
    state._conditionals._class_running = np.array([1.0, 1.0])


def without_turns(state):
    state._conditionals._turns = lambda frequencies: np.ones((2, len(frequencies)))


@pytest.mark.parametrize(
    ("fault", "regime"),
    [
        (without_phases, "sparse"),
        (without_phases, "dense"),
        (with_every_point_alone, "sparse"),
        (with_the_first_class_alone, "usual"),
        (without_turns, "dense"),
    ],
)
def test_the_test_rejects_a_faulty_sampler(fault, regime, oracle, monkeypatch):
    monkeypatch.setattr(conditionals, "_DENSE", REGIMES[regime])
    rng = np.random.default_rng(7)
    points = oracle.grid(2, 6)[rng.permutation(64)[:48]]
    values = np.column_stack([rng.normal(size=48) + 0.5, rng.normal(size=48)])
    state = states.from_samples(points, values, 2)
    f = oracle.placed(points, values, 2) / np.linalg.norm(values)
    hat = (np.abs(oracle.fourier(f, 6)) ** 2).sum(axis=-1)
    assert oracle.p_value(state.sample_spectrum(20000, seed=0), hat) > 1e-4
    fault(state)
    assert oracle.p_value(state.sample_spectrum(20000, seed=0), hat) < 1e-10


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.float64])
def test_no_result_depends_on_memory_or_threads(classes, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    walks = np.cumsum(rng.integers(-1, 2, size=(400, 12)), axis=1)  # many alike in most coordinates
    values = rng.normal(size=400 if classes is None else (400, classes)).astype(dtype)
    monkeypatch.setattr(conditionals, "_SUMMED", 2**12)  # narrow tiles
    monkeypatch.setattr(tiles, "CACHED", 2**10)  # of many blocks
    state = states.from_samples((walks - walks.min()) % 9, values, 13)
    assert state._conditionals.width <= 64
    assert state.spectrum([[0] * 12]).mantissa.dtype == np.result_type(dtype, np.complex64)
    qrt = QuantumRidgeletTransform(state, Ridgelet("triangle", 13), backend="numpy")
    nodes = qrt.sample(300, seed=3)
    for limit, workers, block in ((1, 2, 2**22), (2**16, 3, 500), (2**30, 2, 3000)):
        monkeypatch.setattr(module, "threads_for", lambda array, workers=workers: workers)
        monkeypatch.setattr(rows, "BLOCK", block)
        qrt.state.memory_limit = limit
        again = qrt.sample(300, seed=3)
        for name in ("a", "b", "log_probability"):
            assert (getattr(again, name) == getattr(nodes, name)).all()


def test_a_marginal_is_uniform_where_the_other_coordinates_tell_points_apart():
    rng = np.random.default_rng(0)
    state = states.from_samples(rng.integers(127, size=(50, 400)), rng.normal(size=50), 127)
    u = rng.integers(127, size=(5, 3))
    assert (state.log_marginals([7, 300, 20], u) == -3 * np.log(127)).all()


@pytest.mark.parametrize(("modulus", "dim"), [(2, 12), (3, 5), (127, 10), (5, 1)])
def test_frequencies_change_with_the_basis(modulus, dim):
    """u . x = u_head . x_others + u_tail . L x."""
    rng = np.random.default_rng(0)
    points = np.unique(rng.integers(modulus, size=(30, dim)), axis=0)
    state = states.from_samples(points, np.ones(len(points)), modulus)
    head = rng.integers(modulus, size=(20, len(state._others)))
    tail = rng.integers(modulus, size=(20, len(state._hashes.pivots)))
    held = state.points.astype(int)
    expected = head @ held[:, state._others].T + tail @ state._hashes.values.astype(int).T
    u = state._unhashed(head, tail)
    assert ((u @ held.T - expected) % modulus == 0).all()
    assert u.min() >= 0
    assert u.max() < modulus


@pytest.mark.parametrize("classes", [None, 2])
@pytest.mark.parametrize("regime", REGIMES)
def test_on_a_device(classes, regime, oracle, device, monkeypatch):
    monkeypatch.setattr(conditionals, "_DENSE", REGIMES[regime])
    here, _ = make(oracle, 3, 4, 40, classes, False)
    there = here.to("cupy")
    assert there.to("cupy") is there
    grid, ridgelet, b = oracle.grid(3, 4), Ridgelet("relu", 3), np.arange(81) % 3
    for call in (
        lambda state: state.spectrum(grid).value(),
        lambda state: state.profiles(grid, ridgelet).value(),
        lambda state: state.amplitudes(grid, b, ridgelet).value(),
        lambda state: state.log_marginals([1, 2], oracle.grid(3, 2)),
        lambda state: state.sample_spectrum(90, seed=0),
    ):
        assert np.allclose(call(there), call(here))


def test_the_network_too_large():
    points = np.arange(3000)[:, None] % 127 * np.ones((1, 784), dtype=int)
    points[:, 1:3] = np.stack(np.unravel_index(np.arange(3000), (60, 50)), axis=1)
    with pytest.raises(ValueError, match="network of 3000 points takes 298704000 elements, above 268435456"):
        states.from_samples(points, np.ones(3000), 127).network()


@pytest.mark.parametrize("modulus", [5, 65537])
def test_profiles_at_any_modulus(modulus):
    """Against the definition, entry by entry; no P x P table is made on the way."""
    rng = np.random.default_rng(0)
    points, y = rng.integers(modulus, size=(9, 3)), rng.normal(size=(9, 2))
    state = states.from_samples(points, y, modulus)
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", modulus), "numpy")
    tracemalloc.start()
    nodes = qrt.sample(5)
    profiles = qrt.profiles(nodes.a)
    assert tracemalloc.get_traced_memory()[1] < 2**21 + 600 * modulus
    tracemalloc.stop()
    b = rng.integers(modulus, size=40)
    k = (nodes.a.astype(object) @ points.astype(object).T % modulus).astype(int)
    r = qrt.ridgelet.values[(k[:, None, :] - b[:, None]) % modulus]
    expected = r @ y / np.linalg.norm(y) * modulus**-1.5
    assert np.abs(profiles.value()[:, b] - expected).max() < 1e-13 * modulus**-1.5
    expected = (np.abs(profiles.value()[np.arange(5), nodes.b]) ** 2).sum(axis=1)
    assert np.allclose(nodes.log_probability, np.log(expected))
    assert np.isclose(qrt.coordinate_probabilities(1).sum(), 1)
    assert np.allclose(
        qrt.coordinate_probabilities(1)[:3], np.exp(qrt.log_marginals([1], [[0], [1], [2]])), atol=1e-14
    )


@pytest.mark.parametrize(
    ("modulus", "count", "nodes", "classes"),
    [
        (127, 2, 600, None),
        (127, 4000, 400, 3),
        (2, 3000, 300, None),
        (8191, 2, 40, None),
        (8191, 2000, 20, 3),
        (65537, 1000, 9, None),
    ],
)
def test_no_more_memory_than_foreseen(modulus, count, nodes, classes, oracle):
    rng = np.random.default_rng(0)
    points = rng.integers(modulus, size=(count, 40))
    values = rng.normal(size=count if classes is None else (count, classes)).astype(np.float32)
    state = states.from_samples(points, values, modulus)
    assert 1 < oracle.foreseen_over_taken(state, nodes) < 3
    work = state._drawing(nodes, modulus - 1)
    assert (work.products, work.dtype) == (nodes * count * 40, "complex64")
    assert state._drawing(20 * nodes, modulus - 1).moved > 5 * work.moved
    assert state.held_bytes > count * 40 + values.nbytes
