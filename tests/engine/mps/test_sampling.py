import numpy as np
import pytest

from qrt_tn.engine import mps
from qrt_tn.engine.mps import sampling
from qrt_tn.engine.mps.search import search, tables

METHODS = ["sweep", "search", None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("complex_values", [False, True])
def test_samples_by_chi_square(shape, method, complex_values, chains):
    cores, _ = mps.right_canonical(
        chains.random_cores(np.random.default_rng(5), *shape, complex_values=complex_values)
    )
    if method == "search":
        cores = [core.astype(np.complex128) for core in cores]
    probabilities = np.abs(chains.expanded(cores)) ** 2
    sites, logs = mps.sample(cores, 20000, np.random.default_rng(6), method=method)
    assert sites.dtype == np.int64
    assert np.allclose(logs, np.log(probabilities[tuple(sites.T)]), atol=1e-9)
    if probabilities.size > 1:
        assert chains.p_value(sites, probabilities) > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_by_chi_square(method, chains):
    cores = chains.random_cores(np.random.default_rng(7), [31, 13, 5], 7, dtype=np.complex64)
    cores, _ = mps.right_canonical(cores)
    probabilities = np.abs(chains.expanded([core.astype(complex) for core in cores])) ** 2
    sites, logs = mps.sample(cores, 40000, np.random.default_rng(8), method=method)
    assert np.allclose(logs, np.log(probabilities[tuple(sites.T)]), atol=1e-4)
    assert chains.p_value(sites, probabilities / probabilities.sum()) > 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("_CACHED", 64), ("_TABLES", 1), ("_ROWS", 50), ("_ROWS", 4096)],
)
def test_blocks_and_threads_change_nothing(name, value, method, chains, monkeypatch):
    """Blocks of rows and columns, segments of one site, and threads with rows of their own."""
    cores, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(9), [30, 6, 4, 5], 5))
    whole = mps.sample(cores, 300, np.random.default_rng(0), method=method)
    monkeypatch.setattr(sampling, "threads_for", lambda array, work: 3)
    monkeypatch.setattr(sampling, name, value)
    parts = mps.sample(cores, 300, np.random.default_rng(0), method=method)
    assert (whole[0] == parts[0]).all()
    assert np.allclose(whole[1], parts[1], atol=1e-12)


def test_the_algorithms_agree_on_the_samples(chains):
    cores, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(9), [30, 6, 4, 5], 5))
    drawn = [mps.sample(cores, 1000, np.random.default_rng(1), method=method)[0] for method in METHODS]
    assert all((sites == drawn[0]).all() for sites in drawn)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_weight_zero_is_drawn(method, chains):
    """Values far below the rounding of complex64 sums: the ones that are exactly 0 never come up."""
    rng = np.random.default_rng(2)
    cores = chains.random_cores(rng, [12] * 20, 3, dtype=np.complex64)
    weights = np.repeat([1, 0, 1e-6, 0], 3).astype(np.float32)
    cores, _ = mps.right_canonical([core * weights[:, None] for core in cores])
    sites, logs = mps.sample(cores, 2000, np.random.default_rng(3), method=method)
    assert np.isfinite(logs).all()
    assert (weights[sites] > 0).all()
    # each of 40,000 draws falls on the small ones with probability 1e-12
    assert (sites < 3).all()


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_a_table_that_is_all_noise_is_not_believed(dtype, chains):
    """Rows whose picked value has no weight of its own are drawn again, and rightly."""
    rng = np.random.default_rng(4)
    core = chains.random_cores(rng, [6], 1)[0] * np.array([1, 0, 0, 0, 1, 2])[:, None]
    core = (core / np.linalg.norm(core)).astype(dtype)
    held = tables(core)
    held.running[:] = np.array([0, 0, 1, 1, 1, 1])[:, None]  # all fall on value 2
    vectors, values, weights = search(held, np.ones((20000, 1), dtype=dtype), rng.random(20000))
    probabilities = np.abs(core[0, :, 0]) ** 2
    assert np.allclose(weights, probabilities[values], rtol=1e-5)
    assert np.allclose(np.abs(vectors), 1, atol=1e-5)
    assert chains.p_value(values[:, None], probabilities) > 1e-4


def test_tables_against_their_definition(chains):
    core = chains.random_cores(np.random.default_rng(0), [7, 5, 7], 4)[1]
    held = tables(core)
    x = np.array([1.0 + 0.5j, -0.3j, 0.7, 2.0])
    square = np.outer(x.conj(), x).real + np.outer(x, x.conj()).imag
    expected = np.cumsum((np.abs(np.einsum("l,lur->ur", x, core)) ** 2).sum(axis=1))
    assert np.allclose(held.running @ square.reshape(-1), expected)
    assert np.allclose(held.real + 1j * held.imaginary, core.transpose(1, 0, 2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_ten_thousand_sites(dtype, method, chains):
    """Amplitudes near exp(-11,500): the samples' own probabilities and the amplitudes agree."""
    cores, _ = mps.right_canonical(
        chains.random_cores(np.random.default_rng(8), [10] * 10_000, 2, dtype=dtype)
    )
    sites, logs = mps.sample(cores, 4, np.random.default_rng(9), method=method)
    amplitudes = mps.right_vectors(cores, sites)
    assert np.isfinite(logs).all()
    assert (logs < -15_000).all()
    again = 2 * amplitudes.log_abs()[:, 0]
    assert np.allclose(again, logs, atol=1e-6 if dtype == np.complex128 else 0, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((16, 31, 16), 4096, "search"),
        ((16, 31, 16), 32, "sweep"),
        ((16, 127, 16), 4096, "search"),
        ((50, 3, 50), 4096, "sweep"),
        ((64, 31, 64), 128, "sweep"),
        ((64, 127, 64), 4096, "search"),
    ],
)
def test_the_rule(shape, count, expected):
    assert mps.best_method(*shape, count) == expected


def test_methods_that_cannot_be(device, chains):
    cores = chains.random_cores(np.random.default_rng(0), [3, 3], 2)
    with pytest.raises(ValueError, match="method is 'gram'; choose sweep or search"):
        mps.sample(cores, 5, np.random.default_rng(0), method="gram")
    for wrong in ([core.real.copy() for core in cores], [device.asarray(core) for core in cores]):
        with pytest.raises(ValueError, match="the search takes complex cores on the host"):
            mps.sample(wrong, 5, np.random.default_rng(0), method="search")


def test_the_device_road(device, chains):
    host, _ = mps.right_canonical(chains.random_cores(np.random.default_rng(10), [3, 4, 2, 30], 3))
    there = [device.asarray(core) for core in host]
    sites, logs = mps.sample(host, 500, np.random.default_rng(0), method="sweep")
    sites_there, logs_there = mps.sample(there, 500, np.random.default_rng(0))
    assert (sites == sites_there).all(), "a seed means the same samples on every device"
    assert np.allclose(logs, logs_there)
