"""Every kind of state against the defining sums, and its samples against the exact distribution."""

import copy
import pickle

import numpy as np
import pytest
import quimb.tensor as qtn

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.engine import mps

# (P, D): dense sums of P^(2D+1) terms
SIZES = [(2, 4), (3, 3), (5, 2), (7, 2), (13, 1), (13, 2), (31, 1)]
KINDS = ["dense", "samples", "smoothed", "mps", "ridges", "network", "callable"]


def make(kind, modulus, dim, rng, oracle, *, complex_values=False, classes=None):
    """A random state of a kind and its normalised values by other means."""

    def draw(shape):
        return rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_values else 0)

    if kind == "dense":
        f = draw((modulus,) * dim)
        state = states.from_dense(f)
    elif kind == "mps":
        cores = oracle.random_cores(rng, modulus, dim, 3, complex_values=complex_values)
        state, f = states.from_mps(cores), oracle.expanded(cores)
    elif kind == "ridges":
        a, b = rng.integers(modulus, size=(6, dim)), rng.integers(modulus, size=6)
        a[1], a[2], a[3] = (2 * a[0]) % modulus, a[0], 0  # two on one line, a repeat, a constant
        coefficients = draw((6,) if classes is None else (6, classes))
        ridgelet = Ridgelet("tanh", modulus)  # not the one that analyses
        state = states.from_ridges(a, b, coefficients, ridgelet)
        points = oracle.grid(modulus, dim)
        f = ridgelet.values[(points @ a.T - b) % modulus] @ coefficients
        f = f.reshape((modulus,) * dim + f.shape[1:])
    elif kind == "callable":
        f = draw((modulus,) * dim + (() if classes is None else (classes,)))
        state = states.from_callable(
            lambda x: f[tuple(x.T)], modulus, dim, tolerance=1e-12, seed=int(rng.integers(99))
        )
    elif kind == "network":
        # a ring: bonds of 2 between neighbours, the last site and the first among them
        ring = [
            draw((2, modulus, 2) if classes is None or site else (2, modulus, 2, classes))
            for site in range(dim)
        ]
        inds = [[f"r{site}", f"s{site}", f"r{(site + 1) % dim}"] for site in range(dim)]
        if classes is not None:
            inds[0].append("label")
        if dim == 1:
            ring, inds = [np.trace(ring[0], axis1=0, axis2=2)], [inds[0][1:2] + inds[0][3:]]
        network = qtn.TensorNetwork(
            [qtn.Tensor(data, inds=names) for data, names in zip(ring, inds, strict=True)]
        )
        sites = [f"s{site}" for site in range(dim)]
        outer = sites + (["label"] if classes is not None else [])
        state = states.from_network(network, sites, class_index=None if classes is None else "label")
        f = network.contract(all, output_inds=outer, preserve_tensor=True).transpose(*outer).data
    else:
        count = min(modulus**dim, 11)
        points = oracle.grid(modulus, dim)[rng.permutation(modulus**dim)[:count]]
        values = draw((count,) if classes is None else (count, classes))
        if kind == "samples":
            state = states.from_samples(points, values, modulus)
            f = oracle.placed(points, values, modulus)
        else:
            state = states.from_samples(points, values, modulus, smoothing=1.4, tolerance=1e-3)
            # of the state held; how near it is to the filtered function is test_smoothing's business
            inds = [f"x{site}" for site in range(dim)] + (["c"] if classes else [])
            f = state.network().to_dense(*([index] for index in inds))
            f = f.reshape((modulus,) * dim + ((classes,) if classes else ()))
    return state, f / np.linalg.norm(f)


CASES = [(kind, False, None) for kind in KINDS]
CASES += [(kind, True, None) for kind in KINDS]
CASES += [(kind, complex_values, 3) for kind in ("samples", "smoothed") for complex_values in (False, True)]
CASES += [("samples", False, 1), ("smoothed", False, 1), ("ridges", True, 1)]
CASES += [(kind, False, 3) for kind in ("ridges", "network", "callable")]


BAD_COUNTS = (0, -3, 2.0, True, None, "4")
BAD_POINTS = [
    ([[0, 5]], "holds 5, outside Z_5"),
    ([[0, 1, 2]], r"has shape \(1, 3\)"),
    ([[0.0, 1.0]], "dtype float64"),
    (np.empty((0, 2), dtype=int), "is empty"),
]


def identify(case):
    kind, complex_values, classes = case
    return f"{kind}-{'complex' if complex_values else 'real'}-{classes}"


