"""Smoothed states: the error made, by dense sums, against the tolerance and the error reported; costs."""

import pickle
import tracemalloc

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states.smoothing import SmoothedState, build, gram, sketch, smoothing_cost

VALUES = [(None, False), (3, False), (2, True), (None, True)]


@pytest.fixture(params=["gram", "sketch"])
def method(request, monkeypatch):
    """How states are compressed: by the Gram sweep, or sketched from few landmarks and in small blocks."""
    if request.param == "sketch":
        force_sketch(monkeypatch)
    return request.param


@pytest.fixture
def sketched(monkeypatch):
    force_sketch(monkeypatch)


def force_sketch(monkeypatch):
    monkeypatch.setattr(build, "exact", lambda points, dim: False)
    monkeypatch.setattr(build, "FIRST_BOND", 8)
    monkeypatch.setattr(sketch, "_ROWS", 7)


def data(seed, modulus, dim, count, classes=None, complex_values=False):
    rng = np.random.default_rng(seed)
    points = np.unique(rng.integers(modulus, size=(count, dim)), axis=0)
    shape = (len(points),) if classes is None else (len(points), classes)
    return points, rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_values else 0)


def gauss(modulus, widths):
    u = np.minimum(np.arange(modulus), modulus - np.arange(modulus))
    return np.exp(-(u**2) / (2 * np.asarray(widths)[:, None] ** 2))


def filters(kind, modulus, dim):
    """(smoothing, its table)."""
    rng = np.random.default_rng(5)
    if kind == "width":
        return 0.25 * modulus, gauss(modulus, [0.25 * modulus] * dim)
    if kind == "widths":
        widths = rng.uniform(0.1, 0.3, size=dim) * modulus
        return widths, gauss(modulus, widths)
    if kind == "one table":
        table = rng.uniform(0.1, 1, size=(1, modulus))
        return table, np.tile(table, (dim, 1))
    table = rng.normal(size=(dim, modulus)) + 1j * rng.normal(size=(dim, modulus))
    table[:, -1] = 0
    return table, table


def smoothed(oracle, points, values, table):
    """f^ tau by dense sums, (P,)*D or (P,)*D + (C,)."""
    dim, modulus = table.shape
    exact = oracle.fourier(oracle.placed(points, values, modulus), dim)
    for axis, tau in enumerate(table):
        exact = exact * tau.reshape([modulus if a == axis else 1 for a in range(exact.ndim)])
    return exact


def check(state, exact, method, oracle, rounding=3e-7):
    """The error made is the one reported, and the norm is right; returns the error."""
    found = state.spectrum(oracle.grid(state.modulus, state.dim)).value().reshape(exact.shape) * state.norm
    norm = np.linalg.norm(exact)
    error = np.linalg.norm(exact - found) / norm
    if method == "gram":
        assert abs(state.truncation_error - error) <= 0.03 * error + rounding
        assert (state.truncation_error_std, state.sketch_bond) == (0, 0)
        assert np.isclose(state.norm, norm * np.sqrt(1 - error**2), rtol=1e-6)
    else:
        assert abs(state.truncation_error - error) <= 4 * state.truncation_error_std + 1e-6
        assert 0 < state.sketch_bond <= len(state.points)
        assert np.isclose(state.norm, norm, rtol=max(2 * error**2, 1e-6))
    return error


@pytest.mark.parametrize("kind", ["width", "widths", "one table", "complex table"])
@pytest.mark.parametrize(("classes", "complex_values"), VALUES)
def test_the_error_is_below_the_tolerance_and_as_reported(classes, complex_values, kind, method, oracle):
    for number, (modulus, dim, count) in enumerate([(2, 6, 40), (7, 3, 90), (31, 2, 120), (31, 1, 12)]):
        points, values = data(number, modulus, dim, count, classes, complex_values)
        smoothing, table = filters(kind, modulus, dim)
        exact = smoothed(oracle, points, values, table)
        for tolerance in (0.3, 1e-2, *([1e-4] if method == "gram" else [])):
            state = states.from_samples(points, values, modulus, smoothing=smoothing, tolerance=tolerance)
            assert isinstance(state, SmoothedState)
            assert check(state, exact, method, oracle) <= tolerance * (
                1.1 if method == "sketch" else 1 + 1e-9
            )
            assert (state.tolerance, state.outputs) == (tolerance, classes or 1)
            assert state.cores[0].dtype == np.complex128


WAVE = np.arange(31)[:, None]
BOARD = np.array([[x, y] for x in range(12) for y in range(12)])
CENTRED = data(13, 7, 3, 90)


