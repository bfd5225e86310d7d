"""Training of shallow networks: what moves, what is kept, that many at once are the same as one by one."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax

from qrt_tn.models import shallow_training
from qrt_tn.models.dense import CosineNetwork, DenseNetwork
from qrt_tn.models.ridge import RidgeNetwork
from qrt_tn.models.shallow_training import train, train_many
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet

P, D, N, C = 13, 3, 10, 4


def ridge_network(seed, activation="triangle"):
    rng = np.random.default_rng(seed)
    nodes = RidgeNodes(rng.integers(P, size=(N, D)), rng.integers(P, size=N), np.full(N, -1.0), P)
    return RidgeNetwork(nodes, Ridgelet(activation, P), C, rngs=nnx.Rngs(seed))


def labelled(count, seed):
    x = np.random.default_rng(seed).integers(P, size=(count, D))
    return x, (x[:, 0] // 4 + (x[:, 1] > 6)) % C


def data(seed=0, count=90):
    x, y = labelled(count, seed)
    x_validation, y_validation = labelled(40, seed + 100)
    return {"x": x, "y": y, "x_validation": x_validation, "y_validation": y_validation}


def weights(network):
    return {
        name: np.asarray(value) for name, value in nnx.to_pure_dict(nnx.state(network, nnx.Param)).items()
    }


# The same lengths nearly everywhere, so that the tests share compilations.
LENGTH = {"epochs": 25, "batch_size": 15}
KINDS = ("triangle", "relu")  # tables are arrays: other activations share the compilation


def cosine_network(seed):
    frequencies = np.random.default_rng(seed).normal(size=(D, N)) / P
    return CosineNetwork(frequencies, np.zeros(N), C, rngs=nnx.Rngs(seed))


MAKERS = {
    "ridge": ridge_network,
    "dense": lambda seed: DenseNetwork(D, N, C, rngs=nnx.Rngs(seed)),
    "cosine": cosine_network,
}


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("ridge", "mse"), ("dense", "mse"), ("cosine", "cross_entropy")],
)
def test_training_lowers_the_loss_moves_every_parameter_and_keeps_the_best_epoch(kind, loss):
    network, some = MAKERS[kind](1), data()
    before = weights(network)
    for name in ("x", "x_validation"):
        some[name] = some[name] + 52.0  # which training centres; what it gives back sees them as they are
    start = network.predict(some["x_validation"]).astype(np.float64)
    history = train(network, **some, loss=loss, **LENGTH)
    assert history.loss[-3:].mean() < 0.8 * history.loss[0]
    assert history.loss.shape == (25,)
    correct, values = history.validation_accuracy, history.validation_loss
    assert values.shape == correct.shape == (26,)
    for name, value in weights(network).items():
        assert (before[name] != value).any(), name
    best = max(range(26), key=lambda epoch: (correct[epoch], -values[epoch]))
    assert history.best_epoch == best > 0
    end = network.predict(some["x_validation"]).astype(np.float64)
    y = some["y_validation"]
    for outputs, epoch in ((start, 0), (end, best)):
        found = -log_softmax(outputs, axis=1)[np.arange(40), y]
        if loss == "mse":
            found = np.square(outputs - np.eye(C)[y]).sum(axis=1)
        assert found.mean() == pytest.approx(values[epoch], rel=1e-3)
        assert (outputs.argmax(axis=1) == y).mean() == pytest.approx(correct[epoch])


def test_the_first_step_is_adam_s_by_hand():
    network = ridge_network(2)
    before = weights(network)
    everything = data()
    x, y = everything["x"], everything["y"]
    phi = network.compute_features(x).astype(np.float64)
    residual = phi @ before["kernel"] + before["bias"] - np.eye(C)[y]
    gradient = 2 * phi.T @ residual / len(x)
    # the training points stand for validation, so that the step, which lowers their loss, is kept
    history = train(
        network,
        x,
        y,
        x_validation=x,
        y_validation=np.eye(C)[y],
        epochs=1,
        batch_size=10**6,
        learning_rate=1e-3,
    )
    assert history.best_epoch == 1
    # Adam's first step is the sign of the gradient times the rate, here at the readout's scale N^{-1/2}
    moved = weights(network)["kernel"] - before["kernel"]
    np.testing.assert_allclose(moved, -1e-3 * N**-0.5 * np.sign(gradient), rtol=1e-2, atol=1e-9)
    assert history.loss[0] == pytest.approx(np.square(residual).sum(axis=1).mean(), rel=1e-4)
    # each node's threshold for x - mean x moves by the rate times P, where its feature matters at all
    after = weights(network)
    steps = np.abs(after["b_offset"] - after["a_offset"] @ x.mean(axis=0))
    assert np.isclose(steps, 1e-3 * P, rtol=1e-2).any()
    assert steps.max() <= 1e-3 * P * 1.01


def test_only_the_output_weights_move_when_asked():
    network = ridge_network(3)
    before = weights(network)
    train(network, **data(), parameters="output", **LENGTH)
    after = weights(network)
    for name in before:
        moved = (before[name] != after[name]).any()
        assert moved == (name in ("kernel", "bias")), name


RATES = (1e-4, 0.03, 3.0)


@pytest.fixture(scope="module")
def alone():
    """Networks of one kind, each trained alone at each rate: weights and histories."""
    found = []
    for seed, kind in enumerate(KINDS):
        networks = [ridge_network(seed, kind) for _ in RATES]
        histories = [
            train(one, **data(seed), seed=seed, learning_rate=rate, **LENGTH)
            for one, rate in zip(networks, RATES, strict=True)
        ]
        found.append(([weights(one) for one in networks], histories))
    return found


@pytest.mark.parametrize("together", [False, True])
def test_many_at_once_are_the_same_as_one_by_one_at_the_rate_that_validation_prefers(alone, together):
    compiled = shallow_training._run._cache_size()
    networks = [ridge_network(seed, kind) for seed, kind in enumerate(KINDS)]
    sets = [data(seed) for seed in range(len(KINDS))]
    stacked = {name: np.stack([some[name] for some in sets]) for name in sets[0]}
    done = []
    histories = train_many(
        networks,
        **stacked,
        seeds=range(len(KINDS)),
        learning_rate=RATES,
        together=together,
        progress=lambda i, total: done.append((i, total)),
        **LENGTH,
    )
    assert shallow_training._run._cache_size() == compiled  # one serves all nodes, activations and seeds
    assert done == [(1, 2), (2, 2)]
    for network, history, (tried, found) in zip(networks, histories, alone, strict=True):
        worth = [(h.validation_accuracy[h.best_epoch], -h.validation_loss[h.best_epoch]) for h in found]
        best = worth.index(max(worth))
        assert (history.learning_rate, history.best_epoch) == (RATES[best], found[best].best_epoch)
        np.testing.assert_allclose(history.loss, found[best].loss, rtol=1e-4)
        for name, value in weights(network).items():
            np.testing.assert_allclose(value, tried[best][name], rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_network():
    results = []
    for seed in (5, 5, 6):
        network = ridge_network(4)
        train(network, **data(), seed=seed, **LENGTH)
        results.append(weights(network)["kernel"])
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_a_start_that_training_only_harms_is_kept_and_real_targets_go_by_the_loss():
    rng = np.random.default_rng(6)
    some = data()
    some["y"] = rng.normal(size=(90, C))  # nothing to learn
    network = ridge_network(7)
    network.set_output_weights(np.zeros((N, C)), np.zeros(C))
    some["y_validation"] = np.zeros((40, C))
    history = train(network, **some, **LENGTH)
    assert history.best_epoch == 0
    assert np.isnan(history.validation_accuracy).all()
    assert not weights(network)["a_offset"].any()
    some["y_validation"] = some["y"][:40]
    history = train(network, **some, **LENGTH)
    assert history.best_epoch == history.validation_loss.argmin()


def test_a_network_that_diverged_is_not_kept_although_its_nan_guess_label_0_rightly():
    network, some = MAKERS["dense"](2), data()
    some["y_validation"] = np.zeros_like(some["y_validation"])
    network.bias[...] = jnp.asarray([-1e6, 0.0, 0.0, 0.0])  # never label 0
    before = weights(network)
    history = train(network, **some, learning_rate=1e30, **LENGTH)
    assert np.isnan(history.validation_loss[1:]).all()
    assert history.validation_accuracy[[0, -1]].tolist() == [0, 1]
    assert history.best_epoch == 0
    for name, value in weights(network).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "mse, cross_entropy"),
        ({"parameters": "hidden"}, "all, output"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": np.nan}, "learning_rate is nan"),
        ({"learning_rate": ()}, r"learning_rate is \(\)"),
        ({"learning_rate": (0.1, -0.1)}, r"learning_rate is \(0.1, -0.1\)"),
        ({"learning_rate": "0.1"}, "learning_rate is '0.1'"),
        ({"seed": -1}, "seed is -1"),
        ({"y": np.arange(90) % 5}, "label 4 is outside 0..3"),
        ({"y_validation": np.full(40, -1)}, "validation label -1"),
        ({"y": np.zeros(80, dtype=int)}, "90 points but 80 targets"),
        ({"y": np.zeros((90, 2))}, r"of shape \(90, 4\)"),
        ({"y": np.full((90, C), np.nan)}, "targets hold nan"),
        ({"y": np.zeros((90, C)), "loss": "cross_entropy"}, "integer labels"),
        ({"x": np.zeros((90, D + 1))}, r"\(points, 3\)"),
        ({"x": np.full((90, D), np.inf)}, "inf"),
    ],
)
def test_bad_input_is_named_and_leaves_the_network(change, message):
    network = ridge_network(14)
    before = weights(network)
    with pytest.raises(ValueError, match=message):
        train(network, **(data() | LENGTH | change))
    for name, value in weights(network).items():
        np.testing.assert_array_equal(value, before[name])


def test_networks_that_do_not_go_together_are_named():
    some = {name: [value, value] for name, value in data().items()}
    pair = [ridge_network(0), DenseNetwork(D, N, C, rngs=nnx.Rngs(0))]
    with pytest.raises(ValueError, match="differ in kind or shape"):
        train_many(pair, **some, seeds=[0, 1], **LENGTH)
    with pytest.raises(ValueError, match="one entry a network"):
        train_many([ridge_network(0)], **some, seeds=[0, 1], **LENGTH)
    with pytest.raises(ValueError, match="at least one"):
        train_many([], x=[], y=[], x_validation=[], y_validation=[], seeds=[], **LENGTH)