@pytest.mark.parametrize(("modulus", "dim"), SIZES)
@pytest.mark.parametrize("case", CASES, ids=identify)
def test_exactness(case, modulus, dim, oracle):
    kind, complex_values, classes = case
    rng = np.random.default_rng(modulus * 100 + dim)
    state, f = make(kind, modulus, dim, rng, oracle, complex_values=complex_values, classes=classes)
    ridgelet = Ridgelet("relu", modulus)
    qrt = QuantumRidgeletTransform(state, ridgelet, backend="numpy")
    exact = oracle.analysed(f, dim, ridgelet.values)

    assert np.abs(qrt.to_dense() - exact).max() < 1e-10
    output = [f"a{site}" for site in range(dim)] + ["b"] + (["c"] if classes else [])
    gates = qrt.circuit().to_dense(*([index] for index in output)).reshape(exact.shape)
    assert np.abs(gates - exact).max() < 1e-10

    points = oracle.grid(modulus, dim)
    profiles = qrt.profiles(points)
    assert np.abs(profiles.value().reshape(exact.shape) - exact).max() < 1e-10
    a, b = np.repeat(points, modulus, axis=0), np.tile(np.arange(modulus), len(points))
    amplitudes = qrt.amplitudes(a, b)
    assert amplitudes.shape == ((len(a),) if classes is None else (len(a), classes))
    assert np.abs(amplitudes.value().reshape(exact.shape) - exact).max() < 1e-10

    # isometry and reconstruction, with the amplitudes of the code and the sums of the test
    held = profiles.value().reshape(exact.shape)
    assert abs((np.abs(held) ** 2).sum() - 1) < 1e-10
    rebuilt = oracle.synthesised(held, dim, ridgelet.activation)
    assert np.abs(rebuilt - ridgelet.admissibility * f).max() < 1e-10 * abs(ridgelet.admissibility)

    probabilities = (np.abs(exact.reshape(len(a), -1)) ** 2).sum(axis=1)
    logs = qrt.log_probabilities(a, b)
    assert logs.dtype == np.float64
    assert abs(np.exp(logs).sum() - 1) < 1e-10
    sure = probabilities > 1e-20
    assert np.abs(logs[sure] - np.log(probabilities[sure])).max() < 1e-6

    spectrum = state.spectrum(points).value().reshape(f.shape)
    assert np.abs(spectrum - oracle.fourier(f, dim)).max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_a_complex_ridgelet_apart_from_its_activation(kind, oracle):
    rng = np.random.default_rng(5)
    g, r = rng.normal(size=7), rng.normal(size=7) + 1j * rng.normal(size=7)
    ridgelet = Ridgelet(g, 7, r - r.mean())
    state, f = make(kind, 7, 2, rng, oracle, complex_values=True)
    qrt = QuantumRidgeletTransform(state, ridgelet, backend="numpy")
    exact = oracle.analysed(f, 2, ridgelet.values)
    assert np.abs(qrt.to_dense() - exact).max() < 1e-10
    assert np.abs(qrt.profiles(oracle.grid(7, 2)).value().reshape(exact.shape) - exact).max() < 1e-10
    rebuilt = oracle.synthesised(exact, 2, ridgelet.activation)
    assert np.abs(rebuilt - ridgelet.admissibility * f).max() < 1e-10
    nodes = qrt.sample(20000, seed=4)
    assert oracle.p_value(np.column_stack([nodes.a, nodes.b]), np.abs(exact) ** 2) > 1e-4


@pytest.mark.parametrize(("modulus", "dim"), [(2, 4), (3, 3), (5, 2), (13, 1), (31, 1)])
@pytest.mark.parametrize("case", CASES, ids=identify)
def test_samples_follow_the_distribution(case, modulus, dim, oracle):
    kind, complex_values, classes = case
    rng = np.random.default_rng(modulus * 1000 + dim)
    state, f = make(kind, modulus, dim, rng, oracle, complex_values=complex_values, classes=classes)
    ridgelet = Ridgelet("relu", modulus)
    qrt = QuantumRidgeletTransform(state, ridgelet, backend="numpy")
    exact = np.abs(oracle.analysed(f, dim, ridgelet.values)) ** 2
    exact = exact.sum(axis=-1) if classes else exact
    nodes = qrt.sample(20000, seed=11)
    drawn = np.column_stack([nodes.a, nodes.b])
    assert oracle.p_value(drawn, exact) > 1e-4
    probabilities = exact[tuple(drawn.T)]
    assert np.abs(nodes.log_probability - np.log(probabilities)).max() < 1e-6
    again = qrt.log_probabilities(nodes.a[:200], nodes.b[:200])
    assert np.abs(again - nodes.log_probability[:200]).max() < 1e-9

    hat = np.abs(oracle.fourier(f, dim)) ** 2
    hat = hat.sum(axis=-1) if classes else hat
    assert oracle.p_value(state.sample_spectrum(20000, seed=12), hat) > 1e-4


