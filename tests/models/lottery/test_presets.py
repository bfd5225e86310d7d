"""Recipes against rates worked out by hand and a NumPy optimiser; presets and their changes."""

import typing
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qrt_tn.models.lottery.presets import PRESETS, Architecture, Initializer, Preset, Recipe, preset
from qrt_tn.models.vision import ARCHITECTURES

DROPS = {"learning_rate": 0.2, "warmup": 10, "drops": (30, 50)}


@pytest.mark.parametrize(
    ("settings", "start", "rates"),
    [
        (DROPS, 0, {0: 0.0, 1: 0.02, 9: 0.18, 10: 0.2, 29: 0.2, 30: 0.02, 49: 0.02, 50: 0.002, 1000: 0.002}),
        (DROPS, 5, {0: 0.1, 24: 0.2, 25: 0.02}),
        (DROPS, 50, {0: 0.002}),
        # a drop during warm-up takes both
        ({"learning_rate": 1.0, "warmup": 100, "drops": (40,)}, 0, {39: 0.39, 40: 0.04}),
        ({"learning_rate": 0.3}, 0, {0: 0.3, 10**6: 0.3}),
    ],
)
def test_the_rate_warms_up_and_drops(settings, start, rates):
    found = jax.vmap(Recipe(**settings).schedule(start))(jnp.asarray(list(rates)))
    np.testing.assert_allclose(found, list(rates.values()), rtol=1e-6)


def run(recipe, gradients, x, start=0):
    transform = recipe.transform(start)

    def step(carry, gradient):
        updates, state = transform.update({"kernel": gradient}, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    params = {"kernel": jnp.asarray(x, dtype=jnp.float32)}
    (params, _), _ = jax.lax.scan(step, (params, transform.init(params)), jnp.asarray(gradients))
    return np.asarray(params["kernel"])


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.05), (None, 0.1)])
def test_updates_are_those_of_numpy(momentum, decay):
    """Of sgd, and of adam where there is no momentum; moments begin anew while the rate goes on."""
    rng = np.random.default_rng(0)
    x, gradients = rng.normal(size=4), rng.normal(size=(12, 4)).astype(np.float32)
    rule = {"optimizer": "adam"} if momentum is None else {"optimizer": "sgd", "momentum": momentum}
    recipe = Recipe(**rule, learning_rate=0.1, weight_decay=decay, drops=(8,), warmup=5)
    expected, first, second = x.copy(), np.zeros(4), np.zeros(4)
    for step, gradient in enumerate(gradients, start=1):
        whole = gradient + decay * expected
        if momentum is None:
            first, second = 0.9 * first + 0.1 * whole, 0.999 * second + 0.001 * whole**2
            direction = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        else:
            direction = first = momentum * first + whole
        iteration = step + 2
        expected -= 0.1 * min(1, iteration / 5) * (0.1 if iteration >= 8 else 1) * direction
    np.testing.assert_allclose(run(recipe, gradients, x, start=3), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adm"}, "optimizer is 'adm'; .*'adam' or 'sgd'"),
        ({"learning_rate": 0}, "learning_rate is 0; "),
        ({"momentum": 1.0, "optimizer": "sgd"}, "momentum is 1.0; "),
        ({"momentum": 0.9}, "momentum is 0.9, but adam"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"warmup": -1}, "warmup is -1"),
        ({"iterations": 2**31}, "iterations is 2147483648"),
        ({"drops": (0, 5)}, r"drops.0 is 0; "),
        ({"drops": (5, 5)}, r"drops is \(5, 5\); give rising"),
        ({"batchsize": 5}, "'batchsize'; did you mean 'batch_size'"),
    ],
)
def test_bad_recipes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as refused:
        Recipe(**settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "rate", "iterations", "shares"),
    [
        ("lenet", 1.2e-3, 50_000, (0.2, 0.0, 0.1)),
        ("conv2", 2e-4, 20_000, (0.2, 0.1, 0.1)),
        ("conv4", 3e-4, 25_000, (0.2, 0.1, 0.1)),
        ("conv6", 3e-4, 30_000, (0.2, 0.15, 0.1)),
        ("resnet20", 0.1, 30_000, (0.0, 0.2, 0.0)),
        ("resnet20-warmup", 0.03, 30_000, (0.0, 0.2, 0.0)),
        ("vgg19", 0.1, 112_480, (0.0, 0.2, 0.0)),
        ("vgg19-warmup", 0.1, 112_480, (0.0, 0.2, 0.0)),
    ],
)
def test_the_settings_of_the_paper(name, rate, iterations, shares):
    chosen, deep = preset(name), name.startswith(("resnet", "vgg"))
    recipe = chosen.recipe
    assert (recipe.learning_rate, recipe.iterations) == (rate, iterations)
    assert (chosen.rate, chosen.conv_rate, chosen.output_rate) == shares
    assert chosen.architecture == name.removesuffix("-warmup")
    assert (chosen.scope, recipe.optimizer) == (("global", "sgd") if deep else ("layer", "adam"))
    assert recipe.warmup == {"resnet20-warmup": 20_000, "vgg19-warmup": 10_000}.get(name, 0)
    assert (recipe.momentum, recipe.weight_decay, recipe.augment) == (
        (0.9, 1e-4, True) if deep else (0, 0, 0)
    )


