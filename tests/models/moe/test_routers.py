import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from qrt_tn.models.moe.config import RouterConfig
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.routers import (
    Router,
    capacity,
    choose_experts,
    choose_tokens,
    gshard_loss,
    importance_loss,
    load_loss,
)
from tests.models.moe import brute_force


def pairs(chosen, tokens, columns):
    """Weight of each pair that has a slot, and the slots taken."""
    token, column, gate, slot, valid = (np.asarray(part) for part in chosen)
    found = np.zeros((tokens, columns))
    found[token[valid], column[valid]] = gate[valid]
    places = list(zip(column[valid], slot[valid], strict=True))
    assert len(set(places)) == len(places), "two tokens share a slot"
    return found


def test_token_choice_by_hand():
    gates = jnp.asarray([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1]])
    # two slots a column: column 0 goes to tokens 0 and 1, token 2 finds none there;
    # of the second choices column 1 has one slot left beside token 3's, for token 0
    expected = [[0.6, 0.3, 0], [0.7, 0, 0], [0, 0, 0.4], [0, 0.7, 0]]
    expected[3][0] = 0
    found = pairs(choose_experts(gates, 2, 2), 4, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_batch_priority_by_hand():
    gates = jnp.asarray([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.8, 0.05, 0.15], [0.2, 0.7, 0.1]])
    # one slot: token 2 takes column 0 with the largest gate, token 3 column 1; the second choices of
    # tokens 0 and 1 (column 1) come too late, token 2's (column 2) does not, token 3's (column 0) does
    expected = np.zeros((4, 3))
    expected[2, 0], expected[3, 1], expected[2, 2] = 0.8, 0.7, 0.15
    found = pairs(choose_experts(gates, 2, 1, batch_priority=True), 4, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_expert_choice_by_hand():
    gates = jnp.asarray([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1]])
    expected = [[0.6, 0.3, 0], [0.7, 0, 0], [0, 0, 0.4], [0, 0.7, 0]]
    expected[0][2] = 0.1  # of three equal gates the first token's
    found = pairs(choose_tokens(gates, 2, ExpertMap.whole(3)), 4, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["token-choice", "expert-choice"])
@pytest.mark.parametrize(
    ("factor", "batch_priority", "expert_map"),
    [
        (0.5, False, ExpertMap.whole(6)),
        (0.5, True, ExpertMap(tuple(range(6)), tuple(range(6)), 6, True)),
        (1.05, True, ExpertMap((0, 1, 2, -1, -1, -1), (0, 2, 5), 6)),
        (1.05, False, ExpertMap((0, 1, 2), (0, 2, 5), 6, True)),
        (1.5, True, ExpertMap((0, 1, 0, 2, 2, 1), (0, 1, 3), 6)),
        (10.0, False, ExpertMap.whole(6)),
    ],
)
def test_a_router_does_what_loops_do(kind, batch_priority, factor, expert_map):
    config = RouterConfig(kind, 2, capacity_factor=factor, multiple_of=1, batch_priority=batch_priority)
    router = Router(5, config, expert_map, rngs=nnx.Rngs(0))
    x = np.random.default_rng(1).normal(size=(3, 16, 5)).astype(np.float32)
    routing, _ = nnx.jit(lambda router, x: router(x))(router, jnp.asarray(x))
    for group in range(3):
        chosen = (routing.token, routing.column, routing.gate, routing.slot, routing.valid)
        found = pairs((part[group] for part in chosen), 16, expert_map.columns)
        logits = x[group] @ np.asarray(router.kernel[...])
        np.testing.assert_allclose(
            found, brute_force.weights(logits, config, expert_map), rtol=2e-5, atol=1e-7
        )


@pytest.mark.parametrize(
    ("tokens", "config", "experts", "slots"),
    [
        (16, RouterConfig(selected=2, capacity_factor=1.5, multiple_of=1), 8, 6),
        (16, RouterConfig(selected=2, capacity_factor=1.5), 8, 8),
        (400, RouterConfig(selected=2, capacity_factor=1.05), 8, 108),
        (400, RouterConfig("expert-choice", selected=2, capacity_factor=1.05), 8, 56),
        (3, RouterConfig(selected=2, capacity_factor=1.5), 8, 3),
        (9, RouterConfig(selected=2, capacity_factor=None), 8, 9),
    ],
)
def test_slots(tokens, config, experts, slots):
    assert capacity(tokens, config, experts) == slots


