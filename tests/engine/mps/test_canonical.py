import mpmath
import numpy as np
import pytest

from qrt_tn.engine import mps


def rows_are_orthonormal(core, atol=1e-10):
    rows = core.reshape(core.shape[0], -1)
    return np.allclose(rows @ rows.conj().T, np.eye(len(rows)), atol=atol) and len(rows) <= rows.shape[1]


def columns_are_orthonormal(core, atol=1e-10):
    return rows_are_orthonormal(core.transpose(2, 1, 0), atol)


@pytest.mark.parametrize("complex_values", [False, True])
def test_every_centre(shape, complex_values, chains):
    cores = chains.random_cores(np.random.default_rng(0), *shape, complex_values=complex_values)
    before = [core.copy() for core in cores]
    full = chains.expanded(cores)
    for centre in range(len(cores)):
        canonical, log_norm = mps.canonical(cores, centre)
        assert np.isclose(log_norm, np.log(np.linalg.norm(full)))
        assert np.allclose(chains.expanded(canonical) * np.exp(log_norm), full)
        assert np.isclose(np.linalg.norm(canonical[centre]), 1)
        assert all(map(columns_are_orthonormal, canonical[:centre]))
        assert all(map(rows_are_orthonormal, canonical[centre + 1 :]))
    assert all((a == b).all() for a, b in zip(cores, before, strict=True)), "the input is left alone"
    for made, centre in ((mps.right_canonical, 0), (mps.left_canonical, len(cores) - 1)):
        for a, b in zip(made(cores)[0], mps.canonical(cores, centre)[0], strict=True):
            assert (a == b).all()
    for outside in (-1, len(cores)):
        with pytest.raises(ValueError, match=f"the centre is {outside}; it must lie in 0.."):
            mps.canonical(cores, outside)


@pytest.mark.parametrize("centre", [0, 100, 199])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.complex64, 1e-35), (np.complex64, 1e35), (np.float64, 1e-300), (np.float64, 1e300)],
)
def test_far_outside_range(dtype, scale, centre, chains):
    rng = np.random.default_rng(0)
    cores = chains.random_cores(rng, [3] * 200, 2, complex_values=dtype == np.complex64)
    plain = mps.right_canonical(cores)[1]
    canonical, log_norm = mps.canonical([(core * scale).astype(dtype) for core in cores], centre)
    assert np.isclose(log_norm, plain + 200 * np.log(scale), rtol=1e-6)
    assert {core.dtype for core in canonical} == {np.dtype(dtype)}


def test_single_precision_is_orthonormal_to_its_rounding(chains):
    # found in double precision: no error but that of the last cast, 6e-8 an entry
    cores = chains.random_cores(np.random.default_rng(1), [20] * 30, 16, dtype=np.complex64)
    canonical, log_norm = mps.right_canonical(cores)
    double = mps.right_canonical([core.astype(np.complex128) for core in cores])
    assert log_norm == double[1]
    for core, wide in zip(canonical, double[0], strict=True):
        assert core.dtype == np.complex64
        assert np.abs(core - wide).max() <= 2.0**-24 * np.abs(wide).max()


def test_cores_of_mixed_kind(chains):
    rng = np.random.default_rng(2)
    cores = chains.random_cores(rng, [3, 4, 2], 3)
    cores[0] = cores[0].real
    canonical, log_norm = mps.right_canonical(cores)
    assert np.allclose(chains.expanded(canonical) * np.exp(log_norm), chains.expanded(cores))
    smaller, _ = mps.compress([cores[0], *canonical[1:]], 0.0)
    assert np.allclose(chains.expanded(smaller), chains.expanded([cores[0], *canonical[1:]]))


@pytest.mark.parametrize("centre", [0, 1])
def test_a_zero_state(centre):
    assert mps.canonical([np.zeros((1, 2, 1))], 0)[1] == -np.inf
    assert mps.canonical([np.ones((1, 2, 2)), np.zeros((2, 2, 1))], centre)[1] == -np.inf
    assert mps.canonical([np.zeros((1, 2, 2)), np.ones((2, 2, 1))], centre)[1] == -np.inf


@pytest.mark.parametrize("centre", [0, 1])
@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_a_state_that_cancels_to_rounding_is_zero(dtype, centre):
    rng = np.random.default_rng(0)
    core = rng.normal(size=(3, 1)).astype(dtype)
    cores = [np.ones((1, 3, 2), dtype=dtype), np.stack([core, -core])]
    assert mps.canonical(cores, centre)[1] == -np.inf
    almost = [cores[0], np.stack([core, -core * dtype(1.01)])]
    assert np.isfinite(mps.canonical(almost, centre)[1])


