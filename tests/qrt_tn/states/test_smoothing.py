"""Smoothed samples: the error made, measured densely, against the tolerance and the error reported."""

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states.smoothing import gram


def data(rng, modulus, dim, count, *, classes=None, complex_values=False):
    points = rng.integers(modulus, size=(count, dim))
    shape = (count,) if classes is None else (count, classes)
    return points, rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_values else 0)


def measured(state, points, values, modulus, widths, oracle):
    """(||f^ tau - held|| / ||f^ tau||, ||f^ tau||) by dense sums, the held state scaled by its own norm."""
    dim = points.shape[1]
    f = oracle.placed(points, values, modulus)
    exact = oracle.fourier(oracle.filtered(f, dim, widths), dim)
    held = state.spectrum(oracle.grid(modulus, dim)).value().reshape(f.shape) * state.norm
    norm = np.linalg.norm(exact)
    return np.linalg.norm(exact - held) / norm, norm


SHAPES = [(2, 6, 30), (3, 4, 25), (5, 3, 40), (7, 3, 60), (13, 2, 40), (31, 2, 50), (31, 1, 12)]
VALUES = [(None, False), (3, False), (2, True), (None, True)]


@pytest.mark.parametrize("tolerance", [0.3, 1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("classes", "complex_values"), VALUES)
def test_the_error_is_below_the_tolerance_and_as_reported(shape, classes, complex_values, tolerance, oracle):
    modulus, dim, count = shape
    rng = np.random.default_rng(modulus + dim)
    points, values = data(rng, modulus, dim, count, classes=classes, complex_values=complex_values)
    width = 0.25 * modulus
    state = states.from_samples(points, values, modulus, smoothing=width, tolerance=tolerance)
    error, norm = measured(state, points, values, modulus, width, oracle)
    assert error <= tolerance * (1 + 1e-9)
    assert abs(state.truncation_error - error) <= 0.03 * error + 3e-7
    assert state.tolerance == tolerance
    assert np.isclose(state.norm, norm * np.sqrt(1 - error**2), rtol=1e-6)
    assert state.outputs == (classes or 1)


def test_a_loose_tolerance_is_used(oracle):
    """The bond shrinks with the tolerance: the budget is spent, not hoarded."""
    points, values = data(np.random.default_rng(0), 31, 6, 120)
    bonds = [
        max(states.from_samples(points, values, 31, smoothing=1.5, tolerance=t).bond_dimensions)
        for t in (0.5, 0.1, 1e-2, 1e-4)
    ]
    assert bonds == sorted(bonds)
    assert bonds[0] < 0.5 * bonds[-1]


@pytest.mark.parametrize("widths", [[0.3, 1.0, 2.5], [4.0, 0.1, 0.7], [50.0, 50.0, 0.01]])
def test_a_width_for_each_coordinate(widths, oracle):
    points, values = data(np.random.default_rng(1), 7, 3, 40, classes=2)
    state = states.from_samples(points, values, 7, smoothing=widths, tolerance=1e-4)
    error, _ = measured(state, points, values, 7, widths, oracle)
    assert error <= 1e-4
    # what a narrow filter leaves out takes no place on the site
    sizes = [len(support) for support in state.supports]
    assert sizes[int(np.argmin(widths))] <= 3
    assert sizes[int(np.argmax(widths))] == 7


def test_the_largest_bond(oracle):
    points, values = data(np.random.default_rng(2), 5, 4, 60)
    free = states.from_samples(points, values, 5, smoothing=1.5, tolerance=1e-3)
    for bond in (1, 2, 5, np.int64(9)):
        state = states.from_samples(points, values, 5, smoothing=1.5, tolerance=1e-3, max_bond=bond)
        assert max(state.bond_dimensions) <= bond < max(free.bond_dimensions)
        error, _ = measured(state, points, values, 5, 1.5, oracle)
        assert abs(state.truncation_error - error) < 0.01 * error
        # no smaller bond could do better than the optimum of any one cut
        f = oracle.filtered(oracle.placed(points, values, 5), 4, 1.5)
        best = max(
            np.sqrt((np.linalg.svd(f.reshape(5**cut, -1), compute_uv=False)[bond:] ** 2).sum())
            for cut in (1, 2, 3)
        )
        assert best / np.linalg.norm(f) <= error * (1 + 1e-9)
        assert error <= 1.8 * best / np.linalg.norm(f)  # at most sqrt(D - 1) = 1.73 off, by theory


def test_cancelling_low_frequencies(oracle):
    """Alternating neighbours cancel where the filter is strong; the tail the filter drops must count."""
    points = np.array([[x, y] for x in range(12) for y in range(12)])
    values = (-1.0) ** points.sum(axis=1)
    state = states.from_samples(points, values, 31, smoothing=3.0, tolerance=1e-2)
    error, _ = measured(state, points, values, 31, 3.0, oracle)
    assert error <= 1e-2
    assert abs(state.truncation_error - error) <= 0.03 * error + 3e-7


@pytest.mark.parametrize(("classes", "complex_values"), VALUES)
@pytest.mark.parametrize("max_bond", [None, 12])
def test_the_sketch_agrees_with_the_dense_road(classes, complex_values, max_bond, oracle, monkeypatch):
    points, values = data(np.random.default_rng(3), 5, 4, 70, classes=classes, complex_values=complex_values)
    options = {"smoothing": 1.2, "tolerance": 1e-2, "max_bond": max_bond}
    dense = states.from_samples(points, values, 5, **options)
    sizes = []
    monkeypatch.setattr(gram, "_DENSE", 8)
    monkeypatch.setattr(gram, "_SKETCH", 10)
    principal = gram._principal

    def watched(wide, *rest):
        basis, dropped = principal(wide, *rest)
        sizes.append((wide.shape[1], basis.shape[1]))
        return basis, dropped

    monkeypatch.setattr(gram, "_principal", watched)
    sketched = states.from_samples(points, values, 5, **options)
    assert any(size > 40 for size, _ in sizes)
    error, _ = measured(sketched, points, values, 5, 1.2, oracle)
    assert abs(sketched.truncation_error - error) <= 0.01 * error + 3e-7
    if max_bond is None:
        assert error <= 1e-2
        assert max(sketched.bond_dimensions) <= 1.5 * max(dense.bond_dimensions)
    else:
        assert max(sketched.bond_dimensions) <= max_bond
        assert error <= 1.3 * dense.truncation_error


def test_a_single_point_is_a_product(oracle):
    state = states.from_samples([[3, 1, 4]], [2.0], 7, smoothing=1.3, tolerance=1e-6)
    assert state.bond_dimensions == [1, 1]
    u = oracle.grid(7, 3)
    centred = np.minimum(u, 7 - u)
    tau = np.exp(-(centred**2).sum(axis=1) / (2 * 1.3**2))
    exact = tau * np.exp(-2j * np.pi * (u @ [3, 1, 4]) / 7)
    assert np.abs(state.spectrum(u).value() - exact / np.linalg.norm(exact)).max() < 1e-6


def test_a_wide_filter_changes_nothing(oracle):
    points, values = data(np.random.default_rng(7), 5, 2, 9)
    plain = states.from_samples(points, values, 5)
    wide = states.from_samples(points, values, 5, smoothing=1e6, tolerance=1e-6)
    u = oracle.grid(5, 2)
    assert np.abs(plain.spectrum(u).value() - wide.spectrum(u).value()).max() < 3e-6
    assert np.isclose(plain.norm, wide.norm)


def test_frequencies_the_filter_keeps_not_are_never_drawn_and_have_no_amplitude():
    points, values = data(np.random.default_rng(8), 127, 5, 30)
    state = states.from_samples(points, values, 127, smoothing=0.6, tolerance=1e-2)
    assert all(len(support) < 12 for support in state.supports)
    u = state.sample_spectrum(500, seed=0)
    assert all(np.isin(column, support).all() for column, support in zip(u.T, state.supports, strict=True))
    far = np.full((1, 5), 60)
    assert state.spectrum(far).value() == 0
    assert state.spectrum(far).log_abs() == -np.inf


def test_the_same_data_give_the_same_state():
    points, values = data(np.random.default_rng(9), 31, 6, 80)
    first, again = (states.from_samples(points, values, 31, smoothing=1.0) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.cores, again.cores, strict=True))
    assert (first.sample_spectrum(20, seed=1) == again.sample_spectrum(20, seed=1)).all()


