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
    cluster_nodes,
    expert_nodes,
)
from qrt_tn.models.moe.ridgelets.mass import log_mean_mass, mean_log_mass

P, D, C = 5, 2, 3
DRAWS = 3000
BOUND = 5 * np.sqrt(0.25 / DRAWS)  # five deviations of a frequency, at most


@cache
def transform(smoothing: float | None = 1.2) -> QuantumRidgeletTransform:
    rng = np.random.default_rng(0)
    x, labels = rng.integers(P, size=(12, D)), rng.permutation(12) % C
    state = states.from_samples(x, one_hot(labels, C), P, smoothing=smoothing, tolerance=1e-6)
    return QuantumRidgeletTransform(state, Ridgelet("relu", P))


@cache
def masses() -> np.ndarray:
    """|R[f_c](a, b)|^2 at every a, b and c."""
    return np.asarray(np.abs(transform().to_dense()) ** 2)


def ridges(a: list[list[int]], coefficients: list[float]) -> QuantumRidgeletTransform:
    """The transform of a sum of cosine ridges on Z_31^3."""
    ridgelet = Ridgelet("cosine", 31)
    weights, b = np.array(a) % 31, np.zeros(len(a), dtype=int)
    return QuantumRidgeletTransform(
        states.from_ridges(weights, b, np.array(coefficients), ridgelet), ridgelet
    )


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_every_initialisation_gives_each_expert_its_nodes_repeatably(name: str) -> None:
    drawn, again, other = (expert_nodes(name, transform(), 4, 5, smoothing=1.2, seed=s) for s in (3, 3, 4))
    assert [nodes.a.shape for nodes in drawn.nodes] == [(5, D)] * 4
    assert (drawn.share is not None) == (name in ("clusters", "classes"))
    for one, same in zip(drawn.nodes, again.nodes, strict=True):
        np.testing.assert_array_equal(np.column_stack([one.a, one.b]), np.column_stack([same.a, same.b]))
    assert any((one.a != two.a).any() for one, two in zip(drawn.nodes, other.nodes, strict=True))


def frequencies(nodes: RidgeNodes) -> np.ndarray:
    """How often each (a, b) occurs, shape (P,) * D + (P,)."""
    found = np.zeros((P,) * (D + 1))
    np.add.at(found, (*nodes.a.T, nodes.b), 1 / len(nodes))
    return found


def test_experts_draw_uniformly_or_from_the_transform_whole_or_of_their_class() -> None:
    uniform = RidgeNodes.concatenate(expert_nodes("uniform", transform(), 2, DRAWS, smoothing=1.2).nodes)
    np.testing.assert_allclose(uniform.log_probability, -np.log((P**D - 1) * P), rtol=1e-9)
    whole, share = masses().sum(axis=-1), masses().sum(axis=(0, 1, 2))
    for nodes in expert_nodes("transform", transform(), 2, DRAWS, smoothing=1.2).nodes:
        assert np.abs(frequencies(nodes) - whole).max() < BOUND
    drawn = class_nodes(transform(), C, DRAWS, seed=1)
    assert drawn.share is not None
    np.testing.assert_allclose(drawn.share, share, rtol=1e-6)
    laws = np.moveaxis(masses() / share, -1, 0)
    for law, nodes in zip(laws, drawn.nodes, strict=True):
        assert np.abs(frequencies(nodes) - law).max() < BOUND
    # a law of another class, or of all, would be seen
    for one, other in ((laws[0], laws[1]), (laws[0], laws[2]), (laws[1], laws[2]), (laws[0], whole)):
        assert np.abs(one - other).max() > BOUND


def test_classes_are_shared_out_to_any_number_of_experts() -> None:
    two, three, four = (class_nodes(transform(), experts, 3).share for experts in (2, C, 4))
    np.testing.assert_allclose(two, [three[0] + three[2], three[1]])  # type: ignore[index]
    np.testing.assert_allclose(four, [*three, three[0]])  # type: ignore[misc, index]


