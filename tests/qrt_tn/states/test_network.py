import numpy as np
import pytest
import quimb.tensor as qtn

from qrt_tn import QuantumRidgeletTransform, Ridgelet, engine, states
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


def spectrum(oracle, f, dim):
    return oracle.fourier(f, dim) / np.linalg.norm(f)


def likelihoods(hat, vector):
    table = np.abs(hat) ** 2
    return table.sum(axis=-1) if vector else table


@pytest.mark.parametrize("modulus", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_amplitudes_samples_and_marginals(kind, modulus, oracle):
    network, sites, class_index, f = made(kind, modulus)
    state = states.from_network(network, sites, class_index=class_index)
    dim, vector = len(sites), class_index is not None
    assert (state.modulus, state.dim, state.vector) == (modulus, dim, vector)
    assert state.outputs == (3 if vector else 1)
    assert np.isclose(state.norm, np.linalg.norm(f))
    hat = spectrum(oracle, f, dim)
    points = oracle.grid(modulus, dim)
    assert np.abs(state.spectrum(points).value() - hat.reshape(len(points), *hat.shape[dim:])).max() < 1e-13
    table = likelihoods(hat, vector)
    u = state.sample_spectrum(6000, seed=0)
    assert oracle.p_value(u, table) > 1e-4
    for chosen in ([dim - 1], [dim - 1, 0], list(range(dim))):
        if len(set(chosen)) < len(chosen):
            continue
        values = oracle.grid(modulus, len(chosen))
        others = tuple(axis for axis in range(dim) if axis not in chosen)
        # what is left has its axes in ascending order
        wanted = table.sum(axis=others).transpose(np.argsort(np.argsort(chosen)))
        found = np.exp(state.log_marginals(chosen, values))
        assert np.allclose(np.exp(state.log_marginals(chosen, values[[1, 0, 1]])), found[[1, 0, 1]])
        assert np.abs(found - wanted.reshape(-1)).max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_the_transform(kind, oracle):
    network, sites, class_index, f = made(kind, 3)
    state = states.from_network(network, sites, class_index=class_index)
    dim = len(sites)
    f = f / np.linalg.norm(f)
    held = state.network()
    assert set(held.outer_inds()) == {f"x{site}" for site in range(dim)} | ({"c"} if class_index else set())
    dense = held.to_dense(*([f"x{site}"] for site in range(dim)), *([["c"]] if class_index else []))
    assert np.abs(dense.reshape(f.shape) - f).max() < 1e-13
    ridgelet = Ridgelet("relu", 3)
    transform = QuantumRidgeletTransform(state, ridgelet)
    wanted = oracle.analysed(f, dim, ridgelet.values)
    assert np.abs(transform.to_dense() - wanted).max() < 1e-13
    outer = [*(f"a{site}" for site in range(dim)), "b", *(["c"] if class_index else [])]
    for network in (transform.circuit(), transform.network()):
        gates = network.contract(output_inds=outer).transpose(*outer).data
        assert np.abs(gates - wanted).max() < 1e-13
    a = oracle.grid(3, dim)
    profiles = transform.profiles(a).value()
    assert np.abs(profiles.reshape(len(a), 3, -1) - wanted.reshape(len(a), 3, -1)).max() < 1e-13
    nodes = transform.sample(200, seed=0)
    table = likelihoods(wanted, class_index is not None)
    assert np.allclose(nodes.log_probability, np.log(table[(*nodes.a.T, nodes.b)]), atol=1e-10)


def gates(rng, modulus, dim, layers):
    """Random unitaries on neighbours, and one on the two ends, applied to |0...0>."""
    circuit = qtn.Circuit(psi0=qtn.MPS_product_state([np.eye(modulus, dtype=complex)[0]] * dim))
    size = modulus**2
    for layer in range(layers):
        pairs = [(site, site + 1) for site in range(layer % 2, dim - 1, 2)]
        for pair in [*pairs, *([(0, dim - 1)] if layer == 0 and dim > 2 else [])]:
            unitary = np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))[0]
            circuit.apply_gate_raw(unitary.reshape((modulus,) * 4), pair, contract=False)
    return circuit


