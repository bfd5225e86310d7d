"""The initialisations of ridge experts and their masses, against dense transforms and whole enumerations."""

from functools import cache

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, RidgeNodes, states
from qrt_tn.field import centred
from qrt_tn.models import one_hot
from qrt_tn.models.moe.ridgelets.initial import (
    INITIALISATIONS,
    POOL,
    class_nodes,
    classes_of,
    cluster_nodes,
    expert_nodes,
    restricted,
)
from qrt_tn.models.moe.ridgelets.mass import log_mean_mass, mean_log_mass

P, D, C = 7, 3, 3


@cache
def transform(smoothing: float | None = 1.2, activation: str = "relu") -> QuantumRidgeletTransform:
    rng = np.random.default_rng(0)
    x, labels = rng.integers(P, size=(30, D)), rng.permutation(30) % C
    state = states.from_samples(x, one_hot(labels, C), P, smoothing=smoothing, tolerance=1e-6)
    return QuantumRidgeletTransform(state, Ridgelet(activation, P))


@cache
def masses() -> np.ndarray:
    """|R[f_c](a, b)|^2 at every a, b and c."""
    return np.asarray(np.abs(transform().to_dense()) ** 2)


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_every_initialisation_gives_each_expert_its_nodes_repeatably(name: str) -> None:
    drawn = expert_nodes(name, transform(), 4, 5, smoothing=1.2, seed=3)
    again = expert_nodes(name, transform(), 4, 5, smoothing=1.2, seed=3)
    other = expert_nodes(name, transform(), 4, 5, smoothing=1.2, seed=4)
    assert [nodes.a.shape for nodes in drawn.nodes] == [(5, D)] * 4
    assert (drawn.share is not None) == (name in ("clusters", "classes"))
    for one, same in zip(drawn.nodes, again.nodes, strict=True):
        np.testing.assert_array_equal(one.a, same.a)
        np.testing.assert_array_equal(one.b, same.b)
    assert any((one.a != two.a).any() for one, two in zip(drawn.nodes, other.nodes, strict=True))


def test_uniform_nodes_are_uniform_over_all_directions() -> None:
    nodes = RidgeNodes.concatenate(expert_nodes("uniform", transform(), 20, 500, smoothing=1.2).nodes)
    assert nodes.a.any(axis=1).all()
    np.testing.assert_allclose(nodes.log_probability, -np.log((P**D - 1) * P), rtol=1e-9)
    for column in (*nodes.a.T, nodes.b):
        np.testing.assert_allclose(np.bincount(column, minlength=P) / len(nodes), 1 / P, atol=0.02)


def frequencies(nodes: RidgeNodes) -> np.ndarray:
    """How often each (a, b) occurs, shape (P,) * D + (P,)."""
    found = np.zeros((P,) * (D + 1))
    np.add.at(found, (*nodes.a.T, nodes.b), 1 / len(nodes))
    return found


def test_alike_experts_draw_from_the_transform() -> None:
    drawn = expert_nodes("alike", transform(), 2, 20_000, smoothing=1.2)
    for nodes in drawn.nodes:
        assert np.abs(frequencies(nodes) - masses().sum(axis=-1)).max() < 0.006
    assert masses().sum(axis=-1).max() > 0.012


def test_an_expert_of_a_class_draws_from_the_transform_of_that_class() -> None:
    drawn = class_nodes(transform(), C, 20_000, seed=1)
    share = masses().sum(axis=(0, 1, 2, 3))
    assert drawn.share is not None
    np.testing.assert_allclose(drawn.share, share, rtol=1e-6)
    for c, nodes in enumerate(drawn.nodes):
        assert np.abs(frequencies(nodes) - masses()[..., c] / share[c]).max() < 0.008
    assert np.abs(masses()[..., 0] / share[0] - masses()[..., 1] / share[1]).max() > 0.016


def test_classes_are_shared_out_to_any_number_of_experts() -> None:
    assert [classes_of(e, 3, 3) for e in range(3)] == [[0], [1], [2]]
    assert [classes_of(e, 2, 5) for e in range(2)] == [[0, 2, 4], [1, 3]]
    assert [classes_of(e, 4, 3) for e in range(4)] == [[0], [1], [2], [0]]
    share = class_nodes(transform(), 2, 3).share
    each = class_nodes(transform(), C, 3).share
    assert share is not None
    assert each is not None
    np.testing.assert_allclose(share, [each[0] + each[2], each[1]])
    assert share.sum() == pytest.approx(1)


def test_restricted_state_is_the_projection() -> None:
    state = transform().state
    assert isinstance(state, states.MPSState)
    u = np.random.default_rng(0).integers(P, size=(20, D))
    part = restricted(state, [2, 0])
    whole, own = state.spectrum(u).value() * state.norm, part.spectrum(u).value() * part.norm
    np.testing.assert_allclose(own, whole[:, [2, 0]], atol=1e-12 * state.norm)


