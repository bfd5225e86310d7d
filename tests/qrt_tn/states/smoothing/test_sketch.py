"""Sketched states: the error against dense sums, for any filter, precision and block; what is refused."""

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states.filters import checked_filter
from qrt_tn.states.smoothing import SmoothedState, build, sketch, smoothed_state
from qrt_tn.states.filters import chosen_sites

VALUES = [(None, False), (3, False), (2, True)]


@pytest.fixture
def forced(monkeypatch):
    """Every state is sketched, from few landmarks and in small blocks."""
    monkeypatch.setattr(build, "exact", lambda points, dim: False)
    monkeypatch.setattr(build, "FIRST_BOND", 8)
    monkeypatch.setattr(sketch, "_ROWS", 7)


def data(seed, modulus, dim, count, classes=None, complex_values=False):
    rng = np.random.default_rng(seed)
    points = np.unique(rng.integers(modulus, size=(count, dim)), axis=0)
    shape = (len(points), classes or 1)
    return points, rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_values else 0)


def gauss(modulus, width):
    u = np.minimum(np.arange(modulus), modulus - np.arange(modulus))
    return np.exp(-(u**2) / (2 * width**2))


def filters(kind, modulus, dim):
    """(smoothing, its table)."""
    rng = np.random.default_rng(5)
    u = np.minimum(np.arange(modulus), modulus - np.arange(modulus))
    if kind == "width":
        return 0.2 * modulus, np.tile(np.exp(-(u**2) / (2 * (0.2 * modulus) ** 2)), (dim, 1))
    if kind == "widths":
        widths = rng.uniform(0.1, 0.3, size=dim) * modulus
        return widths, np.exp(-(u**2) / (2 * widths[:, None] ** 2))
    if kind == "one table":
        table = rng.uniform(0.1, 1, size=(1, modulus))
        return table, np.tile(table, (dim, 1))
    table = rng.normal(size=(dim, modulus)) + 1j * rng.normal(size=(dim, modulus))
    table[:, 2] = 0
    return table, table


def measured(state, points, values, table, oracle):
    """(||f^ tau - held|| / ||f^ tau||, ||f^ tau||) by dense sums."""
    dim, modulus = table.shape
    exact = oracle.fourier(oracle.placed(points, values, modulus), dim)
    for axis, tau in enumerate(table):
        exact = exact * tau.reshape([modulus if a == axis else 1 for a in range(exact.ndim)])
    held = state.spectrum(oracle.grid(modulus, dim)).value().reshape(-1) * state.norm
    norm = np.linalg.norm(exact)
    return np.linalg.norm(exact.reshape(-1) - held) / norm, norm


@pytest.mark.parametrize("tolerance", [0.2, 1e-2])
@pytest.mark.parametrize("kind", ["width", "widths", "one table", "complex table"])
@pytest.mark.parametrize(("classes", "complex_values"), VALUES)
@pytest.mark.parametrize("shape", [(7, 3, 90), (31, 2, 200)], ids=str)
def test_the_error_is_below_the_tolerance_and_as_estimated(
    shape, classes, complex_values, kind, tolerance, forced, oracle
):
    modulus, dim, _ = shape
    points, values = data(0, *shape, classes, complex_values)
    smoothing, table = filters(kind, modulus, dim)
    state = smoothed_state(
        points, values, modulus, classes is not None, smoothing=smoothing, tolerance=tolerance, max_bond=None
    )
    error, norm = measured(state, points, values, table, oracle)
    assert error <= 1.1 * tolerance  # the estimate met it
    assert abs(error - state.truncation_error) <= 4 * state.truncation_error_std + 1e-6
    assert np.isclose(state.norm, norm, rtol=max(2 * error**2, 1e-6))
    assert state.outputs == (classes or 1)
    assert 0 < state.sketch_bond <= len(points)
    assert state.cores[0].dtype == np.complex128


