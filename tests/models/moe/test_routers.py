import warnings

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
    gshard_loss,
    importance_loss,
    load_loss,
)
from tests.models.moe import brute_force

RNG = np.random.default_rng(1)
MAPS = [
    ExpertMap.whole(6),
    ExpertMap((0, 1, 2, -1, -1, -1), (0, 2, 5), 6),
    ExpertMap((0, 1, 2), (0, 2, 5), 6, True),
    ExpertMap((0, 1, 0, 2, 2, 1), (0, 1, 3), 6),
]
CONFIGS = [
    RouterConfig(capacity_factor=0.5, multiple_of=1),
    RouterConfig(capacity_factor=1.05, multiple_of=1, batch_priority=True, softmax="after"),
    RouterConfig(capacity_factor=None),
    RouterConfig("expert-choice", capacity_factor=1.5, multiple_of=2),
]


def made(config, expert_map=None, hidden=4):
    return Router(hidden, config, expert_map or ExpertMap.whole(5), rngs=nnx.Rngs(0))


def pairs(chosen, tokens, columns):
    """Weight of each pair that has a slot."""
    token, column, gate, slot, valid = (np.asarray(part) for part in chosen)
    found = np.zeros((tokens, columns))
    found[token[valid], column[valid]] = gate[valid]
    places = list(zip(column[valid], slot[valid], strict=True))
    assert len(set(places)) == len(places), "two tokens share a slot"
    return found


def test_routers_do_what_loops_do():
    cases = list(
        zip([*CONFIGS, CONFIGS[0], CONFIGS[3]], [*MAPS[2:], *MAPS[:2], MAPS[1], MAPS[2]], strict=True)
    )
    routers = nnx.List([made(config, expert_map) for config, expert_map in cases])
    x = RNG.normal(size=(2, 14, 4)).astype(np.float32)
    routed = nnx.jit(lambda routers, x: [router(x)[0] for router in routers])(routers, jnp.asarray(x))
    for (config, expert_map), router, routing in zip(cases, routers, routed, strict=True):
        for group in range(2):
            chosen = (routing.token, routing.column, routing.gate, routing.slot, routing.valid)
            found = pairs((part[group] for part in chosen), 14, expert_map.columns)
            logits = x[group] @ np.asarray(router.kernel[...])
            expected = brute_force.weights(logits, config, expert_map)
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("tokens", "config", "experts", "slots"),
    [
        (16, RouterConfig(selected=2, capacity_factor=1.5, multiple_of=1), 8, 6),
        (16, RouterConfig(selected=2, capacity_factor=1.5), 8, 8),
        (400, RouterConfig(selected=2, capacity_factor=1.05), 8, 108),
        (400, RouterConfig("expert-choice", selected=2, capacity_factor=1.05), 8, 56),
        (3, RouterConfig(selected=2, capacity_factor=1.5), 8, 3),
        (9, RouterConfig(selected=2, capacity_factor=None), 8, 9),
        # vmoe rounds up what floating point gives: 100 * 1.1 / 10 is 11.000000000000002, 30 * 1.1 / 3 is 11
        (100, RouterConfig(selected=1, capacity_factor=1.1, multiple_of=1), 10, 12),
        (100, RouterConfig("expert-choice", capacity_factor=1.1, multiple_of=1), 10, 12),
        (30, RouterConfig(selected=1, capacity_factor=1.1, multiple_of=1), 3, 11),
        (100, RouterConfig(selected=1, capacity_factor=1.1), 10, 12),
    ],
)
def test_slots_are_those_of_vmoe(tokens, config, experts, slots):
    assert capacity(tokens, config, experts) == slots


