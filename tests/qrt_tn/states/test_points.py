"""States of samples: repeated and cancelling points, ridge weights, any scale, memory maps, refusals."""

import tracemalloc

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states import MPSState, SampleState
from qrt_tn.states.samples import conditionals, rows


@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.float64, np.complex64, np.complex128, bool])
def test_points_that_repeat_add_up(dtype, oracle):
    rng = np.random.default_rng(0)
    points, values = rng.integers(3, size=(40, 2)), rng.integers(-3, 4, size=(40, 2)).astype(dtype)
    state = states.from_samples(points, values, 3)
    assert isinstance(state, SampleState)
    wide = values.astype(complex)
    f = oracle.placed(points, wide if np.iscomplexobj(values) else wide.real, 3)
    assert len(state.points) == np.abs(f).max(axis=-1).astype(bool).sum()
    assert np.isclose(state.norm, np.linalg.norm(f))
    hat = oracle.fourier(f / np.linalg.norm(f), 2).reshape(9, 2)
    single = dtype in (np.float32, np.complex64)
    found = state.spectrum(oracle.grid(3, 2)).value()
    assert np.abs(found - hat).max() < (1e-6 if single else 1e-12)
    scalar = states.from_samples(points, values[:, 0], 3)
    assert (scalar.outputs, scalar.vector, state.outputs, state.vector) == (1, False, 2, True)
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", 3), "numpy")
    exact = oracle.analysed(f / np.linalg.norm(f), 2, qrt.ridgelet.values)
    assert np.abs(qrt.to_dense() - exact).max() < (1e-6 if single else 1e-12)


@pytest.mark.parametrize(
    ("points", "values", "left"),
    [
        ([0, 1, 1, 1], [1.0, 0.1, 0.2, -0.3], [0]),
        ([0, 1, 1, 1], np.array([1.0, 0.1, 0.2, -0.3], np.float32), [0]),
        ([0, 1], np.array([1.0, 1e-9], np.float32), [0, 1]),  # small, but nothing cancels
        ([0, 1, 1, 2], np.array([1e6, 0.1, 0.1, 0.1], np.float32), [0, 1, 2]),  # small beside others
        ([0] + [1] * 3000, [1.0] + [0.1] * 1500 + [-0.1] * 1500, [0]),
        ([0, 0, 1, 1], [1.0, -1 + 1e-9, 2e-9, 0], [0, 1]),  # seven digits left
        ([0, 0, 1, 1], [1.0, -1.0, 0.1, 0.2 - 0.3], None),
        ([0, 0, 0], [0.1, 0.2, -0.3], None),
        ([0, 0], [1.0, -1 + 3e-14], None),  # not three digits left
        ([0, 0], np.array([1.0, -1 + 1e-4], np.float32), None),
        ([0, 1], [0.0, 0.0], None),
    ],
)
def test_values_that_cancel_leave_no_point_and_no_state(points, values, left):
    points = np.array(points)[:, None]
    for smoothing in (None, 1.0):
        if left is None:
            with pytest.raises(ValueError, match="zero everywhere, or cancels up to rounding"):
                states.from_samples(points, values, 5, smoothing=smoothing)
        else:
            state = states.from_samples(points, values, 5, smoothing=smoothing)
            assert np.sort(state.points, axis=0).ravel().tolist() == left


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


@pytest.mark.parametrize(
    ("values", "ridge", "log_norm"),
    [
        (np.array([3e-290, 4e-290, 0]), 0.0, np.log(1e-290) + np.log(73**0.5)),
        (np.array([3e200, 4e200, 0]), 0.0, np.log(1e200) + np.log(73**0.5)),
        (np.array([5e-324, 0, 0]), 0.0, np.log(5e-324)),
        (np.array([1.2e308, 1.2e308, 0]), 0.0, np.log(1.2e308) + np.log(5) / 2),
        (np.array([1.7e308 * (1 + 1j), 0, 0]), 0.0, np.log(1.7e308) + np.log(2) / 2),
        (np.array([0, 1e-300, 1e-300]), 1e90, np.log(1e-300) + np.log(2) - np.log(1e90) - np.log(3)),
        (np.array([2e38, 0, 0], np.float32), 0.0, np.log(np.float32(2e38))),
    ],
)
@pytest.mark.parametrize("smoothing", [None, 50.0])
def test_values_of_any_size(values, ridge, log_norm, smoothing):
    values[2] = values[1]  # at one point
    state = states.from_samples([[0, 1], [2, 1], [2, 1]], values, 7, ridge=ridge, smoothing=smoothing)
    assert np.isclose(state.log_norm, log_norm, rtol=1e-4 if smoothing else 1e-7)
    nodes = QuantumRidgeletTransform(state, Ridgelet("relu", 7), "numpy").sample(5)
    assert np.isfinite(nodes.log_probability).all()