@pytest.mark.parametrize("kind", ["width", "complex table"])
def test_single_precision_stays_single(kind, forced, oracle):
    points, values = data(1, 5, 4, 200, 2)
    smoothing, table = filters(kind, 5, 4)
    options = {"smoothing": smoothing, "tolerance": 1e-2, "max_bond": None}
    state = smoothed_state(points, values.astype(np.float32), 5, True, **options)
    assert all(core.dtype == np.complex64 for core in state.cores)
    error, _ = measured(state, points, values, table, oracle)
    assert error <= 1.1e-2
    with pytest.raises(ValueError, match="below what single-precision sums can tell"):
        smoothed_state(points, values.astype(np.float32), 5, True, **(options | {"tolerance": 1e-4}))


def test_few_points_in_single_precision_give_single_cores(oracle):
    points, values = data(1, 5, 4, 60, 2)
    smoothing, table = filters("width", 5, 4)
    state = smoothed_state(
        points, values.astype(np.float32), 5, True, smoothing=smoothing, tolerance=1e-2, max_bond=None
    )
    assert all(core.dtype == np.complex64 for core in state.cores)
    assert state.truncation_error_std == 0 and state.sketch_bond == 0
    error, _ = measured(state, points, values, table, oracle)
    assert abs(error - state.truncation_error) < 1e-5


@pytest.mark.parametrize("kind", ["widths", "one table", "complex table"])
@pytest.mark.parametrize(("classes", "complex_values"), VALUES)
def test_the_gram_sweep_takes_any_filter(classes, complex_values, kind, oracle):
    points, values = data(2, 7, 3, 60, classes, complex_values)
    smoothing, table = filters(kind, 7, 3)
    shown = values if classes else values[:, 0]
    for tolerance in (0.2, 1e-4):
        state = states.from_samples(points, shown, 7, smoothing=smoothing, tolerance=tolerance)
        error, norm = measured(state, points, values, table, oracle)
        assert error <= tolerance * (1 + 1e-9)
        assert abs(state.truncation_error - error) <= 0.03 * error + 3e-7
        assert np.isclose(state.norm, norm * np.sqrt(1 - error**2), rtol=1e-6)


def test_more_points_than_a_gram_sweep_takes(oracle):
    """The road that the size chooses, unforced, through `from_samples`."""
    points, values = data(3, 47, 2, 20_000)
    assert len(points) > 2048
    state = states.from_samples(points, values[:, 0], 47, smoothing=2.0, tolerance=0.05)
    assert isinstance(state, SmoothedState)
    assert state.smoothing == 2.0
    assert state.sketch_bond > 0
    error, _ = measured(state, points, values, np.tile(gauss(47, 2.0), (2, 1)), oracle)
    assert error <= 0.055
    assert abs(error - state.truncation_error) <= 4 * state.truncation_error_std
    qrt = QuantumRidgeletTransform(state, Ridgelet("cosine", 47))
    assert np.isfinite(qrt.sample(20, seed=0).log_probability).all()


def test_the_largest_bond(forced, oracle):
    points, values = data(4, 7, 3, 90)
    smoothing, table = filters("width", 7, 3)
    errors = []
    for bond in (1, 3, 5):
        state = smoothed_state(points, values, 7, False, smoothing=smoothing, tolerance=1e-3, max_bond=bond)
        assert max(state.bond_dimensions) <= bond
        error, _ = measured(state, points, values, table, oracle)
        assert abs(error - state.truncation_error) <= 4 * state.truncation_error_std
        errors.append(error)
    assert errors[2] < errors[1] < errors[0]
    exact = states.from_samples(points, values[:, 0], 7, smoothing=smoothing, tolerance=1e-3, max_bond=5)
    assert exact.truncation_error <= errors[2] * (1 + 1e-9) or errors[2] < exact.truncation_error * 1.2


def test_blocks_change_nothing(monkeypatch):
    points, values = data(5, 7, 3, 90, 2)
    sites = chosen_sites(checked_filter(1.5, 3, 7), 0.0)
    whole, whole_scale = sketch.sketched_cores(points.T, values, sites, 12)
    monkeypatch.setattr(sketch, "_ROWS", 3)
    monkeypatch.setattr(sketch, "PREFIX_BYTES", 1)
    cores, scale = sketch.sketched_cores(points.T, values, sites, 12)
    assert np.isclose(scale, whole_scale)

    def full(chain):
        result = chain[0]
        for core in chain[1:]:
            result = np.tensordot(result, core, axes=1)
        return result

    assert np.abs(full(cores) - full(whole)).max() < 1e-10


