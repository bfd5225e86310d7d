from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from qrt_tn.models.moe import training
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.training import MoeRecipe, accuracy, predict, train_moe
from qrt_tn.models.moe.trees import to_tree
from qrt_tn.models.moe.vit import VisionMoe, expert_layers
from tests.models.moe.conftest import random_network, small_config

BRIEF = {"batch_size": 4, "warmup": 2}


def rows(seed=0, count=60):
    """Images of which one row of three is bright: the label."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = 0.3 * rng.normal(size=(count, 6, 6, 1)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 2] += 1
    return x, y


@pytest.mark.parametrize("kind", ["token-choice", "expert-choice"])
def test_a_network_learns(kind):
    x, y = rows(count=400)
    network = VisionMoe(small_config(router={"kind": kind}), rngs=nnx.Rngs(0))
    before = {block: np.array(layer.router.kernel[...]) for block, layer in expert_layers(network).items()}
    seen = []
    recipe = MoeRecipe(steps=200, batch_size=20, learning_rate=1e-2, warmup=5)
    trained = train_moe(network, x, y, recipe, seed=1, progress=lambda *now: seen.append(now))
    assert trained.losses.shape == trained.auxiliary.shape == (200,)
    assert trained.losses[-10:].mean() < 0.3 * trained.losses[:5].mean()
    assert accuracy(network, *rows(1)) > 0.9
    assert seen == [(50, 200), (100, 200), (150, 200), (200, 200)]
    after = expert_layers(network)[1].router.kernel[...]
    assert np.abs(after - before[1]).max() > 1e-3


def test_a_pruned_network_trains_on():
    x, y = rows(count=400)
    network = random_network(small_config(maps={1: ExpertMap((0, 1, -1, -1), (1, 3), 4)}))
    train_moe(network, x, y, MoeRecipe(steps=200, batch_size=20, learning_rate=1e-2, warmup=5))
    assert accuracy(network, *rows(1)) > 0.9
    assert expert_layers(network)[1].experts.kernel_in.shape[0] == 2


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_steps_are_those_of_optax(optimizer):
    """One batch that holds all images, so that no order matters; a plain loop, step by step."""
    x, y = rows(count=12)
    recipe = MoeRecipe(
        steps=4, batch_size=12, optimizer=optimizer, learning_rate=0.01, warmup=2, clip=0.5, noise=False
    )
    network, other = random_network(small_config()), random_network(small_config())
    train_moe(network, x, y, recipe)
    graph, params = nnx.split(other, nnx.Param)
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.01, 2, 4, 1e-5)
    rule = optax.adamw(rate, weight_decay=0.0) if optimizer == "adam" else optax.sgd(rate, momentum=0.9)
    rule = optax.chain(optax.clip_by_global_norm(0.5), rule)
    state = rule.init(params)

    @jax.jit
    def slopes(params):
        def loss(params):
            logits, auxiliary = nnx.merge(graph, params)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean() + auxiliary

        return jax.grad(loss)(params)

    for _ in range(4):
        changes, state = rule.update(slopes(params), state, params)
        params = optax.apply_updates(params, changes)
    nnx.update(other, params)
    np.testing.assert_allclose(predict(network, x), predict(other, x), rtol=1e-3, atol=1e-4)
    assert np.abs(predict(network, x) - predict(random_network(small_config()), x)).max() > 0.01


def test_the_same_seed_gives_the_same_network():
    x, y = rows()
    logits = []
    for seed in (3, 3, 4):
        network = VisionMoe(small_config(), rngs=nnx.Rngs(0))
        train_moe(network, x, y, MoeRecipe(steps=5, **BRIEF), seed=seed)
        logits.append(predict(network, x))
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 0


def test_no_step_changes_nothing():
    network = random_network(small_config())
    before = to_tree(network)["head"]["kernel"]
    assert train_moe(network, *rows(), MoeRecipe(steps=0, batch_size=4)).losses.shape == (0,)
    np.testing.assert_array_equal(before, to_tree(network)["head"]["kernel"])


def test_every_image_is_seen_once_a_pass(monkeypatch):
    seen = []
    plain = training._advance

    def watched(graph, recipe, rest, carry, batches, *others):
        seen.append(np.asarray(batches))
        return plain(graph, recipe, rest, carry, batches, *others)

    monkeypatch.setattr(training, "_advance", watched)
    train_moe(random_network(small_config()), *rows(count=20), MoeRecipe(steps=10, batch_size=4, warmup=0))
    batches = np.concatenate(seen)
    for one in (batches[:5], batches[5:]):
        assert sorted(one.reshape(-1)) == list(range(20))
    assert (batches[:5] != batches[5:]).any()


def test_predictions_do_not_depend_on_how_images_are_batched(monkeypatch):
    network, (x, _) = random_network(small_config()), rows(count=23)
    whole = predict(network, x)
    monkeypatch.setattr(training, "_EVALUATED_AT_ONCE", 5)
    np.testing.assert_allclose(predict(network, x), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"optimizer": "lamb"}, "optimizer is 'lamb'"),
        ({"clip": -1}, "clip is -1"),
        ({"noise": 1}, "noise is 1"),
    ],
)
def test_recipes_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MoeRecipe(**settings)


def test_points_that_do_not_fit_are_refused():
    network, (x, y) = random_network(small_config()), rows()
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


def test_a_loss_that_is_not_finite_ends_the_training():
    network, (x, y) = random_network(small_config()), rows()
    with pytest.raises(ValueError, match="not finite near step 0"):
        train_moe(network, np.full_like(x, np.nan), y, MoeRecipe(steps=5, **BRIEF))


def test_groups_across_images_need_batches_of_whole_groups():
    network, (x, y) = random_network(small_config(group=40)), rows()
    with pytest.raises(ValueError, match="batch_size is 6, but the tokens of 4 images"):
        train_moe(network, x, y, MoeRecipe(batch_size=6))
    assert predict(network, x[:10]).shape == (10, 3)
    np.testing.assert_allclose(predict(network, x[:9])[:8], predict(network, x[:8]), rtol=1e-4, atol=1e-5)


def test_every_step_has_noise_of_its_own():
    """All images in one batch and a rate of next to nothing: losses differ by their noise alone."""
    x, y = rows(count=12)
    network = random_network(small_config(router={"noise_std": 20.0}))
    recipe = MoeRecipe(
        steps=52, batch_size=12, optimizer="sgd", learning_rate=1e-12, end_rate=1e-12, warmup=0
    )
    losses = train_moe(network, x, y, recipe).losses
    # two steps of one compiled call, and the first ones of two calls
    for other in (1, 50, 51):
        assert abs(losses[other] - losses[0]) > 1e-4
    assert abs(losses[51] - losses[1]) > 1e-4
    quiet = train_moe(network, x, y, replace(recipe, noise=False)).losses
    assert np.ptp(quiet) < 1e-5


def test_a_router_of_one_column_trains():
    """The spread of one column is 0, and its root has no gradient there."""
    x, y = rows()
    maps = {1: ExpertMap((0,), (2,), 4)}
    network = random_network(small_config(maps=maps, router={"selected": 1}))
    losses = train_moe(network, x, y, MoeRecipe(steps=20, batch_size=20, learning_rate=5e-3)).losses
    assert losses[-1] < losses[0]


def test_weights_that_are_not_finite_are_not_handed_back():
    """A last step that spoils the weights shows in no loss."""
    x, y = rows(count=12)
    network = random_network(small_config())
    recipe = MoeRecipe(
        steps=1, batch_size=12, optimizer="sgd", learning_rate=1e38, warmup=0, clip=0, noise=False
    )
    network.head.kernel.set_value(network.head.kernel[...] * 1e3)
    held = to_tree(network)["head"]["kernel"]
    with pytest.raises(ValueError, match="not finite after the last step"):
        train_moe(network, x * 1e3, y, recipe)
    np.testing.assert_array_equal(to_tree(network)["head"]["kernel"], held)
