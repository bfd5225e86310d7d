"""Leverage scores, pruned networks and overlaps, against brute force."""

import jax
import numpy as np
import pytest
from flax import nnx

from qrt_tn import Ridgelet, RidgeNodes, filter_nodes, uniform_nodes
from qrt_tn.models import DenseNetwork
from qrt_tn.models.lottery.masks import apply_masks, full_masks
from qrt_tn.models.tickets import (
    SparseNetwork,
    direction_overlap,
    leverage_scores,
    nodes_by_scores,
    strongest_nodes,
    subspace_overlap,
)


@pytest.mark.parametrize(("points", "pool"), [(9, 40), (30, 12), (7, 1)])
def test_leverage_scores_are_the_quadratic_form(points, pool):
    phi = np.random.default_rng(points).normal(size=(points, pool))
    ridge = 0.03
    inverse = np.linalg.inv(phi @ phi.T / pool + points * ridge * np.eye(points))
    scores = leverage_scores(phi, ridge)
    np.testing.assert_allclose(scores, [column @ inverse @ column for column in phi.T], rtol=1e-9)
    # the mean is the effective dimension, from the eigenvalues
    eigenvalues = np.linalg.eigvalsh(phi @ phi.T / pool)
    np.testing.assert_allclose(scores.mean(), (eigenvalues / (eigenvalues + points * ridge)).sum(), rtol=1e-9)


def places(nodes, pool):
    """Which node of the pool each is, for a pool without repeats."""
    same = (nodes.a[:, None] == pool.a).all(axis=2) & (nodes.b[:, None] == pool.b)
    assert (same.sum(axis=1) == 1).all()
    return same.argmax(axis=1)


def test_nodes_are_drawn_in_proportion_to_their_scores():
    """And their log-probability is that of the prior times the share, over the pool's mean."""
    pool = filter_nodes(6, 4, Ridgelet("cosine", 7), 0.8, 2)
    scores = np.array([1.0, 2.0, 0.0, 4.0, 0.5, 2.5])
    drawn = nodes_by_scores(pool, 17 * scores, 20_000, 3)
    place = places(drawn, pool)
    counts, expected = np.bincount(place, minlength=6), 2000 * scores
    assert counts[2] == 0
    kept = expected > 0
    # 4 degrees of freedom: beyond with probability 5e-4
    assert (np.square(counts - expected)[kept] / expected[kept]).sum() < 20
    wanted = pool.log_probability[place] + np.log(6 * scores[place] / 10)
    np.testing.assert_allclose(drawn.log_probability, wanted, atol=1e-12)
    again = nodes_by_scores(pool, scores, 100, np.random.default_rng(3))
    np.testing.assert_array_equal(again.a, drawn.a[:100])


def test_importance_weights_of_drawn_nodes_sum_over_the_whole_field():
    # with scores that depend on the pool, as leverage scores do: here on how often it repeats a node
    values = np.random.default_rng(1).normal(size=(3, 3))  # h(a, b)
    estimates = []
    for seed in range(1000):
        pool = uniform_nodes(6, 1, 3, seed)
        codes = 3 * pool.a[:, 0] + pool.b
        scores = (codes + 1.0) * (codes[:, None] == codes).sum(axis=1)
        drawn = nodes_by_scores(pool, scores, 2, seed)
        estimates.append((values[drawn.a[:, 0], drawn.b] / np.exp(drawn.log_probability)).mean())
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert error < 0.4
    assert abs(np.mean(estimates) - values.sum()) < 4 * error


def test_strongest_nodes_have_the_largest_norms():
    kernel = np.random.default_rng(8).normal(size=(50, 3))
    kept = strongest_nodes(kernel, 20)
    norms = [sum(float(w) ** 2 for w in row) for row in kernel]
    assert kept.tolist() == sorted(sorted(range(50), key=lambda k: -norms[k])[:20])
    assert strongest_nodes(np.ones((5, 2)), 2).tolist() == [3, 4]


@pytest.fixture(scope="module")
def sparse():
    """Parameters, masks and their network; node 2 takes nothing in, node 5 gives nothing out."""
    dense = DenseNetwork(5, 8, 3, rngs=nnx.Rngs(0))
    params = {k: np.asarray(v) for k, v in nnx.to_pure_dict(nnx.state(dense, nnx.Param)).items()}
    params["hidden_bias"] = np.linspace(-1, 1, 8).astype(np.float32)
    rng = np.random.default_rng(0)
    masks = {k: None if m is None else rng.random(m.shape) < 0.4 for k, m in full_masks(params).items()}
    masks["hidden_kernel"][:, 2], masks["hidden_kernel"][0, 5] = False, True
    masks["kernel"][5], masks["kernel"][2, 0] = False, True
    return params, masks, SparseNetwork(params, masks)


