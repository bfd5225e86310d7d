"""Dense states: norms of any size, spectra by the defining sum, and refusals."""

import numpy as np
import pytest

from qrt_tn import states


@pytest.mark.parametrize("unit", [1, 1j, 1e-309, 5e-324, 1e-160, 1e300, 1.5e308 + 1.5e308j], ids=str)
def test_values_of_any_number_and_size(unit, oracle):
    f = np.array([[0, 1, -1], [1, 1, 0], [1, 0, 1]])
    parts = f[..., None] * np.array([np.real(unit), np.imag(unit)])  # a complex product would overflow
    state = states.from_dense(f if unit == 1 else parts.view(complex)[..., 0])  # integers too
    assert (state.modulus, state.dim, state.outputs, state.vector) == (3, 2, 1, False)
    size, phase = np.abs(np.ldexp([np.real(unit), np.imag(unit)], -9)), np.exp(1j * np.angle(unit))
    size = np.log(np.hypot(*size)) + 9 * np.log(2) if abs(np.real(unit)) > 1e-300 else np.log(abs(unit))
    assert np.isclose(state.log_norm, size + np.log(np.linalg.norm(f)), rtol=1e-12)
    wanted = f * phase / np.linalg.norm(f)
    assert np.abs(state.network().to_dense(["x0"], ["x1"]) - wanted).max() < 1e-14
    hat = oracle.fourier(wanted, 2).reshape(-1)
    assert np.abs(state.spectrum(oracle.grid(3, 2)).value() - hat).max() < 1e-14
    assert oracle.p_value(state.sample_spectrum(20_000, seed=1), np.abs(hat.reshape(3, 3)) ** 2) > 1e-4


def test_a_single_frequency_is_all_that_is_drawn():
    wave = np.exp(2j * np.pi * 3 * np.arange(7) / 7)
    assert (states.from_dense(wave).sample_spectrum(500, seed=0) == 3).all()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.ones((4, 4)), "4 is not prime"),
        (np.ones((3, 5)), r"\(3, 5\)"),
        (np.float64(1.0), r"shape \(\)"),
        (np.ones((0,)), r"\(0,\)"),
        ([[1.0, 2.0], [3.0]], "unequal lengths"),
        (np.ones(1), "modulus is 1"),
        ([1.0, np.nan, 2.0], "nan"),
        ([1.0, np.longdouble("1e400"), 2.0], "inf"),
        (np.zeros((3, 3)), "zero everywhere"),
        (["a", "b", "c"], "dtype"),
    ],
)
def test_refusals(values, shown):
    with pytest.raises(ValueError, match=shown):
        states.from_dense(values)