@pytest.mark.parametrize(("modulus", "dim", "layers"), [(3, 5, 4), (5, 4, 3), (13, 3, 3)])
def test_circuits_of_gates_on_qudits(modulus, dim, layers, oracle):
    psi = gates(np.random.default_rng(0), modulus, dim, layers).psi
    sites = [f"k{site}" for site in range(dim)]
    state = states.from_network(psi, sites)
    assert abs(state.log_norm) < 1e-12
    hat = oracle.fourier(psi.to_dense(*([site] for site in sites)).reshape((modulus,) * dim), dim)
    points = oracle.grid(modulus, dim)
    assert np.abs(state.spectrum(points).value() - hat.reshape(-1)).max() < 1e-13
    assert oracle.p_value(state.sample_spectrum(20_000, seed=0), np.abs(hat) ** 2) > 1e-4


def test_a_grid_of_four_by_four():
    # beyond a dense table; the probabilities that were drawn from, against amplitudes
    network = qtn.PEPS.rand(4, 4, 3, phys_dim=7, seed=0, dtype="complex128")
    sites = [network.site_ind((row, column)) for row in range(4) for column in range(4)]
    state = states.from_network(network, sites)
    u, log_probability = state.sampler.sample(100, np.random.default_rng(0))
    assert np.allclose(log_probability, 2 * state.spectrum(u).log_abs(), atol=1e-10)
    assert (u == state.sample_spectrum(100, seed=0)).all()
    # a marginal against the average of a conditional: sum over u_0 of p(u_0, u_5) is p(u_5)
    pairs = np.stack(np.meshgrid(range(7), range(7), indexing="ij"), axis=-1).reshape(-1, 2)
    joint = np.exp(state.log_marginals([0, 5], pairs)).reshape(7, 7)
    assert np.allclose(joint.sum(axis=0), np.exp(state.log_marginals([5], np.arange(7)[:, None])))
    assert np.allclose(joint.sum(axis=1), np.exp(state.log_marginals([0], np.arange(7)[:, None])))


def chain(cores):
    """A network of cores, their outer bonds of extent 1 taken away."""
    count = len(cores)
    tensors = [qtn.Tensor(cores[0][0], ["s0", "b1"])]
    tensors += [
        qtn.Tensor(cores[site], [f"b{site}", f"s{site}", f"b{site + 1}"]) for site in range(1, count - 1)
    ]
    return qtn.TensorNetwork([*tensors, qtn.Tensor(cores[-1][..., 0], [f"b{count - 1}", f"s{count - 1}"])])


@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_a_chain_of_500_sites_is_the_matrix_product_state(scale, oracle):
    rng = np.random.default_rng(0)
    cores = [
        (scale * core).astype(np.complex64)
        for core in oracle.random_cores(rng, 127, 500, 3, complex_values=True)
    ]
    plain = states.from_mps(cores)
    state = states.from_network(chain(cores), [f"s{site}" for site in range(500)])
    assert abs(state.log_norm - plain.log_norm) < 1e-3
    u, log_probability = state.sampler.sample(20, np.random.default_rng(0))
    assert np.isfinite(log_probability).all()
    assert log_probability.max() < -1000
    ours, theirs = state.spectrum(u), plain.spectrum(u)
    assert ours.mantissa.dtype == np.complex64
    assert np.abs(ours.log_abs() - theirs.log_abs()).max() < 1e-3
    assert np.abs(2 * theirs.log_abs() - log_probability).max() < 1e-3
    # phases too, against the first
    assert np.abs((ours / theirs).value() - (ours / theirs).value()[0]).max() < 1e-3
    one = state.log_marginals([250], np.arange(127)[:, None])
    assert abs(np.exp(one).sum() - 1) < 1e-5
    ridgelet = Ridgelet("relu", 127)
    profiles = [each.profiles(u[:2], ridgelet) for each in (state, plain)]
    ratio = (profiles[0] / profiles[1]).value()
    assert np.abs(ratio - ratio[0, 0]).max() < 1e-2


