"""The levels and crowds of sampling: small P with many points, and structured points."""

import tracemalloc

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states.samples import SampleState, conditionals, rows, tiles
from qrt_tn.states.samples import state as room


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
# share of the points in crowds from which on all are summed: as it is, always, never
REGIMES = {"usual": 0.25, "dense": 0.0, "sparse": 2.0}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("case", CASES)
def test_samples_follow_the_distribution(case, regime, oracle, monkeypatch):
    monkeypatch.setattr(conditionals, "_DENSE", REGIMES[regime])
    modulus, points_of, classes, complex_values = CASES[case]
    rng = np.random.default_rng(sum(map(ord, case)))
    points = points_of(oracle, rng)
    dim = points.shape[1]
    shape = (len(points),) if classes is None else (len(points), classes)
    # a mean, so that the spectrum is far from flat
    values = rng.normal(size=shape) + 0.7 + (1j * rng.normal(size=shape) if complex_values else 0)
    state = states.from_samples(points, values, modulus)

    f = oracle.placed(points, values, modulus)
    f = f / np.linalg.norm(f)
    hat = np.abs(oracle.fourier(f, dim)) ** 2
    hat = hat.sum(axis=-1) if classes else hat
    assert oracle.p_value(state.sample_spectrum(12000, seed=1), hat) > 1e-4

    ridgelet = Ridgelet("relu", modulus)
    exact = np.abs(oracle.analysed(f, dim, ridgelet.values)) ** 2
    exact = exact.sum(axis=-1) if classes else exact
    nodes = QuantumRidgeletTransform(state, ridgelet).sample(12000, seed=2)
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
    moved = state.to("numpy")
    assert (moved.sample_spectrum(50, seed=0) == state.sample_spectrum(50, seed=0)).all()
    assert "SampleState(modulus=3, dim=2, outputs=1" in repr(state)


def without_phases(state):
    state._weighted.table = np.ones_like(state._weighted.table)


def with_every_point_alone(state):
    # runs weighted by sum |c|^2 in place of |sum c omega|^2
    weights = np.abs(state.coefficients) ** 2
    own = state._conditionals
    assert any(len(level.firsts) for level in own._sparse)
    running = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), own._stride), axis=0), axis=0)
    own._sparse = [
        level._replace(alone=np.ones(len(weights), dtype=bool), running=running, firsts=np.empty(0, int))
        for level in own._sparse
    ]


def with_the_first_class_alone(state):
    state._conditionals._class_running = np.array([1.0, 1.0])


def without_turns(state):
    own = state._conditionals
    own._turns = lambda frequencies: np.ones((2, len(frequencies)))


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


