import tracemalloc

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states import MPSState, SampleState
from qrt_tn.states.samples import conditionals, rows


def test_points_that_repeat_add_up(oracle):
    rng = np.random.default_rng(0)
    points = rng.integers(3, size=(40, 2))
    values = rng.normal(size=(40, 2))
    state = states.from_samples(points, values, 3)
    assert isinstance(state, SampleState)
    assert len(state.points) == len(np.unique(points, axis=0))
    f = oracle.placed(points, values, 3)
    assert np.isclose(state.norm, np.linalg.norm(f))
    hat = oracle.fourier(f / np.linalg.norm(f), 2).reshape(9, 2)
    assert np.abs(state.spectrum(oracle.grid(3, 2)).value() - hat).max() < 1e-12


def test_points_that_cancel_leave_the_state():
    state = states.from_samples([[0], [1], [1], [1]], [1.0, 0.1, 0.2, -0.3], 5)
    assert state.points.tolist() == [[0]]
    single = np.array([1.0, 0.1, 0.2, -0.3], dtype=np.float32)
    assert states.from_samples([[0], [1], [1], [1]], single, 5).points.tolist() == [[0]]
    tiny = states.from_samples([[0], [1]], np.array([1.0, 1e-9], dtype=np.float32), 5)
    assert len(tiny.points) == 2  # small, but nothing cancels
    beside = np.array([1e6, 0.1, 0.1, 0.1], dtype=np.float32)
    state = states.from_samples([[0], [1], [1], [2]], beside, 5)
    assert state.points.tolist() == [[0], [1], [2]], "what is small beside others does not cancel"
    many = [[0]] + [[1]] * 3000
    state = states.from_samples(many, [1.0] + [0.1] * 1500 + [-0.1] * 1500, 5)
    assert state.points.tolist() == [[0]]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.complex64, bool])
def test_values_of_any_number_type(dtype, oracle):
    values = np.array([1, 0, 1], dtype=dtype)
    state = states.from_samples([[0, 1], [2, 2], [1, 0]], values, 3)
    assert np.isclose(state.norm, 2**0.5)
    assert state.outputs == 1
    assert not state.vector
    assert states.from_samples([[0, 1], [2, 2], [1, 0]], values[:, None], 3).vector


@pytest.mark.parametrize("scale", [1e-290, 1e290])
def test_values_of_any_scale(scale):
    state = states.from_samples([[0], [1]], [3 * scale, 4 * scale], 5)
    assert np.isclose(state.log_norm, np.log(5) + np.log(scale))


@pytest.mark.parametrize("ridge", [0.03, 1.0, 40.0])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("classes", [None, 2])
def test_ridge_is_the_ridge_regression_of_the_full_network(ridge, dim, classes, oracle):
    """min_w sum_x p(x) |f(x) - S[w](x)|^2 + lambda ||w||^2 solved densely, with g = r."""
    modulus = 5
    rng = np.random.default_rng(dim)
    r = Ridgelet("relu", modulus).values
    ridgelet = Ridgelet(r, modulus)
    points = rng.integers(modulus, size=(17, dim))
    values = rng.normal(size=(17,) if classes is None else (17, classes))
    # every row of data on its own; repeats and all
    nodes = oracle.grid(modulus, dim + 1)
    design = r[(points @ nodes[:, :dim].T - nodes[:, dim]) % modulus] / modulus ** (dim / 2)
    share = 1 / len(points)
    weights = np.linalg.solve(
        share * design.T @ design + ridge * np.eye(len(nodes)), share * design.T @ values
    )
    exact = np.abs(weights.reshape(len(nodes), -1)) ** 2
    exact = (exact.sum(axis=1) / exact.sum()).reshape((modulus,) * (dim + 1))

    state = states.from_samples(points, values, modulus, ridge=ridge)
    qrt = QuantumRidgeletTransform(state, ridgelet)
    amplitudes = qrt.amplitudes(nodes[:, :dim], nodes[:, dim]).value()
    assert np.abs(amplitudes - weights / np.linalg.norm(weights)).max() < 1e-10
    assert np.isclose(state.norm, np.linalg.norm(weights))
    drawn = qrt.sample(20000, seed=0)
    assert oracle.p_value(np.column_stack([drawn.a, drawn.b]), exact) > 1e-4


def test_ridge_with_smoothing(oracle):
    points, values = np.array([[0, 1], [0, 1], [2, 2], [4, 0]]), np.array([1.0, 2.0, -1.0, 0.5])
    state = states.from_samples(points, values, 5, ridge=0.1, smoothing=1.0, tolerance=1e-4)
    assert isinstance(state, MPSState)
    weighted = np.array([3.0, -1.0, 0.5]) / (np.array([2, 1, 1]) + 0.4)
    plain = states.from_samples(points[1:], weighted, 5, smoothing=1.0, tolerance=1e-4)
    grid = oracle.grid(5, 2)
    assert np.abs(state.spectrum(grid).value() - plain.spectrum(grid).value()).max() < 1e-10
    assert np.isclose(state.norm, plain.norm)