class Branches:
    """A binary tree, contracted from its leaves up in double precision: an oracle."""

    def __init__(self, cores):
        self.cores = [core.astype(complex) for core in cores]

    def children(self, site):
        return [child for child in (2 * site + 1, 2 * site + 2) if child < len(self.cores)]

    def picked(self, site, u):
        """The branch at u: (N, bond above) and the log of its scale."""
        phases = np.exp(-2j * np.pi * np.outer(np.arange(127), np.arange(127)) / 127) / np.sqrt(127)
        values, log = np.tensordot(phases, self.cores[site], axes=1)[u[:, site]], 0.0
        for child in reversed(self.children(site)):
            below, more = self.picked(child, u)
            values, log = np.einsum("n...a,na->n...", values, below), log + more
        values = values.reshape(len(u), -1)
        peak = np.abs(values).max(axis=1, keepdims=True)
        return values / peak, log + np.log(peak[:, 0])

    def squared(self, site):
        """The branch times its conjugate, summed over all x: (bond above, bond above), log of its scale."""
        core = self.cores[site] if site else self.cores[site][:, None]
        values, log = core, 0.0
        for child in self.children(site):
            # the first axis of a child comes third, and its conjugate goes to the end
            below, more = self.squared(child)
            values, log = np.tensordot(values, below, axes=((2,), (0,))), log + more
        square = np.tensordot(values, core.conj(), axes=((0, *range(2, core.ndim)),) * 2)
        peak = np.abs(square).max()
        return square / peak, log + np.log(peak)


def test_a_tree_of_300_sites():
    rng = np.random.default_rng(0)
    tensors, cores = [], []
    for site in range(300):
        children = [child for child in (2 * site + 1, 2 * site + 2) if child < 300]
        shape = (127, *([3] if site else []), *[3] * len(children))
        cores.append((rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64))
        inds = [f"s{site}", *([f"b{site}"] if site else []), *(f"b{child}" for child in children)]
        tensors.append(qtn.Tensor(cores[-1], inds))
    state = states.from_network(qtn.TensorNetwork(tensors), [f"s{site}" for site in range(300)])
    u, log_probability = state.sampler.sample(20, np.random.default_rng(0))
    assert np.isfinite(log_probability).all()
    oracle = Branches(cores)
    square, log_norm = oracle.squared(0)
    log_norm += np.log(square[0, 0].real)
    values, logs = oracle.picked(0, u)
    logs = 2 * (logs + np.log(np.abs(values[:, 0]))) - log_norm
    assert logs.max() < -1000
    assert abs(2 * state.log_norm - log_norm) < 1e-3
    assert np.abs(log_probability - logs).max() < 1e-3
    assert np.abs(2 * state.spectrum(u).log_abs() - logs).max() < 1e-3


@pytest.mark.parametrize(
    ("dtype", "held"),
    [
        ("float32", "complex64"),
        ("complex64", "complex64"),
        ("float64", "complex128"),
        ("int64", "complex128"),
    ],
)
def test_precision_is_kept(dtype, held, oracle):
    network, sites, _, _ = made("ring", 5, dtype=np.float64)
    network.apply_to_arrays(lambda array: np.round(4 * array).astype(dtype))
    state = states.from_network(network, sites)
    points = oracle.grid(5, 4)
    values = state.spectrum(points)
    assert values.mantissa.dtype == held
    network.apply_to_arrays(lambda array: array.real.astype(np.float64))
    double = states.from_network(network, sites).spectrum(points).value()
    assert np.abs(values.value() - double).max() < (1e-6 if held == "complex64" else 1e-14)
    assert (state.sample_spectrum(50, seed=3) == state.sample_spectrum(50, seed=3)).all()


