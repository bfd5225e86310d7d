"""Tempered draws of every kind of state against the law written down by dense sums."""

import numpy as np
import pytest
from scipy import stats

from qrt_tn import QuantumRidgeletTransform, Ridgelet, sample_tempered, states
from qrt_tn.tempered import sampling

BETAS = [1.0, 2.0, 4.0, 16.0]
KINDS = [
    "dense",
    "samples",
    "samples-filter",
    "smoothed",
    "smoothed-chain",
    "mps",
    "mps-filter",
    "network",
    "ridges",
]
WIDTH = 1.1


def width_filter(modulus):
    u = np.minimum(np.arange(modulus), modulus - np.arange(modulus))
    return np.exp(-(u**2) / (2 * WIDTH**2))


def make(kind, modulus, dim, classes, rng, oracle, monkeypatch):
    """A state, the filter to pass on, and log|z|^2 prop. by component with log tau^2, both over Z_P^D."""
    shape = () if classes is None else (classes,)
    points = rng.integers(modulus, size=(9, dim))
    points[0] += points[0] == points[1]  # not all alike
    points %= modulus
    values = rng.normal(size=(9, *shape))
    f = oracle.placed(points, values, modulus)
    given, tau = None, np.ones((modulus,) * dim)
    if kind.endswith("filter") or kind.startswith("smoothed"):
        rows = [width_filter(modulus)] * dim
        tau = np.prod(np.meshgrid(*rows, indexing="ij"), axis=0)
    if kind.startswith("samples"):
        state = states.from_samples(points, values, modulus)
    elif kind.startswith("smoothed"):
        # by its points, what compression left out must not matter; by its cores there must be little of it
        tolerance = 1e-6 if kind.endswith("chain") else 0.3
        state = states.from_samples(points, values, modulus, smoothing=WIDTH, tolerance=tolerance)
        cheap = "chain" if kind.endswith("chain") else "points"
        for law, name in ((sampling.ChainConditionals, "chain"), (sampling.PointConditionals, "points")):
            monkeypatch.setattr(law, "sweep_cost", 0.0 if name == cheap else 1.0)
        monkeypatch.setattr(sampling, "MOST_COMPRESSED", 99.0)
    elif kind == "dense":
        state = states.from_dense(f)
    elif kind.startswith("mps"):
        cores = oracle.random_cores(rng, modulus, dim, 3)
        state, f = states.from_mps(cores), oracle.expanded(cores)
    elif kind == "network":
        cores = oracle.random_cores(rng, modulus, dim, 2)
        sites = [f"x{site}" for site in range(dim)]
        state = states.from_network(states.from_mps(cores).network(), sites)
        f = oracle.expanded(cores)
    else:
        ridgelet = Ridgelet("relu", modulus)
        a, b, c = rng.integers(modulus, size=(5, dim)), rng.integers(modulus, size=5), rng.normal(size=5)
        state = states.from_ridges(a, b, c, ridgelet)
        f = (ridgelet.values[(oracle.grid(modulus, dim) @ a.T - b) % modulus] @ c).reshape((modulus,) * dim)
    if kind.endswith("filter"):
        given = WIDTH
    return state, given, oracle.fourier(f, dim).reshape(*tau.shape, -1), tau


def law(z, tau, contrast, beta):
    """|sum_c g_c z_c|^(2 beta) tau^2 over its sum."""
    size = np.abs(z @ contrast) ** 2
    weights = (size / size.max()) ** beta * tau**2
    return weights / weights.sum()


def test_exact_draws_follow_the_law_of_every_kind(oracle, monkeypatch):
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for beta in BETAS:
            state, given, z, tau = make(kind, 5, 2, None, rng, oracle, monkeypatch)
            qrt = QuantumRidgeletTransform(state, Ridgelet("cosine", 5))
            nodes = sample_tempered(qrt, 4000, beta, seed=int(rng.integers(99)), filter=given)
            assert nodes.effective_sample_size == 4000
            assert not nodes.log_weight.any()
            assert oracle.p_value(nodes.a, law(z, tau, np.ones(1), beta)) > 1e-4, (kind, beta)


