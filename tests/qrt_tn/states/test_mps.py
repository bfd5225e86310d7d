import numpy as np
import pytest

from qrt_tn import states


@pytest.mark.parametrize("complex_values", [False, True])
@pytest.mark.parametrize(("modulus", "dim", "bond"), [(2, 5, 4), (5, 3, 3), (13, 2, 20), (7, 1, 1)])
def test_the_state_of_given_cores(modulus, dim, bond, complex_values, oracle):
    rng = np.random.default_rng(modulus)
    cores = oracle.random_cores(rng, modulus, dim, bond, complex_values=complex_values)
    f = oracle.expanded(cores)
    state = states.from_mps(cores)
    assert (state.modulus, state.dim, state.outputs, state.vector) == (modulus, dim, 1, False)
    assert np.isclose(state.norm, np.linalg.norm(f))
    assert (state.truncation_error, state.tolerance) == (0, 0)
    held = state.network().to_dense(*([f"x{site}"] for site in range(dim))).reshape(f.shape)
    assert np.abs(held - f / np.linalg.norm(f)).max() < 1e-12
    assert state.on("numpy") is state
    assert max(state.bond_dimensions, default=1) <= bond


def test_schmidt_values_match_the_dense_state(oracle):
    cores = oracle.random_cores(np.random.default_rng(0), 3, 4, 5, complex_values=True)
    state, f = states.from_mps(cores), oracle.expanded(cores)
    f = f / np.linalg.norm(f)
    for cut, values in enumerate(state.schmidt_values(), start=1):
        dense = np.linalg.svd(f.reshape(3**cut, -1), compute_uv=False)
        shared = min(len(dense), len(values))
        assert np.abs(values[:shared] - dense[:shared]).max() < 1e-12
        assert np.abs(dense[shared:]).max(initial=0) < 1e-12
        assert np.isclose((values**2).sum(), 1)


def test_bonds_larger_than_needed(oracle):
    # rank-deficient cores: the same function padded with zero bonds and with a copied one
    cores = oracle.random_cores(np.random.default_rng(0), 3, 3, 2)
    first = np.concatenate([cores[0], np.zeros((1, 3, 3)), cores[0][:, :, :1]], axis=2)
    second = np.concatenate([cores[1], np.zeros((3, 3, 2)), np.zeros((1, 3, 2))], axis=0)
    points = oracle.grid(3, 3)
    padded = states.from_mps([first, second, cores[2]])
    assert np.allclose(padded.spectrum(points).value(), states.from_mps(cores).spectrum(points).value())
    hat = np.abs(oracle.fourier(oracle.expanded(cores) / padded.norm, 3)) ** 2
    assert oracle.p_value(padded.sample_spectrum(20000, seed=0), hat) > 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.float16])
def test_single_precision_is_kept(dtype, oracle):
    cores = [core.astype(dtype) for core in oracle.random_cores(np.random.default_rng(0), 5, 4, 3)]
    state = states.from_mps(cores)
    assert {core.dtype for core in state.cores} == {np.dtype(np.complex64)}
    double = states.from_mps([core.astype(np.complex128) for core in cores])
    points = oracle.grid(5, 4)
    assert np.abs(state.spectrum(points).value() - double.spectrum(points).value()).max() < 1e-6


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e-30), (np.float32, 1e30), (np.float64, 1e-200)])
def test_cores_of_any_scale(dtype, scale, oracle):
    cores = oracle.random_cores(np.random.default_rng(0), 5, 4, 3)
    state = states.from_mps([(core * scale).astype(dtype) for core in cores])
    assert np.isclose(state.log_norm, states.from_mps(cores).log_norm + 4 * np.log(scale))
    points = oracle.grid(5, 4)
    plain = states.from_mps(cores).spectrum(points).value()
    assert np.abs(state.spectrum(points).value() - plain).max() < 1e-6


def test_amplitudes_of_exactly_zero():
    # f^ on even places only: sampled never, evaluated to a clean zero
    hat = np.zeros((1, 5, 1), dtype=complex)
    hat[0, [0, 2], 0] = [3, 4]
    cores = [np.fft.ifft(hat, axis=1)] * 3
    state = states.from_mps(cores)
    u = state.sample_spectrum(2000, seed=0)
    assert np.isin(u, [0, 2]).all()
    assert np.isclose((u == 2).mean(), 16 / 25, atol=0.03)


@pytest.mark.parametrize(
    ("cores", "says"),
    [
        ([], "cores is empty"),
        ([np.ones((1, 4, 1))], "4 is not prime"),
        ([np.ones((1, 3, 2)), np.ones((2, 5, 1))], "core 1 has site extent 5, core 0 has 3"),
        ([np.ones((1, 3, 2)), np.ones((3, 3, 1))], "core 1 has left bond 3; the bond before it is 2"),
        ([np.ones((2, 3, 1))], "core 0 has left bond 2; the bond before it is 1"),
        ([np.ones((1, 3, 2))], "last core has right bond 2; it must be 1"),
        ([np.ones((3, 1))], r"core 0 has shape \(3, 1\)"),
        ([np.ones((1, 0, 1))], r"core 0 has shape \(1, 0, 1\)"),
        ([np.full((1, 3, 1), np.nan)], "core 0 holds a NaN"),
        ([np.zeros((1, 3, 1))], "zero everywhere; a state needs a norm"),
        ([np.ones((1, 3, 1)), np.zeros((1, 3, 1))], "zero everywhere"),
        ([np.full((1, 3, 1), "a")], "dtype"),
    ],
)
def test_refusals(cores, says):
    with pytest.raises(ValueError, match=says):
        states.from_mps(cores)


def test_orthogonal_cores_that_cancel():
    # the product of the cores is 0 though neither core is
    with pytest.raises(ValueError, match="zero everywhere"):
        states.from_mps([np.array([[[1.0, 0]] * 3]), np.array([[[0.0]] * 3, [[1.0]] * 3])])
