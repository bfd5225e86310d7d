import numpy as np
import pytest

from engine import mps
from engine.mps import sampling

GROUPS = [1, 2, 3, 10_000, None]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("complex_values", [False, True])
def test_samples_by_chi_square(shape, group, complex_values, chains):
    cores, _ = mps.right_canonical(
        chains.random_cores(np.random.default_rng(5), *shape, complex_values=complex_values)
    )
    probabilities = np.abs(chains.expanded(cores)) ** 2
    sites, logs = mps.sample(cores, 20000, np.random.default_rng(6), group=group)
    assert sites.dtype == np.int64
    assert np.allclose(logs, np.log(probabilities[tuple(sites.T)]), atol=1e-9)
    if probabilities.size > 1:
        assert chains.p_value(sites, probabilities) > 1e-4


@pytest.mark.parametrize("group", [1, 3, 50])
def test_single_precision_by_chi_square(group, chains):
    cores = chains.random_cores(np.random.default_rng(7), [31, 13, 5], 7, dtype=np.complex64)
    cores, _ = mps.right_canonical(cores)
    probabilities = np.abs(chains.expanded([core.astype(complex) for core in cores])) ** 2
    sites, logs = mps.sample(cores, 40000, np.random.default_rng(8), group=group)
    assert np.allclose(logs, np.log(probabilities[tuple(sites.T)]), atol=1e-4)
    assert chains.p_value(sites, probabilities / probabilities.sum()) > 1e-4


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("_CACHED", 64), ("_SLAB", 64), ("_COLUMNS", 16), ("_TABLES", 1), ("_ROWS", 50), ("_ROWS", 4096)],
)
def test_blocks_and_threads_change_nothing(name, value, group, chains, monkeypatch):
    """Blocks of rows and columns, segments of one site, and threads with rows of their own."""
    cores, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(9), [30, 6, 4, 5], 5))
    whole = mps.sample(cores, 300, np.random.default_rng(0), group=group)
    monkeypatch.setattr(sampling, "threads_for", lambda array, work: 3)
    monkeypatch.setattr(sampling, name, value)
    parts = mps.sample(cores, 300, np.random.default_rng(0), group=group)
    assert (whole[0] == parts[0]).all()
    assert np.allclose(whole[1], parts[1], atol=1e-12)


def test_the_algorithms_agree_on_the_samples(chains):
    cores, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(9), [30, 6, 4, 5], 5))
    drawn = [mps.sample(cores, 1000, np.random.default_rng(1), group=group)[0] for group in GROUPS]
    assert all((sites == drawn[0]).all() for sites in drawn)


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_of_weight_zero_is_drawn(group, chains):
    """Values far below the rounding of complex64 sums: the ones that are exactly 0 never come up."""
    rng = np.random.default_rng(2)
    cores = chains.random_cores(rng, [12] * 20, 3, dtype=np.complex64)
    weights = np.repeat([1, 0, 1e-6, 0], 3).astype(np.float32)
    cores, _ = mps.right_canonical([core * weights[:, None] for core in cores])
    sites, logs = mps.sample(cores, 2000, np.random.default_rng(3), group=group)
    assert np.isfinite(logs).all()
    assert (weights[sites] > 0).all()
    # each of 40,000 draws falls on the small ones with probability 1e-12
    assert (sites < 3).all()


@pytest.mark.parametrize("group", [1, 2])
def test_a_table_that_is_all_noise_is_not_believed(group, chains, monkeypatch):
    """Rows whose picked group has no weight of its own are drawn again, and rightly."""
    rng = np.random.default_rng(4)
    cores = chains.random_cores(rng, [6, 5], 3)
    weights = np.array([1, 0, 0, 0, 1, 2])
    cores[0] = cores[0] * weights[:, None]
    cores, _ = mps.right_canonical(cores)
    probabilities = np.abs(chains.expanded(cores)) ** 2
    held = sampling._groups

    def noisy(site, vectors, uniforms):
        groups, left_over = held(site, vectors, uniforms)
        if site.extent == 6:
            groups[::3] = 2 // group  # values 2, or 2 and 3, which have no weight
        return groups, left_over

    monkeypatch.setattr(sampling, "_groups", noisy)
    sites, logs = mps.sample(cores, 20000, np.random.default_rng(5), group=group)
    assert np.allclose(logs, np.log(probabilities[tuple(sites.T)]), atol=1e-9)
    assert chains.p_value(sites, probabilities) > 1e-4


@pytest.mark.parametrize("group", [1, 4, 10])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_ten_thousand_sites(dtype, group, chains):
    """Amplitudes near exp(-11,500): the samples' own probabilities and the amplitudes agree."""
    cores, _ = mps.right_canonical(
        chains.random_cores(np.random.default_rng(8), [10] * 10_000, 2, dtype=dtype)
    )
    sites, logs = mps.sample(cores, 4, np.random.default_rng(9), group=group)
    amplitudes = mps.right_vectors(cores, sites)
    assert np.isfinite(logs).all()
    assert (logs < -15_000).all()
    again = 2 * amplitudes.log_abs()[:, 0]
    assert np.allclose(again, logs, atol=1e-6 if dtype == np.complex128 else 0, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((16, 31, 16), 4096, 1),
        ((16, 127, 16), 4096, 5),
        ((16, 127, 16), 64, 127),
        ((16, 7, 16), 4096, 7),
        ((64, 127, 64), 100, 127),
    ],
)
def test_the_rule(shape, count, expected):
    assert mps.best_group(*shape, count) == expected
    assert mps.best_group(*shape, count, device=True) == shape[1]


@pytest.mark.parametrize("group", GROUPS)
def test_the_device_road(device, group, chains):
    host, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(10), [3, 4, 2, 30], 3))
    there = [device.asarray(core) for core in host]
    sites, logs = mps.sample(host, 500, np.random.default_rng(0), group=group)
    sites_there, logs_there = mps.sample(there, 500, np.random.default_rng(0), group=group)
    assert (sites == sites_there).all(), "a seed means the same samples on every device"
    assert np.allclose(logs, logs_there)
