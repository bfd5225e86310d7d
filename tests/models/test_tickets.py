"""Leverage scores, pruned networks and overlaps, against brute force."""

import jax
import numpy as np
import pytest
from flax import nnx

from qrt_tn import Ridgelet, RidgeNodes, filter_nodes, uniform_nodes
from qrt_tn.models import DenseNetwork, train
from qrt_tn.models.lottery.masks import apply_masks, full_masks
from qrt_tn.models.tickets import (
    SparseNetwork,
    direction_overlap,
    leverage_nodes,
    leverage_scores,
    nodes_by_scores,
    strongest_nodes,
    subspace_overlap,
)


@pytest.mark.parametrize(("points", "pool"), [(9, 40), (30, 12), (7, 1)])
def test_leverage_scores_are_the_quadratic_form(points: int, pool: int) -> None:
    phi = np.random.default_rng(points).normal(size=(points, pool))
    ridge = 0.03
    inverse = np.linalg.inv(phi @ phi.T / pool + points * ridge * np.eye(points))
    wanted = [phi[:, k] @ inverse @ phi[:, k] for k in range(pool)]
    scores = leverage_scores(phi, ridge)
    np.testing.assert_allclose(scores, wanted, rtol=1e-9)
    # the mean is the effective dimension, from the eigenvalues
    eigenvalues = np.linalg.eigvalsh(phi @ phi.T / pool)
    np.testing.assert_allclose(scores.mean(), (eigenvalues / (eigenvalues + points * ridge)).sum(), rtol=1e-9)


def test_leverage_scores_are_the_diagonal_of_the_hat_matrix_of_features() -> None:
    # the primal form of the same: Phi^T (K + M r)^{-1} Phi / pool is the smoother of the pool's weights
    phi = np.random.default_rng(0).normal(size=(20, 6))
    gram = phi.T @ phi / 6
    hat = gram @ np.linalg.inv(gram + 20 * 0.1 * np.eye(6))
    np.testing.assert_allclose(leverage_scores(phi, 0.1), 6 * np.diag(hat), rtol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, -1.0, np.nan, np.inf, True])