@pytest.mark.parametrize("kind", ["chain with a long-range bond", "site on three tensors", "class"])
def test_on_a_device(kind, device, oracle):
    network, sites, class_index, _ = made(kind, 3)
    state = states.from_network(network, sites, class_index=class_index)
    assert state.to("numpy") is state
    moved = state.to("cupy")
    points = oracle.grid(3, len(sites))
    values = moved.spectrum(points)
    assert isinstance(values.mantissa, np.ndarray)
    assert np.abs(values.value() - state.spectrum(points).value()).max() < 1e-13
    assert (moved.sample_spectrum(200, seed=0) == state.sample_spectrum(200, seed=0)).all()
    for chosen in ([0], [1, 0]):
        rows = oracle.grid(3, len(chosen))
        assert np.allclose(moved.log_marginals(chosen, rows), state.log_marginals(chosen, rows))
    assert moved.network().num_tensors == state.network().num_tensors
    there = NetworkState(
        [tensor.inds for tensor in network],
        [device.asarray(tensor.data) for tensor in network],
        sites,
        class_index,
    )
    assert np.isclose(there.log_norm, state.log_norm)
    assert np.abs(there.spectrum(points).value() - state.spectrum(points).value()).max() < 1e-13
    assert (there.sample_spectrum(50, seed=0) == state.sample_spectrum(50, seed=0)).all()
    back = moved.to("numpy")
    assert np.abs(back.spectrum(points).value() - state.spectrum(points).value()).max() < 1e-13
    ridgelet = Ridgelet("relu", 3)
    nodes = QuantumRidgeletTransform(moved, ridgelet).sample(50, seed=1)
    assert (nodes.a == QuantumRidgeletTransform(state, ridgelet).sample(50, seed=1).a).all()


def test_what_drawing_takes():
    import tracemalloc

    network = qtn.PEPS.rand(3, 4, 3, phys_dim=11, seed=0, dtype="complex64")
    sites = [network.site_ind((row, column)) for row in range(3) for column in range(4)]
    state = states.from_network(network, sites)
    work = state._drawing(500, 10)
    assert work.dtype == "complex64"
    assert work.products > 0
    assert work.moved > 0
    assert max(state.bond_dimensions) == 3
    tracemalloc.start()
    transform = QuantumRidgeletTransform(state, Ridgelet("relu", 11))
    transform.sample(500, seed=0)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.3 < taken / work.memory < 2
    twice = state._drawing(1000, 10)
    assert 1.8 < twice.products / work.products < 2.2


def tensors(*terms, modulus=3):
    rng = np.random.default_rng(0)
    return qtn.TensorNetwork(
        [qtn.Tensor(rng.normal(size=[extent(i, modulus) for i in t.split()]), t.split()) for t in terms]
    )


