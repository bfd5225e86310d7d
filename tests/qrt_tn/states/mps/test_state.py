import tracemalloc

import numpy as np
import pytest

from qrt_tn import Ridgelet, states


@pytest.mark.parametrize("complex_values", [False, True])
@pytest.mark.parametrize(("modulus", "dim", "bond"), [(2, 5, 4), (5, 3, 3), (13, 2, 20), (7, 1, 1)])
def test_the_state_of_given_cores(modulus, dim, bond, complex_values, oracle):
    rng = np.random.default_rng(modulus)
    cores = oracle.random_cores(rng, modulus, dim, bond, complex_values=complex_values)
    f = oracle.expanded(cores)
    state = states.from_mps(cores)
    assert (state.modulus, state.dim, state.outputs, state.vector) == (modulus, dim, 1, False)
    assert (state.truncation_error, state.tolerance) == (0, 0)
    assert np.abs(dense(state, modulus, dim) - f).max() < 1e-12 * np.abs(f).max()
    assert state.to("numpy") is state
    assert max(state.bond_dimensions, default=1) <= bond
    entropies = state.entanglement_entropies()
    for cut, values in enumerate(state.schmidt_values(), start=1):
        exact = np.linalg.svd(f.reshape(modulus**cut, -1) / state.norm, compute_uv=False)
        shared = min(len(exact), len(values))
        assert np.abs(values[:shared] - exact[:shared]).max() < 1e-12
        assert np.abs(exact[shared:]).max(initial=0) < 1e-12
        weights = exact[exact > 1e-10] ** 2
        assert np.isclose(entropies[cut - 1], -(weights * np.log(weights)).sum())


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


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (np.float32, 1),
        (np.float16, 1),
        (np.complex64, 1e-30),
        (np.float32, 1e30),
        (np.float32, 2.0**-140),
        (np.float64, 1e-310),
        (np.float64, 5e306),
        (np.complex128, 5e306),
    ],
)
def test_cores_of_any_scale_in_their_precision(dtype, scale, oracle):
    whole = [np.round(8 * core) for core in oracle.random_cores(np.random.default_rng(0), 5, 4, 3)]
    cores = [(core * scale).astype(dtype) for core in whole]
    state, plain = states.from_mps(cores), states.from_mps(whole)
    single = np.dtype(dtype).name in ("float16", "float32", "complex64")
    assert {core.dtype for core in state.cores} == {np.dtype(np.complex64 if single else np.complex128)}
    assert np.isclose(state.log_norm, plain.log_norm + 4 * np.log(scale), atol=1e-6 if single else 1e-9)
    points = oracle.grid(5, 4)
    assert np.abs(state.spectrum(points).value() - plain.spectrum(points).value()).max() < 1e-6


@pytest.mark.parametrize(
    ("dtype", "large", "small"),
    [(float, 1.7e308, 5e-324), (np.float32, 3e38, 1e-45), (complex, 1e308 + 1e308j, 1e-310)],
)
def test_bonds_of_opposite_scales(dtype, large, small):
    """Terms that lie across the whole floating range in each core, and are alike in the product."""
    left, right = np.ones((1, 3, 2), dtype), np.ones((2, 3, 1), dtype)
    left[0], right[:, :, 0] = [small, large], [[large], [small]]
    state = states.from_mps([left, right])
    term = np.log(abs(complex(left[0, 0, 0]))) + np.log(abs(complex(left[0, 0, 1]) / 2)) + np.log(2)
    assert np.isclose(state.log_norm, term + np.log(2) + np.log(3))


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
        # the product of the cores is 0 though neither core is
        ([np.array([[[1.0, 0]] * 3]), np.array([[[0.0]] * 3, [[1.0]] * 3])], "zero everywhere"),
    ],
)
def test_refusals(cores, says):
    with pytest.raises(ValueError, match=says):
        states.from_mps(cores)


def dense(state, modulus, dim):
    """The function itself, not normalised, (P,)*D or (P,)*D + (C,), by contracting its network."""
    inds = [f"x{site}" for site in range(dim)] + (["c"] if state.vector else [])
    values = state.network().to_dense(*([index] for index in inds))
    shape = (modulus,) * dim + ((state.outputs,) if state.vector else ())
    return values.reshape(shape) * state.norm