GOOD = {"x": [[0, 1], [2, 0]], "y": [1.0, 2.0], "modulus": 3}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modulus": 6}, "6 is not prime; the next prime is 7"),
        ({"x": [[0, 1], [3, 0]]}, "x holds 3, outside Z_3, in row 1"),
        ({"x": [[0, 1], [-1, 0]]}, "x holds -1"),
        ({"x": [[0.0, 1.0], [2.0, 0.0]]}, "x has dtype float64"),
        ({"x": [[0, np.nan], [2, 0]]}, "x has dtype float64"),
        ({"x": [0, 1]}, r"x has shape \(2,\)"),
        ({"x": np.empty((0, 2), dtype=int), "y": []}, "x is empty"),
        ({"y": [1.0]}, r"y has shape \(1,\); give .* with M = 2"),
        ({"y": [[[1.0]], [[1.0]]]}, r"y has shape \(2, 1, 1\)"),
        ({"y": np.empty((2, 0))}, r"y has shape \(2, 0\)"),
        ({"y": [1.0, np.nan]}, "y holds nan"),
        ({"y": [1.0, np.inf]}, "y holds inf"),
        ({"y": ["cat", "dog"]}, "y has dtype"),
        ({"y": [0.0, 0.0]}, "zero, or cancel at every point"),
        ({"x": [[0, 1], [0, 1]], "y": [1.0, -1.0]}, "zero, or cancel at every point"),
        ({"ridge": -0.1}, "ridge is -0.1"),
        ({"ridge": np.nan}, "ridge is nan"),
        ({"ridge": np.inf}, "ridge is inf"),
        ({"ridge": "small"}, "ridge is 'small'"),
        ({"ridge": None}, "ridge is None"),
        ({"smoothing": 0.0}, "smoothing holds 0.0"),
        ({"smoothing": [1.0, -3.0]}, "smoothing holds -3.0"),
        ({"smoothing": np.nan}, "smoothing holds nan"),
        ({"smoothing": [1.0, 2.0, 3.0]}, r"one per coordinate of shape \(2,\)"),
        ({"smoothing": "wide"}, "smoothing is 'wide'"),
        ({"smoothing": True}, "smoothing is True"),
        ({"smoothing": 1.0, "tolerance": 0.0}, "tolerance is 0.0"),
        ({"smoothing": 1.0, "tolerance": 1.0}, "tolerance is 1.0"),
        ({"smoothing": 1.0, "tolerance": 1e-9}, "tolerance is 1e-09"),
        ({"smoothing": 1.0, "tolerance": np.nan}, "tolerance is nan"),
        ({"smoothing": 1.0, "tolerance": "tight"}, "tolerance is 'tight'"),
        ({"smoothing": 1.0, "tolerance": None}, "tolerance is None"),
        ({"smoothing": 1.0, "max_bond": 0}, "max_bond is 0"),
        ({"smoothing": 1.0, "max_bond": 2.5}, "max_bond is 2.5"),
        ({"smoothing": 1.0, "max_bond": True}, "max_bond is True"),
    ],
)
def test_refusals(change, says):
    with pytest.raises(ValueError, match=says):
        states.from_samples(**(GOOD | change))


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_smoothing_knows_no_scale(scale):
    x, y = [[0, 1], [1, 2], [2, 0]], np.array([1.0, -3.0, 0.5])
    plain = states.from_samples(x, y, 3, smoothing=1.0)
    scaled = states.from_samples(x, scale * y, 3, smoothing=1.0)
    grid = np.array([[u, v] for u in range(3) for v in range(3)])
    assert np.allclose(scaled.spectrum(grid).value(), plain.spectrum(grid).value())
    assert np.isclose(scaled.log_norm - plain.log_norm, np.log(scale))


def test_a_norm_outside_float64_is_no_number_but_an_error():
    rng = np.random.default_rng(0)
    x = rng.integers(17, size=(5, 800))
    state = states.from_samples(x, rng.normal(size=5), 127, smoothing=1.0, tolerance=0.3)
    assert state.log_norm < -800
    with pytest.raises(OverflowError, match="use log_norm"):
        _ = state.norm


@pytest.mark.parametrize("option", [{"tolerance": -1.0}, {"max_bond": 0}])
def test_options_are_checked_without_smoothing_too(option):
    with pytest.raises(ValueError, match=str(next(iter(option.values())))):
        states.from_samples([[0], [1]], [1.0, 2.0], 5, **option)