def test_a_pruned_layer_keeps_its_slots():
    """Else the experts that are left would do the work of those that are gone, and nothing be saved."""
    config = RouterConfig("expert-choice", capacity_factor=2.0)
    whole = Router(4, config, ExpertMap.whole(8), rngs=nnx.Rngs(0))
    left = Router(4, config, ExpertMap((0, 1), (2, 5), 8), rngs=nnx.Rngs(0))
    assert whole.capacity(32) == left.capacity(32) == 8


def test_noise_changes_the_choice_and_has_the_stated_deviation():
    router = Router(4, RouterConfig(noise_std=3.0), ExpertMap.whole(6), rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 4000, 4))  # logits of 0, so that the gates know only the noise
    quiet, _ = router(x)
    assert np.ptp(np.asarray(quiet.gate)) == 0
    noisy, losses = router(x, key=jax.random.key(3))
    # equal logits have no importance loss; with their noise they would
    assert losses["importance"] < 1e-10
    np.testing.assert_array_equal(noisy.logits, 0)
    assert set(losses) == {"auxiliary", "importance", "gshard", "load"}
    # of gates p_i = softmax(n_i), log p_1 - log p_2 of the two chosen ones is the gap of the two largest of
    # six draws of deviation 3 / 6
    gap = np.log(np.asarray(noisy.gate).reshape(-1, 2))
    gap = gap[:, 0] - gap[:, 1]
    draws = np.sort(np.random.default_rng(0).normal(scale=3 / 6, size=(4000, 6)), axis=1)
    assert stats.ks_2samp(gap, draws[:, -1] - draws[:, -2]).pvalue > 1e-3


def test_losses_are_those_of_their_formulas():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(20, 5))
    noisy = logits + 0.2 * rng.normal(size=logits.shape)
    gates = brute_force.softmax(logits)
    importance = gates.sum(axis=0)
    assert importance_loss(jnp.asarray(gates)) == pytest.approx(
        np.var(importance) / importance.mean() ** 2, rel=1e-5
    )
    first = np.bincount(gates.argmax(axis=1), minlength=5) / 20
    assert gshard_loss(jnp.asarray(gates)) == pytest.approx(5 * (first * gates.mean(axis=0)).sum(), rel=1e-5)
    third = np.sort(noisy, axis=1)[:, -3][:, None]
    load = stats.norm.sf((third - logits) / 0.2).mean(axis=0)
    found = load_loss(jnp.asarray(logits), jnp.asarray(noisy), 0.2, 3)
    assert found == pytest.approx(np.var(load) / load.mean() ** 2, rel=1e-4)


def test_the_auxiliary_loss_is_the_weighted_mean_over_groups():
    config = RouterConfig(importance_weight=0.3, gshard_weight=0.2, load_weight=0.1)
    router = Router(4, config, ExpertMap.whole(5), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(3, 10, 4)), jnp.float32)
    _, quiet = router(x)
    gates = jax.nn.softmax(x @ router.kernel[...])
    expected = np.mean([0.3 * importance_loss(g) + 0.2 * gshard_loss(g) for g in gates])
    assert quiet["auxiliary"] == pytest.approx(expected, rel=1e-5)
    _, noisy = router(x, key=jax.random.key(0))
    parts = 0.3 * noisy["importance"] + 0.2 * noisy["gshard"] + 0.1 * noisy["load"]
    assert noisy["auxiliary"] == pytest.approx(float(parts), rel=1e-5)


def test_a_loss_without_weight_does_not_spoil_the_gradient():
    config = RouterConfig(noise_std=1e-30, importance_weight=0.1, load_weight=0.0)
    router = Router(4, config, ExpertMap.whole(5), rngs=nnx.Rngs(0))
    graph, params = nnx.split(router)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 10, 4)), jnp.float32)
    slope = jax.jit(jax.grad(lambda p: nnx.merge(graph, p)(x, key=jax.random.key(0))[1]["auxiliary"]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_a_token_without_a_gate_is_not_divided_by_it():
    """An expert may have to take a token whose gates are all 0 in single precision."""
    config = RouterConfig("expert-choice", softmax="after", capacity_factor=1.0, multiple_of=1)
    router = Router(3, config, ExpertMap(tuple(range(3)), tuple(range(3)), 3, True), rngs=nnx.Rngs(0))
    router.kernel.set_value(jnp.asarray([[0.0, -200, -5], [10, -200, -10], [-10, -200, 10]]))
    graph, params = nnx.split(router)
    routing, _ = router(jnp.eye(3)[None])
    assert np.isfinite(routing.gate).all()
    slope = jax.jit(jax.grad(lambda p: nnx.merge(graph, p)(jnp.eye(3)[None])[0].gate.sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
