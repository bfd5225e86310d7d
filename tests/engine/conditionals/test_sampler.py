import numpy as np
import pytest
from scipy import stats

from qrt_tn.engine.conditionals import Sampler, playing

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
    sampler = Sampler(inputs, sizes, arrays, sites)
    assert np.isclose(sampler.log_total, np.log(table.sum()))
    values, log_probability = sampler.sample(20_000, np.random.default_rng(0))
    table = table / table.sum()
    # the product of the conditionals that were drawn from
    assert np.allclose(log_probability, np.log(table[tuple(values.T)]), atol=1e-11)
    assert p_value(values, table) > 1e-4
    for place, row in enumerate(sampler.marginals()):
        others = tuple(axis for axis in range(len(sites)) if axis != place)
        assert np.allclose(row, table.sum(axis=others), atol=1e-13)


@pytest.mark.parametrize("name", ["long-range bond", "grid", "tree"])
def test_each_conditional_against_brute_force(name, monkeypatch):
    """The weights of every single draw, in whatever order the variables come."""
    inputs, sizes, arrays, sites, table = born(name, np.random.default_rng(1))
    sampler = Sampler(inputs, sizes, arrays, sites)
    seen = []
    plain = playing.draw

    def watched(weights, uniforms):
        chosen = plain(weights, uniforms)
        seen.append((weights / weights.sum(axis=1, keepdims=True), chosen))
        return chosen

    monkeypatch.setattr(playing, "draw", watched)
    values, _ = sampler.sample(50, np.random.default_rng(0))
    assert len(seen) == len(sites)
    for row in range(50):
        left, known = set(range(len(sites))), {}
        for weights, chosen in seen:
            matching = []
            for axis in left:
                where = tuple(known.get(place, slice(None)) for place in range(len(sites)))
                rest = table[where]
                kept = [place for place in range(len(sites)) if place not in known]
                others = tuple(number for number, place in enumerate(kept) if place != axis)
                wanted = rest.sum(axis=others)
                if np.allclose(weights[row], wanted / wanted.sum(), atol=1e-12):
                    matching.append(axis)
            assert len(matching) == 1
            known[matching[0]] = chosen[row]
            left -= set(matching)
        assert [known[place] for place in range(len(sites))] == list(values[row])


def test_a_classical_network():
    # non-negative tensors, no doubling; x is on one tensor alone
    rng = np.random.default_rng(0)
    terms = ["ab", "ubc", "uvc", "va", "xv"]
    sizes = {"a": 2, "b": 3, "c": 4, "u": 5, "v": 2, "x": 3}
    arrays = [rng.random([sizes[index] for index in term]) for term in terms]
    sampler = Sampler([tuple(term) for term in terms], sizes, arrays, ["x", "u", "v"])
    table = dense(terms, arrays, "xuv")
    assert np.isclose(sampler.log_total, np.log(table.sum()))
    values, log_probability = sampler.sample(20_000, np.random.default_rng(0))
    assert np.allclose(log_probability, np.log(table[tuple(values.T)] / table.sum()), atol=1e-12)
    assert p_value(values, table / table.sum()) > 1e-4
    assert np.allclose(sampler.marginals()[0], table.sum(axis=(1, 2)) / table.sum())


def test_what_has_no_probability_is_never_drawn():
    # GHZ-like: all sites equal, through a network of sums that cancel
    sites = "uvwx"
    delta = np.zeros((3, 3, 3))
    delta[range(3), range(3), range(3)] = 1
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    back = turn.T
    terms = [("u", "a", "A0"), ("A0", "B0"), ("B0", "b"), ("v", "b", "c"), ("w", "c", "x")]
    arrays = [delta, turn, back, delta, delta]
    bra = [tuple(index if index in sites else index + "'" for index in term) for term in terms]
    sizes = dict.fromkeys([index for term in [*terms, *bra] for index in term], 3)
    values, _ = Sampler([*terms, *bra], sizes, [*arrays, *arrays], sites).sample(
        3000, np.random.default_rng(0)
    )
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
    sampler = Sampler(inputs, sizes, arrays, variables, path=None)
    values, log_probability = sampler.sample(20, np.random.default_rng(0))
    assert np.isfinite(log_probability).all()
    wanted = amplitudes(arrays[:300], values) - sampler.log_total
    assert np.abs(log_probability - wanted).max() < 1e-3
    assert log_probability.max() < -700  # |f|^2 itself would underflow


def test_a_chain_costs_its_bond_squared():
    costs = {}
    for bond in (8, 32):
        inputs, sizes, arrays, variables = chain(20, 5, bond)
        costs[bond] = Sampler(inputs, sizes, arrays, variables).needs(1000)
    # P + 3 products of bond^2 numbers at each site and sample, whatever the bond
    for bond, needs in costs.items():
        assert 0.7 < needs.multiply_adds / (1000 * 20 * bond**2 * (5 + 3)) < 1.1
    inputs, sizes, arrays, variables = chain(40, 5, 8)
    longer = Sampler(inputs, sizes, arrays, variables).needs(1000)
    assert 1.9 < longer.multiply_adds / costs[8].multiply_adds < 2.3


