import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from qrt_tn.engine.conditionals import Sampler, sampler

EXTENTS = {**dict.fromkeys("uvwxyz", 3), **dict.fromkeys("bcfgh", 2), **dict.fromkeys("ade", 3)}
# tensors of f; u .. z are its sites
NETWORKS = {
    "chain": ("ua vab wbc xc", "uvwx"),
    "long-range bond": ("uae vab wbc xce", "uvwx"),
    "tree": ("uabc va wb xcd yd", "uvwxy"),
    "ring": ("uab vbc wcd xda", "uvwx"),
    "grid": ("uab vbcd wde xaf yfcg zge", "uvwxyz"),
    "hyperindex inside": ("uh vh wha xa", "uvwx"),
    "site on two tensors": ("ua uab vb wb", "uvw"),
    "tensors without sites": ("ab bcg ucd vdag", "uv"),
    "several sites a tensor": ("uva awx", "uvwx"),
    "one tensor": ("uvw", "uvw"),
    "one site": ("u", "u"),
    "disconnected": ("ua va w xb b", "uvwx"),
    "a scalar": ("ua va ", "uv"),
    "repeated index": ("uaa va a", "uv"),
}


def dense(terms, arrays, output):
    return np.einsum(",".join(terms) + "->" + output, *arrays)


def born(name, rng, dtype=np.complex128):
    """(inputs, sizes, arrays) of <f|f> for a random f, its sites, and the table of |f|^2 / <f|f>."""
    whole, sites = NETWORKS[name]
    terms = whole.split(" ")
    arrays = []
    for term in terms:
        shape = [EXTENTS[index] for index in term]
        arrays.append((rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype))
    inputs = [tuple(term) for term in terms]
    inputs += [tuple(index if index in sites else index.upper() for index in term) for term in terms]
    sizes = {index: EXTENTS[index.lower()] for term in inputs for index in term}
    table = np.abs(dense(terms, arrays, sites)) ** 2
    return inputs, sizes, [*arrays, *(array.conj() for array in arrays)], sites, table