def test_the_test_rejects_a_b_drawn_without_regard_to_a_and_a_slight_bias(oracle):
    f = np.random.default_rng(0).normal(size=(3, 3, 3))
    exact = np.abs(oracle.analysed(f / np.linalg.norm(f), 3, Ridgelet("relu", 3).values)) ** 2
    rng = np.random.default_rng(0)

    def draw(weights):
        flat = rng.choice(exact.size, size=20000, p=weights.reshape(-1) / weights.sum())
        return np.stack(np.unravel_index(flat, exact.shape), axis=1)

    fair = draw(exact)
    assert oracle.p_value(fair, exact) > 1e-4
    assert oracle.p_value(np.column_stack([fair[:, :-1], rng.permutation(fair[:, -1])]), exact) < 1e-10
    assert (
        oracle.p_value(draw(exact.reshape(-1) * np.where(np.arange(exact.size) % 2, 1.1, 0.9)), exact) < 1e-6
    )


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_copies(kind, used, oracle):
    state, _ = make(kind, 5, 3, np.random.default_rng(0), oracle)
    qrt, pairs = QuantumRidgeletTransform(state, Ridgelet("relu", 5), "numpy"), oracle.grid(5, 2)

    def drawn(seed, transform=qrt):
        nodes = transform.sample(50, seed=seed)
        u = transform.state.sample_spectrum(50, seed=seed)
        return np.column_stack([nodes.a, nodes.b, nodes.log_probability, u])

    def found(transform):
        profiles = transform.profiles(pairs[:, [0, 1, 1]])
        return [drawn(3, transform), profiles.value(), transform.log_marginals([0, 1], pairs)]

    if used:
        found(qrt)
    copies = pickle.loads(pickle.dumps(qrt)), copy.deepcopy(qrt), copy.copy(qrt)
    first, rng = drawn(3), np.random.default_rng(3)
    assert (first == drawn(3)).all()
    assert (first != drawn(4)).any()
    assert (first[:, :5] == drawn(rng)[:, :5]).all()
    assert (first != drawn(rng)).any(), "a generator goes on from where it is"
    for copied in copies:
        assert all(np.array_equal(*pair) for pair in zip(found(copied), found(qrt), strict=True))
        assert (copied.state.log_norm, copied.state.vector) == (state.log_norm, state.vector)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_do_not_change_the_distribution(kind, oracle, monkeypatch):
    from qrt_tn.states import base, chunks

    rng = np.random.default_rng(8)
    classes = 2 if kind in ("samples", "smoothed") else None
    state, f = make(kind, 5, 2, rng, oracle, classes=classes)
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", 5))
    points = oracle.grid(5, 2)
    whole = qrt.profiles(points).value()
    b = rng.integers(5, size=25)
    pairs = qrt.amplitudes(points, b).value()
    monkeypatch.setattr(chunks, "_MOST", 300)
    monkeypatch.setattr(base, "_BLOCK", 70)
    assert np.abs(qrt.profiles(points).value() - whole).max() < 1e-12
    assert np.abs(qrt.amplitudes(points, b).value() - pairs).max() < 1e-12
    exact = np.abs(oracle.analysed(f, 2, qrt.ridgelet.values)) ** 2
    exact = exact.sum(axis=-1) if classes else exact
    nodes = qrt.sample(10000, seed=1)
    assert len(nodes) == 10000
    assert oracle.p_value(np.column_stack([nodes.a, nodes.b]), exact) > 1e-4