def test_memory_as_told(monkeypatch):
    import tracemalloc

    inputs, sizes, arrays, variables = chain(12, 7, 8)
    sampler = Sampler(inputs, sizes, arrays, variables)
    told = sampler.needs(5000).memory
    tracemalloc.start()
    sampler.sample(5000, np.random.default_rng(0))
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.3 * told < taken < 1.2 * told


def test_batches_change_nothing(monkeypatch):
    inputs, sizes, arrays, sites, _ = born("grid", np.random.default_rng(0))
    whole = Sampler(inputs, sizes, arrays, sites)
    first, logs = whole.sample(501, np.random.default_rng(3))
    parted = Sampler(inputs, sizes, arrays, sites, memory_limit=100_000)
    second, parted_logs = parted.sample(501, np.random.default_rng(3))
    taken = whole.needs(501).memory
    assert parted.needs(501).memory < taken / 2
    assert (first == second).all()
    assert np.allclose(logs, parted_logs, atol=1e-12)
    monkeypatch.setattr("qrt_tn.engine.batches.HOST_BYTES", 100_000)
    assert Sampler(inputs, sizes, arrays, sites).needs(501).memory < taken / 2
    again, _ = whole.sample(501, np.random.default_rng(3))
    assert (again == first).all()


def test_on_a_device(device):
    inputs, sizes, arrays, sites, _ = born("grid", np.random.default_rng(0))
    sampler = Sampler(inputs, sizes, arrays, sites)
    assert sampler.to("numpy") is sampler
    moved = sampler.to("cupy")
    values, logs = sampler.sample(200, np.random.default_rng(0))
    device_values, device_logs = moved.sample(200, np.random.default_rng(0))
    assert isinstance(device_values, np.ndarray)
    assert (values == device_values).all()
    assert np.allclose(logs, device_logs)
    for ours, theirs in zip(sampler.marginals(), moved.marginals(), strict=True):
        assert np.allclose(ours, theirs)
    made_there = Sampler(inputs, sizes, [device.asarray(array) for array in arrays], sites)
    assert np.isclose(made_there.log_total, sampler.log_total)


def test_networks_that_hold_no_probabilities():
    inputs = [("u", "a"), ("a",)]
    sizes = {"u": 2, "a": 2}
    for vector in ([0.0, 0.0], [1.0, -1.0], [-1.0, -1.0]):
        sampler = Sampler(inputs, sizes, [np.ones((2, 2)), np.array(vector)], ["u"])
        assert sampler.log_total == -np.inf
        with pytest.raises(ValueError, match="zero or lost in rounding"):
            sampler.sample(3, np.random.default_rng(0))
        with pytest.raises(ValueError, match="zero or lost in rounding"):
            sampler.marginals()


def test_rows_that_lose_their_weight(monkeypatch):
    inputs, sizes, arrays, sites, _ = born("chain", np.random.default_rng(0))
    plain = playing.probabilities

    def lossy(weights, size, xp):
        weights, _ = plain(weights, size, xp)
        weights[1] = 0
        return weights, weights.sum(axis=1)

    monkeypatch.setattr(playing, "probabilities", lossy)
    with pytest.raises(FloatingPointError, match="1 of 5 samples lost all probability"):
        Sampler(inputs, sizes, arrays, sites).sample(5, np.random.default_rng(0))


def test_refusals():
    inputs, sizes, arrays, sites, _ = born("grid", np.random.default_rng(0))
    with pytest.raises(ValueError, match="variable 'q' is on no tensor"):
        Sampler(inputs, sizes, arrays, "uq")
    for wrong in ("", "uvu"):
        with pytest.raises(ValueError, match="name at least one, and each once"):
            Sampler(inputs, sizes, arrays, wrong)
    with pytest.raises(ValueError, match="got 11 arrays for 12 tensors"):
        Sampler(inputs, sizes, arrays[1:], sites)
    with pytest.raises(ValueError, match="NaN"):
        Sampler(inputs, sizes, [np.full_like(arrays[0], np.nan), *arrays[1:]], sites)
    with pytest.raises(ValueError, match="shape"):
        Sampler(inputs, sizes, [arrays[0][:1], *arrays[1:]], sites)
    with pytest.raises(ValueError, match=r"messages of this network take .* than the 1000 B"):
        Sampler(inputs, sizes, arrays, sites, memory_limit=1000)
    sampler = Sampler(inputs, sizes, arrays, sites)
    sampler._limit = 1000  # the memory there was has gone
    with pytest.raises(ValueError, match=r"drawing one sample takes .* than the 1000 B"):
        sampler.sample(1, np.random.default_rng(0))