@pytest.mark.parametrize(
    ("network", "sites", "class_index", "says"),
    [
        (np.ones(3), ["s0"], None, "network is a ndarray; give a quimb TensorNetwork"),
        (tensors("s0 a", "a s1"), [], None, "site_inds is empty"),
        (tensors("s0 a", "a s1"), ["s0", "s7"], None, "'s7' is on no tensor; .* are"),
        (tensors("s0 a", "a s1"), ["s0", "s0"], None, "'s0' is named twice"),
        (tensors("s0 a", "a s1"), ["s0"], None, r"outer indices \['s1'\] are neither sites nor the class"),
        (tensors("s0 a", "a s1 b"), ["s0", "s1"], None, r"outer indices \['b'\] are neither"),
        (tensors("s0 c", "c s1"), ["s0", "s1"], "s1", "'s1' is named twice"),
        (tensors("s0 a", "a s1"), ["s0", "s1"], "c", "'c' is on no tensor"),
        (tensors("s0 a", "a b"), ["s0", "b"], None, "site index 'b' has extent 2, 's0' has 3"),
        (tensors("s0 a", "a s1", modulus=4), ["s0", "s1"], None, "modulus 4 is not prime"),
        (qtn.TensorNetwork([qtn.Tensor(np.full(3, np.nan), ["s0"])]), ["s0"], None, "holds a NaN"),
        (qtn.TensorNetwork([qtn.Tensor(np.zeros(3), ["s0"])]), ["s0"], None, "zero everywhere"),
        (
            qtn.TensorNetwork([qtn.Tensor(np.ones(3, "float32"), ["s0"]), qtn.Tensor(np.ones(3), ["s1"])]),
            ["s0", "s1"],
            None,
            "mixed dtypes",
        ),
        (
            # orthogonal along the bond, though neither tensor is zero
            qtn.TensorNetwork(
                [
                    qtn.Tensor(np.array([[1.0, 0]] * 3), ["s0", "a"]),
                    qtn.Tensor(np.array([[0.0] * 3, [1.0] * 3]), ["a", "s1"]),
                ]
            ),
            ["s0", "s1"],
            None,
            "zero everywhere, or cancels",
        ),
    ],
)
def test_refusals(network, sites, class_index, says):
    with pytest.raises(ValueError, match=says):
        states.from_network(network, sites, class_index=class_index)


def test_what_does_not_fit_is_refused_before_any_work(monkeypatch):
    network = qtn.PEPS.rand(5, 5, 4, phys_dim=2, seed=0)
    sites = [network.site_ind((row, column)) for row in range(5) for column in range(5)]

    def never(*args, **kwargs):
        raise AssertionError("contracted")

    monkeypatch.setattr("qrt_tn.engine.conditionals.alike.Contractions.contract", never)
    with pytest.raises(ValueError, match=r"take .*iB, more than the 1 MiB there are; make its bonds smaller"):
        states.from_network(network, sites, memory_limit=2**20)


def test_the_state_keeps_no_hold_on_what_it_was_given(oracle):
    network, sites, _, f = made("ring", 3)
    state = states.from_network(network, sites)
    for tensor in network:
        tensor.data[...] = 0
    dense = state.network().to_dense(*([f"x{site}"] for site in range(4))).reshape(f.shape)
    assert np.abs(dense - f / np.linalg.norm(f)).max() < 1e-13


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_circuit_and_dense_transform_of_single_precision(dtype, oracle):
    network, sites, _, f = made("tree", 3, dtype=dtype)
    ridgelet = Ridgelet("relu", 3)
    qrt = QuantumRidgeletTransform(states.from_network(network, sites), ridgelet, "numpy")
    exact = oracle.analysed(f / np.linalg.norm(f), 4, ridgelet.values)
    assert np.abs(qrt.to_dense() - exact).max() < 1e-6
    names = [f"a{site}" for site in range(4)]
    assert np.abs(engine.contract(qrt.circuit(), output_inds=[*names, "b"]).value() - exact).max() < 1e-6


def test_scalars_and_the_exponent_of_a_network_count(oracle):
    network, sites, _, f = made("ring", 3)
    network = qtn.TensorNetwork([*network, qtn.Tensor(-2.5, [])])
    plain = states.from_network(network, sites)
    assert np.isclose(plain.norm, 2.5 * np.linalg.norm(f))
    hat = oracle.fourier(f, 4) / np.linalg.norm(f)
    u = oracle.grid(3, 4)
    assert np.abs(plain.spectrum(u).value() + hat.reshape(-1)).max() < 1e-12
    network.equalize_norms_(1.0)
    assert network.exponent != 0
    assert np.isclose(states.from_network(network, sites).norm, 2.5 * np.linalg.norm(f))


def test_sites_that_are_no_list():
    network, _, _, _ = made("ring", 3)
    with pytest.raises(ValueError, match="site_inds is None; name the index of every site"):
        states.from_network(network, None)
