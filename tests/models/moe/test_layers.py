import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.moe.config import RouterConfig
from qrt_tn.models.moe.dispatch import by_ragged, choose_form
from qrt_tn.models.moe.layers import Experts, Mlp, MoeLayer
from qrt_tn.models.moe.maps import ExpertMap
from tests.models.moe import brute_force

MAPS = {
    "whole": ExpertMap.whole(6),
    "normalized": ExpertMap(tuple(range(6)), tuple(range(6)), 6, True),
    "columns kept": ExpertMap((0, 1, 2, -1, -1, -1), (0, 2, 5), 6),
    "columns dropped": ExpertMap((0, 1, 2), (0, 2, 5), 6),
    "merged": ExpertMap((0, 1, 0, 2, 2, -1), (0, 1, 3), 6),
}


def layer(kind, expert_map, dispatch, factor=1.05, group=None, seed=0):
    config = RouterConfig(kind, 2, capacity_factor=factor, multiple_of=1)
    made = MoeLayer(5, 7, config, expert_map, rngs=nnx.Rngs(seed), dispatch=dispatch, same=False, group=group)
    rng = np.random.default_rng(seed)
    for bias in (made.experts.bias_in, made.experts.bias_out):
        bias.set_value(jnp.asarray(rng.normal(size=bias.shape), jnp.float32))
    return made


# whole layers compiled: one operation at a time takes XLA many times as long to get ready
applied = nnx.jit(lambda made, x: made(x))
observed = nnx.jit(lambda made, x: made.observe(x))


def by_loops(made, x):
    held = [
        np.asarray(getattr(made.experts, name)[...], np.float64)
        for name in ("kernel_in", "bias_in", "kernel_out", "bias_out")
    ]
    groups = x.reshape(-1, made.group or x.shape[1], x.shape[2])
    kernel = np.asarray(made.router.kernel[...])
    sums = [
        brute_force.experts_sum(
            g, brute_force.weights(g @ kernel, made.router.config, made.expert_map), made.expert_map, *held
        )
        for g in groups
    ]
    return np.concatenate(sums).reshape(x.shape)


@pytest.mark.parametrize("dispatch", ["gather", "einsum", "ragged"])
@pytest.mark.parametrize("kind", ["token-choice", "expert-choice"])
@pytest.mark.parametrize("expert_map", MAPS.values(), ids=MAPS)
def test_every_form_of_dispatch_computes_the_sum(dispatch, kind, expert_map):
    # groups across images in two of the maps
    made = layer(
        kind,
        expert_map,
        dispatch,
        group=18 if expert_map.experts == 3 and expert_map.renormalized is False else None,
    )
    x = np.random.default_rng(1).normal(size=(3, 12, 5)).astype(np.float32)
    found, _ = applied(made, jnp.asarray(x))
    np.testing.assert_allclose(found, by_loops(made, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["token-choice", "expert-choice"])
@pytest.mark.parametrize("expert_map", [MAPS["normalized"], MAPS["merged"]], ids=["normalized", "merged"])
def test_every_form_has_the_same_gradient(kind, expert_map):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 5)), jnp.float32)
    slopes = []
    for dispatch in ("gather", "einsum", "ragged"):
        graph, params = nnx.split(layer(kind, expert_map, dispatch))
        loss = jax.jit(jax.grad(lambda p, graph=graph: (nnx.merge(graph, p)(x)[0] ** 2).sum()))
        slopes.append(loss(params))
    for other in slopes[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), slopes[0], other)


def test_rows_that_ragged_products_leave_undefined_are_not_used():
    """XLA may leave anything there, on accelerators; here it is NaN."""
    expert_map = MAPS["columns kept"]
    made = layer("token-choice", expert_map, "ragged")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 5)), jnp.float32)
    graph, params = nnx.split(made)

    @jax.jit
    @jax.value_and_grad
    def total(params):
        made = nnx.merge(graph, params)

        def experts(x, expert, rows):
            found = made.experts.ragged(x, expert, rows)
            return jnp.where(jnp.arange(len(x))[:, None] < rows.sum(), found, jnp.nan)

        return by_ragged(x, made.router(x)[0], expert_map, experts).sum()

    value, slopes = total(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert value == pytest.approx(by_loops(made, np.asarray(x)).sum(), rel=1e-4)


def test_without_a_limit_nothing_is_dropped():
    made = layer("token-choice", ExpertMap.whole(6), "ragged", factor=None)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 40, 5)), jnp.float32)
    _, seen = observed(made, x)
    assert bool(seen.valid.all())
    limited = layer("token-choice", ExpertMap.whole(6), "gather", factor=0.5)
    assert not bool(observed(limited, x)[1].valid.all())


@pytest.mark.parametrize("kind", ["token-choice", "expert-choice"])
@pytest.mark.parametrize("expert_map", MAPS.values(), ids=MAPS)
def test_an_observation_rebuilds_the_layer(kind, expert_map):
    made = layer(kind, expert_map, "gather", group=6)
    x = np.random.default_rng(1).normal(size=(3, 12, 5)).astype(np.float32)
    output, seen = jax.tree.map(np.asarray, observed(made, jnp.asarray(x)))
    np.testing.assert_allclose(output, applied(made, jnp.asarray(x))[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.inputs, x.reshape(-1, 5))
    np.testing.assert_allclose(seen.logits, x.reshape(-1, 5) @ made.router.kernel[...], rtol=1e-5, atol=1e-6)
    # what each expert makes of each token
    every = np.asarray(made.experts(jnp.asarray(np.repeat(seen.inputs[None], expert_map.experts, axis=0))))
    rebuilt = np.zeros((36, 5))
    for column, token, gate, valid, out in zip(
        seen.column, seen.token, seen.gate, seen.valid, seen.outputs, strict=True
    ):
        if valid:
            np.testing.assert_allclose(
                out, every[expert_map.column_to_expert[column], token], rtol=1e-4, atol=1e-5
            )
            rebuilt[token] += gate * out
    np.testing.assert_allclose(output.reshape(-1, 5), rebuilt, rtol=1e-4, atol=1e-5)


def test_experts_that_begin_alike_and_others():
    alike = Experts(4, 6, 3, same=True, rngs=nnx.Rngs(0)).kernel_in[...]
    np.testing.assert_array_equal(alike[0], alike[2])
    apart = Experts(4, 6, 3, same=False, rngs=nnx.Rngs(0)).kernel_in[...]
    assert abs(apart[0] - apart[2]).max() > 0.1
    assert Mlp(4, 6, rngs=nnx.Rngs(0)).kernel_in.shape == (4, 6)


def test_a_batch_that_does_not_split_into_groups_is_refused():
    made = layer("token-choice", ExpertMap.whole(6), "gather", group=10)
    with pytest.raises(ValueError, match="do not split into groups of 10"):
        made(jnp.zeros((3, 5, 5)))


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="dispatch is 'dense'"):
        layer("token-choice", ExpertMap.whole(6), "dense")


@pytest.mark.parametrize(
    ("form", "limited", "platform", "expected"),
    [
        ("auto", True, "gpu", "gather"),
        ("auto", False, "gpu", "ragged"),
        ("auto", False, "cpu", "gather"),
        ("einsum", False, "gpu", "einsum"),
    ],
)
def test_what_auto_stands_for(form, limited, platform, expected):
    assert choose_form(form, limited=limited, platform=platform) == expected