def few_frequencies(rng, modulus, dim, vector, scale=1.0):
    """A random state with a support of its own at every site, and what it is."""
    supports = [np.sort(rng.permutation(modulus)[: rng.integers(2, modulus)]) for _ in range(dim)]
    extents = ([3] if vector else []) + [len(support) for support in supports]
    bonds = [1] + [3] * (len(extents) - 1) + [1]
    cores = [
        rng.normal(size=(bonds[i], extent, bonds[i + 1]))
        + 1j * rng.normal(size=(bonds[i], extent, bonds[i + 1]))
        for i, extent in enumerate(extents)
    ]
    cores[-1] = cores[-1] * scale
    state = states.MPSState(cores, supports, modulus, vector=vector)
    return state, dense(state, modulus, dim)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize(("modulus", "dim"), [(5, 3), (7, 2), (13, 1)])
def test_algebra_against_dense_arrays(modulus, dim, vector):
    rng = np.random.default_rng(modulus)
    (f, dense_f), (g, dense_g) = (few_frequencies(rng, modulus, dim, vector, scale) for scale in (1.0, 30.0))
    for made, exact in (
        (f + g, dense_f + dense_g),
        (f - g, dense_f - dense_g),
        (-f, -dense_f),
        (f * 2.5, 2.5 * dense_f),
        ((0.3 - 2j) * f, (0.3 - 2j) * dense_f),
        (np.float32(-0.5) * f + g * 1j, -0.5 * dense_f + 1j * dense_g),
    ):
        assert np.abs(dense(made, modulus, dim) - exact).max() < 1e-12 * np.abs(exact).max()
        assert np.isclose(made.norm, np.linalg.norm(exact))
        assert made.truncation_error == 0
    assert np.isclose(f.inner(g).value(), np.vdot(dense_f, dense_g))
    assert f.inner(g).shape == ()
    assert np.isclose(f.inner(f).value(), f.norm**2)


def test_norms_far_outside_range(oracle):
    f = states.from_mps(oracle.random_cores(np.random.default_rng(0), 3, 4, 2))
    huge = f
    for _ in range(3):
        huge = huge * 1e300
    assert np.isclose(huge.log_norm, f.log_norm + 900 * np.log(10))
    assert np.isclose((huge + f).log_norm, huge.log_norm)
    assert np.isclose((huge + huge).log_norm, huge.log_norm + np.log(2))
    assert np.isclose(huge.inner(f).log_abs(), huge.log_norm + f.log_norm)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("kind", ["real", "complex", "each", "zeros", "width", "widths"])
def test_filters_against_dense_arrays(kind, vector, oracle):
    modulus, dim = 7, 2
    rng = np.random.default_rng(1)
    state, f = few_frequencies(rng, modulus, dim, vector)
    hat = oracle.fourier(f, dim)
    if kind.startswith("width"):
        widths = 1.5 if kind == "width" else [1.5, 0.8]
        made, exact = state.filtered(widths), oracle.filtered(f, dim, widths)
    else:
        tau = rng.normal(size=(dim, modulus)) * 100
        if kind == "complex":
            tau = tau + 1j * rng.normal(size=tau.shape)
        if kind == "zeros":
            tau[0, state.supports[0][0]] = 0
        if kind == "real":
            tau[:] = tau[0]
        made = state.filtered(tau[:1] if kind == "real" else tau)
        hat = hat * (tau[0][:, None] * tau[1]).reshape(modulus, modulus, *[1] * vector)
        exact = np.fft.ifftn(hat, axes=(0, 1), norm="ortho")
    assert np.abs(dense(made, modulus, dim) - exact).max() < 1e-10 * np.abs(exact).max()
    assert np.isclose(made.norm, np.linalg.norm(exact))
    if kind == "zeros":
        assert len(made.supports[0]) == len(state.supports[0]) - 1


def test_filters_keep_the_precision(oracle):
    cores = [core.astype(np.float32) for core in oracle.random_cores(np.random.default_rng(0), 5, 4, 3)]
    made = states.from_mps(cores).filtered(1.0)
    assert {core.dtype for core in made.cores} == {np.dtype(np.complex64)}
    tiny = states.from_mps(cores).filtered(np.array([[1e-60, 1e-61, 0, 0, 1e-61]]))
    plain = states.from_mps(cores).filtered(np.array([[1, 0.1, 0, 0, 0.1]]))
    assert np.isclose(tiny.log_norm, plain.log_norm - 4 * 60 * np.log(10))


