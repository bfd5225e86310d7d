"""Teachers as functions on the grid, against their networks and the dense transform."""

import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from qrt_tn import Quantizer, Ridgelet, RidgeNodes, states
from qrt_tn.models import RidgeNetwork, teacher, teachers


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
    levels = grid(7, 3)
    inside = function(levels)
    assert np.allclose(inside, network.predict_proba(quantizer.inverse_transform(levels)))
    state = states.from_callable(function, 11, 3, tolerance=1e-6, levels=7)
    assert state.interpolation_error < 1e-6
    # levels 7..10 of the guard band lead back from 6 to 0, one coordinate after the other
    f = inside.reshape(7, 7, 7, 2)
    places = np.concatenate([np.arange(7), 6 - 6 / 5 * np.arange(1, 5)])
    for axis in range(3):
        f = np.apply_along_axis(lambda values: np.interp(places, np.arange(7), values), axis, f)
    hat = np.fft.fftn(f / np.linalg.norm(f), axes=(0, 1, 2), norm="ortho")
    assert np.abs(state.spectrum(grid(11, 3)).value().reshape(f.shape) - hat).max() < 1e-5


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


def test_flax_networks_in_batches(monkeypatch):
    monkeypatch.setattr(teachers, "_BATCH", 16)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 3))
    quantizer = Quantizer(levels=7, modulus=7).fit(x)
    levels = quantizer.transform(x)
    points = quantizer.inverse_transform(levels)
    nodes = RidgeNodes(rng.integers(7, size=(4, 3)), rng.integers(7, size=4), np.zeros(4), 7)
    ridge = RidgeNetwork(nodes, Ridgelet("triangle", 7), 2, rngs=nnx.Rngs(1))
    linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    wanted = points @ np.float64(linear.kernel[...]) + np.float64(linear.bias[...])
    for function, expected in (
        (teacher(linear, quantizer), wanted),
        (teacher(linear, quantizer, mean=[1.0, -2.0]), wanted - [1, -2]),
        (teacher(ridge), ridge.predict(levels)),  # it takes the grid points themselves
    ):
        assert function(levels).dtype == np.float32
        np.testing.assert_allclose(function(levels), expected, atol=1e-5)
    assert np.allclose(teacher(lambda z: z[:, 0], quantizer, mean=0.5)(levels), points[:, 0] - 0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"network": 3}, "the network is a int, which cannot be called on points"),
        ({"quantizer": 7}, "the quantizer is a int; give a fitted"),
        ({"quantizer": Quantizer()}, "not fitted yet"),
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


def test_points_outside_the_levels_are_refused(classifier):
    function = teacher(*classifier)
    with pytest.raises(
        ValueError, match=r"level 10 lies in the guard band above the 7 levels .* pass levels=7"
    ):
        states.from_callable(function, 11, 3)
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        function(np.array([[0, 1]]))
    with pytest.raises(ValueError, match="-1"):
        function(np.array([[0, 1, -1]]))