def p_value(samples, probabilities):
    flat = np.ravel_multi_index(tuple(samples.T), probabilities.shape)
    counts = np.bincount(flat, minlength=probabilities.size)
    expected = probabilities.reshape(-1) * len(samples)
    order = np.argsort(expected)
    pools = np.maximum(np.cumsum(np.minimum(expected[order], 8)) / 8 - 1e-9, 0).astype(int)
    wanted, observed = np.bincount(pools, expected[order]), np.bincount(pools, counts[order])
    kept = wanted > 4
    return stats.chi2.sf(((observed - wanted) ** 2 / wanted)[kept].sum(), max(1, kept.sum() - 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_draws_and_their_probabilities(name):
    rng = np.random.default_rng(len(name))
    inputs, sizes, arrays, sites, table = born(name, rng)
    made = Sampler(inputs, sizes, arrays, sites)
    assert np.isclose(made.log_total, np.log(table.sum()))
    values, log_probability = made.sample(20_000, np.random.default_rng(0))
    table = table / table.sum()
    # the product of the conditionals that were drawn from
    assert np.allclose(log_probability, np.log(table[tuple(values.T)]), atol=1e-11)
    assert p_value(values, table) > 1e-4
    for place, row in enumerate(made.marginals()):
        others = tuple(axis for axis in range(len(sites)) if axis != place)
        assert np.allclose(row, table.sum(axis=others), atol=1e-13)


def test_a_classical_network():
    # non-negative tensors, no doubling; x is on one tensor alone
    rng = np.random.default_rng(0)
    terms = ["ab", "ubc", "uvc", "va", "xv"]
    sizes = {"a": 2, "b": 3, "c": 4, "u": 5, "v": 2, "x": 3}
    arrays = [rng.random([sizes[index] for index in term]) for term in terms]
    made = Sampler([tuple(term) for term in terms], sizes, arrays, ["x", "u", "v"])
    table = dense(terms, arrays, "xuv")
    assert np.isclose(made.log_total, np.log(table.sum()))
    table /= table.sum()
    values, log_probability = made.sample(20_000, np.random.default_rng(0))
    assert np.allclose(log_probability, np.log(table[tuple(values.T)]), atol=1e-12)
    assert p_value(values, table) > 1e-4
    assert np.allclose(made.marginals()[0], table.sum(axis=(1, 2)))


def test_what_has_no_probability_is_never_drawn():
    # all sites equal, through a matrix and its inverse, whose product cancels to zeros
    equal = np.zeros((3, 3, 3))
    equal[range(3), range(3), range(3)] = 1
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    terms, arrays = ["uap", "pq", "qb", "vbc", "wcx"], [equal, turn, turn.T, equal, equal]
    bra = [tuple(index if index in "uvwx" else index.upper() for index in term) for term in terms]
    inputs = [*map(tuple, terms), *bra]
    sizes = dict.fromkeys([index for term in inputs for index in term], 3)
    values, _ = Sampler(inputs, sizes, [*arrays, *arrays], "uvwx").sample(3000, np.random.default_rng(0))
    assert (values == values[:, :1]).all()
    assert p_value(values[:, :1], np.full(3, 1 / 3)) > 1e-4


def chain(length, extent, bond, dtype=np.complex64, seed=0):
    rng = np.random.default_rng(seed)
    bonds = [1, *[bond] * (length - 1), 1]
    cores = []
    for site in range(length):
        shape = (bonds[site], extent, bonds[site + 1])
        cores.append((rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype))
    inputs = [(f"l{site}", f"u{site}", f"l{site + 1}") for site in range(length)]
    inputs += [(f"m{site}", f"u{site}", f"m{site + 1}") for site in range(length)]
    sizes = {f"u{site}": extent for site in range(length)}
    sizes |= {f"{name}{site}": bonds[site] for name in "lm" for site in range(length + 1)}
    return inputs, sizes, [*cores, *(core.conj() for core in cores)], [f"u{site}" for site in range(length)]


def amplitudes(cores, values):
    """log |f|^2 of each row in double precision, rescaled at every site."""
    vectors, logs = np.ones((len(values), 1), dtype=complex), np.zeros(len(values))
    for core, column in zip(cores, values.T, strict=True):
        vectors = np.einsum("nl,nlr->nr", vectors, core.transpose(1, 0, 2)[column].astype(complex))
        peak = np.abs(vectors).max(axis=1)
        vectors, logs = vectors / peak[:, None], logs + 2 * np.log(peak)
    return logs + 2 * np.log(np.abs(vectors[:, 0]))


@pytest.mark.parametrize("scale", [1.0, 1e-18, 1e18])
def test_a_long_chain_in_single_precision(scale):
    inputs, sizes, arrays, variables = chain(300, 31, 3)
    arrays = [(array * scale).astype(np.complex64) for array in arrays]
    made = Sampler(inputs, sizes, arrays, variables)
    values, log_probability = made.sample(20, np.random.default_rng(0))
    wanted = amplitudes(arrays[:300], values) - made.log_total
    assert np.abs(log_probability - wanted).max() < 1e-3
    assert log_probability.max() < -700  # |f|^2 itself would underflow


@pytest.mark.parametrize(("length", "bond"), [(20, 8), (20, 32), (40, 8)])
def test_a_chain_costs_its_bond_squared(length, bond):
    inputs, sizes, arrays, variables = chain(length, 5, bond)
    needs = Sampler(inputs, sizes, arrays, variables).needs(1000)
    # P + 3 products of bond^2 numbers at each site and sample
    assert 0.7 < needs.multiply_adds / (1000 * length * bond**2 * (5 + 3)) < 1.1


def test_memory_as_told():
    inputs, sizes, arrays, variables = chain(12, 7, 8)
    made = Sampler(inputs, sizes, arrays, variables)
    told = made.needs(5000).memory
    tracemalloc.start()
    made.sample(5000, np.random.default_rng(0))
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.3 * told < taken < 1.2 * told


def test_batches_and_copies_change_nothing(monkeypatch):
    inputs, sizes, arrays, sites, _ = born("grid", np.random.default_rng(0))
    whole = Sampler(inputs, sizes, arrays, sites)
    first, logs = whole.sample(501, np.random.default_rng(3))
    parted = Sampler(inputs, sizes, arrays, sites, memory_limit=100_000)
    taken = whole.needs(501).memory
    assert parted.needs(501).memory < taken / 2
    for other in (whole, pickle.loads(pickle.dumps(whole)), copy.deepcopy(whole), parted):
        second, other_logs = other.sample(501, np.random.default_rng(3))
        assert (first == second).all()
        assert np.allclose(logs, other_logs, atol=1e-12 if other is parted else 0)
    monkeypatch.setattr(sampler, "batch_bytes", lambda backend: 100_000)
    assert whole.needs(501).memory < taken / 2


def test_on_a_device(device):
    inputs, sizes, arrays, sites, _ = born("grid", np.random.default_rng(0))
    made = Sampler(inputs, sizes, arrays, sites)
    assert made.to("numpy") is made
    moved = made.to("cupy")
    values, logs = made.sample(200, np.random.default_rng(0))
    device_values, device_logs = moved.sample(200, np.random.default_rng(0))
    assert isinstance(device_values, np.ndarray)
    assert (values == device_values).all()
    assert np.allclose(logs, device_logs)
    for ours, theirs in zip(made.marginals(), moved.marginals(), strict=True):
        assert np.allclose(ours, theirs)
    made_there = Sampler(inputs, sizes, [device.asarray(array) for array in arrays], sites)
    assert np.isclose(made_there.log_total, made.log_total)


@pytest.mark.parametrize("vector", [[0.0, 0.0], [1.0, -1.0], [-1.0, -1.0]])
def test_networks_that_hold_no_probabilities(vector):
    made = Sampler([("u", "a"), ("a",)], {"u": 2, "a": 2}, [np.ones((2, 2)), np.array(vector)], ["u"])
    assert made.log_total == -np.inf
    for call in (lambda: made.sample(3, np.random.default_rng(0)), made.marginals):
        with pytest.raises(ValueError, match="zero or lost in rounding"):
            call()


def test_rows_that_lose_their_weight(monkeypatch):
    inputs, sizes, arrays, sites, _ = born("chain", np.random.default_rng(0))
    plain = sampler._probabilities

    def lossy(weights, size, xp):
        weights, _ = plain(weights, size, xp)
        weights[1] = 0
        return weights, weights.sum(axis=1)

    monkeypatch.setattr(sampler, "_probabilities", lossy)
    with pytest.raises(FloatingPointError, match="1 of 5 samples"):
        Sampler(inputs, sizes, arrays, sites).sample(5, np.random.default_rng(0))


def test_refusals():
    inputs, sizes, arrays, sites, _ = born("grid", np.random.default_rng(0))
    for message, given, options in [
        ("'q'", (arrays, "uq"), {}),
        (r"\(\)", (arrays, ""), {}),
        ("'u', 'v', 'u'", (arrays, "uvu"), {}),
        ("11 arrays for 12", (arrays[1:], sites), {}),
        ("NaN", ([np.full_like(arrays[0], np.nan), *arrays[1:]], sites), {}),
        (r"\(1, 3, 2\)", ([arrays[0][:1], *arrays[1:]], sites), {}),
        ("the 1000 B", (arrays, sites), {"memory_limit": 1000}),
        ("memory_limit is True", (arrays, sites), {"memory_limit": True}),
    ]:
        with pytest.raises(ValueError, match=message):
            Sampler(inputs, sizes, *given, **options)
    made = Sampler(inputs, sizes, arrays, sites)
    with pytest.raises(ValueError, match="count is 0"):
        made.sample(0, np.random.default_rng(0))
    made._limit = 1000  # the memory there was has gone
    with pytest.raises(ValueError, match=r"drawing one sample takes .* than the 1000 B"):
        made.sample(1, np.random.default_rng(0))
