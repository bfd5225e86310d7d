from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from qrt_tn.models.moe import training
from qrt_tn.models.moe.training import MoeRecipe, accuracy, predict, train_moe
from qrt_tn.models.moe.trees import from_tree, to_tree
from qrt_tn.models.moe.vit import expert_layers
from tests.models.moe.conftest import random_network, small_config

RECIPE = MoeRecipe(steps=100, batch_size=20, learning_rate=1e-2, warmup=5)


def tiny(**changes):
    """One block only: compiling it takes half the time."""
    return small_config(layers=1, moe_layers=(0,), **changes)


CHOOSING = tiny(router={"kind": "expert-choice"})


def rows(seed=0, count=60):
    """Images of which one row of three is bright: the label."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = 0.3 * rng.normal(size=(count, 6, 6, 1)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 2] += 1
    return x, y


@pytest.fixture(scope="module")
def drawn():
    """The weights of a network, of which tests make their own."""
    return to_tree(random_network(tiny()))


@pytest.fixture(scope="module")
def learnt(drawn):
    """A network after training, what training told, and the progress it showed."""
    network, seen = from_tree(drawn, CHOOSING), []
    told = train_moe(network, *rows(count=400), RECIPE, seed=1, progress=lambda *now: seen.append(now))
    return network, told, seen


def test_a_network_learns(learnt, drawn):
    network, told, seen = learnt
    assert told.losses.shape == told.auxiliary.shape == (100,)
    assert told.losses[-10:].mean() < 0.3 * told.losses[:5].mean()
    assert accuracy(network, *rows(1)) > 0.9
    assert seen == [(50, 100), (100, 100)]
    before = drawn["Encoder"]["encoderblock_0"]["Moe"]["Router"]["dense"]["kernel"]
    assert np.abs(expert_layers(network)[0].router.kernel[...] - before).max() > 1e-3


def test_steps_are_those_of_optax(drawn):
    """One batch that holds all images, so that no order matters; a plain loop, step by step."""
    x, y = rows(count=12)
    recipe = MoeRecipe(steps=4, batch_size=12, learning_rate=0.01, warmup=2, clip=0.5, noise=False)
    network, other = from_tree(drawn, tiny()), from_tree(drawn, tiny())
    told = train_moe(network, x, y, recipe)
    graph, params = nnx.split(other, nnx.Param)
    # one vector, of which the operations compile once
    weights, unravel = ravel_pytree(params)
    rule = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.01, 2, 4, 1e-5), weight_decay=0.0)
    rule = optax.chain(optax.clip_by_global_norm(0.5), rule)

    def loss(weights):
        logits, auxiliary = nnx.merge(graph, unravel(weights))(x)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return entropy + auxiliary, jnp.stack([entropy, auxiliary])

    @jax.jit
    def step(weights, state):
        slopes, parts = jax.grad(loss, has_aux=True)(weights)
        changes, state = rule.update(slopes, state, weights)
        return weights + changes, state, parts

    state, parts = rule.init(weights), []
    for _ in range(4):
        weights, state, part = step(weights, state)
        parts.append(part)
    np.testing.assert_allclose(np.stack([told.losses, told.auxiliary], axis=1), parts, rtol=1e-4, atol=1e-5)
    found = ravel_pytree(nnx.split(network, nnx.Param)[1])[0]
    np.testing.assert_allclose(found, weights, atol=2e-3)  # of a rate of 0.01, where a slope is all rounding
    assert np.abs(found - ravel_pytree(params)[0]).max() > 0.01


def test_sgd_has_momentum_and_a_rate_that_rises_and_falls():
    recipe = MoeRecipe(steps=6, optimizer="sgd", learning_rate=0.1, end_rate=0.02, warmup=2, clip=0.0)
    rule, slope = recipe.transform(), np.array([3.0, -4.0], np.float32)
    state, update, speed = rule.init(slope), jax.jit(rule.update), 0.0
    for rate in (0, 0.05, *(0.02 + 0.08 * (1 + np.cos(np.pi * step / 4)) / 2 for step in range(4))):
        changes, state = update(slope, state)
        speed = 0.9 * speed + slope
        np.testing.assert_allclose(changes, -rate * speed, rtol=1e-5)


def test_the_same_seed_gives_the_same_network_no_step_and_no_finite_loss_the_old_one(learnt, drawn):
    (x, y), weights = rows(count=400), []
    for seed in (1, 4):
        network = from_tree(drawn, CHOOSING)
        train_moe(network, x, y, RECIPE, seed=seed)
        weights.append(to_tree(network))
    jax.tree.map(np.testing.assert_array_equal, weights[0], to_tree(learnt[0]))
    assert not np.array_equal(weights[0]["head"]["kernel"], weights[1]["head"]["kernel"])
    assert train_moe(network, x, y, MoeRecipe(steps=0, batch_size=4)).losses.shape == (0,)
    with pytest.raises(ValueError, match="not finite near step 0"):
        train_moe(network, np.full_like(x, np.nan), y, RECIPE)
    jax.tree.map(np.testing.assert_array_equal, to_tree(network), weights[1])
    # Of one image in all places nothing but the noise differs, and the rate of the first step is 0.
    one = np.repeat(x[:1], 400, axis=0), np.repeat(y[:1], 400)
    losses = [train_moe(from_tree(drawn, CHOOSING), *one, RECIPE, seed=seed).losses[:2] for seed in (3, 4)]
    assert np.diff(np.sort(np.concatenate(losses))).min() > 1e-5


def test_every_image_is_seen_once_a_pass_and_weights_that_are_not_finite_are_not_handed_back(
    drawn, monkeypatch
):
    """A last step that spoils the weights shows in no loss."""
    network = from_tree(drawn, tiny())

    def spoiled(task: Any, state: Any, batches: Any, data: Any, **settings: Any) -> Any:
        seen.append(batches(0, 10))
        params = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.params)
        return training.Progression(10, state._replace(params=params), [np.zeros((10, 2))], {}, 0.0)

    seen = []
    monkeypatch.setattr(training, "fit", spoiled)
    with pytest.raises(ValueError, match="not finite after the last step"):
        train_moe(network, *rows(count=20), MoeRecipe(steps=10, batch_size=4, warmup=0))
    jax.tree.map(np.testing.assert_array_equal, to_tree(network), drawn)
    for one in (seen[0][:5], seen[0][5:]):
        assert sorted(one.reshape(-1)) == list(range(20))
    assert (seen[0][:5] != seen[0][5:]).any()


def test_predictions_do_not_depend_on_how_images_are_batched(drawn, monkeypatch):
    """Nor on images that fill a batch up; tokens of four images are routed together."""
    monkeypatch.setattr(training, "_EVALUATED_AT_ONCE", 12)
    network, (x, y) = from_tree(drawn, tiny(group=40)), rows(count=20)
    whole = predict(network, x)
    np.testing.assert_allclose(predict(network, x[8:]), whole[8:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predict(network, x[:9])[:8], whole[:8], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="batch_size is 6, but the tokens of 4 images"):
        train_moe(network, x, y, MoeRecipe(batch_size=6))


def test_products_of_matrices_of_predictions_name_their_precision(drawn):
    graph, params = nnx.split(from_tree(drawn, tiny()), nnx.Param)
    text = str(jax.make_jaxpr(lambda p, x: training._logits(graph, p, [], x))(params, rows(count=4)[0]))
    products = text.count("dot_general[") + text.count("conv_general_dilated[")
    assert products > 5
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def test_what_cannot_work_is_refused(drawn):
    for settings, message in [
        ({"steps": -1}, "steps is -1"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"optimizer": "lamb"}, "optimizer is 'lamb'"),
        ({"noise": 1}, "noise is 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            MoeRecipe(**settings)
    network, (x, y) = from_tree(drawn, tiny()), rows()
    for bad, labels, message in [
        (x[:0], y[:0], "do not fit"),
        (x[:, :4], y, "do not fit"),
        (x, y[:-1], "one integer an image"),
        (x, y + 1.0, "one integer an image"),
        (x, y - 1, "label -1 lies outside"),
        (x, y + 1, "label 3 lies outside"),
    ]:
        with pytest.raises(ValueError, match=message):
            accuracy(network, bad, labels)
    with pytest.raises(ValueError, match="fewer than a batch"):
        train_moe(network, x, y, MoeRecipe(batch_size=100))