@pytest.mark.parametrize(("tolerance", "max_bond"), [(0.0, None), (0.2, None), (0.0, 2), (0.5, 3)])
def test_compression_and_its_error(tolerance, max_bond, oracle):
    modulus, dim = 5, 4
    cores = oracle.random_cores(np.random.default_rng(2), modulus, dim, 6)
    state = states.from_mps(cores)
    f = oracle.expanded(cores)
    made = state.compressed(tolerance=tolerance, max_bond=max_bond)
    error = np.linalg.norm(dense(made, modulus, dim) - f) / np.linalg.norm(f)
    assert np.isclose(made.truncation_error, error, atol=1e-12)
    assert max_bond is None or max(made.bond_dimensions) <= max_bond
    assert max_bond is not None or error <= tolerance + 1e-12
    assert made.tolerance == tolerance
    again = made.compressed(max_bond=1)
    error = np.linalg.norm(dense(again, modulus, dim) - f) / np.linalg.norm(f)
    assert error <= again.truncation_error * (1 + 1e-12)


@pytest.mark.parametrize("max_bond", [5, 4, 1])
def test_what_was_lost_stays_a_bound(max_bond, oracle):
    modulus, dim = 5, 4
    cores = oracle.random_cores(np.random.default_rng(2), modulus, dim, 6)
    state, f = states.from_mps(cores), oracle.expanded(cores)
    lossy = state.compressed(max_bond=max_bond)
    assert lossy.truncation_error > 0.02
    finite = []
    for derived, exact in (
        (lossy + state, 2 * f),
        (state - lossy * 0.1, 0.9 * f),
        (lossy.filtered(1.0), oracle.filtered(f, dim, 1.0)),
        (lossy.filtered(np.full((1, modulus), 2.0)), 16 * f),
        (3 * lossy, 3 * f),
    ):
        miss = np.linalg.norm(dense(derived, modulus, dim) - exact) / np.linalg.norm(exact)
        assert 0 < miss <= derived.truncation_error * (1 + 1e-9)
        finite.append(derived.truncation_error < 5 * miss)
    assert any(finite), "some of the bounds say something"


def test_a_doubled_bond_is_compressed_away(oracle):
    state = states.from_mps(oracle.random_cores(np.random.default_rng(3), 5, 4, 3))
    double = state + state
    assert max(double.bond_dimensions) == 6
    small = double.compressed(tolerance=1e-7)
    assert max(small.bond_dimensions) == 3
    assert np.isclose(small.norm, 2 * state.norm)


@pytest.mark.parametrize("vector", [False, True])
def test_marginals_and_site_probabilities(vector, oracle):
    modulus, dim = 5, 3
    state, f = few_frequencies(np.random.default_rng(4), modulus, dim, vector)
    p = np.abs(oracle.fourier(f / state.norm, dim)) ** 2
    p = p.sum(axis=-1) if vector else p
    sites = state.site_probabilities()
    assert sites.shape == (dim, modulus) and sites.dtype == np.float64
    for site in range(dim):
        assert np.allclose(sites[site], p.sum(axis=tuple({0, 1, 2} - {site})))
    u = oracle.grid(modulus, 2)
    with np.errstate(divide="ignore"):
        found = state.log_marginals([2, 0], u)
        wanted = np.log(np.where(p.sum(axis=1).T > 1e-25, p.sum(axis=1).T, 0).reshape(-1))
    assert (np.isneginf(found) == np.isneginf(wanted)).all() and np.isneginf(found).any()
    held = np.isfinite(wanted)
    assert np.allclose(found[held], wanted[held])


@pytest.mark.parametrize("activation", ["relu", "cosine"])
@pytest.mark.parametrize("vector", [False, True])
def test_profiles_of_states_with_few_frequencies(vector, activation, oracle):
    modulus, dim = 7, 2
    state, f = few_frequencies(np.random.default_rng(6), modulus, dim, vector)
    ridgelet = Ridgelet(activation, modulus)
    exact = oracle.analysed(f / state.norm, dim, ridgelet.values)
    held = state.profiles(oracle.grid(modulus, dim), ridgelet)
    assert held.shape == (modulus**dim, modulus, state.outputs)
    assert (held.log_scale[:, :1, :1] == held.log_scale).all(), "one log-scale for each a"
    assert np.abs(held.value().reshape(exact.shape) - exact).max() < 1e-12


@pytest.mark.parametrize(
    ("modulus", "dim", "bond", "nodes", "dtype"),
    [
        (31, 300, 4, 1000, np.float64),
        (127, 30, 8, 500, np.float32),
        (127, 8, 96, 400, np.float32),
        (7, 50, 64, 500, np.float32),
        (8191, 4, 3, 60, np.float64),
        (65537, 2, 2, 12, np.float32),
    ],
)
def test_no_more_memory_than_foreseen(modulus, dim, bond, nodes, dtype, oracle):
    cores = oracle.random_cores(np.random.default_rng(0), modulus, dim, bond)
    tracemalloc.start()
    state = states.from_mps([core.astype(dtype) for core in cores])
    assert tracemalloc.get_traced_memory()[1] < 8 * state.held_bytes + 2**21, "no P x P table"
    tracemalloc.stop()
    assert 1 < oracle.foreseen_over_taken(state, nodes) < 3.5
    work = state._drawing(nodes, modulus - 1)
    # every harmonic of every node meets D matrices; sampling comes on top
    products = nodes * (modulus - 1) * sum(4 * core.shape[0] * core.shape[2] for core in state.cores)
    assert products < work.products
    assert state.filtered(0.1)._drawing(nodes, modulus - 1).products <= work.products
    assert work.dtype == np.result_type(dtype, np.complex64).name