def test_all_points_as_landmarks_lose_nothing(oracle):
    points, values = data(6, 5, 3, 40, 2)
    product = checked_filter(1.1, 3, 5)
    sites = chosen_sites(product, 0.0)
    cores, scale = sketch.sketched_cores(points.T, values, sites, len(points))
    held = np.linalg.norm(cores[0]) * np.exp(scale)
    f = oracle.filtered(oracle.placed(points, values, 5), 3, 1.1)
    norm = np.linalg.norm(f) * 5**1.5 / np.exp(0.5 * product.log_weight)  # in the sites' units
    assert np.isclose(held, norm, rtol=1e-9)
    for core in cores[1:]:
        rows = core.reshape(len(core), -1)
        assert np.abs(rows @ rows.conj().T - np.eye(len(core))).max() < 1e-12


@pytest.mark.parametrize("single", [False, True])
def test_the_device_computes_what_the_host_does(single, device):
    points, values = data(7, 7, 4, 120, 2)
    values = values.astype(np.float32) if single else values
    sites = chosen_sites(checked_filter(1.5, 4, 7), 0.0)
    host = sketch.sketched_cores(points.T, values, sites, 16)
    moved = sketch.sketched_cores(points.T, values, sites, 16, xp=device)
    assert host[1] == moved[1]
    assert all((a == b).all() for a, b in zip(host[0], moved[0], strict=True))


@pytest.mark.parametrize("single", [False, True])
def test_the_whole_compression_runs_on_the_device(single, device, forced, monkeypatch):
    """The arrays of sketch and estimate are the device's, and the state is the host's."""
    points, values = data(7, 7, 4, 120, 2)
    values = values.astype(np.float32) if single else values
    options = {"smoothing": 1.5, "tolerance": 0.05}
    host = states.from_samples(points, values, 7, backend="numpy", **options)
    seen = []

    def spied(*args, xp=np, **kwargs):
        seen.append(xp)
        return sketched(*args, xp=xp, **kwargs)

    sketched = build.sketched_cores
    monkeypatch.setattr(build, "sketched_cores", spied)
    moved = states.from_samples(points, values, 7, backend="auto", **options)
    assert seen and all(xp is device for xp in seen)
    assert all(type(core) is np.ndarray for core in moved.cores)
    u = np.random.default_rng(0).integers(7, size=(50, 4))
    rounding = 1e-5 if single else 1e-12
    assert np.abs(host.spectrum(u).value() - moved.spectrum(u).value()).max() < rounding
    assert np.isclose(host.truncation_error, moved.truncation_error, rtol=1e-3 if single else 1e-9)


def test_a_backend_that_is_missing_is_refused_at_once():
    points, values = data(7, 7, 4, 120, 2)
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        states.from_samples(points, values, 7, smoothing=1.0, backend="cuda")
    with pytest.raises(ValueError, match="'jax' executes contraction plans only"):
        states.from_samples(points, values, 7, smoothing=1.0, backend="jax")


@pytest.mark.parametrize("width", [0.4, 1.5])
def test_many_dimensions_neither_underflow_nor_overflow(width, forced):
    points, values = data(8, 127, 1000, 16)
    state = smoothed_state(
        points, values.astype(np.float32), 127, False, smoothing=width, tolerance=0.05, max_bond=4
    )
    assert np.isfinite(state.log_norm)
    assert np.isfinite(state.truncation_error) and 0 <= state.truncation_error <= 1.2
    nodes = QuantumRidgeletTransform(state, Ridgelet("cosine", 127)).sample(5, seed=0)
    assert np.isfinite(nodes.log_probability).all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_values_of_any_size(scale, forced):
    points, values = data(9, 7, 3, 60)
    options = {"smoothing": 1.5, "tolerance": 0.05, "max_bond": None}
    plain = smoothed_state(points, values, 7, False, **options)
    scaled = smoothed_state(points, values * scale, 7, False, **options)
    assert np.isclose(scaled.log_norm, plain.log_norm + np.log(scale))
    assert np.isclose(scaled.truncation_error, plain.truncation_error, rtol=1e-6)