@pytest.mark.parametrize(
    ("points", "values", "modulus", "width"),
    [
        # alternating neighbours cancel where the filter is strong: what it drops must count
        (BOARD, (-1.0) ** BOARD.sum(axis=1), 31, 3.0),
        # all of f^ tau lies where tau^2 is 1e-7 of its peak
        (WAVE, np.cos(2 * np.pi * 12 * WAVE[:, 0] / 31), 31, 3.0),
        # almost all of |tau|^2 lies at u = 0, where centred values leave nothing
        (CENTRED[0], CENTRED[1] - CENTRED[1].mean(), 7, 0.3),
        (CENTRED[0], CENTRED[1] - CENTRED[1].mean(), 7, [0.3, 1.0, 50.0]),
        (np.array([[3, 1, 4]]), np.array([2.0]), 7, 1.3),
        (*data(7, 5, 2, 9), 5, 1e6),
    ],
)
def test_hard_functions(points, values, modulus, width, method, oracle):
    if len(points) == 1 and method == "sketch":
        return
    state = states.from_samples(points, values, modulus, smoothing=width, tolerance=1e-2)
    table = gauss(modulus, np.broadcast_to(width, points.shape[1]))
    assert check(state, smoothed(oracle, points, values, table), method, oracle, 3e-5) < 1.2e-2


def test_the_largest_bond_and_a_loose_tolerance(method, oracle):
    points, values = data(2, 5, 4, 60)
    exact = smoothed(oracle, points, values, gauss(5, [1.5] * 4))
    free = [states.from_samples(points, values, 5, smoothing=1.5, tolerance=t) for t in (0.5, 0.1, 1e-2)]
    bonds = [max(state.bond_dimensions) for state in free]
    assert bonds == sorted(bonds)
    assert bonds[0] < 0.5 * bonds[-1]  # the tolerance is used
    errors = []
    for bond in (1, 2, np.int64(5)):
        state = states.from_samples(points, values, 5, smoothing=1.5, tolerance=1e-3, max_bond=bond)
        assert max(state.bond_dimensions) <= bond
        errors.append(check(state, exact, method, oracle))
        cuts = [np.linalg.svd(exact.reshape(5**cut, -1), compute_uv=False)[bond:] for cut in (1, 2, 3)]
        best = max(np.linalg.norm(cut) for cut in cuts) / np.linalg.norm(exact)
        assert best * (1 - 1e-9) <= errors[-1] <= 2.0 * best  # at most sqrt(D - 1) = 1.73 off, by theory
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("kind", ["width", "complex table"])
def test_single_precision_stays_single_where_the_tolerance_allows_it(kind, method, oracle):
    points, values = data(1, 5, 4, 200, 2)
    smoothing, table = filters(kind, 5, 4)
    values = values.astype(np.float32)
    state = states.from_samples(points, values, 5, smoothing=smoothing, tolerance=1e-2)
    assert {core.dtype for core in state.cores} == {np.dtype(np.complex64)}
    exact = smoothed(oracle, points, values.astype(np.float64), table)
    assert np.linalg.norm(
        exact - state.spectrum(oracle.grid(5, 4)).value().reshape(exact.shape) * state.norm
    ) <= 1.1e-2 * np.linalg.norm(exact)
    options = {"smoothing": smoothing, "tolerance": 1e-5}
    if method == "sketch":
        with pytest.raises(ValueError, match=r"tolerance is 1e-05, below the 0\.001"):
            states.from_samples(points, values, 5, **options)
    else:
        # values that almost cancel: rounding them would be an error far above the tolerance
        values = (1 - 2 * (np.arange(len(points)) % 2) + 1e-3 * values[:, 0]).astype(np.float32)
        state = states.from_samples(points, values, 5, **options)
        assert state.cores[0].dtype == np.complex128
        assert check(state, smoothed(oracle, points, values.astype(float), table), method, oracle) < 1e-5


def test_what_the_filter_leaves_out_has_no_place_and_no_amplitude():
    points, values = data(8, 127, 5, 30)
    state = states.from_samples(points, values, 127, smoothing=[0.6, 0.6, 9.0, 0.01, 0.6], tolerance=1e-2)
    sizes = [len(support) for support in state.supports]
    assert sizes[3] <= 3 < sizes[0] < 12 < sizes[2]
    u = state.sample_spectrum(500, seed=0)
    assert all(np.isin(column, support).all() for column, support in zip(u.T, state.supports, strict=True))
    assert state.spectrum(np.full((1, 5), 60)).log_abs() == -np.inf


def test_the_same_data_of_any_size_give_the_same_state(method):
    points, values = data(9, 31, 5, 100)
    first, again, far = (
        states.from_samples(points, values * scale, 31, smoothing=1.0) for scale in (1, 1, 2.0**-900)
    )
    for other in (again, far):
        assert all((a == b).all() for a, b in zip(first.cores, other.cores, strict=True))
        assert first.truncation_error == other.truncation_error
    assert np.isclose(far.log_norm, first.log_norm - 900 * np.log(2))


def test_a_pickled_state_gives_the_same_bits():
    for seed in range(6):  # the shapes of some cores let BLAS round by their layout
        rng = np.random.default_rng(seed)
        x, y = rng.integers(7, size=(9, 3)), rng.normal(size=(9, 2))
        state, u = states.from_samples(x, y, 7, smoothing=0.7), rng.integers(7, size=(20, 3))
        copied = pickle.loads(pickle.dumps(state))
        assert [core.strides for core in copied.cores] == [core.strides for core in state.cores]
        assert np.array_equal(state.spectrum(u).value(), copied.spectrum(u).value())


