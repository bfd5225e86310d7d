import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import LinearSVC

from models import DenseNetwork, RidgeNetwork, teacher, teachers, train
from qrt_tn import Quantizer, QuantumRidgeletTransform, Ridgelet, RidgeNodes, states


def grid(modulus, dim):
    return np.indices((modulus,) * dim).reshape(dim, -1).T


def blobs(rng, count, features):
    """Two classes that a curved boundary parts."""
    x = rng.normal(size=(count, features))
    return x, ((x[:, 0] * x[:, 1] + 0.5 * x[:, 2:].sum(axis=1)) > 0).astype(int)


@pytest.fixture(scope="module")
def classifier():
    x, y = blobs(np.random.default_rng(0), 300, 3)
    network = MLPClassifier(
        hidden_layer_sizes=(8,), activation="tanh", solver="lbfgs", max_iter=500, random_state=0, alpha=0.1
    )
    return network.fit(x, y), Quantizer(levels=7, modulus=11).fit(x)


def test_a_classifier_on_the_grid_against_the_dense_transform(classifier):
    network, quantizer = classifier
    function = teacher(network, quantizer)
    points = grid(11, 3)
    f = function(points)
    assert f.shape == (1331, 2)
    # where the data live, the levels are the centres of their bins
    inside = (points < 7).all(axis=1)
    assert np.allclose(f[inside], network.predict_proba(quantizer.inverse_transform(points[inside])))
    state = states.from_callable(function, 11, 3, tolerance=1e-6)
    assert state.interpolation_error < 1e-6
    f = f.reshape(11, 11, 11, 2)
    hat = np.fft.fftn(f / np.linalg.norm(f), axes=(0, 1, 2), norm="ortho")
    assert np.abs(state.spectrum(points).value().reshape(f.shape) - hat).max() < 1e-6
    nodes = QuantumRidgeletTransform(state, Ridgelet("triangle", 11)).sample(100, seed=0)
    assert nodes.a.shape == (100, 3)


def test_the_ways_through_the_guard_band(classifier):
    network, quantizer = classifier
    seen = []

    def probe(features):
        seen.append(features)
        return features

    line = np.column_stack([np.arange(11), np.zeros((11, 2), dtype=int)])
    features = teacher(probe, quantizer)(line)
    centres = quantizer.centres
    # levels 0..6, then in five steps back to level 0, which is next to level 10 on the circle
    back = np.interp(6 - 6 / 5 * np.arange(1, 5), np.arange(7), centres[0])
    assert np.allclose(features[:, 0], [*centres[0], *back])
    assert np.allclose(features[:, 1:], centres[1:, 0])
    steps = np.diff([*features[:, 0], features[0, 0]])
    assert np.abs(steps).max() < 1.3 * np.abs(np.diff(centres[0])).max()

    cut = teacher(network, quantizer, guard="zero")(line)
    assert (cut[7:] == 0).all()
    assert np.allclose(cut[:7], teacher(network, quantizer)(line)[:7])


@pytest.mark.parametrize("scope", ["feature", "global"])
def test_without_a_guard_band_and_with_one_scale_for_all(scope):
    x = np.random.default_rng(0).normal(size=(50, 4))
    quantizer = Quantizer("quantile", levels=5, modulus=5, scope=scope).fit(x)
    levels = quantizer.transform(x)
    assert np.allclose(teacher(lambda z: z, quantizer)(levels), quantizer.inverse_transform(levels))


def test_principal_components():
    x = np.random.default_rng(0).normal(size=(50, 4)) @ np.diag([1, 2, 3, 4])
    quantizer = Quantizer("pca-quantile", levels=5, modulus=7, components=2).fit(x)
    levels = quantizer.transform(x)
    function = teacher(lambda z: z, quantizer)
    assert np.allclose(function(levels), quantizer.inverse_transform(levels))
    # five steps of 4/3 back from level 4: half way between is the mean of the bins' centres
    back = function(np.array([[5, 0]]))[0]
    middle = quantizer.centres[0, 2] + 2 / 3 * (quantizer.centres[0, 3] - quantizer.centres[0, 2])
    assert np.allclose((back - quantizer.mean) @ quantizer.axes.T, [middle, quantizer.centres[1, 0]])


def test_what_each_kind_of_estimator_gives():
    x, y = blobs(np.random.default_rng(1), 100, 3)
    names = np.array(["no", "yes"])[y]
    quantizer = Quantizer(levels=5, modulus=7).fit(x)
    levels = quantizer.transform(x)
    centres = quantizer.inverse_transform(levels)
    logistic, machine = LogisticRegression().fit(x, names), LinearSVC().fit(x, names)
    line, several = LinearRegression().fit(x, y), LinearRegression().fit(x, np.column_stack([y, 1 - y]))
    for network, outputs, wanted in (
        (logistic, None, logistic.predict_proba(centres)),
        (logistic, "decision_function", logistic.decision_function(centres)),
        (logistic, "predict_log_proba", logistic.predict_log_proba(centres)),
        (logistic, "predict", logistic.predict(centres)[:, None] == ["no", "yes"]),
        (machine, None, machine.decision_function(centres)),
        (line, None, line.predict(centres)),
        (several, None, several.predict(centres)),
    ):
        got = teacher(network, quantizer, outputs=outputs)(levels)
        assert got.shape == wanted.shape
        assert np.allclose(got, wanted)