def test_cancelling_low_frequencies(forced, oracle):
    """Alternating neighbours cancel where the filter is strong; the tail must not be dropped."""
    points = np.array([[x, y] for x in range(12) for y in range(12)])
    values = (-1.0) ** points.sum(axis=1)[:, None]
    state = smoothed_state(points, values, 31, False, smoothing=3.0, tolerance=1e-2, max_bond=None)
    error, _ = measured(state, points, values, np.tile(gauss(31, 3.0), (2, 1)), oracle)
    assert error <= 1.1e-2


def test_the_same_data_give_the_same_state(forced):
    points, values = data(10, 31, 5, 200)
    options = {"smoothing": 1.0, "tolerance": 0.1, "max_bond": None}
    first, again = (smoothed_state(points, values, 31, False, **options) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.cores, again.cores, strict=True))
    assert first.truncation_error == again.truncation_error


def test_a_function_that_the_filter_wipes_out(forced):
    with pytest.raises(ValueError, match=r"vanishes to rounding: its norm is .* take a larger width"):
        smoothed_state(
            np.array([[0, 1], [2, 3], [4, 4]]),
            np.array([[0.5], [0.25], [-0.75]]),
            5,
            False,
            smoothing=1e-3,
            tolerance=0.1,
            max_bond=None,
        )


def test_what_will_not_fit_is_refused(forced, monkeypatch):
    points, values = data(11, 127, 6, 300)
    options = {"smoothing": 20.0, "tolerance": 0.01, "max_bond": None}
    monkeypatch.setattr(build, "MOST_BOND", 24)
    with pytest.raises(ValueError, match="more than 24; take a narrower filter"):
        smoothed_state(points, values, 127, False, **options)
    monkeypatch.setattr(build, "device_memory", lambda backend: (2**40, 1000))
    with pytest.raises(ValueError, match="GiB are free; take fewer points"):
        smoothed_state(points, values, 127, False, **options)


def test_progress_counts_sites(forced):
    points, values = data(12, 5, 4, 60)
    calls = []
    smoothed_state(
        points,
        values,
        5,
        False,
        smoothing=1.0,
        tolerance=0.3,
        max_bond=None,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(("modulus", "dim", "width"), [(7, 3, 0.3), (2, 7, 0.3), (31, 2, [0.3, 0.28])])
def test_centred_values_under_a_narrow_filter(modulus, dim, width, forced, oracle):
    """Almost all of |tau|^2 lies at u = 0, where centred values leave nothing."""
    points, values = data(13, modulus, dim, 90)
    values = values - values.mean(axis=0)
    state = smoothed_state(points, values, modulus, False, smoothing=width, tolerance=1e-2, max_bond=None)
    table = [gauss(modulus, each) for each in np.broadcast_to(width, (dim,))]
    error, _ = measured(state, points, values, np.stack(table), oracle)
    assert error < 1.2e-2


@pytest.mark.parametrize("smoothing", [0.1, "table"])
def test_filters_whose_squares_underflow(smoothing, forced):
    points, values = data(14, 127, 3, 60)
    if smoothing == "table":
        smoothing = np.full((1, 127), 1e-200)
        smoothing[0, 0] = 1
    state = smoothed_state(points, values + 1, 127, False, smoothing=smoothing, tolerance=0.05, max_bond=None)
    assert 0 <= state.truncation_error < 1e-6
    assert np.isclose(state.log_norm, np.log(abs((values + 1).sum())) - 1.5 * np.log(127))


def test_single_precision_sums_have_a_least_tolerance(forced):
    points, values = data(7, 7, 4, 120, 2)
    with pytest.raises(ValueError, match=r"tolerance is 0\.0001, below what single-precision sums can tell"):
        smoothed_state(
            points, values.astype(np.float32), 7, True, smoothing=1.0, tolerance=1e-4, max_bond=None
        )
