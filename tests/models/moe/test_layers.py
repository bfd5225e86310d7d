from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.moe.config import RouterConfig
from qrt_tn.models.moe.dispatch import by_ragged, choose_form
from qrt_tn.models.moe.layers import Experts, MoeLayer
from qrt_tn.models.moe.maps import ExpertMap
from tests.models.moe import brute_force

WHOLE = ExpertMap.whole(6)
GONE = ExpertMap((0, 1, 2, -1, -1, -1), (0, 2, 5), 6)
FORMS = ("gather", "einsum", "ragged")


def layer(expert_map=WHOLE, dispatch="gather", group=None, **router):
    config = RouterConfig(**{"capacity_factor": 1.05, "multiple_of": 1, **router})
    made = MoeLayer(5, 7, config, expert_map, rngs=nnx.Rngs(0), dispatch=dispatch, same=False, group=group)
    rng = np.random.default_rng(0)
    for bias in (made.experts.bias_in, made.experts.bias_out):
        bias.set_value(jnp.asarray(rng.normal(size=bias.shape), jnp.float32))
    return made


def by_loops(made, x):
    names = ("kernel_in", "bias_in", "kernel_out", "bias_out")
    weights = [np.asarray(getattr(made.experts, name)[...], np.float64) for name in names]
    kernel, config = np.asarray(made.router.kernel[...]), made.router.config
    sums = []
    for tokens in x.reshape(-1, made.group or x.shape[1], x.shape[2]):
        found = brute_force.weights(tokens @ kernel, config, made.expert_map)
        sums.append(brute_force.experts_sum(tokens, found, made.expert_map, *weights))
    return np.concatenate(sums).reshape(x.shape)


@pytest.mark.parametrize(
    ("expert_map", "group", "router"),
    [
        (ExpertMap((0, 1, 0, 2, 2, -1), (0, 1, 3), 6), 18, {"batch_priority": True, "softmax": "after"}),
        (ExpertMap((0, 1, 2), (0, 2, 5), 6, True), 18, {"kind": "expert-choice"}),
    ],
    ids=["columns merged and without expert", "columns dropped"],
)
def test_every_form_computes_the_sum_and_its_gradient(expert_map, group, router):
    made = [layer(expert_map, form, group, **router) for form in FORMS]
    x = np.random.default_rng(1).normal(size=(3, 12, 5)).astype(np.float32)
    graphs, params = zip(*map(nnx.split, made), strict=True)

    @jax.jit
    def run(params, x):
        def loss(params):
            outputs = [nnx.merge(graph, own)(x)[0] for graph, own in zip(graphs, params, strict=True)]
            return sum((output**2).sum() for output in outputs), outputs

        slopes, outputs = jax.grad(loss, has_aux=True)(params)
        same = nnx.merge(graphs[0], params[0])
        every = same.experts(jnp.repeat(x.reshape(1, -1, 5), expert_map.experts, axis=0))
        return outputs, slopes, same.observe(x), every

    outputs, slopes, (output, seen), every = jax.tree.map(np.asarray, run(params, x))
    expected = by_loops(made[0], x)
    for found in outputs:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for other in slopes[1:]:
        for one, two in zip(jax.tree.leaves(slopes[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-4)
    # an observation rebuilds the layer
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen.inputs, x.reshape(-1, 5))
    logits = x.reshape(-1, 5) @ np.asarray(made[0].router.kernel[...])
    np.testing.assert_allclose(seen.logits, logits, rtol=1e-5, atol=1e-5)
    valid, token = seen.valid, seen.token[seen.valid]
    expert = np.asarray(expert_map.column_to_expert)[seen.column[valid]]
    np.testing.assert_allclose(seen.outputs[valid], every[expert, token], rtol=1e-4, atol=1e-5)
    rebuilt = np.zeros((36, 5))
    np.add.at(rebuilt, token, seen.gate[valid, None] * seen.outputs[valid])
    np.testing.assert_allclose(rebuilt, expected.reshape(-1, 5), rtol=1e-4, atol=1e-5)


def test_rows_that_ragged_products_leave_undefined_are_not_used():
    """XLA may leave anything there, on accelerators; here it is NaN."""
    made = layer(GONE, "ragged")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 5)), jnp.float32)
    graph, params = nnx.split(made)

    @jax.jit
    @jax.value_and_grad
    def total(params):
        made = nnx.merge(graph, params)

        def experts(x, expert, rows):
            found = made.experts.ragged(x, expert, rows)
            return jnp.where(jnp.arange(len(x))[:, None] < rows.sum(), found, jnp.nan)

        return by_ragged(x, made.router(x)[0], GONE, experts).sum()

    value, slopes = total(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert value == pytest.approx(by_loops(made, np.asarray(x)).sum(), rel=1e-4)


def test_layers_of_half_precision_train_with_noise():
    x = np.random.default_rng(1).normal(size=(1, 8, 5))

    def loss(graph, params, x):
        outputs, losses = nnx.merge(graph, params)(x, key=jax.random.key(0))
        assert outputs.dtype == x.dtype
        return (outputs.astype(jnp.float32) ** 2).sum() + losses["auxiliary"]

    for dispatch in FORMS:
        graph, params = nnx.split(layer(dispatch=dispatch))
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        # traced only, where an unfit type would show
        slopes = jax.eval_shape(jax.grad(partial(loss, graph)), half, jnp.asarray(x, jnp.bfloat16))
        assert {leaf.dtype for leaf in jax.tree.leaves(slopes)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_traced_with_64_bit_numbers(form):
    """As SynFlow does; types that do not go together would warn."""
    made = layer(GONE, form)
    with jax.enable_x64(True):
        assert jax.eval_shape(made, jnp.zeros((3, 12, 5)))[0].dtype == jnp.float64


def test_experts_that_begin_equal_and_others():
    equal, apart = jax.jit(
        lambda: [Experts(5, 7, 6, same=same, rngs=nnx.Rngs(0)).kernel_in[...] for same in (True, False)]
    )()
    np.testing.assert_array_equal(equal[0], equal[2])
    assert np.abs(np.asarray(apart)[0] - apart[2]).max() > 0.1


def test_what_a_layer_cannot_do_is_refused():
    with pytest.raises(ValueError, match="dispatch is 'dense'"):
        layer(dispatch="dense")
    with pytest.raises(ValueError, match="do not split into groups of 10"):
        layer(group=10)(jnp.zeros((3, 5, 5)))


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