def test_a_flax_network_in_batches(monkeypatch):
    monkeypatch.setattr(teachers, "_BATCH", 16)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 3))
    quantizer = Quantizer(levels=9, modulus=13).fit(x)
    levels = quantizer.transform(x)
    features = quantizer.inverse_transform(levels)

    class Deep(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.first, self.second = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

        def __call__(self, x):
            return self.second(jnp.tanh(self.first(x)))

    for network in (Deep(), DenseNetwork(3, 6, 2, rngs=nnx.Rngs(0))):
        got = teacher(network, quantizer)(levels)
        assert got.dtype == np.float32
        assert np.allclose(got, network(jnp.asarray(features, dtype=jnp.float32)), atol=1e-6)
        less = teacher(network, quantizer, mean=[1.0, -2.0])(levels)
        assert less.dtype == np.float32
        assert np.allclose(less, got - [1, -2], atol=1e-6)
    assert np.allclose(teacher(lambda z: z[:, 0], quantizer, mean=0.5)(levels), features[:, 0] - 0.5)


def test_a_ridge_network_takes_grid_points():
    """A trained teacher on the grid, its transform, and the ticket's own directions."""
    rng = np.random.default_rng(3)
    nodes = RidgeNodes(rng.integers(7, size=(4, 3)), rng.integers(7, size=4), np.zeros(4), 7)
    network = RidgeNetwork(nodes, Ridgelet("triangle", 7), 2, rngs=nnx.Rngs(1))
    x, y = grid(7, 3)[:200], rng.normal(size=(200, 2))
    train(network, x, y, x_validation=x, y_validation=y, epochs=5)
    points = grid(7, 3)
    f = network.predict(points)
    assert np.allclose(teacher(network)(points), f, atol=1e-6)
    state = states.from_callable(teacher(network), 7, 3, tolerance=1e-4)
    assert state.cores[0].dtype == np.complex64
    f = f.reshape(7, 7, 7, 2).astype(np.float64)
    hat = np.fft.fftn(f / np.linalg.norm(f), axes=(0, 1, 2), norm="ortho")
    assert np.abs(state.spectrum(points).value().reshape(f.shape) - hat).max() < 1e-4


def test_a_regressor_in_sixteen_dimensions():
    """Beyond any dense transform: the error told is that on points nobody has seen."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 16))
    y = np.sin(x[:, 0] + 0.5 * x[:, 1]) + 0.3 * x[:, 2:].sum(axis=1)
    network = MLPRegressor(
        hidden_layer_sizes=(8,), activation="tanh", solver="lbfgs", max_iter=200, random_state=0, alpha=3.0
    )
    network.fit(x, y)
    quantizer = Quantizer(levels=15, modulus=31).fit(x)
    function = teacher(network, quantizer)
    data = quantizer.transform(x)
    state = states.from_callable(function, 31, 16, tolerance=0.02, max_bond=40, points=data)
    fresh = np.random.default_rng(99).integers(31, size=(60, 16))
    values, chain = function(fresh), state.network()
    held = [chain.isel({f"x{i}": int(q) for i, q in enumerate(x)}).contract(output_inds=()) for x in fresh]
    rest = np.array(held) * np.exp(state.log_norm) - values
    assert np.linalg.norm(rest) / np.linalg.norm(values) < 3 * state.interpolation_error
    assert state.interpolation_error < 0.02
    assert state.interpolation_error_at_points < 0.02


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"network": 3}, "the network is a int, which cannot be called on points"),
        ({"guard": "open"}, "guard is 'open'; choose one of fold, zero"),
        ({"quantizer": 7}, "the quantizer is a int; give a fitted"),
        ({"quantizer": Quantizer()}, "call fit first"),
        ({"outputs": "predict"}, "outputs is 'predict'; only a scikit-learn estimator"),
        ({"mean": np.nan}, "mean is nan"),
        ({"mean": "a"}, "mean is 'a'"),
        (
            {"network": LinearRegression(), "outputs": "predict_proba"},
            "LinearRegression has no outputs 'predict_p",
        ),
        ({"network": LinearRegression(), "outputs": "fit"}, "has no outputs 'fit'; choose one of predict"),
    ],
)
def test_refusals(arguments, says):
    with pytest.raises(ValueError, match=says):
        teacher(**{"network": lambda x: x} | arguments)


def test_points_outside_the_grid_are_refused(classifier):
    function = teacher(*classifier)
    with pytest.raises(ValueError, match="x holds 11, outside Z_11"):
        function(np.array([[0, 11, 0]]))
    with pytest.raises(ValueError, match=r"x has shape \(1, 2\)"):
        function(np.array([[0, 1]]))