def run_p_value(runs, probabilities, groups=6):
    """Hotelling's p-value of weighted runs, whose draws may depend on each other within a run."""
    order = np.argsort(probabilities.ravel())
    label = np.empty(probabilities.size, dtype=int)
    label[order] = np.minimum((np.cumsum(probabilities.ravel()[order]) * groups).astype(int), groups - 1)
    expected = np.bincount(label, probabilities.ravel(), minlength=groups)
    shares = []
    for nodes in runs:
        cells = label[np.ravel_multi_index(tuple(nodes.a.T), probabilities.shape)]
        weights = np.exp(nodes.log_weight)
        shares.append(np.bincount(cells, weights, minlength=groups) / weights.sum())
    shares = np.array(shares)
    kept = np.flatnonzero((expected > 0.02) & (shares.std(axis=0) > 0))[:-1]  # rare groups are no normal ones
    apart = (shares.mean(axis=0) - expected)[kept]
    count, size = len(runs), len(kept)
    if size == 0:
        return 1.0
    spread = np.atleast_2d(np.cov(shares[:, kept].T))
    square = count * apart @ np.linalg.solve(spread, apart)
    return float(stats.f.sf(square * (count - size) / (size * (count - 1)), size, count - size))


@pytest.mark.parametrize("kind", KINDS)
def test_annealed_draws_follow_the_law(kind, oracle, monkeypatch):
    monkeypatch.setattr(sampling, "ENUMERATED", 0)
    rng = np.random.default_rng(KINDS.index(kind))
    count = 60 if kind == "network" else 300
    for beta in BETAS:
        state, given, z, tau = make(kind, 5, 2, None, rng, oracle, monkeypatch)
        qrt = QuantumRidgeletTransform(state, Ridgelet("cosine", 5))
        runs = [sample_tempered(qrt, count, beta, seed=seed, filter=given) for seed in range(30)]
        assert run_p_value(runs, law(z, tau, np.ones(1), beta)) > 1e-4, beta
        assert all(0 < nodes.effective_sample_size <= count for nodes in runs)
        assert kind == "ridges" or beta == 1 or max(nodes.moved for nodes in runs) > 0


@pytest.mark.parametrize("kind", ["samples", "samples-filter", "smoothed", "smoothed-chain"])
def test_contrasts_of_vector_outputs(kind, oracle, monkeypatch):
    """Given one contrast, draws follow its law; drawn anew for every node, the mean of these laws."""
    rng = np.random.default_rng(5)
    state, given, z, tau = make(kind, 5, 2, 3, rng, oracle, monkeypatch)
    qrt = QuantumRidgeletTransform(state, Ridgelet("cosine", 5))
    contrast = np.array([1.0, -2.0, 0.5])
    normals = np.random.default_rng(6).standard_normal((20_000, 3))
    for beta, walkers in ((1.0, 4), (4.0, 64)):
        fixed = law(z, tau, contrast, beta)
        mean = np.mean([law(z, tau, g, beta) for g in normals], axis=0)
        for enumerated in (sampling.ENUMERATED, 0):
            with monkeypatch.context() as patch:
                patch.setattr(sampling, "ENUMERATED", enumerated)
                runs = [
                    sample_tempered(qrt, 200, beta, seed=s, filter=given, contrast=contrast)
                    for s in range(30)
                ]
                assert run_p_value(runs, fixed) > 1e-4, (beta, enumerated)
                runs = [
                    sample_tempered(qrt, 100, beta, seed=s, filter=given, walkers=walkers) for s in range(30)
                ]
                assert run_p_value(runs, mean) > 1e-4, (beta, enumerated)
                assert not runs[0].log_weight.any()


@pytest.mark.parametrize("filtered", [False, True])
def test_self_convolutions_are_exact_with_their_weights(filtered, oracle, monkeypatch):
    """Draws begin at beta = 2 or 4; a bond too small for the power costs weights, not truth."""
    monkeypatch.setattr(sampling, "ENUMERATED", 0)
    rng = np.random.default_rng(8)
    for beta, max_bond in ((2.0, 9), (2.0, 3), (4.0, 81), (4.0, 6), (6.0, 20)):
        state, _, z, tau = make("smoothed-chain" if filtered else "mps", 5, 3, None, rng, oracle, monkeypatch)
        qrt = QuantumRidgeletTransform(state, Ridgelet("cosine", 5))
        runs = [sample_tempered(qrt, 300, beta, seed=seed, max_bond=max_bond) for seed in range(30)]
        assert run_p_value(runs, law(z, tau, np.ones(1), beta)) > 1e-4, (beta, max_bond)
        if max_bond in (9, 81) and not filtered:  # nothing was cut: all draws count alike
            assert runs[0].effective_sample_size > 299