def structured(rng, count, dim, levels):
    """Smooth rows of few levels, many alike in most coordinates."""
    walks = np.cumsum(rng.integers(-1, 2, size=(count, dim)), axis=1)
    return (walks - walks.min()) % levels


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.float64])
def test_no_result_depends_on_memory_or_threads(classes, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    points = structured(rng, 400, 12, 9)
    values = rng.normal(size=400 if classes is None else (400, classes)).astype(dtype)
    monkeypatch.setattr(conditionals, "_SUMMED", 2**12)  # narrow tiles
    monkeypatch.setattr(tiles, "CACHED", 2**10)  # of many blocks
    state = states.from_samples(points, values, 13)
    assert state._conditionals.width <= 64
    qrt = QuantumRidgeletTransform(state, Ridgelet("triangle", 13), backend="numpy")
    monkeypatch.setattr(room, "threads_for", lambda array: 1)
    nodes = qrt.sample(300, seed=3)
    for limit, workers, block in ((1, 2, 2**22), (2**16, 3, 500), (2**30, 2, 3000)):
        monkeypatch.setattr(room, "threads_for", lambda array, workers=workers: workers)
        monkeypatch.setattr(rows, "BLOCK", block)
        state.memory_limit = limit
        qrt = QuantumRidgeletTransform(state, Ridgelet("triangle", 13), backend="numpy")
        again = qrt.sample(300, seed=3)
        assert (again.a == nodes.a).all()
        assert (again.b == nodes.b).all()
        assert (again.log_probability == nodes.log_probability).all()


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize(("modulus", "classes"), [(2, None), (5, 2), (7, None)])
def test_narrow_tiles_and_short_blocks_follow_the_distribution(regime, modulus, classes, oracle, monkeypatch):
    """Cells that cross blocks, tiles cut short, single precision."""
    monkeypatch.setattr(conditionals, "_DENSE", REGIMES[regime])
    monkeypatch.setattr(tiles, "CACHED", 2**8)
    monkeypatch.setattr(conditionals, "_WIDEST", 64)
    monkeypatch.setattr(rows, "BLOCK", 64)
    rng = np.random.default_rng(modulus)
    dim = {2: 6, 5: 3, 7: 2}[modulus]
    points = rng.integers(modulus, size=(60, dim))
    values = (rng.normal(size=60 if classes is None else (60, classes)) + 0.5).astype(np.float32)
    state = states.from_samples(points, values, modulus)
    state.memory_limit = 2**14
    f = oracle.placed(points, values.astype(float), modulus)
    f = f / np.linalg.norm(f)
    ridgelet = Ridgelet("triangle" if modulus > 2 else "relu", modulus)
    exact = np.abs(oracle.analysed(f, dim, ridgelet.values)) ** 2
    exact = exact.sum(axis=-1) if classes else exact
    qrt = QuantumRidgeletTransform(state, ridgelet, backend="numpy")
    nodes = qrt.sample(6000, seed=2)
    drawn = np.column_stack([nodes.a, nodes.b])
    assert oracle.p_value(drawn, exact) > 1e-4
    assert np.abs(nodes.log_probability - np.log(exact[tuple(drawn.T)])).max() < 1e-4
    assert nodes.log_probability.dtype == np.float64
    again = qrt.log_probabilities(nodes.a[:300], nodes.b[:300])
    assert np.abs(again - nodes.log_probability[:300]).max() < 1e-4


def test_the_precision_follows_the_values():
    points, values = [[0, 1], [2, 2], [1, 0]], np.array([1.0, 2.0, -0.5])
    for dtype, kind in ((np.float32, "complex64"), (np.float64, "complex128"), (np.int32, "complex128")):
        state = states.from_samples(points, values.astype(dtype), 3)
        assert state.spectrum([[0, 1]]).mantissa.dtype == kind
        assert state._weighted.complex == kind
        assert state._drawing(10, 2).dtype == kind


@pytest.mark.parametrize(
    ("modulus", "dim", "count", "classes"), [(2, 5, 20, None), (3, 3, 20, 2), (5, 2, 12, None), (7, 1, 7, 3)]
)
@pytest.mark.parametrize("complex_values", [False, True])
def test_marginals(modulus, dim, count, classes, complex_values, oracle):
    rng = np.random.default_rng(modulus)
    points = rng.integers(modulus, size=(count, dim))
    shape = (count,) if classes is None else (count, classes)
    values = rng.normal(size=shape) + 0.5 + (1j * rng.normal(size=shape) if complex_values else 0)
    state = states.from_samples(points, values, modulus)
    f = oracle.placed(points, values, modulus)
    hat = np.abs(oracle.fourier(f / np.linalg.norm(f), dim)) ** 2
    hat = hat.sum(axis=-1) if classes else hat
    for chosen in ([0], [dim - 1], list(range(dim))[::-1], list(range(0, dim, 2))):
        u = oracle.grid(modulus, len(chosen))
        rest = tuple(set(range(dim)) - set(chosen))
        # axes of what is left, in the order asked for
        exact = np.moveaxis(hat.sum(axis=rest), np.argsort(np.argsort(chosen)), range(len(chosen)))
        exact = exact.reshape(-1)
        assert np.abs(np.exp(state.log_marginals(chosen, u)) - exact).max() < 1e-12


def test_a_marginal_is_uniform_where_the_other_coordinates_tell_points_apart():
    rng = np.random.default_rng(0)
    state = states.from_samples(rng.integers(127, size=(50, 400)), rng.normal(size=50), 127)
    u = rng.integers(127, size=(5, 3))
    assert (state.log_marginals([7, 300, 20], u) == -3 * np.log(127)).all()


def test_frequencies_change_with_the_basis():
    """u . x = u_head . x_others + u_tail . L x."""
    for modulus, dim in ((2, 12), (3, 5), (127, 10), (5, 1)):
        rng = np.random.default_rng(0)
        points = np.unique(rng.integers(modulus, size=(30, dim)), axis=0)
        state = SampleState(points, np.ones((len(points), 1)), modulus, vector=False)
        hashes = state._hashes
        head = rng.integers(modulus, size=(20, len(state._others)))
        tail = rng.integers(modulus, size=(20, len(hashes.pivots)))
        held = state.points.astype(int)
        expected = head @ held[:, state._others].T + tail @ hashes.values.astype(int).T
        u = state._unhashed(head, tail)
        assert ((u @ held.T - expected) % modulus == 0).all()
        assert u.min() >= 0
        assert u.max() < modulus


@pytest.mark.parametrize("classes", [None, 2])
@pytest.mark.parametrize("regime", REGIMES)
def test_on_a_device(classes, regime, oracle, device, monkeypatch):
    monkeypatch.setattr(conditionals, "_DENSE", REGIMES[regime])
    rng = np.random.default_rng(1)
    points = rng.integers(3, size=(40, 4))
    values = rng.normal(size=40 if classes is None else (40, classes)) + 0.4
    here = states.from_samples(points, values, 3)
    there = here.to("cupy")
    assert there.to("cupy") is there
    grid, ridgelet = oracle.grid(3, 4), Ridgelet("relu", 3)
    assert np.allclose(there.spectrum(grid).value(), here.spectrum(grid).value())
    profiles = [state.profiles(grid, ridgelet).value() for state in (here, there)]
    assert np.allclose(*profiles)
    b = rng.integers(3, size=len(grid))
    amplitudes = [state.amplitudes(grid, b, ridgelet).value() for state in (here, there)]
    assert np.allclose(*amplitudes)
    u = oracle.grid(3, 2)
    assert np.allclose(there.log_marginals([1, 2], u), here.log_marginals([1, 2], u))
    qrts = [QuantumRidgeletTransform(here, ridgelet, name) for name in ("numpy", "cupy")]
    nodes, others = (qrt.sample(500, seed=0) for qrt in qrts)
    assert (nodes.a == others.a).all()
    assert (nodes.b == others.b).all()
    assert np.allclose(nodes.log_probability, others.log_probability)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ten_thousand_dimensions(dtype):
    rng = np.random.default_rng(0)
    points = rng.integers(127, size=(60, 10_000), dtype=np.uint8)
    values = rng.normal(size=(60, 2)).astype(dtype)
    qrt = QuantumRidgeletTransform(states.from_samples(points, values, 127), Ridgelet("relu", 127), "numpy")
    nodes = qrt.sample(40, seed=0)
    assert np.isfinite(nodes.log_probability).all()
    assert (nodes.log_probability < -9_000 * np.log(127)).all()
    again = qrt.log_probabilities(nodes.a, nodes.b)
    assert np.abs(again - nodes.log_probability).max() < (1e-4 if dtype == np.float32 else 1e-9)
    # by the definition, in Python's integers
    k = (nodes.a[:3].astype(object) @ points.astype(object).T - nodes.b[:3, None]) % 127
    r = qrt.ridgelet.values[k.astype(int)]
    norm = np.linalg.norm(values.astype(float))
    exact = np.log(((r.conj() @ values) ** 2).sum(axis=1)) - 2 * np.log(norm) - 10_000 * np.log(127)
    assert np.abs(exact - nodes.log_probability[:3]).max() < 1e-4


def test_a_coordinate_of_a_single_value(oracle):
    rng = np.random.default_rng(0)
    points = np.column_stack([np.full(9, 2), rng.integers(3, size=9), np.zeros(9, dtype=int)])
    values = rng.normal(size=9)
    state = states.from_samples(points, values, 3)
    f = oracle.placed(points, values, 3)
    hat = np.abs(oracle.fourier(f / np.linalg.norm(f), 3)) ** 2
    assert oracle.p_value(state.sample_spectrum(5000, seed=0), hat) > 1e-4
    assert np.allclose(state.log_marginals([0], [[0], [1], [2]]), -np.log(3))


@pytest.mark.parametrize("classes", [None, 4])
def test_the_work_foreseen(classes):
    rng = np.random.default_rng(0)
    points = rng.integers(200, size=(3000, 50), dtype=np.uint8)
    values = rng.normal(size=3000 if classes is None else (3000, classes)).astype(np.float32)
    state = states.from_samples(points, values, 257)
    work = state._drawing(512, 256)
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", 257), "numpy")
    qrt.sample(2)
    tracemalloc.start()
    qrt.sample(512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 < work.memory / peak < 3
    assert state.held_bytes > points.nbytes + values.nbytes
    assert work.products == 512 * 3000 * 50
    assert 20 < work.moved / (512 * 3000) < 200
    more = state._drawing(1024, 256)
    assert more.moved == 2 * work.moved
    state.memory_limit = 1
    assert state._drawing(1024, 256).memory < more.memory
    assert work.dtype == "complex64"