def test_leverage_scores_refuse_a_penalty_that_is_not_above_0(ridge: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        leverage_scores(np.ones((3, 2)), ridge)


@pytest.mark.parametrize("features", [np.ones(3), np.ones((0, 2)), [[1.0, np.nan]], [["a"]]])
def test_leverage_scores_refuse_what_is_no_matrix(features: object) -> None:
    with pytest.raises(ValueError, match="features"):
        leverage_scores(features, 1.0)


def test_nodes_are_drawn_in_proportion_to_their_scores() -> None:
    pool = uniform_nodes(6, 2, 11, 0)
    scores = np.array([1.0, 2.0, 0.0, 4.0, 0.5, 2.5])
    drawn = nodes_by_scores(pool, scores, 20_000, 3)
    counts = np.array(
        [((drawn.a == a).all(axis=1) & (drawn.b == b)).sum() for a, b in zip(pool.a, pool.b, strict=True)]
    )
    expected = 20_000 * scores / scores.sum()
    assert counts[2] == 0
    kept = expected > 0
    chi2 = (np.square(counts - expected)[kept] / expected[kept]).sum()
    assert chi2 < 20  # 4 degrees of freedom: beyond with probability 5e-4


def test_the_log_probability_is_of_the_prior_times_the_share() -> None:
    pool = filter_nodes(30, 4, Ridgelet("cosine", 7), 0.8, 2)
    shares = np.random.default_rng(1).random(30) + 0.1
    drawn = nodes_by_scores(pool, 17 * shares, 300, 4)
    shares /= shares.sum()
    for a, b, log_p in zip(drawn.a, drawn.b, drawn.log_probability, strict=True):
        same = (pool.a == a).all(axis=1) & (pool.b == b)
        wanted = pool.log_probability[same] + np.log(30 * shares[same])
        assert np.isclose(wanted, log_p, rtol=0, atol=1e-12).any()


def test_importance_weights_of_drawn_nodes_sum_over_the_whole_field() -> None:
    # with scores that depend on the pool, as leverage scores do: here on how often it repeats a node
    values = np.random.default_rng(1).normal(size=(3, 3))  # h(a, b)
    estimates = []
    for seed in range(2000):
        pool = uniform_nodes(6, 1, 3, seed)
        codes = 3 * pool.a[:, 0] + pool.b
        scores = (codes + 1.0) * (codes[:, None] == codes).sum(axis=1)
        drawn = nodes_by_scores(pool, scores, 2, seed)
        estimates.append((values[drawn.a[:, 0], drawn.b] / np.exp(drawn.log_probability)).mean())
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert error < 0.3
    assert abs(np.mean(estimates) - values.sum()) < 4 * error


def test_leverage_nodes_draw_by_the_scores_of_their_features() -> None:
    pool = uniform_nodes(40, 3, 13, 5)
    phi = np.random.default_rng(6).normal(size=(10, 40))
    phi[:, 7] *= 100  # what the other features cannot make up for
    nodes = leverage_nodes(pool, phi, 200, 0.5, 7)
    again = nodes_by_scores(pool, leverage_scores(phi, 0.5), 200, np.random.default_rng(7))
    np.testing.assert_array_equal(nodes.a, again.a)
    np.testing.assert_array_equal(nodes.log_probability, again.log_probability)
    share = ((nodes.a == pool.a[7]).all(axis=1) & (nodes.b == pool.b[7])).mean()
    wanted = leverage_scores(phi, 0.5)
    assert abs(share - wanted[7] / wanted.sum()) < 0.1


def test_nodes_by_scores_refuses_scores_it_cannot_draw_from() -> None:
    pool = uniform_nodes(3, 2, 11, 0)
    for scores, match in (
        (np.ones(2), "shape"),
        ([1, -1, 1], "-1"),
        ([1, np.nan, 1], "nan"),
        (np.zeros(3), "every score is 0"),
    ):
        with pytest.raises(ValueError, match=match):
            nodes_by_scores(pool, scores, 2)
    with pytest.raises(ValueError, match="n is 0"):
        nodes_by_scores(pool, np.ones(3), 0)
    with pytest.raises(ValueError, match="pool has 3"):
        leverage_nodes(pool, np.ones((4, 2)), 2, 0.1)


def test_strongest_nodes_have_the_largest_norms() -> None:
    rng = np.random.default_rng(8)
    kernel = rng.normal(size=(50, 3))
    kept = strongest_nodes(kernel, 20)
    norms = [sum(float(w) ** 2 for w in row) for row in kernel]
    assert set(kept) == set(sorted(range(50), key=lambda k: -norms[k])[:20])
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(strongest_nodes(np.ones((5, 2)), 2), [3, 4])
    for count in (0, 51, True, 1.5):
        with pytest.raises(ValueError, match="count"):
            strongest_nodes(kernel, count)


def sparse_case(seed: int = 0) -> tuple[dict, dict, SparseNetwork]:
    dense = DenseNetwork(5, 8, 3, rngs=nnx.Rngs(seed))
    params = {k: np.asarray(v) for k, v in nnx.to_pure_dict(nnx.state(dense, nnx.Param)).items()}
    params["hidden_bias"] = np.linspace(-1, 1, 8).astype(np.float32)
    rng = np.random.default_rng(seed)
    masks = full_masks(params)
    masks = {k: None if m is None else rng.random(m.shape) < 0.4 for k, m in masks.items()}
    masks["hidden_kernel"][:, 2] = False  # takes nothing in
    masks["hidden_kernel"][0, 5] = True
    masks["kernel"][5] = False  # gives nothing out
    masks["kernel"][2, 0] = True
    return params, masks, SparseNetwork(params, masks)


def test_a_sparse_network_computes_with_the_weights_kept() -> None:
    params, masks, network = sparse_case()
    x = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    kept = {k: np.asarray(v) for k, v in apply_masks(masks, params).items()}
    hidden = np.maximum(x @ kept["hidden_kernel"] + kept["hidden_bias"], 0)
    wanted = hidden @ kept["kernel"] + kept["bias"]
    np.testing.assert_allclose(network.predict(x), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network(x), wanted, rtol=1e-5, atol=1e-6)


def test_training_keeps_pruned_weights_at_exactly_0_and_moves_the_others() -> None:
    params, masks, network = sparse_case()
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 5)), rng.integers(3, size=60)
    x_validation = np.concatenate([x, x])
    # a validation set equal to the training points: the best epoch is a trained one
    history = train(
        network, x, y, x_validation=x_validation, y_validation=np.tile(y, 2), epochs=12, batch_size=20
    )
    assert history.best_epoch > 0
    for name in ("hidden_kernel", "kernel"):
        trained = np.asarray(getattr(network, name)[...])
        assert (trained[~masks[name]] == 0).all()
    live = network.live_nodes()
    into = masks["hidden_kernel"] & live
    assert (np.asarray(network.hidden_kernel[...])[into] != params["hidden_kernel"][into]).mean() > 0.8


def test_its_gradients_are_those_of_the_weights_kept_alone() -> None:
    params, masks, network = sparse_case(3)
    x = np.random.default_rng(4).normal(size=(10, 5)).astype(np.float32)
    graph, state, rest = nnx.split(network, nnx.Param, ...)

    def of(values: dict) -> jax.Array:
        return (nnx.merge(graph, values, rest)(x) ** 2).sum()

    gradient = jax.grad(of)(nnx.to_pure_dict(state))

    def plain(values: dict) -> jax.Array:
        hidden = jax.nn.relu(x @ values["hidden_kernel"] + values["hidden_bias"])
        return ((hidden @ values["kernel"] + values["bias"]) ** 2).sum()

    wanted = apply_masks(masks, jax.grad(plain)(apply_masks(masks, params)))
    for name in params:
        np.testing.assert_allclose(gradient[name], wanted[name], rtol=2e-4, atol=1e-5)