def test_thresholds(oracle, monkeypatch):
    """At the phase |R[f](a, .)| is largest; drawn, (a, b) follows the transform's own law at beta = 1."""
    rng = np.random.default_rng(3)
    for kind, classes in (("samples", None), ("smoothed", 2), ("mps", None)):
        state, _, z, _ = make(kind, 7, 2, classes, rng, oracle, monkeypatch)
        contrast = np.array([1.0, 0.7])[: z.shape[-1]]
        qrt = QuantumRidgeletTransform(state, Ridgelet("cosine", 7))
        nodes = sample_tempered(qrt, 50, 4.0, contrast=contrast)
        sums = z @ contrast  # sum_x f(x) cos(2 pi (a.x - b) / P) is Re z e^{2 pi i b / P}
        turned = sums[tuple(nodes.a.T)] * np.exp(2j * np.pi * nodes.b / 7)
        assert np.allclose(turned, np.abs(turned))
    f = rng.normal(size=(7, 7)) + 1j * rng.normal(size=(7, 7))
    nodes = sample_tempered(QuantumRidgeletTransform(states.from_dense(f), Ridgelet("cosine", 7)), 20, 2.0)
    z, mirrored = (oracle.fourier(f, 2)[tuple(u.T)] for u in (nodes.a, -nodes.a % 7))
    size = [
        np.abs(z * turn + mirrored / turn)
        for turn in np.exp(2j * np.pi * np.add.outer([0.0, 0.2, -0.2], nodes.b) / 7)
    ]
    assert (size[0] >= np.maximum(size[1], size[2])).all()
    for activation in ("relu", "cosine"):
        f = rng.normal(size=(5, 5))
        ridgelet = Ridgelet(activation, 5)
        qrt = QuantumRidgeletTransform(states.from_dense(f), ridgelet)
        exact = np.abs(oracle.analysed(f / np.linalg.norm(f), 2, ridgelet.values)) ** 2
        nodes = sample_tempered(qrt, 6000, 1.0, seed=2, phase=False)
        drawn = np.column_stack([nodes.a, nodes.b.astype(int)])
        assert np.array_equal(nodes.b, drawn[:, -1])
        assert oracle.p_value(drawn, exact) > 1e-4


def test_other_activations_keep_the_harmonics_of_the_exact_sampler(oracle):
    """p(a) = sum_v |r^(v)|^2 pi(v a) and b ~ |R[f](a, .)|^2."""
    rng = np.random.default_rng(4)
    f, ridgelet = rng.normal(size=(5, 5)), Ridgelet("relu", 5)
    exact = np.abs(oracle.analysed(f / np.linalg.norm(f), 2, ridgelet.values)) ** 2
    spectrum = law(oracle.fourier(f, 2)[..., None], np.ones((5, 5)), np.ones(1), 4.0)
    grid = oracle.grid(5, 2)
    weights = np.zeros(25)
    for v in range(1, 5):
        weights += np.abs(ridgelet.spectrum[v]) ** 2 * spectrum[tuple((v * grid % 5).T)]
    joint = weights.reshape(5, 5, 1) * exact / exact.sum(axis=2, keepdims=True)
    nodes = sample_tempered(QuantumRidgeletTransform(states.from_dense(f), ridgelet), 6000, 4.0, seed=1)
    assert oracle.p_value(np.column_stack([nodes.a, nodes.b.astype(int)]), joint) > 1e-4


def test_large_dimensions_stay_finite(oracle):
    rng = np.random.default_rng(0)
    cores = [core.astype(np.float32) for core in oracle.random_cores(rng, 7, 2000, 2)]
    qrt = QuantumRidgeletTransform(states.from_mps(cores), Ridgelet("cosine", 7))
    nodes = sample_tempered(qrt, 64, 1.02, sweeps=1)
    assert np.isfinite(nodes.log_weight).all()
    assert nodes.effective_sample_size > 1


def test_the_same_seed_gives_the_same_nodes():
    rng = np.random.default_rng(1)
    x, y = rng.integers(17, size=(60, 12)), rng.normal(size=(60, 2))
    qrt = QuantumRidgeletTransform(states.from_samples(x, y, 31), Ridgelet("cosine", 31))
    one, two = (sample_tempered(qrt, 70, 8.0, seed=5, filter=0.7) for _ in range(2))
    assert np.array_equal(one.a, two.a)
    assert np.array_equal(one.b, two.b)
    assert one.moved > 0