def test_many_dimensions():
    points, values = data(np.random.default_rng(10), 127, 1500, 12)
    state = states.from_samples(points, values, 127, smoothing=0.5, tolerance=1e-2)
    assert state.truncation_error <= 1e-2
    nodes = QuantumRidgeletTransform(state, Ridgelet("cosine", 127)).sample(5, seed=0)
    assert np.isfinite(nodes.log_probability).all()


def test_a_function_that_the_filter_wipes_out():
    # centred values, and a filter that keeps u = 0 alone
    with pytest.raises(ValueError, match=r"vanishes to rounding: its norm is .* take a larger width"):
        states.from_samples([[0, 1], [2, 3], [4, 4]], [0.1, 0.2, -0.3], 5, smoothing=1e-3)


def test_a_frequency_that_the_filter_alone_would_drop(oracle):
    """A pure high frequency: all of f^ tau lies where tau^2 is 1e-7 of its peak, and has to be kept."""
    x = np.arange(31)[:, None]
    values = np.cos(2 * np.pi * 12 * x[:, 0] / 31)
    state = states.from_samples(x, values, 31, smoothing=3.0, tolerance=1e-2)
    error, _ = measured(state, x, values, 31, 3.0, oracle)
    assert error <= 1e-2
    assert np.isin(state.sample_spectrum(100, seed=0), [12, 19]).all()


def test_single_precision_is_not_held_below_what_it_can_tell(oracle):
    """Values that almost cancel: rounding them would be an error far above the tolerance."""
    rng = np.random.default_rng(0)
    points = np.unique(rng.integers(5, size=(60, 3)), axis=0)
    values = np.ones(len(points)) * np.array([1, -1])[np.arange(len(points)) % 2]
    values = (values + 1e-3 * rng.normal(size=len(points))).astype(np.float32)
    for tolerance, dtype in ((1e-5, np.complex128), (1e-2, np.complex64)):
        state = states.from_samples(points, values, 5, smoothing=0.4, tolerance=tolerance)
        assert state.cores[0].dtype == dtype
        error, _ = measured(state, points, values.astype(np.float64), 5, 0.4, oracle)
        assert error < tolerance
    assert states.from_samples(points, values, 5).coefficients.dtype == np.float32


def test_a_bond_that_takes_hours_is_refused(monkeypatch):
    monkeypatch.setattr(gram, "MOST_BOND", 20)
    rng = np.random.default_rng(1)
    points, values = data(rng, 127, 6, 60)
    with pytest.raises(ValueError, match=r"needs a bond of \d+ before coordinate \d, more than 20.*60 loses"):
        states.from_samples(points, values, 127, smoothing=30.0, tolerance=1e-2)
    state = states.from_samples(points, values, 127, smoothing=30.0, tolerance=1e-2, max_bond=60)
    assert state.truncation_error < 1e-2