def test_no_whole_copy_of_the_points_in_a_wide_type(tmp_path, monkeypatch):
    """Peak memory beside the blocks: one compact copy, none where the points lie on disk."""
    monkeypatch.setattr(rows, "BLOCK", 2**14)
    monkeypatch.setattr(conditionals, "_SUMMED", 2**14)
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(8_000, 1_000), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    y = rng.normal(size=len(x)).astype(np.float32)
    for held, most in ((x, 2.0), (np.load(tmp_path / "x.npy", mmap_mode="r"), 1.0)):
        tracemalloc.start()
        try:
            state = states.from_samples(held, y, 257)
            state.memory_limit = 2**20
            state.sample_spectrum(16, seed=0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < most * x.size  # of one byte each
        assert state._points.on_disk == isinstance(held, np.memmap)


@pytest.mark.parametrize("repeats", [False, True])
def test_a_memory_map_is_the_array_bit_for_bit(tmp_path, repeats):
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(300, 40), dtype=np.uint8)
    if repeats:
        x[200:] = x[rng.integers(200, size=100)]
    np.save(tmp_path / "x.npy", x)
    y = rng.normal(size=(300, 2)).astype(np.float32)
    ridgelet = Ridgelet("triangle", 257)
    here = states.from_samples(x, y, 257)
    there = states.from_samples(np.load(tmp_path / "x.npy", mmap_mode="r"), y, 257)
    assert there._points.on_disk
    assert not here._points.on_disk
    assert (here.points == there.points).all()
    assert len(here.points) == len(np.unique(x, axis=0))
    qrts = [QuantumRidgeletTransform(state, ridgelet, "numpy") for state in (here, there)]
    nodes, others = (qrt.sample(200, seed=1) for qrt in qrts)
    assert (nodes.a == others.a).all()
    assert (nodes.b == others.b).all()
    assert (nodes.log_probability == others.log_probability).all()
    assert (here.log_marginals([3], [[1]]) == there.log_marginals([3], [[1]])).all()


def test_a_memory_map_on_a_device(tmp_path, device):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(5, size=(50, 6), dtype=np.uint8))
    state = states.from_samples(np.load(tmp_path / "x.npy", mmap_mode="r"), rng.normal(size=50), 5)
    assert (state.to("cupy").sample_spectrum(90, seed=0) == state.sample_spectrum(90, seed=0)).all()


def test_a_memory_map_with_smoothing(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(5, size=(12, 3), dtype=np.uint8)
    x[5] = x[2]
    y = rng.normal(size=12)
    np.save(tmp_path / "x.npy", x)
    there = states.from_samples(np.load(tmp_path / "x.npy", mmap_mode="r"), y, 5, smoothing=1.0)
    here = states.from_samples(x.astype(int), y, 5, smoothing=1.0)
    u = rng.integers(5, size=(20, 3))
    assert np.allclose(there.spectrum(u).value(), here.spectrum(u).value())


def test_single_precision_of_any_scale():
    values = np.array([3e37, 2e38], dtype=np.float32)
    state = states.from_samples([[0, 1], [1, 1]], values, 3)
    assert np.isclose(state.log_norm, np.log(np.linalg.norm(values.astype(float))))
    assert np.isfinite(state.sample_spectrum(5)).all()
    many = states.from_samples([[0]] * 50 + [[1]], np.full(51, 1e38, dtype=np.float32), 3)
    assert np.isclose(many.log_norm, np.log(1e38) + 0.5 * np.log(2501))


@pytest.mark.parametrize(
    ("values", "ridge", "log_norm"),
    [
        ([1.2e308, 1.2e308], 0.0, np.log(1.2e308) + np.log(2)),
        ([1.7e308 * (1 + 1j), 0.0], 0.0, np.log(1.7e308) + np.log(2) / 2),
        ([1e-300, 1e-300], 1e90, np.log(1e-300) + np.log(2) - np.log(1e90) - np.log(2)),
    ],
)
@pytest.mark.parametrize("smoothing", [None, 50.0])
def test_sums_beyond_float64(values, ridge, log_norm, smoothing):
    state = states.from_samples([[0, 1], [0, 1]], values, 7, ridge=ridge, smoothing=smoothing)
    assert np.isclose(state.log_norm, log_norm, rtol=1e-3 if smoothing else 1e-12)
    nodes = QuantumRidgeletTransform(state, Ridgelet("relu", 7), "numpy").sample(5)
    assert np.isfinite(nodes.log_probability).all()


def test_numbers_that_float64_does_not_hold_are_refused():
    with pytest.raises(ValueError, match="y holds inf"):
        states.from_samples([[0, 1]], np.array([np.longdouble("1e400")]), 7)
    with pytest.raises(ValueError, match=r"ridge is 1e\+101; give a number from 0 to 1e\+100"):
        states.from_samples([[0, 1]], [1.0], 7, ridge=1e101)


def test_a_bad_filter_is_refused_before_the_points_are_hashed(monkeypatch):
    monkeypatch.setattr("qrt_tn.states.points.hash_points", lambda *_: pytest.fail("hashed"))
    for smoothing in (-1.0, [[1, 2], [1]], np.zeros((1, 7)), "broad"):
        with pytest.raises(ValueError, match="smoothing"):
            states.from_samples([[0, 1]], [1.0], 7, smoothing=smoothing)


def test_the_dense_transform_of_single_precision(oracle):
    rng = np.random.default_rng(0)
    points, values = rng.integers(3, size=(8, 2)), rng.normal(size=8).astype(np.float32)
    ridgelet = Ridgelet("relu", 3)
    qrt = QuantumRidgeletTransform(states.from_samples(points, values, 3), ridgelet, "numpy")
    f = oracle.placed(points, values, 3)
    exact = oracle.analysed(f / np.linalg.norm(f), 2, ridgelet.values)
    assert np.abs(qrt.to_dense() - exact).max() < 1e-6