def test_a_norm_outside_float64_is_no_number_but_an_error():
    rng = np.random.default_rng(0)
    x = rng.integers(17, size=(5, 800))
    state = states.from_samples(x, rng.normal(size=5), 127, smoothing=1.0, tolerance=0.3)
    assert state.log_norm < -800
    with pytest.raises(OverflowError, match="use log_norm"):
        _ = state.norm


GOOD = {"x": [[0, 1], [2, 0]], "y": [1.0, 2.0], "modulus": 3}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"modulus": 6}, "6 is not prime"),
        ({"x": [[0, 1], [3, 0]]}, "x holds 3, outside Z_3, in row 1"),
        ({"x": [[0, 1], [-1, 0]]}, "x holds -1"),
        ({"x": [[0.0, 1.0], [2.0, np.nan]]}, "x has dtype float64"),
        ({"x": [0, 1]}, r"x has shape \(2,\)"),
        ({"x": np.empty((0, 2), dtype=int), "y": []}, "x is empty"),
        ({"y": [1.0]}, r"y has shape \(1,\)"),
        ({"y": [[[1.0]], [[1.0]]]}, r"y has shape \(2, 1, 1\)"),
        ({"y": np.empty((2, 0))}, r"y has shape \(2, 0\)"),
        ({"y": [1.0, np.nan]}, "y holds nan"),
        ({"y": np.array([np.longdouble("1e400"), 1])}, "y holds inf"),
        ({"y": ["cat", "dog"]}, "y has dtype"),
        ({"ridge": -0.1}, "ridge is -0.1"),
        ({"ridge": np.nan}, "ridge is nan"),
        ({"ridge": 1e101}, r"ridge is 1e\+101"),
        ({"ridge": "small"}, "ridge is 'small'"),
        ({"smoothing": [1.0, -3.0]}, "smoothing holds -3.0"),
        ({"smoothing": np.nan}, "smoothing holds nan"),
        ({"smoothing": [1.0, 2.0, 3.0]}, r"shape \(2,\)"),
        ({"smoothing": "wide"}, "smoothing is 'wide'"),
        ({"smoothing": True}, "smoothing is True"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"tolerance": 1.0}, "tolerance is 1.0"),
        ({"smoothing": 1.0, "tolerance": 1e-9}, "tolerance is 1e-09"),
        ({"smoothing": 1.0, "tolerance": "tight"}, "tolerance is 'tight'"),
        ({"max_bond": 0}, "max_bond is 0"),
        ({"smoothing": 1.0, "max_bond": 2.5}, "max_bond is 2.5"),
        ({"smoothing": 1.0, "max_bond": True}, "max_bond is True"),
        ({"backend": "abacus"}, "abacus"),
    ],
)
def test_refusals(change, shown, monkeypatch):
    if "smoothing" in change:  # before heavy work
        monkeypatch.setattr("qrt_tn.states.points.hash_points", lambda *_: pytest.fail("hashed"))
    with pytest.raises(ValueError, match=shown):
        states.from_samples(**(GOOD | change))


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


@pytest.mark.parametrize("smoothing", [None, 1.0])
@pytest.mark.parametrize("repeats", [False, True])
def test_a_memory_map_is_the_array_bit_for_bit(tmp_path, repeats, smoothing, device):
    rng = np.random.default_rng(0)
    count, dim, modulus = (40, 5, 11) if smoothing else (300, 40, 257)
    x = rng.integers(modulus - 1, size=(count, dim), dtype=np.uint8)
    if repeats:
        x[-10:] = x[:10]
    np.save(tmp_path / "x.npy", x)
    y = rng.normal(size=(count, 2)).astype(np.float32)
    maps = np.load(tmp_path / "x.npy", mmap_mode="r")
    here, there = (states.from_samples(points, y, modulus, smoothing=smoothing) for points in (x, maps))
    assert (here.points == there.points).all()
    assert len(here.points) == len(np.unique(x, axis=0))
    ridgelet = Ridgelet("triangle", modulus)
    nodes, others = (
        QuantumRidgeletTransform(s, ridgelet, "numpy").sample(200, seed=1) for s in (here, there)
    )
    for name in ("a", "b", "log_probability"):
        assert (getattr(nodes, name) == getattr(others, name)).all()
    assert (here.log_marginals([3], [[1]]) == there.log_marginals([3], [[1]])).all()
    u = here.sample_spectrum(90, seed=0)
    assert (there.to("cupy").sample_spectrum(90, seed=0) == u).mean() > 0.99  # rounding may move a draw