def good():
    return states.from_mps([np.eye(3)[None], np.ones((3, 3, 1))])


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (lambda s: s.compressed(tolerance=1.0), "tolerance is 1.0; give a relative error from 0 to below 1"),
        (lambda s: s.compressed(tolerance=-0.1), "tolerance is -0.1"),
        (lambda s: s.compressed(tolerance=np.nan), "tolerance is nan"),
        (lambda s: s.compressed(tolerance="small"), "tolerance is 'small'"),
        (lambda s: s.compressed(max_bond=0), "max_bond is 0"),
        (lambda s: s.compressed(max_bond=2.5), "max_bond is 2.5"),
        (lambda s: s.filtered(np.zeros((1, 3))), "row 0 of smoothing is zero everywhere"),
        (lambda s: s.filtered([[1, np.nan, 1]]), "smoothing holds nan"),
        (lambda s: s.filtered([[1.0, 1.0]]), r"smoothing is a table of shape \(1, 2\)"),
        (
            lambda s: s.filtered([[1, 0, 0]]).filtered([[0, 1, 1]]),
            "wherever the state has frequencies at coordinate 0",
        ),
        (lambda s: s.filtered(-1), "smoothing holds -1"),
        (lambda s: s * 0, "a state times 0 has no norm"),
        (lambda s: s * np.nan, "has no norm"),
        (lambda s: s * np.inf, "has no norm"),
        (lambda s: s - s, "the sum of the states is zero"),
        (lambda s: s + states.from_mps([np.ones((1, 5, 1))] * 2), "the states differ in modulus: 3 and 5"),
        (lambda s: s.inner(states.from_mps([np.ones((1, 3, 1))])), "the states differ in dim: 2 and 1"),
        (lambda s: s.inner(3), "the other state is a int"),
    ],
)
def test_what_is_refused(work, says):
    with pytest.raises(ValueError, match=says):
        work(good())


def test_a_filter_that_leaves_nothing():
    # f^ has amplitude on u_0 = u_1 alone, and the filter keeps only places off that line
    hat = np.eye(3, dtype=complex)[None], np.eye(3, dtype=complex)[:, :, None]
    state = states.MPSState(hat, [np.arange(3)] * 2, 3)
    with pytest.raises(ValueError, match="the filter leaves nothing of the state; widen it"):
        state.filtered(np.array([[1, 0, 0], [0, 1, 1]]))


def test_what_is_no_number():
    for call in (lambda: good() * "2", lambda: good() + 1, lambda: good() - 1):
        with pytest.raises(TypeError):
            call()


def test_the_device_road(device, oracle):
    state = states.from_mps(oracle.random_cores(np.random.default_rng(9), 5, 3, 3))
    there = state.to("cupy")
    assert isinstance(there.cores[0], device.ndarray)
    ridgelet = Ridgelet("relu", 5)
    a = oracle.grid(5, 3)[::7]
    tau = np.array([[1, 2, 0, 0, 1j]])
    for made, wanted in (
        (there, state),
        (there + there.filtered(tau) * 2j, state + state.filtered(tau) * 2j),
        (there.compressed(max_bond=2), state.compressed(max_bond=2)),
        (there.filtered(1.0), state.filtered(1.0)),
    ):
        assert isinstance(made.cores[0], device.ndarray)
        assert np.isclose(made.log_norm, wanted.log_norm)
        assert np.allclose(made.profiles(a, ridgelet).value(), wanted.profiles(a, ridgelet).value())
        assert np.allclose(made.site_probabilities(), wanted.site_probabilities())
        assert np.isclose(made.inner(there).value(), wanted.inner(state).value())
        points = oracle.grid(5, 2)
        with np.errstate(divide="ignore"):
            assert np.allclose(made.log_marginals([2, 1], points), wanted.log_marginals([2, 1], points))
        assert (made.sample_spectrum(50, seed=1) == wanted.sample_spectrum(50, seed=1)).all()
    with pytest.raises(ValueError, match="lives on a device"):
        there.inner(state)