def test_all_presets_are_those_tested_and_name_what_is_unverified():
    assert len(PRESETS) == 8 + 1
    assert PRESETS["quick"].data == "digits"
    assert preset("lenet").unverified == ()
    assert preset("conv2").unverified == ("batch_size",)
    # the paper's warm-up rates are known, its other settings of the two deep networks are not
    assert "learning_rate" in preset("vgg19").unverified
    assert "learning_rate" not in preset("vgg19-warmup").unverified
    for chosen in PRESETS.values():
        assert set(chosen.unverified) < {*asdict(chosen), *asdict(chosen.recipe)}
    assert typing.get_args(Architecture) == ARCHITECTURES
    assert all(hasattr(jax.nn.initializers, name) for name in typing.get_args(Initializer))


def test_overrides_change_preset_and_recipe():
    base = PRESETS["resnet20"]
    changed = preset("resnet20", iterations=700, drops=[400, 600], levels=3, rewind=50, data="digits")
    recipe = replace(base.recipe, iterations=700, drops=(400, 600))
    assert changed == replace(base, levels=3, rewind=50, data="digits", recipe=recipe)
    assert "iterations" not in changed.unverified and "batch_size" in changed.unverified
    assert base.recipe.iterations == 30_000
    made = Preset("lenet", "digits", Recipe(), levels=2, rate=0.5, conv_rate=0.0, output_rate=0.25)
    assert hash(made) == hash(replace(made, unverified=("rate",)))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("conv3", {}, "unknown preset 'conv3'; did you mean 'conv"),
        (3, {}, "unknown preset 3; choose one of"),
        (["lenet"], {}, "unknown preset .'lenet'.; did you mean 'lenet'"),
        ("zzz", {}, "choose one of .*lenet, conv2"),
        ("lenet", {"lerning_rate": 1}, "no 'lerning_rate'; did you mean 'learning_rate'"),
        ("lenet", {"unverified": ()}, "no 'unverified'"),
        ("lenet", {"rate": 1.2}, "rate is 1.2; "),
        ("lenet", {"rate": 0, "output_rate": 0}, "are all 0; give one of them"),
        ("lenet", {"architecture": "lenet5"}, "architecture is 'lenet5'; .*'lenet', 'conv2'"),
        ("lenet", {"scope": "local"}, "scope is 'local'; .*'layer' or 'global'"),
        ("lenet", {"data": ""}, "data is ''"),
        ("lenet", {"trials": 0}, "trials is 0"),
        ("lenet", {"rewind": 100, "iterations": 100}, "rewind is 100, but a run has 100 iterations"),
        ("lenet", {"recipe": Recipe()}, "no 'recipe'"),
        ("lenet", {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_presets_are_refused(name, overrides, message):
    with pytest.raises(ValueError, match=message) as refused:
        preset(name, **overrides)
    assert "\n" not in str(refused.value)