def test_compressed_data_go_by_their_points_where_the_rest_would_lead():
    """At beta = 16 and width 0.6 the mass lies where a compressed state keeps no frequency."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(17, size=(60, 2)), rng.standard_normal(60)
    drawn = []
    for state, given in (
        (states.from_samples(x, y, 127, smoothing=0.6), None),
        (states.from_samples(x, y, 127), 0.6),
    ):
        nodes = sample_tempered(
            QuantumRidgeletTransform(state, Ridgelet("cosine", 127)), 500, 16.0, filter=given
        )
        drawn.append(np.bincount(nodes.a @ [127, 1], minlength=127**2) / 500)
    assert np.abs(drawn[0] - drawn[1]).sum() < 0.2


def test_sizes_of_targets_and_contrasts_change_nothing():
    rng = np.random.default_rng(2)
    x, y = rng.integers(7, size=(40, 8)), rng.standard_normal((40, 2))
    found = []
    for scale in (1.0, 1e-300, 1e200):
        qrt = QuantumRidgeletTransform(states.from_samples(x, y * scale, 7), Ridgelet("cosine", 7))
        contrast = np.array([1.0, -0.5]) * scale
        found.append(sample_tempered(qrt, 5, 4.0, filter=0.8, contrast=contrast).a)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_one_node_has_walkers_too(monkeypatch):
    """Alone it must follow the law as many do: here at a frequency that has nearly all of it."""
    monkeypatch.setattr(sampling, "ENUMERATED", 0)
    rng = np.random.default_rng(3)
    x, y = rng.integers(31, size=(40, 3)), rng.standard_normal(40)
    qrt = QuantumRidgeletTransform(states.from_samples(x, y, 31), Ridgelet("cosine", 31))
    z = [
        abs(qrt.state.spectrum(sample_tempered(qrt, 1, 16.0, seed=s, walkers=64).a).value()[0])
        for s in range(20)
    ]
    many = np.abs(qrt.state.spectrum(sample_tempered(qrt, 400, 16.0).a).value())
    assert np.median(z) > np.quantile(many, 0.1)


def test_the_effective_sample_size_is_the_smallest_on_the_way(monkeypatch):
    monkeypatch.setattr(sampling, "ENUMERATED", 0)
    rng = np.random.default_rng(4)
    x, y = rng.integers(17, size=(50, 6)), rng.standard_normal(50)
    qrt = QuantumRidgeletTransform(states.from_samples(x, y, 31), Ridgelet("cosine", 31))
    nodes = sample_tempered(qrt, 200, 32.0, filter=0.7)
    weights = np.exp(nodes.log_weight)
    assert np.isclose(weights.mean(), 1)
    assert 0.4 * 200 < nodes.effective_sample_size < 0.6 * 200  # each step is to half of the one before
    assert nodes.effective_sample_size <= weights.sum() ** 2 / (weights**2).sum() + 1e-9


def test_a_state_that_is_nothing_where_chains_start_is_refused():
    rng = np.random.default_rng(5)
    y = rng.standard_normal((50, 1))
    x = rng.integers(7, size=(50, 12))
    for values, contrast in ((np.hstack([y, y]), [1.0, -1.0]), (np.hstack([y, 3 * y]), [3.0, -1.0])):
        qrt = QuantumRidgeletTransform(states.from_samples(x, values, 7), Ridgelet("cosine", 7))
        for given in (None, 0.8):
            with pytest.raises(ValueError, match="leaves n"):
                sample_tempered(qrt, 5, 4.0, contrast=contrast, filter=given)


REFUSED = [
    ({"n": 0}, "number of nodes is 0"),
    ({"beta": 0.5}, "beta is 0.5"),
    ({"beta": float("nan")}, "beta is nan"),
    ({"sweeps": 0}, "sweeps is 0"),
    ({"walkers": 1}, "walkers is 1"),
    ({"contrast": [1.0, 2.0]}, r"contrast has shape \(2,\)"),
    ({"contrast": [0.0]}, r"contrast holds \[0.\]"),
    ({"filter": -1.0}, "smoothing holds -1"),
    ({"max_bond": 4}, "max_bond is 4"),
    ({"seed": -1}, "seed is -1"),
    ({"transform": None}, "transform is a NoneType"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_bad_arguments_are_refused_by_value(changes, message):
    x, y = np.array([[0, 1], [2, 3]]), np.array([1.0, -2.0])
    qrt = QuantumRidgeletTransform(states.from_samples(x, y, 5), Ridgelet("relu", 5))
    arguments = {"transform": qrt, "n": 3, "beta": 2.0} | changes
    with pytest.raises(ValueError, match=message):
        sample_tempered(**arguments)


def test_what_a_state_cannot_have_is_refused():
    x, y = np.array([[0, 1], [2, 3], [4, 4]]), np.array([[1.0, -1.0], [-2.0, 2.0], [1.0, -1.0]])
    smoothed = QuantumRidgeletTransform(states.from_samples(x, y, 5, smoothing=1.0), Ridgelet("relu", 5))
    for changes, message in (
        ({"filter": 1.0}, "smoothed already"),
        ({"phase": True}, "only a cosine"),
        ({"contrast": [1.0, 1.0]}, "leaves nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_tempered(smoothed, 2, 2.0, **changes)