def test_refusals():
    state = states.from_dense(np.random.default_rng(0).normal(size=(5, 5)))
    ridgelet = Ridgelet("relu", 5)
    qrt = QuantumRidgeletTransform(state, ridgelet)
    one = np.zeros((1, 1), dtype=int)
    points = np.random.default_rng(0).integers(127, size=(5, 4))
    large = QuantumRidgeletTransform(
        states.from_samples(points, np.arange(1.0, 6), 127), Ridgelet("relu", 127)
    )
    calls = [
        (lambda: QuantumRidgeletTransform(state, Ridgelet("relu", 7)), "Z_5, the ridgelet on Z_7"),
        (lambda: QuantumRidgeletTransform(state, ridgelet, backend="abacus"), "'abacus'"),
        (lambda: QuantumRidgeletTransform(np.arange(5.0), ridgelet), "ndarray"),
        (lambda: QuantumRidgeletTransform(state, "relu"), "'relu'"),
        (large.to_dense, r"127\^5 x 1 values, above 67108864"),
        (lambda: qrt.sample(3, seed=-1), "seed is -1"),
        (lambda: qrt.log_marginals([2], one), r"coordinate 2 is outside 0\.\.1"),
        (lambda: qrt.log_marginals([-1], one), "coordinate -1"),
        (lambda: qrt.log_marginals([], one), "shape"),
        (lambda: qrt.log_marginals([0.5], one), r"\[0.5\]"),
        (lambda: qrt.log_marginals([0, 0], np.zeros((1, 2), dtype=int)), r"\[0, 0\]"),
        (lambda: qrt.log_marginals([0], one + 5), "holds 5, outside Z_5"),
    ]
    calls += [
        (lambda call=call, n=n: call(n), repr(n))
        for call in (qrt.sample, state.sample_spectrum)
        for n in BAD_COUNTS
    ]
    for call in (qrt.profiles, state.spectrum):
        for a, says in BAD_POINTS:
            calls.append((lambda call=call, a=a: call(a), says))
    for call in (qrt.amplitudes, qrt.log_probabilities):
        calls.append((lambda call=call: call([[0, 1]], [0, 1]), r"b has shape \(2,\)"))
        calls.append((lambda call=call: call([[0, 1]], [-1]), "b holds -1, outside Z_5"))
    for refused, says in calls:
        with pytest.raises(ValueError, match=says):
            refused()


def test_zero_amplitudes_have_log_probability_minus_infinity():
    # f = 1: f^ lives on u = 0 alone
    qrt = QuantumRidgeletTransform(states.from_mps([np.ones((1, 3, 1))] * 2), Ridgelet("relu", 3))
    logs = qrt.log_probabilities([[1, 0], [0, 0]], [1, 1])
    assert logs[0] < -60
    assert np.isfinite(logs[1])


# ---- far outside floating-point range: D = 10,000 at P = 127, where P^(-D/2) is exp(-24222)

FAR = 10_000


def check_finite(qrt, nodes):
    again = qrt.log_probabilities(nodes.a, nodes.b)
    amplitudes, spectrum = qrt.amplitudes(nodes.a, nodes.b), qrt.state.spectrum(nodes.a)
    for scaled in (amplitudes, qrt.profiles(nodes.a), spectrum):
        assert np.isfinite(scaled.mantissa).all()
        assert np.isfinite(scaled.log_scale).all()
    for logs in (nodes.log_probability, again, amplitudes.log_abs(), spectrum.log_abs()):
        assert np.isfinite(logs).all()
    assert np.isfinite(qrt.state.log_marginals([0, FAR - 1], [[3, 4]])).all()
    return again


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float64, 1e-6), (np.float32, 1e-4), (np.complex64, 1e-4)])
def test_samples_at_dimension_ten_thousand(dtype, allowed):
    rng = np.random.default_rng(1)
    points, values = rng.integers(17, size=(50, FAR)), rng.normal(size=(50, 2)).astype(dtype)
    qrt = QuantumRidgeletTransform(states.from_samples(points, values, 127), Ridgelet("relu", 127))
    nodes = qrt.sample(64, seed=0)
    again = check_finite(qrt, nodes)
    # the defining sum, 50 terms of it, with exact integers
    sums = np.array([[int(x @ a) for x in points] for a in nodes.a]) - nodes.b[:, None]
    wide = values.astype(complex)
    direct = qrt.ridgelet.values[sums % 127] @ wide / np.linalg.norm(wide)
    expected = np.log((np.abs(direct) ** 2).sum(axis=1)) - FAR * np.log(127)
    for found in (again, nodes.log_probability):
        assert np.abs(expected - found).max() < allowed