def test_clusters_find_lines_whatever_their_sign_and_length() -> None:
    """A sum of ridges: all its directions lie on the lines of three orthogonal weights."""
    drawn = cluster_nodes(ridges([[1, 1, 0], [0, 0, 2], [1, -1, 0]], [3.0, 2.0, 1.0]), 3, 6, seed=0)
    assert drawn.share is not None
    assert drawn.share.sum() == pytest.approx(1)
    lines = np.array([[1, 1, 0], [0, 0, 1], [1, -1, 0]])
    found = []
    for nodes, share in zip(drawn.nodes, drawn.share, strict=True):
        whole = centred(nodes.a, 31)
        lengths = np.outer(np.linalg.norm(whole, axis=1), np.linalg.norm(lines, axis=1))
        cosine = np.abs(whole @ lines.T) / lengths
        assert len({int(line) for line in cosine.argmax(axis=1)}) == 1
        np.testing.assert_allclose(cosine.max(axis=1), 1)
        assert len({tuple(row) for row in np.sign(whole)}) == 2  # both of a and -a
        found.append((int(cosine[0].argmax()), share))
    assert sorted(line for line, _ in found) == [0, 1, 2]
    squares = np.array([9.0, 4.0, 1.0]) / 14  # each line's share of |R|^2
    deviation = np.sqrt(squares * (1 - squares) / (POOL * 18))
    assert (np.abs([share for _, share in sorted(found)] - squares) < 4 * deviation).all()


def test_clusters_too_small_are_filled_with_the_nearest_draws() -> None:
    drawn = cluster_nodes(ridges([[1, 0, 0], [0, 1, 0]], [1.0, 0.05]), 2, 20, seed=5)
    assert drawn.share is not None
    rare = int(drawn.share.argmin())
    own = round(drawn.share[rare] * POOL * 40)
    assert 0 < own < 20
    directions = [tuple(row) for row in np.abs(centred(drawn.nodes[rare].a, 31))]
    assert directions == [(0, 1, 0)] * own + [(1, 0, 0)] * (20 - own)


def test_masses_are_those_of_the_dense_transform() -> None:
    nodes = [expert_nodes("uniform", transform(), 1, count, smoothing=1.2).nodes[0] for count in (3, 8)]
    dense = [masses().sum(axis=-1)[(*one.a.T, one.b)] for one in nodes]
    np.testing.assert_allclose(
        log_mean_mass(transform(), nodes), [np.log(m.mean()) for m in dense], rtol=1e-6
    )
    np.testing.assert_allclose(
        mean_log_mass(transform(), nodes), [np.log(m).mean() for m in dense], rtol=1e-6
    )


def test_mass_of_data_is_the_squared_correlation_of_features_with_targets() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(P, size=(12, D)), rng.normal(size=(12, 2))
    ridgelet = Ridgelet("tanh", P)
    exact = QuantumRidgeletTransform(states.from_samples(x, y, P), ridgelet)
    nodes = expert_nodes("uniform", exact, 2, 3, smoothing=1.0).nodes
    features = [ridgelet.values[(x @ one.a.T - one.b) % P].conj() for one in nodes]
    # a point that occurs twice adds up
    sums = np.zeros((P, P, 2))
    np.add.at(sums, tuple(x.T), y)
    scale = P**D * (sums**2).sum()
    expected = [np.log((np.abs(phi.T @ y) ** 2).sum(axis=1).mean() / scale) for phi in features]
    np.testing.assert_allclose(log_mean_mass(exact, nodes), expected, rtol=1e-6)


def test_no_mass_is_minus_infinity() -> None:
    qrt = ridges([[1, 0, 0]], [1.0])
    own = qrt.sample(4)
    off = RidgeNodes(np.full((4, 3), 2), np.zeros(4, dtype=int), np.zeros(4), 31)
    mixed = RidgeNodes.concatenate([own[:3], off[:1]])
    np.testing.assert_array_equal(np.isneginf(log_mean_mass(qrt, [own, off, mixed])), [False, True, False])
    np.testing.assert_array_equal(np.isneginf(mean_log_mass(qrt, [own, off, mixed])), [False, True, True])


def test_bad_input() -> None:
    line, few = ridges([[1, 0, 0]], [1.0]), expert_nodes("transform", transform(), 1, 2, smoothing=1.0).nodes
    for call, message in (
        (lambda: expert_nodes("gauss", line, 2, 2, smoothing=1.0), "unknown initialisation 'gauss'"),
        (lambda: expert_nodes("transform", line, 0, 2, smoothing=1.0), "experts is 0"),
        (lambda: expert_nodes("transform", line, 2, 2.5, smoothing=1.0), r"nodes is 2\.5"),  # type: ignore[arg-type]
        (lambda: class_nodes(transform(smoothing=None), C, 2), "no classes to part"),
        (lambda: cluster_nodes(line, 2, 3), "1 directions, fewer than 2 experts"),
        (lambda: log_mean_mass(line, few), r"Z_5.*Z_31"),
    ):
        with pytest.raises(ValueError, match=message):
            call()  # type: ignore[no-untyped-call]