def test_live_nodes_have_weights_on_both_sides() -> None:
    _, masks, network = sparse_case()
    wanted = [masks["hidden_kernel"][:, k].any() and masks["kernel"][k].any() for k in range(8)]
    np.testing.assert_array_equal(network.live_nodes(), wanted)
    assert not wanted[2]
    assert not wanted[5]
    weights = sum(
        int(masks["hidden_kernel"][:, k].sum() + masks["kernel"][k].sum()) for k in range(8) if wanted[k]
    )
    assert network.weight_count() == weights
    assert network.parameter_count() == weights + sum(wanted) + 3


def test_a_sparse_network_comes_back_from_its_file(tmp_path) -> None:
    _, masks, network = sparse_case()
    network.save(tmp_path / "sparse.safetensors")
    back = SparseNetwork.load(tmp_path / "sparse.safetensors")
    x = np.random.default_rng(5).normal(size=(4, 5))
    np.testing.assert_array_equal(back.predict(x), network.predict(x))
    np.testing.assert_array_equal(np.asarray(back.hidden_mask[...]) > 0, masks["hidden_kernel"])


def test_a_sparse_network_refuses_other_parameters_and_masks() -> None:
    params, masks, _ = sparse_case()
    with pytest.raises(ValueError, match="DenseNetwork"):
        SparseNetwork({"kernel": params["kernel"]}, {"kernel": masks["kernel"]})
    with pytest.raises(ValueError, match="shape"):
        SparseNetwork(params, masks | {"kernel": masks["kernel"][:4]})


@pytest.mark.parametrize("seed", range(3))
def test_direction_overlap_is_the_mean_of_the_largest_cosines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(7, 4)), rng.normal(size=(5, 4)) * 10
    wanted = np.mean(
        [max(abs(p @ q) / (np.sqrt(p @ p) * np.sqrt(q @ q)) for q in b) for p in a],
    )
    np.testing.assert_allclose(direction_overlap(a, b), wanted, rtol=1e-12)


def test_direction_overlap_knows_parallel_and_orthogonal_directions() -> None:
    basis = np.eye(4)
    assert direction_overlap(basis[:2], -1e-200 * basis) == 1.0
    assert direction_overlap(basis[:2], basis[2:]) == 0.0
    assert direction_overlap(np.array([[1, 1, 0, 0], [0, 0, 3, 0]]), basis) == pytest.approx(
        (0.5**0.5 + 1) / 2
    )
    with pytest.raises(ValueError, match="row 1 of b is zero"):
        direction_overlap(basis, [[1.0, 0, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match="length 4, b of 3"):
        direction_overlap(basis, np.eye(3))


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_subspace_overlap_is_that_of_the_principal_angles(rank: int) -> None:
    rng = np.random.default_rng(rank)
    a, b = rng.normal(size=(9, 6)), rng.normal(size=(12, 6))
    bases = []
    for matrix in (a, b):
        # leading right singular vectors are leading eigenvectors of the Gram matrix
        _, vectors = np.linalg.eigh(matrix.T @ matrix)
        bases.append(vectors[:, ::-1][:, :rank])
    wanted = np.trace(bases[0] @ bases[0].T @ bases[1] @ bases[1].T) / rank
    np.testing.assert_allclose(subspace_overlap(a, b, rank), wanted, rtol=1e-9)
    # neither the order nor the basis of the rows counts
    turn, _ = np.linalg.qr(rng.normal(size=(9, 9)))
    np.testing.assert_allclose(subspace_overlap(turn @ a, b[::-1], rank), wanted, rtol=1e-9)


def test_subspace_overlap_knows_equal_and_orthogonal_subspaces() -> None:
    basis = np.eye(5)
    assert subspace_overlap(basis[:2], 3 * basis[[1, 0]], 2) == pytest.approx(1)
    assert subspace_overlap(basis[:2], basis[2:], 2) == pytest.approx(0)
    assert subspace_overlap(basis[:2], basis[1:3], 2) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="b has rank 2"):
        subspace_overlap(basis, np.concatenate([basis[:2], basis[:2]]), 3)
    with pytest.raises(ValueError, match="rank is 0"):
        subspace_overlap(basis, basis, 0)


def test_a_pool_too_concentrated_to_reweight_is_refused() -> None:
    pool = RidgeNodes(np.ones((2, 1), dtype=int), np.array([0, 1]), np.log([0.9, 0.1]), 5)
    with pytest.raises(ValueError, match="log_probability"):
        nodes_by_scores(pool, [1.0, 0.0], 1)