def test_one_expert_a_token_after_its_choice_is_warned_of():
    with pytest.warns(UserWarning, match="softmax='before'"):
        made(RouterConfig(selected=1, softmax="after"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for settings in (
            {"selected": 1},
            {"softmax": "after"},
            {"kind": "expert-choice", "softmax": "after"},
        ):
            made(RouterConfig(**settings))


def test_noise_changes_the_choice_and_has_the_stated_deviation():
    router = made(RouterConfig(noise_std=3.0), ExpertMap.whole(6))
    x = jnp.zeros((1, 4000, 4))  # logits of 0, so that the gates know only the noise
    noisy, losses = nnx.jit(lambda router, x: router(x, key=jax.random.key(3)))(router, x)
    # equal logits have no importance loss; with their noise they would
    assert losses["importance"] < 1e-10
    np.testing.assert_array_equal(noisy.logits, 0)
    # of gates p_i = softmax(n_i), log p_1 - log p_2 of the two chosen ones is the gap of the two largest of
    # six draws of deviation 3 / 6
    gap = np.log(np.asarray(noisy.gate).reshape(-1, 2))
    gap = gap[:, 0] - gap[:, 1]
    draws = np.sort(np.random.default_rng(0).normal(scale=3 / 6, size=(4000, 6)), axis=1)
    assert stats.ks_2samp(gap, draws[:, -1] - draws[:, -2]).pvalue > 1e-3


def test_losses_are_those_of_their_formulas():
    logits = RNG.normal(size=(20, 5)).astype(np.float32)
    noisy = logits + 0.2 * RNG.normal(size=logits.shape).astype(np.float32)
    gates = brute_force.softmax(logits)
    found = jax.jit(lambda g, a, b: (importance_loss(g), gshard_loss(g), load_loss(a, b, 0.2, 3)))(
        gates, logits, noisy
    )
    importance = gates.sum(axis=0)
    first = np.bincount(gates.argmax(axis=1), minlength=5) / 20
    third = np.sort(noisy, axis=1)[:, -3][:, None]
    load = stats.norm.sf((third - logits) / 0.2).mean(axis=0)
    expected = [np.var(importance) / importance.mean() ** 2, 5 * (first * gates.mean(axis=0)).sum()]
    np.testing.assert_allclose(found, [*expected, np.var(load) / load.mean() ** 2], rtol=1e-4)


def test_the_auxiliary_loss_is_the_weighted_mean_over_groups():
    router = made(RouterConfig(importance_weight=0.3, gshard_weight=0.2, load_weight=0.1))
    x = jnp.asarray(RNG.normal(size=(3, 10, 4)), jnp.float32)

    @nnx.jit
    def losses(router, x):
        gates = jax.nn.softmax(x @ router.kernel[...])
        own = jax.vmap(lambda g: 0.3 * importance_loss(g) + 0.2 * gshard_loss(g))(gates).mean()
        return own, router(x)[1], router(x, key=jax.random.key(0))[1]

    expected, quiet, noisy = losses(router, x)
    assert quiet["auxiliary"] == pytest.approx(float(expected), rel=1e-5)
    assert "load" not in quiet
    parts = 0.3 * noisy["importance"] + 0.2 * noisy["gshard"] + 0.1 * noisy["load"]
    assert noisy["auxiliary"] == pytest.approx(float(parts), rel=1e-5)


def test_gradients_are_finite_at_the_edges_and_of_half_precision():
    # a loss of weight 0, whose gradient is infinite
    unweighed = made(RouterConfig(noise_std=1e-30, importance_weight=0.1, load_weight=0.0))
    # one column that pruning left: its spread is 0, whose root has no gradient
    single = made(RouterConfig(selected=1), ExpertMap((0,), (2,), 4))
    # an expert that has to take a token whose gates are all 0 in single precision
    config = RouterConfig("expert-choice", softmax="after", capacity_factor=1.0, multiple_of=1, noise_std=0)
    empty = made(config, ExpertMap.whole(3), hidden=3)
    empty.kernel.set_value(jnp.asarray([[0.0, -200, -5], [10, -200, -10], [-10, -200, 10]]))
    half = made(RouterConfig(importance_weight=0.3, load_weight=0.1))
    half.kernel.set_value(half.kernel[...].astype(jnp.float16))
    x = RNG.normal(size=(1, 10, 4))
    tokens = [jnp.asarray(x, jnp.float32)] * 2 + [jnp.eye(3)[None], jnp.asarray(x, jnp.float16)]
    graphs, params = zip(*map(nnx.split, (unweighed, single, empty, half)), strict=True)

    @jax.jit
    def slopes(params, tokens):
        def total(params, graph, x):
            routing, losses = nnx.merge(graph, params)(x, key=jax.random.key(0))
            return losses["auxiliary"] + routing.gate.sum()

        return [jax.grad(total)(*case)["kernel"][...] for case in zip(params, graphs, tokens, strict=True)]

    found = slopes(params, tokens)
    assert [slope.dtype for slope in found] == [jnp.float32] * 3 + [jnp.float16]
    assert all(np.isfinite(slope).all() for slope in found)


def test_tokens_are_routed_in_float32_at_least():
    half, x = made(RouterConfig()), RNG.normal(size=(1, 10, 4))
    routing = nnx.eval_shape(lambda router, x: router(x)[0], half, jnp.asarray(x, jnp.float16))
    assert (routing.logits.dtype, routing.gate.dtype) == (jnp.float32, jnp.float16)
    with jax.enable_x64(True):
        routing = nnx.eval_shape(lambda router, x: router(x)[0], half, jnp.asarray(x))
        assert routing.logits.dtype == routing.gate.dtype == jnp.float64


def test_the_logits_are_not_rounded_to_tf32():
    router = made(RouterConfig())
    program = jax.make_jaxpr(lambda x: router(x, key=jax.random.key(0))[0].gate)(jnp.zeros((1, 8, 4)))
    products = [equation for equation in program.eqns if equation.primitive.name == "dot_general"]
    highest = jax.lax.Precision.HIGHEST
    assert [equation.params["precision"] for equation in products] == [(highest, highest)]
