from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from qrt_tn.models.moe import training
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.training import MoeRecipe, accuracy, predict, train_moe
from qrt_tn.models.moe.trees import from_tree, to_tree
from qrt_tn.models.moe.vit import VisionMoe, expert_layers
from tests.models.moe.conftest import random_network, small_config

LEARNING = {"batch_size": 20, "learning_rate": 1e-2, "warmup": 5}


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
    return to_tree(random_network(small_config()))


@pytest.mark.parametrize("kind", ["token-choice", "expert-choice"])
def test_a_network_learns(kind):
    x, y = rows(count=400)
    network = VisionMoe(small_config(router={"kind": kind}), rngs=nnx.Rngs(0))
    before = np.array(expert_layers(network)[1].router.kernel[...])
    seen = []
    recipe = MoeRecipe(steps=150, **LEARNING)
    trained = train_moe(network, x, y, recipe, seed=1, progress=lambda *now: seen.append(now))
    assert trained.losses.shape == trained.auxiliary.shape == (150,)
    assert trained.losses[-10:].mean() < 0.3 * trained.losses[:5].mean()
    assert accuracy(network, *rows(1)) > 0.9
    assert seen == [(50, 150), (100, 150), (150, 150)]
    assert np.abs(expert_layers(network)[1].router.kernel[...] - before).max() > 1e-3


def test_a_pruned_network_with_a_router_of_one_column_trains_on():
    """The spread of one column is 0, and its root has no gradient there."""
    x, y = rows(count=400)
    maps = {1: ExpertMap((0,), (2,), 4)}
    network = random_network(small_config(maps=maps, router={"selected": 1}))
    losses = train_moe(network, x, y, MoeRecipe(steps=50, **LEARNING)).losses
    assert losses[-5:].mean() < losses[:5].mean()
    assert expert_layers(network)[1].experts.kernel_in.shape[0] == 1


@pytest.fixture(scope="module")
def slopes(drawn):
    graph = nnx.split(from_tree(drawn, small_config()), nnx.Param)[0]

    def loss(params, x, y):
        logits, auxiliary = nnx.merge(graph, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean() + auxiliary

    return jax.jit(jax.grad(loss))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_steps_are_those_of_optax(optimizer, drawn, slopes):
    """One batch that holds all images, so that no order matters; a plain loop, step by step."""
    x, y = rows(count=12)
    recipe = MoeRecipe(
        steps=4, batch_size=12, optimizer=optimizer, learning_rate=0.01, warmup=2, clip=0.5, noise=False
    )
    network, other = from_tree(drawn, small_config()), from_tree(drawn, small_config())
    first = predict(network, x)
    train_moe(network, x, y, recipe)
    params = nnx.split(other, nnx.Param)[1]
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.01, 2, 4, 1e-5)
    rule = optax.adamw(rate, weight_decay=0.0) if optimizer == "adam" else optax.sgd(rate, momentum=0.9)
    rule = optax.chain(optax.clip_by_global_norm(0.5), rule)
    state = rule.init(params)
    for _ in range(4):
        changes, state = rule.update(slopes(params, x, y), state, params)
        params = optax.apply_updates(params, changes)
    nnx.update(other, params)
    np.testing.assert_allclose(predict(network, x), predict(other, x), rtol=1e-3, atol=1e-4)
    assert np.abs(predict(network, x) - first).max() > 0.01


def test_the_same_seed_gives_the_same_network_no_step_and_no_finite_loss_the_old_one(drawn):
    x, y = rows()
    recipe = MoeRecipe(steps=5, batch_size=4, warmup=2)
    logits = []
    for seed in (3, 3, 4):
        network = from_tree(drawn, small_config())
        losses = train_moe(network, x, y, recipe, seed=seed).losses
        logits.append(predict(network, x))
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 0
    assert losses.shape == (5,)
    assert train_moe(network, x, y, MoeRecipe(steps=0, batch_size=4)).losses.shape == (0,)
    with pytest.raises(ValueError, match="not finite near step 0"):
        train_moe(network, np.full_like(x, np.nan), y, recipe)
    np.testing.assert_array_equal(predict(network, x), logits[2])


def test_every_image_is_seen_once_a_pass_and_weights_that_are_not_finite_are_not_handed_back(
    drawn, monkeypatch
):
    """A last step that spoils the weights shows in no loss."""
    network = from_tree(drawn, small_config())

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


def test_every_step_has_noise_of_its_own(drawn):
    """All images in one batch and a rate of next to nothing: losses differ by their noise alone."""
    x, y = rows(count=12)
    for noise in (True, False):
        network = from_tree(drawn, small_config(router={"noise_std": 20.0}))
        recipe = MoeRecipe(
            steps=3,
            batch_size=12,
            optimizer="sgd",
            learning_rate=1e-12,
            end_rate=1e-12,
            warmup=0,
            noise=noise,
        )
        losses = train_moe(network, x, y, recipe).losses
        assert (np.abs(np.diff(losses)) > 1e-4).all() if noise else np.ptp(losses) < 1e-5


def test_predictions_do_not_depend_on_how_images_are_batched(drawn, monkeypatch):
    network, (x, _) = from_tree(drawn, small_config()), rows(count=23)
    whole = predict(network, x)
    monkeypatch.setattr(training, "_EVALUATED_AT_ONCE", 5)
    np.testing.assert_allclose(predict(network, x), whole, rtol=1e-4, atol=1e-5)


def test_products_of_matrices_of_predictions_name_their_precision(drawn):
    graph, params = nnx.split(from_tree(drawn, small_config()), nnx.Param)
    text = str(jax.make_jaxpr(lambda p, x: training._logits(graph, p, [], x))(params, rows(count=4)[0]))
    products = text.count("dot_general[") + text.count("conv_general_dilated[")
    assert products > 5
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def test_what_cannot_work_is_refused(drawn):
    for settings, message in [
        ({"steps": -1}, "steps is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"optimizer": "lamb"}, "optimizer is 'lamb'"),
        ({"clip": -1}, "clip is -1"),
        ({"noise": 1}, "noise is 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            MoeRecipe(**settings)
    network, (x, y) = from_tree(drawn, small_config()), rows()
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


def test_groups_across_images_need_batches_of_whole_groups(drawn):
    network, (x, y) = from_tree(drawn, small_config(group=40)), rows()
    with pytest.raises(ValueError, match="batch_size is 6, but the tokens of 4 images"):
        train_moe(network, x, y, MoeRecipe(batch_size=6))
    # nine images are filled up to twelve; the first two groups of four do not see it
    np.testing.assert_allclose(predict(network, x[:9])[:8], predict(network, x[:8]), rtol=1e-4, atol=1e-5)
