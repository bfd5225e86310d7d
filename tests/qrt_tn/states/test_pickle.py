"""Every kind of state, and its transform, pickled and copied, before and after it is used: the same bits."""

import copy
import pickle

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states

RNG = np.random.default_rng(0)
X, Y = RNG.integers(5, size=(30, 3)), RNG.normal(size=(30, 2))
CORES = [RNG.normal(size=shape) for shape in ((1, 5, 2), (2, 5, 2), (2, 5, 1))]
KINDS = {
    "dense": lambda: states.from_dense(RNG.normal(size=(5, 5, 5))),
    "mps": lambda: states.from_mps(CORES),
    "network": lambda: states.from_network(states.from_mps(CORES).network(), ["x0", "x1", "x2"]),
    "ridges": lambda: states.from_ridges(X[:4], X[:4, 0], Y[:4], Ridgelet("relu", 5)),
    "samples": lambda: states.from_samples(X, Y, 5),
    "single samples": lambda: states.from_samples(X, Y[:, 0].astype(np.float32), 5),
    "smoothed": lambda: states.from_samples(X, Y, 5, smoothing=1.0),
    "interpolated": lambda: states.from_callable(lambda x: np.exp(-x.sum(axis=1)), 5, 3),
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_gives_the_same_bits(kind, used):
    qrt = QuantumRidgeletTransform(KINDS[kind](), Ridgelet("relu", 5), "numpy")
    if used:
        qrt.sample(10)
        qrt.log_marginals([0, 1], X[:, :2])
    for again in (pickle.loads(pickle.dumps(qrt)), copy.deepcopy(qrt), copy.copy(qrt)):
        assert (again.state.log_norm, again.state.vector) == (qrt.state.log_norm, qrt.state.vector)
        for draw in (lambda qrt: qrt.sample(40, seed=3), lambda qrt: qrt.profiles(X)):
            one, other = vars(draw(qrt)), vars(draw(again))
            assert all(np.array_equal(one[name], other[name]) for name in one)
        assert np.array_equal(again.log_marginals([0, 1], X[:, :2]), qrt.log_marginals([0, 1], X[:, :2]))
