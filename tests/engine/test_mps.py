import numpy as np
import pytest
from scipy import stats

from engine import mps


def random_cores(rng, extents, bond, *, complex_values=True, dtype=None):
    bonds = [1] + [bond] * (len(extents) - 1) + [1]
    cores = []
    for i, extent in enumerate(extents):
        core = rng.normal(size=(bonds[i], extent, bonds[i + 1]))
        if complex_values:
            core = core + 1j * rng.normal(size=core.shape)
        cores.append(core if dtype is None else core.astype(dtype))
    return cores


def expanded(cores):
    full = cores[0]
    for core in cores[1:]:
        full = np.tensordot(full, core, axes=1)
    return full[0, ..., 0]


SHAPES = [([4], 1), ([2, 3], 2), ([3, 2, 4, 2], 5), ([2] * 8, 6), ([5, 1, 3], 3)]


@pytest.mark.parametrize(("extents", "bond"), SHAPES)
@pytest.mark.parametrize("complex_values", [False, True])
def test_right_canonical(extents, bond, complex_values):
    cores = random_cores(np.random.default_rng(0), extents, bond, complex_values=complex_values)
    before = [core.copy() for core in cores]
    canonical, log_norm = mps.right_canonical(cores)
    full = expanded(cores)
    assert np.isclose(log_norm, np.log(np.linalg.norm(full)))
    assert np.allclose(expanded(canonical) * np.exp(log_norm), full)
    assert np.isclose(np.linalg.norm(canonical[0]), 1)
    for core in canonical[1:]:
        rows = core.reshape(core.shape[0], -1)
        assert np.allclose(rows @ rows.conj().T, np.eye(len(rows)))
        assert len(rows) <= rows.shape[1]
    assert all((a == b).all() for a, b in zip(cores, before, strict=True)), "the input is left alone"


def test_right_canonical_far_outside_range():
    rng = np.random.default_rng(0)
    for dtype, scale in (
        (np.complex64, 1e-35),
        (np.complex64, 1e35),
        (np.float64, 1e-300),
        (np.float64, 1e300),
    ):
        cores = random_cores(rng, [3] * 200, 2, complex_values=dtype == np.complex64)
        plain = mps.right_canonical(cores)[1]
        canonical, log_norm = mps.right_canonical([(core * scale).astype(dtype) for core in cores])
        assert np.isclose(log_norm, plain + 200 * np.log(scale), rtol=1e-6)
        assert canonical[0].dtype == dtype


def test_a_zero_state():
    assert mps.right_canonical([np.zeros((1, 2, 1))])[1] == -np.inf
    assert mps.right_canonical([np.ones((1, 2, 2)), np.zeros((2, 2, 1))])[1] == -np.inf


@pytest.mark.parametrize(("extents", "bond"), SHAPES)
def test_sums_and_inner_products(extents, bond):
    rng = np.random.default_rng(1)
    a, b = random_cores(rng, extents, bond), random_cores(rng, extents, bond + 1)
    assert np.allclose(expanded(mps.add(a, b)), expanded(a) + expanded(b))
    assert np.isclose(mps.inner(a, b).value(), np.vdot(expanded(a), expanded(b)))


def test_an_inner_product_far_outside_range():
    ones = [np.full((1, 100, 1), 1.0)] * 3000
    assert np.isclose(mps.inner(ones, ones).log_abs(), 3000 * np.log(100))
    assert mps.inner([np.zeros((1, 2, 1))], [np.ones((1, 2, 1))]).value() == 0


@pytest.mark.parametrize(("extents", "bond"), SHAPES[2:])
@pytest.mark.parametrize("tolerance", [0.0, 1e-8, 0.05, 0.3])
def test_compression_makes_the_error_it_states(extents, bond, tolerance):
    cores, _ = mps.right_canonical(random_cores(np.random.default_rng(2), extents, bond))
    smaller, error = mps.compress(cores, tolerance)
    assert error <= tolerance
    assert np.isclose(np.linalg.norm(expanded(smaller) - expanded(cores)), error, atol=1e-10)
    for core in smaller[:-1]:
        columns = core.reshape(-1, core.shape[2])
        assert np.allclose(columns.conj().T @ columns, np.eye(core.shape[2]))
    bonded, error = mps.compress(cores, 0.0, 2)
    assert max(core.shape[2] for core in bonded) <= 2
    assert np.isclose(np.linalg.norm(expanded(bonded) - expanded(cores)), error)


def test_compression_finds_a_sum_of_equals():
    cores = random_cores(np.random.default_rng(3), [3] * 6, 3)
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


def test_schmidt_values():
    cores, _ = mps.right_canonical(random_cores(np.random.default_rng(4), [2, 3, 2, 3], 4))
    full = expanded(cores)
    for cut, values in enumerate(mps.schmidt_values(cores), start=1):
        dense = np.linalg.svd(full.reshape(np.prod(full.shape[:cut]), -1), compute_uv=False)
        assert np.allclose(values, dense[: len(values)], atol=1e-12)