def test_gradients_of_a_sparse_network_are_those_of_the_weights_kept_alone(sparse):
    """So pruned weights, which start at 0, stay at exactly 0 without weight decay."""
    params, masks, network = sparse
    x = np.random.default_rng(4).normal(size=(10, 5)).astype(np.float32)
    graph, state, rest = nnx.split(network, nnx.Param, ...)

    def plain(values):
        hidden = jax.nn.relu(x @ values["hidden_kernel"] + values["hidden_bias"])
        return ((hidden @ values["kernel"] + values["bias"]) ** 2).sum()

    @jax.jit
    def both(values, kept):
        own = jax.grad(lambda values: (nnx.merge(graph, values, rest)(x) ** 2).sum())
        return own(values), jax.grad(plain)(kept)

    start, kept = nnx.to_pure_dict(state), apply_masks(masks, params)
    found, wanted = both(start, kept)
    for name, gradient in apply_masks(masks, wanted).items():
        np.testing.assert_array_equal(start[name], kept[name])
        np.testing.assert_allclose(found[name], gradient, rtol=2e-4, atol=1e-5)
        if masks[name] is not None:
            assert not np.asarray(found[name])[~masks[name]].any()
            assert np.asarray(found[name])[masks[name]].any()


def test_live_nodes_have_weights_on_both_sides(sparse):
    _, masks, network = sparse
    wanted = [masks["hidden_kernel"][:, k].any() and masks["kernel"][k].any() for k in range(8)]
    np.testing.assert_array_equal(network.live_nodes(), wanted)
    assert not wanted[2]
    assert not wanted[5]
    sizes = masks["hidden_kernel"].sum(axis=0) + masks["kernel"].sum(axis=1)
    assert network.weight_count() == sizes[wanted].sum()
    assert network.parameter_count() == sizes[wanted].sum() + sum(wanted) + 3
    with pytest.raises(ValueError, match="shape"):
        SparseNetwork(sparse[0], masks | {"kernel": masks["kernel"][:4]})


@pytest.mark.parametrize("seed", range(2))
def test_overlaps_are_those_of_cosines_and_principal_angles(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(9, 6)), rng.normal(size=(12, 6)) * 10
    cosines = [[abs(p @ q) / np.sqrt((p @ p) * (q @ q)) for q in b] for p in a]
    assert direction_overlap(a, b) == pytest.approx(np.mean(np.max(cosines, axis=1)), rel=1e-12)
    # leading right singular vectors are leading eigenvectors of the Gram matrix
    rank = 2 * seed + 1
    bases = [np.linalg.eigh(matrix.T @ matrix)[1][:, ::-1][:, :rank] for matrix in (a, b)]
    wanted = np.trace(bases[0] @ bases[0].T @ bases[1] @ bases[1].T) / rank
    # neither the order nor the basis of the rows counts
    turn, _ = np.linalg.qr(rng.normal(size=(9, 9)))
    for one, other in ((a, b), (turn @ a, b[::-1])):
        assert subspace_overlap(one, other, rank) == pytest.approx(wanted, rel=1e-9)
    # squares of entries that float64 does not hold
    assert direction_overlap(a, -1e200 * a) == direction_overlap(1e-200 * a, a) == pytest.approx(1)


BASIS, POOL = np.eye(4), uniform_nodes(3, 2, 11, 0)
CONCENTRATED = RidgeNodes(np.ones((2, 1), dtype=int), np.array([0, 1]), np.log([0.9, 0.1]), 5)
REFUSED = [
    *((lambda r=r: leverage_scores(BASIS, r), f"ridge is {r}") for r in (0.0, -1.0, np.nan, np.inf, True)),
    (lambda: leverage_scores(np.ones(3), 1.0), r"features has shape \(3,\)"),
    (lambda: leverage_scores(np.ones((0, 2)), 1.0), r"features has shape \(0, 2\)"),
    (lambda: leverage_scores([[1.0, np.nan]], 1.0), "features holds nan"),
    (lambda: leverage_scores([["a"]], 1.0), "features has shape"),
    (lambda: nodes_by_scores(POOL, np.ones(2), 2), r"scores have shape \(2,\)"),
    (lambda: nodes_by_scores(POOL, [1, -1, 1], 2), "scores hold -1"),
    (lambda: nodes_by_scores(POOL, [1, np.nan, 1], 2), "scores hold nan"),
    (lambda: nodes_by_scores(POOL, np.zeros(3), 2), "every score is 0"),
    (lambda: nodes_by_scores(POOL, np.ones(3), 0), "n is 0"),
    (lambda: nodes_by_scores(CONCENTRATED, [1.0, 0.0], 1), "log_probability"),
    *((lambda n=n: strongest_nodes(BASIS, n), f"count is {n}") for n in (0, 5, True, 1.5)),
    (lambda: direction_overlap(BASIS, [[1.0, 0, 0, 0], [0, 0, 0, 0]]), "row 1 of b is zero"),
    (lambda: direction_overlap(BASIS, np.eye(3)), "length 4, b of 3"),
    (lambda: subspace_overlap(BASIS, np.concatenate([BASIS[:2], BASIS[:2]]), 3), "b has rank 2"),
    (lambda: subspace_overlap(BASIS, BASIS, 0), "rank is 0"),
    (lambda: SparseNetwork({"kernel": BASIS}, {"kernel": BASIS > 0}), "DenseNetwork"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
