"""What all networks with one hidden layer share, against NumPy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.kernel_approximation import RBFSampler

from qrt_tn import Ridgelet, RidgeNodes
from qrt_tn.models import CosineNetwork, DenseNetwork, RidgeNetwork, fit_output_weights
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.models.tickets import SparseNetwork

RNG = np.random.default_rng(0)
NODES = RidgeNodes(RNG.integers(31, size=(8, 3)), RNG.integers(31, size=8), np.full(8, -1.0), 31)
MASKS = {"hidden_kernel": RNG.random((3, 8)) < 0.6, "kernel": RNG.random((8, 2)) < 0.6}
X = RNG.integers(31, size=(300, 3))
RNGS = nnx.Rngs(0)


def moved(network: ShallowNetwork) -> ShallowNetwork:
    """With every parameter off its start."""
    for path, leaf in nnx.to_pure_dict(nnx.state(network, nnx.Param)).items():
        change = 0.1 * np.random.default_rng(1).normal(size=leaf.shape)
        getattr(network, path)[...] = jnp.asarray(leaf + change, jnp.float32)
    return network


def made(kind: str) -> ShallowNetwork:
    if kind == "dense":
        return moved(DenseNetwork(3, 8, 2, rngs=nnx.Rngs(0)))
    if kind == "sparse":
        params = nnx.to_pure_dict(nnx.state(made("dense"), nnx.Param))
        return moved(SparseNetwork(params, MASKS | {"hidden_bias": None, "bias": None}))
    if kind == "cosine":
        rng = np.random.default_rng(2)
        return moved(CosineNetwork(rng.normal(size=(3, 8)), rng.normal(size=8), 2, rngs=nnx.Rngs(0)))
    return moved(RidgeNetwork(NODES, Ridgelet("tanh", 31), 2, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module", params=["dense", "sparse", "cosine", "ridge"])
def network(request) -> ShallowNetwork:
    return made(request.param)


def parameters(network: ShallowNetwork) -> dict[str, np.ndarray]:
    return {k: np.float64(v) for k, v in nnx.to_pure_dict(nnx.state(network, nnx.Param)).items()}


def features(network: ShallowNetwork, x: np.ndarray) -> np.ndarray:
    own = parameters(network)
    match network:
        case SparseNetwork():
            return np.maximum(x @ (own["hidden_kernel"] * MASKS["hidden_kernel"]) + own["hidden_bias"], 0)
        case DenseNetwork():
            return np.maximum(x @ own["hidden_kernel"] + own["hidden_bias"], 0)
        case CosineNetwork():
            return np.sqrt(2) * np.cos(x @ own["frequencies"] + own["phases"])
    table = Ridgelet("tanh", 31).activation
    t = x @ (NODES.a + own["a_offset"]).T - NODES.b - own["b_offset"]
    return np.interp(t, np.arange(31), (table - table.mean()) / table.std(), period=31)


def outputs(network: ShallowNetwork, x: np.ndarray) -> np.ndarray:
    own = parameters(network)
    kept = MASKS["kernel"] if isinstance(network, SparseNetwork) else 1
    return features(network, x) @ (own["kernel"] * kept) + own["bias"]


def test_outputs_are_those_of_numpy(network):
    np.testing.assert_allclose(network.predict(X), outputs(network, X), rtol=1e-4, atol=1e-3)


@nnx.jit
def centred_call(network: ShallowNetwork, x: jax.Array, c: jax.Array) -> jax.Array:
    return network(*network.centred_inputs(x, c))


def test_shifted_thresholds_at_shifted_inputs_leave_the_function(network):
    c = np.array([7.0, -3.0, 0.5])
    shifted = nnx.clone(network)
    shifted.shift_inputs(c)
    for moved_by in (c, 0 * c):
        found = centred_call(shifted, jnp.float32(X), jnp.float32(moved_by))
        np.testing.assert_allclose(found, outputs(network, X), rtol=1e-4, atol=2e-3)
        shifted.shift_inputs(-c)


def products(jaxpr) -> list:
    """The precision of every matrix product, at any depth."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation.params["precision"])
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            found += products(inner) if hasattr(inner, "eqns") else []
    return found