def test_clusters_find_lines_whatever_their_sign_and_length() -> None:
    """A sum of ridges: all its directions lie on the lines of three orthogonal weights."""
    a = np.array([[1, 1, 0], [0, 0, 2], [1, -1, 0]]) % 31
    ridgelet = Ridgelet("cosine", 31)
    state = states.from_ridges(a, np.zeros(3, dtype=int), np.array([3.0, 2.0, 1.0]), ridgelet)
    drawn = cluster_nodes(QuantumRidgeletTransform(state, ridgelet), 3, 6, seed=0)
    assert drawn.share is not None
    assert drawn.share.sum() == pytest.approx(1)
    lines = np.array([[1, 1, 0], [0, 0, 1], [1, -1, 0]])
    found = []
    for nodes, share in zip(drawn.nodes, drawn.share, strict=True):
        whole = centred(nodes.a, 31)
        cosine = np.abs(whole @ lines.T) / np.outer(
            np.linalg.norm(whole, axis=1), np.linalg.norm(lines, axis=1)
        )
        assert len({int(line) for line in cosine.argmax(axis=1)}) == 1
        np.testing.assert_allclose(cosine.max(axis=1), 1)
        assert len({tuple(row) for row in np.sign(whole)}) == 2  # both of a and -a
        found.append((int(cosine[0].argmax()), share))
    assert sorted(line for line, _ in found) == [0, 1, 2]
    squares = np.array([9.0, 4.0, 1.0]) / 14  # each line's share of |R|^2
    deviation = np.sqrt(squares * (1 - squares) / (POOL * 18))
    assert (np.abs([share for _, share in sorted(found)] - squares) < 4 * deviation).all()


def test_clusters_too_small_are_filled_with_the_nearest_draws() -> None:
    a = np.array([[1, 0, 0], [0, 1, 0]])
    ridgelet = Ridgelet("cosine", 31)
    state = states.from_ridges(a, np.zeros(2, dtype=int), np.array([1.0, 0.05]), ridgelet)
    drawn = cluster_nodes(QuantumRidgeletTransform(state, ridgelet), 2, 20, seed=5)
    assert drawn.share is not None
    rare = int(drawn.share.argmin())
    own = round(drawn.share[rare] * POOL * 40)
    assert 0 < own < 20
    directions = [tuple(row) for row in np.abs(centred(drawn.nodes[rare].a, 31))]
    assert directions == [(0, 1, 0)] * own + [(1, 0, 0)] * (20 - own)


def test_masses_are_those_of_the_dense_transform() -> None:
    nodes = [expert_nodes("uniform", transform(), 1, count, smoothing=1.2).nodes[0] for count in (3, 8)]
    held = [masses().sum(axis=-1)[(*one.a.T, one.b)] for one in nodes]
    np.testing.assert_allclose(log_mean_mass(transform(), nodes), [np.log(m.mean()) for m in held], rtol=1e-6)
    np.testing.assert_allclose(mean_log_mass(transform(), nodes), [np.log(m).mean() for m in held], rtol=1e-6)


def test_mass_of_data_is_the_squared_correlation_of_features_with_targets() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(P, size=(12, D)), rng.normal(size=(12, 2))
    ridgelet = Ridgelet("tanh", P)
    exact = QuantumRidgeletTransform(states.from_samples(x, y, P), ridgelet)
    nodes = expert_nodes("uniform", exact, 2, 3, smoothing=1.0).nodes
    features = [ridgelet.values[(x @ one.a.T - one.b) % P].conj() for one in nodes]
    # a point that occurs twice adds up
    points = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    sums = np.zeros((12, 2))
    np.add.at(sums, points, y)
    expected = [
        np.log((np.abs(phi.T @ y) ** 2).sum(axis=1).mean() / P**D / (sums**2).sum()) for phi in features
    ]
    np.testing.assert_allclose(log_mean_mass(exact, nodes), expected, rtol=1e-6)


def test_no_mass_is_minus_infinity() -> None:
    a, ridgelet = np.array([[1, 0, 0]]), Ridgelet("cosine", 31)
    state = states.from_ridges(a, np.zeros(1, dtype=int), np.ones(1), ridgelet)
    qrt = QuantumRidgeletTransform(state, ridgelet)
    own = qrt.sample(4)
    off = RidgeNodes(np.full((4, 3), 2), np.zeros(4, dtype=int), np.zeros(4), 31)
    mixed = RidgeNodes.concatenate([own[:3], off[:1]])
    np.testing.assert_array_equal(np.isneginf(log_mean_mass(qrt, [own, off, mixed])), [False, True, False])
    np.testing.assert_array_equal(np.isneginf(mean_log_mass(qrt, [own, off, mixed])), [False, True, True])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="unknown initialisation 'gauss'"):
        expert_nodes("gauss", transform(), 2, 2, smoothing=1.0)
    with pytest.raises(ValueError, match="experts is 0"):
        expert_nodes("alike", transform(), 0, 2, smoothing=1.0)
    with pytest.raises(ValueError, match=r"nodes is 2\.5"):
        expert_nodes("alike", transform(), 2, 2.5, smoothing=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no classes to part"):
        class_nodes(transform(smoothing=None), C, 2)
    a, ridgelet = np.array([[1, 0, 0]]), Ridgelet("cosine", 31)
    line = QuantumRidgeletTransform(states.from_ridges(a, np.zeros(1, int), np.ones(1), ridgelet), ridgelet)
    with pytest.raises(ValueError, match="1 directions, fewer than 2 experts"):
        cluster_nodes(line, 2, 3)
    with pytest.raises(ValueError, match=r"Z_7.*Z_31"):
        log_mean_mass(line, expert_nodes("alike", transform(), 1, 2, smoothing=1.0).nodes)