@pytest.mark.parametrize(("extents", "bond"), SHAPES[1:])
def test_samples_by_chi_square(extents, bond):
    cores, _ = mps.right_canonical(random_cores(np.random.default_rng(5), extents, bond))
    probabilities = np.abs(expanded(cores)) ** 2
    sites, logs = mps.sample(cores, 20000, np.random.default_rng(6))
    assert np.allclose(logs, np.log(probabilities[tuple(sites.T)]), atol=1e-9)
    flat = np.ravel_multi_index(tuple(sites.T), probabilities.shape)
    counts, expected = np.bincount(flat, minlength=probabilities.size), 20000 * probabilities.reshape(-1)
    large = expected > 6
    observed = np.append(counts[large], counts[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum())
    observed, wanted = observed[wanted > 1], wanted[wanted > 1]
    assert stats.chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1) > 1e-4


@pytest.mark.parametrize("gathered", [0, 2**40])
@pytest.mark.parametrize("bond", [1, 5])
def test_right_vectors(bond, gathered, monkeypatch):
    monkeypatch.setattr(mps, "_GATHERED", gathered)
    rng = np.random.default_rng(7)
    cores = random_cores(rng, [3, 4, 2], bond)
    sites = np.stack([rng.integers(extent, size=30) for extent in (3, 4, 2)], axis=1)
    amplitudes = mps.right_vectors(cores, sites)
    assert amplitudes.shape == (30, 1)
    assert np.allclose(amplitudes.value()[:, 0], expanded(cores)[tuple(sites.T)])
    opened = mps.right_vectors(cores[1:], sites[:, 1:])
    assert opened.shape == (30, bond)
    tail = np.tensordot(cores[1], cores[2], axes=1)[..., 0]
    assert np.allclose(opened.value(), tail[:, sites[:, 1], sites[:, 2]].T)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_ten_thousand_sites(dtype):
    """Amplitudes near exp(-11,500): the samples' own probabilities and the amplitudes agree."""
    cores, _ = mps.right_canonical(random_cores(np.random.default_rng(8), [10] * 10_000, 2, dtype=dtype))
    sites, logs = mps.sample(cores, 4, np.random.default_rng(9))
    amplitudes = mps.right_vectors(cores, sites)
    assert np.isfinite(logs).all()
    assert (logs < -15_000).all()
    again = 2 * amplitudes.log_abs()[:, 0]
    assert np.allclose(again, logs, atol=1e-6 if dtype == np.complex128 else 0, rtol=1e-6)


def test_check_cores():
    cores = mps.check_cores([np.ones((1, 2, 2), dtype=int), np.ones((2, 3, 1), dtype=np.float32)])
    assert {core.dtype for core in cores} == {np.dtype(np.float64)}
    assert mps.check_cores([np.ones((1, 2, 1), dtype=np.float16)])[0].dtype == np.float32
    with pytest.raises(ValueError, match="bonds is empty; give one core"):
        mps.check_cores([], "bonds")


def test_the_device_road(device):
    rng = np.random.default_rng(10)
    cores = random_cores(rng, [3, 4, 2, 3], 3)
    there = mps.check_cores([device.asarray(core) for core in cores])
    host, log_norm = mps.right_canonical(cores)
    moved, log_there = mps.right_canonical(there)
    assert isinstance(moved[0], device.ndarray)
    assert np.isclose(log_there, log_norm)
    on_device = [device.asarray(core) for core in host]
    sites, logs = mps.sample(host, 500, np.random.default_rng(0))
    sites_there, logs_there = mps.sample(on_device, 500, np.random.default_rng(0))
    assert (sites == sites_there).all(), "a seed means the same samples on every device"
    assert np.allclose(logs, logs_there)
    for gathered in (0, 2**40):
        mps._GATHERED, kept = gathered, mps._GATHERED
        try:
            amplitudes = mps.right_vectors(on_device, sites)
        finally:
            mps._GATHERED = kept
        assert np.allclose(np.asarray(amplitudes), mps.right_vectors(host, sites).value())
    smaller, error = mps.compress(on_device, 0.1)
    assert np.isclose(error, mps.compress(host, 0.1)[1])
    assert isinstance(smaller[1], device.ndarray)
    assert np.isclose(complex(np.asarray(mps.inner(on_device, on_device))), 1)
    summed = mps.add(on_device, on_device)
    assert np.allclose(expanded([core.get() for core in summed]), 2 * expanded(host))
    for a, b in zip(mps.schmidt_values(on_device), mps.schmidt_values(host), strict=True):
        assert np.allclose(a, b)


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_a_state_that_cancels_to_rounding_is_zero(dtype):
    rng = np.random.default_rng(0)
    core = rng.normal(size=(3, 1)).astype(dtype)
    cores = [np.ones((1, 3, 2), dtype=dtype), np.stack([core, -core])]
    assert mps.right_canonical(cores)[1] == -np.inf
    almost = [cores[0], np.stack([core, -core * dtype(1.01)])]
    assert np.isfinite(mps.right_canonical(almost)[1])
