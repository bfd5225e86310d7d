"""Training under a mask, against an unmasked optimiser that only has the surviving weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from qrt_tn.models.lottery.masked import masked
from qrt_tn.models.lottery.masks import apply_masks, full_masks, with_layers

OPTIMIZERS = {
    "adamw": lambda: optax.adamw(0.01, weight_decay=0.1),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(1.0, momentum=0.5)),
    "lamb": lambda: optax.lamb(0.05, weight_decay=0.1),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(0.05, weight_decay=0.1),
    "prodigy": lambda: optax.contrib.prodigy(1.0, weight_decay=0.1),
}
EXACT = set(OPTIMIZERS) - {"prodigy"}  # of these the survivors are those of the small problem
# The parameters that an optimiser keeps in its state, and evaluates or compares with.
KEPT = {
    "schedule-free": optax.contrib.schedule_free_eval_params,
    "prodigy": lambda state, params: state.params0,
}
STEPS = 8


def problem(seed):
    """The loss of a layer on points, its parameters, and masks of half its weights."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, 6)).astype(np.float32), rng.normal(size=(20, 3)).astype(np.float32)
    params = {"kernel": rng.normal(size=(6, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    masks = {"kernel": rng.random((6, 3)) < 0.5, "bias": None}

    def loss(params):
        return jnp.square(jnp.tanh(x @ params["kernel"] + params["bias"]) - y).mean()

    return loss, jax.tree.map(jnp.asarray, params), masks


def trajectory(optimizer, loss, params, kept=lambda state, params: ()):
    """The parameters after every step, by a scan; and what `kept` gives of state and parameters."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, kept(state, params))

    return jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_are_0_after_every_step_and_survivors_those_of_the_small_problem(name):
    loss, params, masks = problem(0)
    mask = masks["kernel"]
    kept = KEPT.get(name, lambda state, params: params)
    run = jax.jit(
        lambda start: trajectory(
            masked(OPTIMIZERS[name](), masks), loss, start, lambda state, params: kept(state.inner, params)
        )
    )
    path, held = run(apply_masks(masks, params))
    # a start that was not masked is so from the first step on, also what is kept in the state
    raw, raw_held = run(params)
    assert np.asarray(params["kernel"]).all()
    for found in (path, held, raw, raw_held):
        kernel = np.asarray(found["kernel"])
        assert not kernel[:, ~mask].any()
        assert np.isfinite(kernel).all()
        assert (kernel[-1][mask] != 0).all()
    moved = np.abs(np.asarray(path["kernel"])[-1] - np.asarray(params["kernel"]))
    assert (moved[mask] > (1e-5 if name == "prodigy" else 1e-3)).all()  # or zeros would mean nothing
    if name not in EXACT:
        return

    # the oracle optimises a vector of the surviving weights, and knows no others
    def scattered(small):
        return {**small, "kernel": jnp.zeros(mask.shape).at[np.nonzero(mask)].set(small["kernel"])}

    small = {**params, "kernel": params["kernel"][np.nonzero(mask)]}
    oracle = jax.jit(lambda start: trajectory(OPTIMIZERS[name](), lambda v: loss(scattered(v)), start)[0])
    expected = oracle(small)
    np.testing.assert_allclose(np.asarray(path["kernel"])[:, mask], expected["kernel"], atol=2e-5)
    np.testing.assert_allclose(path["bias"], expected["bias"], atol=2e-5)


def test_slow_weights_of_lookahead_are_pruned():
    loss, params, masks = problem(1)
    optimizer = masked(optax.lookahead(optax.sgd(0.1), 3, 0.5), masks)
    pair = optax.LookaheadParams.init_synced(params)
    state = optimizer.init(pair)
    step = jax.jit(lambda pair, state: optimizer.update(jax.grad(loss)(pair.fast), state, pair))
    for _ in range(4):
        updates, state = step(pair, state)
        pair = optax.apply_updates(pair, updates)
        for weights in pair:
            np.testing.assert_array_equal(np.asarray(weights["kernel"]) != 0, masks["kernel"])


def test_gradients_of_pruned_weights_do_not_count_in_a_clipped_norm():
    masks = {"kernel": np.array([[True, False, False]])}
    optimizer = masked(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), masks)
    params = {"kernel": jnp.zeros((1, 3))}
    gradient = {"kernel": jnp.array([[0.5, 1e30, jnp.nan]])}
    step = jax.jit(lambda params: optimizer.update(gradient, optimizer.init(params), params)[0])
    np.testing.assert_array_equal(step(params)["kernel"], [[-0.5, 0.0, 0.0]])
    # what is pruned and not finite is set to 0 before training
    wild = apply_masks(masks, {"kernel": jnp.array([[0.0, jnp.inf, jnp.nan]])})
    np.testing.assert_array_equal(optax.apply_updates(wild, step(wild))["kernel"], [[-0.5, 0.0, 0.0]])


def test_one_vmap_serves_many_masks():
    loss, params, _ = problem(2)
    many = np.random.default_rng(2).random((3, 6, 3)) < 0.5

    def run(mask):
        optimizer = masked(OPTIMIZERS["clipped"](), {"kernel": mask, "bias": None})
        return trajectory(optimizer, loss, params)[0]["kernel"]

    together, alone = np.asarray(jax.jit(jax.vmap(run))(many)), jax.jit(run)
    for found, mask in zip(together, many, strict=True):
        assert not found[:, ~mask].any()
        assert found[:, mask].all()
        np.testing.assert_allclose(found, alone(mask), atol=1e-5)


def test_extra_arguments_reach_the_optimiser():
    def update(updates, state, params=None, *, factor, **extra):
        return jax.tree.map(lambda change: factor * change, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    masks, params = {"kernel": np.array([[True, False]])}, {"kernel": jnp.ones((1, 2))}
    optimizer = masked(inner, masks)
    updates, _ = optimizer.update(params, optimizer.init(params), params, factor=3.0)
    np.testing.assert_array_equal(updates["kernel"], [[3.0, -1.0]])


def test_an_update_without_parameters_is_refused():
    _, params, masks = problem(4)
    optimizer = masked(optax.sgd(0.1), masks)
    with pytest.raises(ValueError, match="without parameters"):
        optimizer.update(params, optimizer.init(params))


def test_flax_optimisers_take_masks_of_a_networks_state() -> None:
    network = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    kept = np.arange(24).reshape(6, 4) % 3 == 0
    masks = with_layers(full_masks(nnx.state(network, nnx.Param)), {"kernel": kept})
    optimizer = nnx.Optimizer(network, masked(optax.sgd(0.1), masks), wrt=nnx.Param)
    optimizer.update(network, jax.tree.map(jnp.ones_like, nnx.state(network, nnx.Param)))
    np.testing.assert_array_equal(np.asarray(network.kernel[...]) != 0, kept)


def test_masks_of_a_state_fit_dicts_and_are_refused_if_they_lack_one() -> None:
    state = nnx.state(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), nnx.Param)
    params, kept = nnx.to_pure_dict(state), np.arange(24).reshape(6, 4) % 3 == 0
    masks = with_layers(full_masks(state), {"kernel": kept})
    optimizer = masked(optax.sgd(0.1), masks)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], np.where(kept, -0.1, -1) * params["kernel"], rtol=1e-6)
    with pytest.raises(ValueError, match="the masks lack 'scale'"):
        apply_masks(masks, {**params, "scale": jnp.ones(4)})


def test_a_mask_of_another_shape_is_refused_and_not_broadcast() -> None:
    params = {"kernel": jnp.ones((6, 4))}
    with pytest.raises(ValueError, match=r"mask has shape .1, 4., its weights .6, 4."):
        masked(optax.sgd(0.1), {"kernel": np.ones((1, 4), bool)}).update(
            params, masked(optax.sgd(0.1), {"kernel": np.ones((1, 4), bool)}).init(params), params
        )
