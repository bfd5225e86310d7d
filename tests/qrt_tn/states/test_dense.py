import numpy as np
import pytest

from qrt_tn import states


def test_normalised_with_its_norm_kept(oracle):
    f = np.random.default_rng(0).normal(size=(5, 5))
    state = states.from_dense(f)
    assert (state.modulus, state.dim, state.outputs, state.vector) == (5, 2, 1, False)
    assert np.isclose(state.norm, np.linalg.norm(f))
    held = state.network().to_dense(["x0"], ["x1"])
    assert np.abs(held - f / np.linalg.norm(f)).max() < 1e-14
    assert state.to("numpy") is state


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_values_of_any_scale(scale, oracle):
    f = np.random.default_rng(0).normal(size=(3, 3))
    state = states.from_dense(f * scale)
    assert np.isclose(state.log_norm, np.log(np.linalg.norm(f)) + np.log(scale))
    points = oracle.grid(3, 2)
    assert np.allclose(state.spectrum(points).value(), states.from_dense(f).spectrum(points).value())


def test_integers_and_complex_values(oracle):
    points = oracle.grid(3, 2)
    f = np.arange(9).reshape(3, 3)
    expected = oracle.fourier(f / np.linalg.norm(f), 2).reshape(-1)
    assert np.allclose(states.from_dense(f).spectrum(points).value(), expected)
    assert np.allclose(states.from_dense(1j * f).spectrum(points).value(), 1j * expected)


def test_a_spectrum_of_one_frequency():
    x = np.arange(7)
    f = np.exp(2j * np.pi * 3 * x / 7)
    assert (states.from_dense(f).sample_spectrum(500, seed=0) == 3).all()
    assert (states.from_dense(np.ones((3, 3))).sample_spectrum(500, seed=0) == 0).all()


def test_chi_square_of_a_two_valued_spectrum(oracle):
    f = np.cos(2 * np.pi * 2 * np.arange(7) / 7) + 0.3
    hat = np.abs(oracle.fourier(f / np.linalg.norm(f), 1)) ** 2
    assert oracle.p_value(states.from_dense(f).sample_spectrum(20000, seed=1), hat) > 1e-4


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.ones((4, 4)), "4 is not prime"),
        (np.ones((3, 5)), r"shape \(3, 5\); every axis must have the same prime length"),
        (np.float64(1.0), r"shape \(\)"),
        (np.ones((0,)), r"shape \(0,\)"),
        ([[1.0, 2.0], [3.0]], "unequal lengths"),
        (np.ones(1), "modulus is 1"),
        ([1.0, np.nan, 2.0], "values hold nan"),
        ([1.0, np.inf, 2.0], "values hold inf"),
        (np.zeros((3, 3)), "all zero; a state needs a norm"),
        (["a", "b", "c"], "dtype"),
    ],
)
def test_refusals(values, says):
    with pytest.raises(ValueError, match=says):
        states.from_dense(values)