@pytest.mark.parametrize("width", [0.4, 1.5])
def test_many_dimensions_neither_underflow_nor_overflow(width, method):
    points, values = data(8, 127, 600, 12)
    values = values.astype(np.float32)
    state = states.from_samples(points, values, 127, smoothing=width, tolerance=0.05, max_bond=4)
    assert np.isfinite(state.log_norm)
    assert 0 <= state.truncation_error <= 1.2
    nodes = QuantumRidgeletTransform(state, Ridgelet("cosine", 127)).sample(5, seed=0)
    assert np.isfinite(nodes.log_probability).all()


@pytest.mark.parametrize("smoothing", [0.1, "table"])
def test_filters_whose_squares_underflow(smoothing, method):
    points, values = data(14, 127, 3, 60)
    if smoothing == "table":
        smoothing = np.full((1, 127), 1e-200)
        smoothing[0, 0] = 1
    state = states.from_samples(points, values + 1, 127, smoothing=smoothing, tolerance=0.05)
    assert 0 <= state.truncation_error < 1e-6
    assert np.isclose(state.log_norm, np.log(abs((values + 1).sum())) - 1.5 * np.log(127))


@pytest.mark.parametrize("single", [False, True])
def test_the_whole_compression_runs_on_the_device(single, device, sketched, monkeypatch):
    """The arrays of sketch and estimate are the device's, and the state is the host's."""
    points, values = data(7, 7, 4, 120, 2)
    values = values.astype(np.float32) if single else values
    options = {"smoothing": 1.5, "tolerance": 0.05}
    host = states.from_samples(points, values, 7, backend="numpy", **options)
    seen, cores = [], build.sketched_cores
    monkeypatch.setattr(build, "sketched_cores", lambda *a, xp, **k: seen.append(xp) or cores(*a, xp=xp, **k))
    moved = states.from_samples(points, values, 7, backend="auto", **options)
    assert seen
    assert all(xp is device for xp in seen)
    assert all(type(core) is np.ndarray for core in moved.cores)
    u = np.random.default_rng(0).integers(7, size=(50, 4))
    assert np.abs(host.spectrum(u).value() - moved.spectrum(u).value()).max() < (1e-5 if single else 1e-12)
    assert np.isclose(host.truncation_error, moved.truncation_error, rtol=1e-3 if single else 1e-9)


def test_what_is_refused(method, monkeypatch):
    with pytest.raises(ValueError, match=r"vanishes to rounding: its norm is .* take a larger width"):
        states.from_samples([[0, 1], [2, 3], [4, 4]], [0.5, 0.25, -0.75], 5, smoothing=1e-3)
    points, values = data(11, 127, 6, 300)
    for module in (build, gram):
        monkeypatch.setattr(module, "MOST_BOND", 20)
    with pytest.raises(ValueError, match="more than 20; take a narrower filter"):
        states.from_samples(points, values, 127, smoothing=20.0, tolerance=0.01)
    if method == "sketch":
        monkeypatch.setattr("qrt_tn.states.chunks.device_memory", lambda backend: (2**40, 1000))
        with pytest.raises(ValueError, match="1000 B are free; take fewer points"):
            states.from_samples(points, values, 127, smoothing=20.0, tolerance=0.01)


@pytest.mark.parametrize(("count", "dim", "bond"), [(8000, 40, 64), (2100, 120, 64), (3000, 60, 128)])
def test_memory_is_within_a_factor_of_two_of_the_prediction(count, dim, bond):
    rng = np.random.default_rng(0)
    points = rng.integers(17, size=(count, dim)).astype(np.uint8)
    values = rng.normal(size=(count, 1)).astype(np.float32)
    calls = []
    options = {"smoothing": 0.6, "tolerance": 0.5, "max_bond": bond // 2, "single": True}
    tracemalloc.start()
    state = build.smoothed_state(
        points, values, 127, False, **options, progress=lambda *done: calls.append(done)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert state.sketch_bond == bond  # chosen by the number of points alone
    assert calls[:dim] == [(site + 1, dim) for site in range(dim)]
    cost = smoothing_cost(count, dim, 1, bond, kept=len(state.supports[0]))
    assert 0.5 < cost.memory / peak < 2
    assert cost.dtype == "float32"


def test_costs_grow_with_the_work():
    base, longer = (smoothing_cost(50_000, dim, 10, 64) for dim in (1000, 4000))
    assert 1.5 < smoothing_cost(100_000, 1000, 10, 64).products / base.products < 2.05
    assert np.isclose(longer.products / base.products, 4, rtol=0.01)
    assert longer.memory < 4.01 * base.memory
    assert smoothing_cost(50_000, 1000, 10, 64, dtype=np.float64).memory > 1.5 * base.memory
    assert smoothing_cost(50_000, 1000, 10, 64, dtype=np.complex64).dtype == "complex64"
    few = smoothing_cost(1000, 64, 10, 40)
    assert (few.dtype, few.products < base.products) == ("float64", True)