@pytest.mark.parametrize("tolerance", [0.0, 1e-8, 0.05, 0.3])
def test_compression_makes_the_error_it_states(shape, tolerance, chains):
    cores, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(2), *shape))
    smaller, error = mps.compress(cores, tolerance)
    assert error <= tolerance
    assert np.isclose(np.linalg.norm(chains.expanded(smaller) - chains.expanded(cores)), error, atol=1e-10)
    assert all(map(columns_are_orthonormal, smaller[:-1]))
    bonded, error = mps.compress(cores, 0.0, 2)
    assert max(core.shape[2] for core in bonded) <= 2
    assert np.isclose(np.linalg.norm(chains.expanded(bonded) - chains.expanded(cores)), error, atol=1e-12)


def test_compression_finds_a_sum_of_equals(chains):
    cores = chains.random_cores(np.random.default_rng(3), [3] * 6, 3)
    doubled, _ = mps.right_canonical(mps.add(cores, cores))
    smaller, error = mps.compress(doubled, 1e-7)
    assert error < 1e-7
    assert max(core.shape[2] for core in smaller) == 3


@pytest.mark.parametrize(
    ("weights", "budget", "max_bond", "expected"),
    [
        ([4.0, 2.0, 1.0], 0.5, None, (3, 0.0)),
        ([4.0, 2.0, 1.0], 1.0, None, (2, 1.0)),
        ([4.0, 2.0, 1.0], 2.9, None, (2, 1.0)),
        ([4.0, 2.0, 1.0], 100.0, None, (1, 3.0)),
        ([4.0, 2.0, 1.0], 0.0, 2, (2, 1.0)),
        ([4.0, 2.0, 0.0], 0.0, None, (2, 0.0)),
        # a budget already overspent drops nothing more
        ([4.0, 2.0, 1.0], -0.1, None, (3, 0.0)),
        ([4.0, 2.0, 1.0], -0.1, 2, (2, 1.0)),
        ([0.0, 0.0], 0.0, None, (1, 0.0)),
    ],
)
def test_truncation(weights, budget, max_bond, expected):
    assert mps.truncation(np.array(weights), budget, max_bond) == expected


def test_schmidt_values(chains):
    cores, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(4), [2, 3, 2, 3], 4))
    full = chains.expanded(cores)
    for cut, values in enumerate(mps.schmidt_values(cores), start=1):
        dense = np.linalg.svd(full.reshape(np.prod(full.shape[:cut]), -1), compute_uv=False)
        assert np.allclose(values, dense[: len(values)], atol=1e-12)


def test_check_cores():
    cores = mps.check_cores([np.ones((1, 2, 2), dtype=int), np.ones((2, 3, 1), dtype=np.float32)])
    assert {core.dtype for core in cores} == {np.dtype(np.float64)}
    assert mps.check_cores([np.ones((1, 2, 1), dtype=np.float16)])[0].dtype == np.float32
    with pytest.raises(ValueError, match="bonds is empty; give one core"):
        mps.check_cores([], "bonds")


def in_fifty_digits(cores, sites):
    """Log |amplitude|^2 / norm^2 of each row of sites, by mpmath; bond 2."""
    with mpmath.workdps(50):
        exact = [[mpmath.matrix(core[:, u].tolist()) for u in range(core.shape[1])] for core in cores]
        environment = mpmath.matrix([[1]])
        for matrices in exact:
            environment = sum(
                (m.H * environment * m for m in matrices[1:]), matrices[0].H * environment * matrices[0]
            )
        log_norm = mpmath.log(mpmath.re(environment[0, 0]))
        logs = []
        for row in sites:
            vector = mpmath.matrix([[1]])
            for matrices, u in zip(exact, row, strict=True):
                vector = vector * matrices[int(u)]
            logs.append(float(2 * mpmath.log(abs(vector[0, 0])) - log_norm))
    return np.array(logs)


def test_a_thousand_sites_agree_with_fifty_digits(chains):
    cores = chains.random_cores(np.random.default_rng(11), [5] * 1000, 2, dtype=np.complex64)
    canonical, _ = mps.right_canonical(cores)
    for method in mps.METHODS:
        sites, logs = mps.sample(canonical, 2, np.random.default_rng(12), method=method)
        exact = in_fifty_digits(cores, sites)
        assert np.abs(logs - exact).max() < 1e-3
        amplitudes = mps.right_vectors(canonical, sites)
        assert np.abs(2 * amplitudes.log_abs()[:, 0] - exact).max() < 1e-3


