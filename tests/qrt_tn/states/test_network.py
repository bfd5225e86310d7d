"""States of any network: small ones against dense sums, long ones against quimb, and what is refused."""

import tracemalloc

import numpy as np
import pytest
import quimb.tensor as qtn

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.engine.conditionals import Sampler
from qrt_tn.states import NetworkState

# tensors of f by their indices: s0, s1, ... are sites, c a class, "long" a bond over the chain
KINDS = {
    "chain with a long-range bond": ["s0 a long", "a s1 b", "b s2 d", "d s3 long"],
    "tree": ["s0 a b d", "a s1", "b s2", "d s3"],
    "ring": ["s0 a b", "b s1 d", "d s2 e", "e s3 a"],
    "grid": ["s0 a b", "a s1 d", "b s2 e", "d e s3"],
    "hyperindex": ["s0 h", "s1 h", "s2 h a", "a s3"],
    "site on three tensors": ["s0 a", "s0 b s1", "a b s2", "s0 s3"],
    "two sites a tensor": ["s0 s1 a", "a s2 s3"],
    "disconnected": ["s0 a", "a s1", "s2", "s3"],
    "inner tensors": ["s0 a", "a b d", "b s1", "d s2 s3"],
    "one site": ["s0"],
    "class": ["s0 a", "a s1 c b", "b s2"],
    "class on two tensors": ["s0 a c", "a s1", "c s2"],
    "one site and a class": ["s0 c"],
}


def extent(index, modulus):
    return modulus if index[0] == "s" else {"c": 3, "a": 3, "long": 3}.get(index, 2)


def made(kind, modulus, rng=None, dtype=np.complex128):
    """(network, its sites, its class index, f as an array)."""
    rng = rng or np.random.default_rng(modulus)
    tensors = []
    for term in KINDS[kind]:
        inds = term.split()
        shape = [extent(index, modulus) for index in inds]
        values = rng.normal(size=shape)
        if np.dtype(dtype).kind == "c":
            values = values + 1j * rng.normal(size=shape)
        tensors.append(qtn.Tensor(values.astype(dtype), inds))
    indices = {index for term in KINDS[kind] for index in term.split()}
    sites = sorted(index for index in indices if index[0] == "s")
    output = [*sites, "c"] if "c" in indices else sites
    symbols = {index: place for place, index in enumerate(sorted(indices))}
    operands = []
    for tensor in tensors:
        operands += [tensor.data.astype(np.complex128), [symbols[index] for index in tensor.inds]]
    f = np.einsum(*operands, [symbols[index] for index in output])
    return qtn.TensorNetwork(tensors), sites, "c" if "c" in indices else None, f


