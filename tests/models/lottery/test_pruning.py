"""Pruning by magnitude, against sorting by hand, and against the percentages of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.lottery.masks import (
    apply_masks,
    counts,
    full_masks,
    is_within,
    layers,
    remaining,
    with_layers,
)
from qrt_tn.models.lottery.pruning import kept_counts, layer_rates, prune_by_magnitude, prune_by_scores

SHAPES = {"a": (6, 9), "b": (3, 3, 2, 4), "output": (9, 5)}


def instance(seed, share=0.8):
    """Weights of few different sizes, so that many are equal, and masks of some of them."""
    rng = np.random.default_rng(seed)
    params = {
        name: {
            "kernel": rng.integers(-4, 5, size=shape).astype(np.float32) / 4,
            "bias": np.ones(2, np.float32),
        }
        for name, shape in SHAPES.items()
    }
    masks = full_masks(params)
    masks = with_layers(masks, {name: rng.random(mask.shape) < share for name, mask in layers(masks).items()})
    return params, masks


def oracle(params, masks, groups):
    """Masks less the smallest weights of each group of layers; `groups` are (layer names, how many go)."""
    result = {name: masks[name]["kernel"].copy() for name in SHAPES}
    for names, gone in groups:
        places = [
            (abs(params[name]["kernel"][place]), names.index(name), place)
            for name in names
            for place in np.ndindex(SHAPES[name])
            if masks[name]["kernel"][place]
        ]
        for _, index, place in sorted(places)[:gone]:
            result[names[index]][place] = False
    return result


def nearest(number):
    """Ordinary rounding, with halves upwards; Python's rounds them to even."""
    return int(number) + (number - int(number) >= 0.5)


def assert_same(masks, expected):
    for name in SHAPES:
        np.testing.assert_array_equal(masks[name]["kernel"], expected[name], err_msg=name)
        assert masks[name]["bias"] is None


@pytest.mark.parametrize("seed", range(12))
def test_each_layer_loses_its_smallest_weights(seed):
    params, masks = instance(seed)
    chosen = np.random.default_rng(seed).choice([0.0, 0.1, 0.25, 0.5, 0.9], size=3)
    rates = {f"{name}/kernel": rate for name, rate in zip(SHAPES, chosen, strict=True)}
    rates["a/kernel"] = rates["a/kernel"] or 0.2
    groups = [([name], nearest(rates[f"{name}/kernel"] * masks[name]["kernel"].sum())) for name in SHAPES]
    assert_same(prune_by_magnitude(params, masks, rates), oracle(params, masks, groups))


@pytest.mark.parametrize("seed", range(12))
def test_global_pruning_takes_the_smallest_of_all_layers_with_a_rate(seed):
    params, masks = instance(seed)
    rate = [0.1, 0.2, 0.5][seed % 3]
    # the output layer is left whole; its weights count neither in the share nor in the ranking
    rates = {"a/kernel": rate, "b/kernel": rate, "output/kernel": 0.0}
    size = masks["a"]["kernel"].sum() + masks["b"]["kernel"].sum()
    expected = oracle(params, masks, [(["a", "b"], nearest(rate * size))])
    assert_same(prune_by_magnitude(params, masks, rates, scope="global"), expected)
    del rates["output/kernel"]
    assert_same(prune_by_magnitude(params, masks, rates, scope="global"), expected)


def lenet():
    layer_shapes = {"hidden1": (784, 300), "hidden2": (300, 100), "output": (100, 10)}
    return full_masks({name: {"kernel": np.zeros(shape)} for name, shape in layer_shapes.items()})


@pytest.mark.parametrize(
    ("level", "percent"), [(0, 100.0), (3, 51.3), (7, 21.1), (9, 13.5), (11, 8.7), (15, 3.6), (16, 2.9)]
)
def test_levels_of_lenet_have_the_percentages_of_the_paper(level, percent):
    masks = lenet()
    rates = layer_rates(masks, dense=0.2, conv=0.0, output=0.1)
    left = sum(kept_counts(masks, rates, level).values())
    assert round(100 * left / 266_200, 1) == percent


def test_rounds_of_lenet_leave_the_counts_and_lie_within_each_other():
    masks, rng = lenet(), np.random.default_rng(0)
    rates = layer_rates(masks, dense=0.2, conv=0.0, output=0.1)
    start = masks
    for level in range(1, 4):
        params = jax.tree.map(lambda mask: rng.normal(size=mask.shape).astype(np.float32), masks)
        new = prune_by_magnitude(apply_masks(masks, params), masks, rates)
        assert is_within(new, masks)
        assert {k: m.sum() for k, m in layers(new).items()} == kept_counts(start, rates, level)
        masks = new
    assert round(100 * remaining(masks), 1) == 51.3


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("seed", range(4))
def test_rounds_at_once_are_rounds_one_by_one_where_weights_do_not_change(seed, scope):
    params, start = instance(seed)
    rates = dict.fromkeys(layers(start), 0.15)
    masks = start
    for _ in range(5):
        new = prune_by_magnitude(params, masks, rates, scope=scope)
        assert is_within(new, masks)
        assert counts(new) < counts(masks)
        masks = new
    at_once = prune_by_magnitude(params, start, rates, rounds=5, scope=scope)
    assert_same(at_once, {name: masks[name]["kernel"] for name in SHAPES})
    assert counts(at_once)[0] == sum(kept_counts(start, rates, 5, scope).values())