def test_the_device_road(device, chains):
    cores = chains.random_cores(np.random.default_rng(10), [3, 4, 2, 3], 3)
    there = mps.check_cores([device.asarray(core) for core in cores])
    for centre in (0, 2):
        host, log_norm = mps.canonical(cores, centre)
        moved, log_there = mps.canonical(there, centre)
        assert all(isinstance(core, device.ndarray) for core in moved)
        assert np.isclose(log_there, log_norm)
        assert np.allclose(chains.expanded([core.get() for core in moved]), chains.expanded(host))
    host, moved = mps.right_canonical(cores)[0], mps.right_canonical(there)[0]
    smaller, error = mps.compress(moved, 0.1)
    assert np.isclose(error, mps.compress(host, 0.1)[1])
    assert isinstance(smaller[1], device.ndarray)
    for a, b in zip(mps.schmidt_values(moved), mps.schmidt_values(host), strict=True):
        assert np.allclose(a, b)


@pytest.mark.parametrize("centre", [0, 1])
@pytest.mark.parametrize(("dtype", "weakest"), [(np.complex64, -7), (np.float64, -16)])
def test_a_weak_bond_between_strong_ones_is_no_zero(dtype, weakest, centre):
    """As in Vidal's gauge: columns of one core are small where rows of the next are large."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in "uv")
    weights = np.logspace(0, weakest, 5)
    cores = [(u * weights).astype(dtype)[None], (v / weights[:, None]).astype(dtype)[:, :, None]]
    full = np.tensordot(cores[0].astype(np.complex128), cores[1], axes=1)[0, ..., 0]
    canonical, log_norm = mps.canonical(cores, centre)
    assert np.isclose(log_norm, np.log(np.linalg.norm(full)), rtol=1e-6)
    held = np.tensordot(canonical[0], canonical[1], axes=1)[0, ..., 0] * np.exp(log_norm)
    assert np.abs(held - full).max() < (1e-5 if dtype == np.complex64 else 1e-12)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_a_state_in_a_weak_channel(dtype):
    """The strong channel of the second core meets 0 in the first."""
    weak = 1e-7 if dtype == np.complex64 else 1e-30
    first = np.zeros((1, 3, 2), dtype=dtype)
    first[0, :, 1] = weak
    second = np.ones((2, 3, 1), dtype=dtype)
    canonical, log_norm = mps.right_canonical([first, second])
    assert np.isclose(log_norm, np.log(3 * weak), rtol=1e-5)
    assert np.allclose(np.tensordot(*canonical, axes=1)[0, ..., 0], 1 / 3, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_long_sums_that_cancel_are_zero(dtype, chains):
    own = {"complex_values": dtype == np.complex128, "dtype": dtype}
    cores = chains.random_cores(np.random.default_rng(1), [3] * 400, 4, **own)
    nothing = mps.add(cores, mps.scaled(cores, -1))
    assert mps.right_canonical(nothing)[1] == -np.inf
    assert mps.left_canonical(nothing)[1] == -np.inf


@pytest.mark.parametrize("centre", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_bonds_at_opposite_ends_of_the_range(centre, dtype):
    """Powers of two down to subnormal numbers on one side of a bond, undone on the other, change nothing."""
    rng = np.random.default_rng(0)
    cores = [rng.integers(1, 9, size=shape).astype(dtype) for shape in ((1, 3, 2), (2, 3, 2), (2, 3, 1))]
    bonds = [[-115, 115], [8, -30]] if dtype == np.float32 else [[-950, 1000], [60, -60]]
    first, second = (2.0 ** np.array(bond) for bond in bonds)
    gauged = [cores[0] * first, cores[1] / first[:, None, None] * second, cores[2] / second[:, None, None]]
    gauged = [core.astype(dtype) for core in gauged]
    held, log_norm = mps.canonical(gauged, centre)
    expected, log_expected = mps.canonical(cores, centre)
    assert np.isclose(log_norm, log_expected, rtol=1e-6)
    f, g = (np.einsum("aib,bjc,ckd->ijk", *chain) for chain in (held, expected))
    assert np.allclose(f, g, atol=1e-6 if dtype == np.float32 else 1e-13)