@pytest.mark.parametrize("modulus", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_against_dense_sums(kind, modulus, oracle):
    network, sites, class_index, f = made(kind, modulus)
    dim, vector = len(sites), class_index is not None
    network = qtn.TensorNetwork([*network, qtn.Tensor(-2.5, [])])
    network.equalize_norms_(1.0)  # moves scale to the network's exponent
    state = states.from_network(network, sites, class_index=class_index)
    network.tensors[0].data[...] = 0  # the state has a copy
    assert (state.modulus, state.dim, state.vector) == (modulus, dim, vector)
    assert state.outputs == (3 if vector else 1)
    assert np.isclose(state.norm, 2.5 * np.linalg.norm(f))
    f = -f / np.linalg.norm(f)
    hat, points = oracle.fourier(f, dim), oracle.grid(modulus, dim)
    assert np.abs(state.spectrum(points).value() - hat.reshape(len(points), *hat.shape[dim:])).max() < 1e-13
    table = likelihoods(hat, vector)
    assert oracle.p_value(state.sample_spectrum(6000, seed=0), table) > 1e-4
    for chosen in ([dim - 1], [dim - 1, 0][: min(dim, 2)], list(range(dim))):
        values = oracle.grid(modulus, len(chosen))
        others = tuple(axis for axis in range(dim) if axis not in chosen)
        # what is left has its axes in ascending order
        wanted = table.sum(axis=others).transpose(np.argsort(np.argsort(chosen)))
        assert np.abs(np.exp(state.log_marginals(chosen, values)) - wanted.reshape(-1)).max() < 1e-13

    outer = [*(f"x{site}" for site in range(dim)), *(["c"] if vector else [])]
    normalised = state.network()
    assert set(normalised.outer_inds()) == set(outer)
    assert np.abs(normalised.to_dense(*([name] for name in outer)).reshape(f.shape) - f).max() < 1e-13


def likelihoods(hat, vector):
    table = np.abs(hat) ** 2
    return table.sum(axis=-1) if vector else table


def large(kind, rng):
    """(tensors by index, sites) of networks far beyond a dense table."""
    if kind == "grid":
        network = qtn.PEPS.rand(4, 4, 3, phys_dim=11, seed=0, dtype="complex128")
        return network, [network.site_ind((row, column)) for row in range(4) for column in range(4)]
    tensors = []
    for site in range(300):
        children = [site + 1] if kind == "chain" else [2 * site + 1, 2 * site + 2]
        bonds = [f"b{child}" for child in children if child < 300] + ([f"b{site}"] if site else [])
        shape = (31, *[3] * len(bonds))
        array = 1e-25 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
        tensors.append(qtn.Tensor(array.astype(np.complex64), [f"s{site}", *bonds]))
    return qtn.TensorNetwork(tensors), [f"s{site}" for site in range(300)]


@pytest.mark.parametrize(("kind", "allowed"), [("grid", 1e-10), ("chain", 1e-3), ("tree", 1e-3)])
def test_large_networks_against_quimb(kind, allowed):
    network, sites = large(kind, np.random.default_rng(0))
    state = states.from_network(network, sites)
    wide, modulus = network.astype("complex128"), state.modulus

    def logarithm(closed):
        mantissa, exponent = closed.contract(optimize="greedy", strip_exponent=True)
        return np.log(complex(mantissa)) + exponent * np.log(10)

    assert abs(2 * state.log_norm - logarithm(wide.H & wide).real) < allowed
    u, log_probability = state.sampler.sample(20, np.random.default_rng(0))
    assert (u == state.sample_spectrum(20, seed=0)).all()
    values = state.spectrum(u)
    assert values.mantissa.dtype == network.dtype
    assert np.abs(2 * values.log_abs() - log_probability).max() < allowed
    for row in range(2):
        waves = np.exp(-2j * np.pi * np.outer(u[row], np.arange(modulus)) / modulus) / modulus**0.5
        fixed = [qtn.Tensor(wave, [site]) for wave, site in zip(waves, sites, strict=True)]
        wanted = logarithm(wide & qtn.TensorNetwork(fixed)) - state.log_norm
        found = values.log_abs()[row] + 1j * np.angle(values.mantissa[row])
        assert abs(found.real - wanted.real) < allowed
        assert abs(np.exp(1j * (found - wanted).imag) - 1) < allowed
    one = state.log_marginals([5], np.arange(modulus)[:, None])
    pairs = np.stack(np.meshgrid(range(modulus), range(modulus), indexing="ij"), axis=-1).reshape(-1, 2)
    joint = np.exp(state.log_marginals([0, 5], pairs)).reshape(modulus, modulus)
    assert np.abs(joint.sum(axis=0) - np.exp(one)).max() < allowed / 10


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64", "int64"])
def test_precision_is_kept(dtype, oracle):
    network, sites, _, _ = made("ring", 3, dtype=np.float64)
    network.apply_to_arrays(lambda array: np.round(4 * array).astype(dtype))
    state = states.from_network(network, sites)
    values = state.spectrum(oracle.grid(3, 4))
    single = dtype in ("float32", "complex64")
    assert values.mantissa.dtype == ("complex64" if single else "complex128")
    f = network.astype("complex128").to_dense(*([site] for site in sites)).reshape((3,) * 4)
    f = f / np.linalg.norm(f)
    allowed = 1e-6 if single else 1e-13
    assert np.abs(values.value() - oracle.fourier(f, 4).reshape(-1)).max() < allowed
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", 3), "numpy")
    assert np.abs(qrt.to_dense() - oracle.analysed(f, 4, qrt.ridgelet.values)).max() < allowed


@pytest.mark.parametrize("kind", ["chain with a long-range bond", "site on three tensors", "class"])
def test_on_a_device(kind, device, oracle):
    network, sites, class_index, _ = made(kind, 3)
    state = states.from_network(network, sites, class_index=class_index)
    assert state.to("numpy") is state
    moved = state.to("cupy")
    terms, arrays = zip(*((tensor.inds, device.asarray(tensor.data)) for tensor in network), strict=True)
    there = NetworkState(terms, arrays, sites, class_index)
    points = oracle.grid(3, len(sites))
    for other in (moved, there, moved.to("numpy")):
        values = other.spectrum(points)
        assert isinstance(values.mantissa, np.ndarray)
        assert np.abs(values.value() - state.spectrum(points).value()).max() < 1e-13
        assert (other.sample_spectrum(200, seed=0) == state.sample_spectrum(200, seed=0)).all()
        assert np.isclose(other.log_norm, state.log_norm)
        for chosen in ([0], [1, 0]):
            rows = oracle.grid(3, len(chosen))
            assert np.allclose(other.log_marginals(chosen, rows), state.log_marginals(chosen, rows))
    ridgelet = Ridgelet("relu", 3)
    nodes = QuantumRidgeletTransform(moved, ridgelet).sample(50, seed=1)
    assert (nodes.a == QuantumRidgeletTransform(state, ridgelet).sample(50, seed=1).a).all()


def test_what_drawing_takes():
    network = qtn.PEPS.rand(3, 4, 3, phys_dim=11, seed=0, dtype="complex64")
    sites = [network.site_ind((row, column)) for row in range(3) for column in range(4)]
    state = states.from_network(network, sites)
    work, twice = state._drawing(500, 10), state._drawing(1000, 10)
    assert max(state.bond_dimensions) == 3
    tracemalloc.start()
    QuantumRidgeletTransform(state, Ridgelet("relu", 11)).sample(500, seed=0)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.3 < taken / work.memory < 2
    assert 1.8 < twice.products / work.products < 2.2


ONES = np.ones((3, 2))


def network_of(*pairs):
    """A network of (array, indices)."""
    return qtn.TensorNetwork([qtn.Tensor(np.asarray(array), inds.split()) for array, inds in pairs])


@pytest.mark.parametrize(("dtype", "fewest"), [("float32", 1e-2), ("float64", 1e-6), ("complex128", 1e-6)])
@pytest.mark.parametrize("kind", ["chain", "hyperindex"])
def test_states_that_nearly_cancel(kind, dtype, fewest):
    """f = (g_0 - (g_0 + eps d)) g_1 g_2: the norm of a state that is accepted has three digits."""
    rng = np.random.default_rng(0)
    g, d = rng.normal(size=(3, 3)).astype("f4"), rng.normal(size=3)
    for eps in (0.0, *10.0 ** np.arange(-16, 0)):
        first = np.stack([g[0], -(g[0] + eps * d)], axis=1).astype(dtype)
        others = [(np.eye(2) * g[1, :, None, None], "s1 a b"), (g[2, :, None] * ONES, "s2 b")]
        if kind == "hyperindex":
            others = [(g[1, :, None] * ONES, "s1 a"), (g[2, :, None] * ONES, "s2 a")]
        network = network_of((first, "s0 a"), *((array.astype(dtype), inds) for array, inds in others))
        exact = np.linalg.norm(first.astype("c16").sum(axis=1)) * np.linalg.norm(g[1]) * np.linalg.norm(g[2])
        if eps < fewest / 100:
            with pytest.raises(ValueError, match="fewer than three digits"):
                states.from_network(network, ["s0", "s1", "s2"])
        elif eps >= fewest:
            state = states.from_network(network, ["s0", "s1", "s2"])
            assert abs(state.norm / exact - 1) < 1e-3


@pytest.mark.parametrize(
    ("network", "kept"),
    [
        (network_of((ONES, "s0 h"), ([[1.0] * 3, [-1.0] * 3], "h s1")), False),
        (network_of((np.zeros(3), "s0"), (np.ones(3), "s1")), False),
        # orthogonal along the bond
        (network_of(([[1.0, 0]] * 3, "s0 a"), ([[0.0] * 3, [1.0] * 3], "a s1")), False),
        # what is small at one scale counts beside what another tensor makes of it
        (network_of((np.diag([1e200, 1e-200]), "s0 h"), ([1e-300, 1e100], "h"), ([1.0, 1], "s1")), False),
        # a Gaussian, whose small entries do not count
        (network_of((np.exp(-(np.arange(39.0).reshape(13, 3) ** 2)), "s0 h"), (np.eye(13, 3), "s1 h")), True),
        (network_of((ONES * 1e-320, "s0 h"), (ONES * 1e-300, "s1 h")), True),
        (network_of((ONES * (1e308 + 1e308j), "s0 h"), (ONES * 1e300, "s1 h")), True),
        (network_of((ONES.astype("f4") * np.float32(1e-45), "s0 h"), (ONES.astype("f4"), "s1 h")), True),
        (network_of(*((np.eye(3, dtype="f4")[i % 3], f"s{i}") for i in range(200))), True),
    ],
)
def test_zero_is_refused_and_what_is_only_small_or_large_is_not(network, kept):
    sites = sorted((index for index in network.outer_inds()), key=lambda index: int(index[1:]))
    if kept:
        assert np.isfinite(states.from_network(network, sites).sample_spectrum(4)).all()
    else:
        with pytest.raises(ValueError, match="zero everywhere"):
            states.from_network(network, sites)


def tensors(*terms, modulus=3):
    rng = np.random.default_rng(0)
    return network_of(*((rng.normal(size=[extent(i, modulus) for i in t.split()]), t) for t in terms))


PAIR = tensors("s0 a", "a s1")


@pytest.mark.parametrize(
    ("network", "sites", "class_index", "shown"),
    [
        (np.ones(3), ["s0"], None, "ndarray"),
        (PAIR, [], None, "site_inds is empty"),
        (PAIR, None, None, "site_inds is None"),
        (PAIR, ["s0", "s7"], None, "'s7' is on no tensor"),
        (PAIR, ["s0", "s0"], None, "'s0' is named twice"),
        (PAIR, ["s0"], None, r"\['s1'\]"),
        (tensors("s0 a", "a s1 b"), ["s0", "s1"], None, r"\['b'\]"),
        (tensors("s0 c", "c s1"), ["s0", "s1"], "s1", "'s1' is named twice"),
        (PAIR, ["s0", "s1"], "c", "'c' is on no tensor"),
        (tensors("s0 a", "a b"), ["s0", "b"], None, "'b' has extent 2, 's0' has 3"),
        (tensors("s0 a", "a s1", modulus=4), ["s0", "s1"], None, "4 is not prime"),
        (network_of((np.full(3, np.nan), "s0")), ["s0"], None, r"\('s0',\) holds a NaN"),
        (network_of((np.ones(3, "f4"), "s0"), (np.ones(3), "s1")), ["s0", "s1"], None, "mixed dtypes"),
    ],
)
def test_refusals(network, sites, class_index, shown):
    with pytest.raises(ValueError, match=shown):
        states.from_network(network, sites, class_index=class_index)


def test_what_does_not_fit_is_refused_before_any_work(monkeypatch):
    network = qtn.PEPS.rand(5, 5, 4, phys_dim=2, seed=0)
    sites = [network.site_ind((row, column)) for row in range(5) for column in range(5)]
    monkeypatch.setattr(Sampler, "_contract_messages", lambda *_, **__: pytest.fail("contracted"))
    with pytest.raises(ValueError, match=r"takes? .*iB, more than the 1 MiB there are"):
        states.from_network(network, sites, memory_limit=2**20)