def test_no_rounds_take_nothing():
    params, masks = instance(0)
    assert_same(
        prune_by_magnitude(params, masks, {"a/kernel": 0.5}, rounds=0),
        {name: masks[name]["kernel"] for name in SHAPES},
    )


def test_what_is_pruned_does_not_come_back_however_large():
    params, masks = instance(1)
    params["a"]["kernel"][~masks["a"]["kernel"]] = 100.0
    params["b"]["kernel"][~masks["b"]["kernel"]] = np.nan
    for scope in ("layer", "global"):
        new = prune_by_magnitude(params, masks, dict.fromkeys(layers(masks), 0.3), scope=scope)
        assert is_within(new, masks)


def test_weights_of_jax_and_scores_of_either_sign_are_taken():
    params, masks = instance(2)
    rates = {"a/kernel": 0.5}
    expected = prune_by_magnitude(params, masks, rates)
    found = prune_by_magnitude(jax.tree.map(jnp.asarray, params), masks, rates)
    assert_same(found, {name: expected[name]["kernel"] for name in SHAPES})
    scores = {"a/kernel": jnp.asarray(np.abs(params["a"]["kernel"]) - 10)}
    assert_same(prune_by_scores(scores, masks, rates), {name: expected[name]["kernel"] for name in SHAPES})


def test_rates_go_by_the_kind_of_layer():
    _, masks = instance(0)
    assert layer_rates(masks, 0.2, 0.1, 0.05) == {
        "a/kernel": 0.2,
        "b/kernel": 0.1,
        "output/kernel": 0.05,
    }
    shallow = full_masks({"hidden_kernel": np.ones((2, 3)), "kernel": np.ones((3, 2))})
    assert layer_rates(shallow, 0.2, 0.1, 0.05) == {"hidden_kernel": 0.2, "kernel": 0.05}


def test_global_counts_are_of_the_layers_with_a_rate():
    _, masks = instance(0, share=1.1)
    assert kept_counts(masks, {"a/kernel": 0.5, "output/kernel": 0.0}, 1, "global") == {"": 27}
    assert kept_counts(masks, {"a/kernel": 0.5}, 1) == {"a/kernel": 27, "b/kernel": 72, "output/kernel": 45}


@pytest.mark.parametrize(
    ("rates", "options", "message"),
    [
        ({"a/kernel": 1.0}, {}, "rate of 'a/kernel' is 1.0"),
        ({"a/kernel": -0.1}, {}, "rate of 'a/kernel' is -0.1"),
        ({"a/kernel": float("nan")}, {}, "rate of 'a/kernel' is nan"),
        ({"c/kernel": 0.2}, {}, "no layer 'c/kernel'"),
        ({"a/kernel": 0.0}, {}, "no layer has a rate"),
        ({"a/kernel": 0.2}, {"rounds": -1}, "rounds is -1"),
        ({"a/kernel": 0.2}, {"scope": "all"}, "scope is 'all'"),
        ({"a/kernel": 0.2, "b/kernel": 0.1}, {"scope": "global"}, "scope 'global' has the rates"),
        ({"a/kernel": 0.9}, {"rounds": 9}, "'a/kernel' would be pruned to nothing"),
        ({"a/kernel": 0.9}, {"rounds": 9, "scope": "global"}, "'all layers' would be pruned to nothing"),
    ],
)
def test_wrong_settings_are_refused(rates, options, message):
    params, masks = instance(0)
    with pytest.raises(ValueError, match=message):
        prune_by_magnitude(params, masks, rates, **options)


def test_a_layer_that_global_pruning_would_empty_is_named():
    params, masks = instance(0)
    params["b"]["kernel"] = params["b"]["kernel"] * 1e-3 + 1e-4
    params["a"]["kernel"] = params["a"]["kernel"] + 10
    with pytest.raises(ValueError, match="'b/kernel' would be pruned to nothing"):
        prune_by_magnitude(params, masks, {"a/kernel": 0.7, "b/kernel": 0.7}, scope="global")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_weights_that_are_not_finite_are_refused(value, scope):
    params, masks = instance(3)
    params["a"]["kernel"][tuple(np.argwhere(masks["a"]["kernel"])[0])] = value
    with pytest.raises(ValueError, match="'a/kernel' has a weight or score"):
        prune_by_magnitude(params, masks, {"a/kernel": 0.2}, scope=scope)


def test_scores_and_masks_of_another_shape_are_refused():
    params, masks = instance(0)
    with pytest.raises(ValueError, match="scores of layer 'a/kernel'"):
        prune_by_scores({"a/kernel": np.ones((9, 6))}, masks, {"a/kernel": 0.2})
    with pytest.raises(ValueError, match="scores of layer 'a/kernel'"):
        prune_by_scores({"b/kernel": np.ones(SHAPES["b"])}, masks, {"a/kernel": 0.2})
    params["a"]["kernel"] = params["a"]["kernel"].T
    with pytest.raises(ValueError, match="the mask of 'a/kernel' has shape"):
        prune_by_magnitude(params, masks, {"a/kernel": 0.2})