def test_single_precision_mps_at_dimension_ten_thousand(oracle):
    rng = np.random.default_rng(2)
    cores = [core.astype(np.complex64) for core in oracle.random_cores(rng, 127, FAR, 3, complex_values=True)]
    state = states.from_mps(cores)
    assert state.cores[0].dtype == np.complex64
    with pytest.raises(OverflowError, match="outside float64; use log_norm"):
        state.norm  # noqa: B018
    qrt = QuantumRidgeletTransform(state, Ridgelet("cosine", 127))
    nodes = qrt.sample(4, seed=0)
    # single precision over 10,000 sites: relative to a log-probability near -50,000
    assert np.abs(check_finite(qrt, nodes) / nodes.log_probability - 1).max() < 1e-6
    # the sampler's account of the same path, by either algorithm
    for method in mps.METHODS:
        sites, logs = mps.sample(state.cores, 3, np.random.default_rng(2), method=method)
        assert np.abs(2 * state.spectrum(sites).log_abs() - logs).max() < 0.05


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float64, 1e-6), (np.float32, 0.1)])
def test_a_product_state_at_dimension_ten_thousand(dtype, allowed):
    table = (np.random.default_rng(3).normal(size=(FAR, 127)) + 0.5).astype(dtype)
    state = states.from_mps([row.reshape(1, 127, 1) for row in table])
    qrt = QuantumRidgeletTransform(state, Ridgelet("cosine", 127))
    table = table.astype(np.float64)
    assert np.isclose(state.log_norm, np.log(np.linalg.norm(table, axis=1)).sum(), rtol=1e-7)
    # cosine: r^ = 1/sqrt2 at v = 1 and -1, so R = (2 / P)^(1/2) Re[omega^b prod_i f_i^(a_i)]
    nodes = qrt.sample(6, seed=0)
    hats = np.fft.fft(table / np.linalg.norm(table, axis=1, keepdims=True), axis=1) / 127**0.5
    picked = hats[np.arange(FAR), nodes.a]
    angle = np.angle(picked).sum(axis=1) + 2 * np.pi * nodes.b / 127
    expected = 2 * np.log(np.abs(picked)).sum(axis=1) + np.log(2 / 127) + 2 * np.log(np.abs(np.cos(angle)))
    for found in (nodes.log_probability, qrt.log_probabilities(nodes.a, nodes.b)):
        assert np.abs(found - expected).max() < allowed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [None, 2])
def test_on_a_device(kind, classes, oracle, device):
    """The same seed, the same nodes, with the heavy products on the device."""
    if kind in ("dense", "mps"):
        classes = None
    state, _ = make(kind, 5, 3, np.random.default_rng(0), oracle, classes=classes)
    host, there = (
        QuantumRidgeletTransform(state, Ridgelet("relu", 5), backend=name) for name in ("numpy", "cupy")
    )
    nodes, again = host.sample(200, seed=1), there.sample(200, seed=1)
    assert (nodes.a == again.a).all()
    assert (nodes.b == again.b).all()
    assert np.allclose(nodes.log_probability, again.log_probability)
    assert np.allclose(host.profiles(nodes.a).value(), there.profiles(nodes.a).value())
    assert np.allclose(host.to_dense(), there.to_dense())
    if not classes:
        gates = [qrt.circuit().to_dense(["a0"], ["a1"], ["a2"], ["b"]) for qrt in (host, there)]
        assert np.allclose(*gates)


@pytest.mark.parametrize("case", CASES, ids=identify)
@pytest.mark.parametrize(("modulus", "dim"), [(2, 4), (3, 3), (5, 2), (13, 1)])
def test_marginals_and_log_weights(case, modulus, dim, oracle):
    kind, complex_values, classes = case
    rng = np.random.default_rng(modulus * 10 + dim)
    state, f = make(kind, modulus, dim, rng, oracle, complex_values=complex_values, classes=classes)
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", modulus), backend="numpy")
    exact = np.abs(oracle.analysed(f, dim, qrt.ridgelet.values)) ** 2
    p_a = exact.reshape(*exact.shape[: dim + 1], -1).sum(axis=(-1, -2))
    p_u = np.abs(oracle.fourier(f, dim)) ** 2
    p_u = p_u.reshape(*p_u.shape[:dim], -1).sum(axis=-1)
    points = oracle.grid(modulus, dim)
    assert np.abs(np.exp(qrt.log_weights(points)) - p_a.reshape(-1)).max() < 1e-10
    for size in range(1, dim + 1):
        coordinates = rng.permutation(dim)[:size]
        values = oracle.grid(modulus, size)
        # the axes that are left, in the order asked for
        others = tuple(axis for axis in range(dim) if axis not in coordinates)
        order = np.argsort(np.argsort(coordinates))
        for found, whole in (
            (state.log_marginals(coordinates, values), p_u),
            (qrt.log_marginals(coordinates, values), p_a),
        ):
            expected = whole.sum(axis=others).transpose(order).reshape(-1)
            assert found.shape == (len(values),)
            assert np.abs(np.exp(found) - expected).max() < 1e-10
    single = qrt.coordinate_probabilities(dim - 1)
    assert np.abs(single - p_a.sum(axis=tuple(range(dim - 1)))).max() < 1e-10