def test_products_name_their_precision(network):
    """Those of the outputs, of the features and of the gradient."""
    graph, params, rest = nnx.split(network, nnx.Param, ...)

    def loss(params, x):
        return jnp.square(nnx.merge(graph, params, rest)(x)).sum()

    highest = jax.lax.Precision.HIGHEST
    for function in (loss, jax.grad(loss)):
        found = products(jax.make_jaxpr(function)(params, jnp.float32(X)).jaxpr)
        assert len(found) > 1
        assert set(found) == {(highest, highest)}


def test_fit_gives_the_weights_of_ridge_regression_to_the_network():
    fitted, y = made("cosine"), RNG.normal(size=(300, 2)) + 5
    assert fitted.fit(X, y, 0.5) is fitted
    kernel, bias = fit_output_weights(features(fitted, X), y, 0.5)
    np.testing.assert_allclose(fitted.predict(X), features(fitted, X) @ kernel + bias, atol=1e-3)


def test_first_weights_have_the_usual_variance_and_depend_on_the_seed_only():
    first, again, other = (DenseNetwork(400, 300, 200, rngs=nnx.Rngs(seed)) for seed in (1, 1, 2))
    assert np.var(np.asarray(first.hidden_kernel[...])) == pytest.approx(2 / 400, rel=0.05)
    assert np.var(np.asarray(first.kernel[...])) == pytest.approx(1 / 300, rel=0.05)
    np.testing.assert_array_equal(first.kernel[...], again.kernel[...])
    assert (first.kernel[...] != other.kernel[...]).all()


def test_cosine_features_are_those_of_the_sampler():
    x = np.random.default_rng(2).normal(size=(50, 6))
    sampler = RBFSampler(gamma=0.3, n_components=40, random_state=3).fit(x)
    network = CosineNetwork.from_sampler(sampler, 2, rngs=nnx.Rngs(0))
    # scikit-learn divides by sqrt(N), so that the features' product is the kernel
    np.testing.assert_allclose(network.compute_features(x), sampler.transform(x) * np.sqrt(40), atol=1e-4)
    assert (network.dim, network.nodes, network.outputs) == (6, 40, 2)
    assert network.parameter_count() == 6 * 40 + 40 + 40 * 2 + 2


def cosine(frequencies=((1,) * 4,) * 3, phases=(1,) * 4, rngs=RNGS):
    return CosineNetwork(frequencies, phases, 1, rngs=rngs)


REFUSED = [
    (lambda: DenseNetwork(0, 3, 1, rngs=RNGS), "dim is 0"),
    (lambda: DenseNetwork(3, 0, 1, rngs=RNGS), "nodes is 0"),
    (lambda: DenseNetwork(3, 3, 0, rngs=RNGS), "outputs is 0"),
    (lambda: DenseNetwork(3, 3, 1, rngs=None), "rngs is None; give flax.nnx.Rngs"),
    (lambda: RidgeNetwork(NODES, Ridgelet("relu", 31), 1, rngs=None), "rngs is None; give flax.nnx.Rngs"),
    (lambda: cosine(rngs=7), "rngs is 7; give flax.nnx.Rngs"),
    (lambda: cosine(rngs=nnx.Rngs(dropout=1)), "rngs has the streams dropout"),
    (lambda: cosine(phases=np.ones(3)), r"\(3, 4\) and phases \(3,\)"),
    (lambda: cosine(np.ones((3, 0)), ()), r"\(3, 0\)"),
    (lambda: cosine(np.full((3, 4), np.nan)), "not finite"),
    (lambda: CosineNetwork.from_sampler(RBFSampler(), 1, rngs=RNGS), "RBFSampler is not fitted"),
    (lambda: cosine().predict(np.zeros((2, 4))), r"\(points, 3\)"),
    (lambda: cosine().predict(np.zeros(3)), r"\(3,\)"),
    (lambda: cosine().predict(np.zeros((0, 3))), "not empty"),
    (lambda: cosine().predict(np.full((1, 3), np.nan)), "x holds nan"),
    (lambda: cosine().predict([["a", "b", "c"]]), "real numbers"),
    (lambda: cosine().set_output_weights(np.zeros(4), np.zeros(1)), r"kernel has shape \(4,\)"),
    (lambda: cosine().set_output_weights(np.full((4, 1), 1e300), np.zeros(1)), "finite"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as told:
        call()
    assert "\n" not in str(told.value)
