"""Pruning by magnitude, against sorting by hand, and against the percentages of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.lottery.masks import counts, full_masks, is_within, layers, with_layers
from qrt_tn.models.lottery.pruning import (
    kept_counts,
    layer_rates,
    magnitude_scores,
    prune_by_magnitude,
    prune_by_scores,
)

# a matrix, a convolution, a stack of three experts, and the output layer
SHAPES = {
    "a/kernel": (6, 9),
    "b/kernel": (3, 3, 2, 4),
    "experts/kernel_in": (3, 4, 5),
    "output/kernel": (9, 5),
}


def instance(seed, share=0.8):
    """Weights of few different sizes, so that many are equal, and masks of some of them."""
    rng = np.random.default_rng(seed)
    params = {"bias": np.ones(2, np.float32)}
    for name, shape in SHAPES.items():
        layer, last = name.split("/")
        params[layer] = {last: rng.integers(-4, 5, size=shape).astype(np.float32) / 4}
    masks = full_masks(params)
    return params, with_layers(masks, {n: rng.random(m.shape) < share for n, m in layers(masks).items()})


def oracle(params, masks, groups):
    """Masks less the smallest weights of each group of layers; `groups` are (layer names, how many go)."""
    weights, result = magnitude_scores(params, masks), {n: m.copy() for n, m in layers(masks).items()}
    for names, gone in groups:
        places = [
            (weights[name][place], number, place)
            for number, name in enumerate(names)
            for place in np.ndindex(SHAPES[name])
            if result[name][place]
        ]
        for _, number, place in sorted(places)[:gone]:
            result[names[number]][place] = False
    return result


def nearest(number):
    """Ordinary rounding, with halves upwards; Python's rounds them to even."""
    return int(number) + (number - int(number) >= 0.5)


def assert_same(masks, expected):
    jax.tree.map(np.testing.assert_array_equal, layers(masks), expected)
    assert masks["bias"] is None


@pytest.mark.parametrize("seed", range(4))
def test_each_layer_loses_its_smallest_weights(seed):
    params, masks = instance(seed)
    rates = dict(zip(SHAPES, np.random.default_rng(seed).choice([0.0, 0.1, 0.25, 0.5, 0.9], 4), strict=True))
    rates["a/kernel"] = rates["a/kernel"] or 0.2
    groups = [([name], nearest(rates[name] * mask.sum())) for name, mask in layers(masks).items()]
    expected = oracle(params, masks, groups)
    assert_same(prune_by_magnitude(params, masks, rates), expected)
    assert_same(prune_by_magnitude(jax.tree.map(jnp.asarray, params), masks, rates), expected)
    lowered = {name: score - 10 for name, score in magnitude_scores(params, masks).items()}
    assert_same(prune_by_scores(lowered, masks, rates), expected)


@pytest.mark.parametrize("seed", range(3))
def test_global_pruning_takes_the_smallest_of_all_layers_with_a_rate(seed):
    params, masks = instance(seed)
    # the output layer is left whole; its weights count neither in the share nor in the ranking
    names, rate = list(SHAPES)[:3], [0.1, 0.2, 0.5][seed % 3]
    gone = nearest(rate * sum(layers(masks)[name].sum() for name in names))
    expected = oracle(params, masks, [(names, gone)])
    for rates in (dict.fromkeys(names, rate), {**dict.fromkeys(names, rate), "output/kernel": 0.0}):
        assert_same(prune_by_magnitude(params, masks, rates, scope="global"), expected)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("seed", range(3))
def test_rounds_at_once_are_rounds_one_by_one_where_weights_do_not_change(seed, scope):
    params, start = instance(seed)
    # what is pruned does not come back, however large
    params["a"]["kernel"][~start["a"]["kernel"]] = 100.0
    params["b"]["kernel"][~start["b"]["kernel"]] = np.nan
    rates, masks = dict.fromkeys(layers(start), 0.15), start
    for rounds in range(1, 6):
        new = prune_by_magnitude(params, masks, rates, scope=scope)
        assert is_within(new, masks) and counts(new) < counts(masks)
        assert counts(new)[0] == sum(kept_counts(start, rates, rounds, scope).values())
        masks = new
    assert_same(prune_by_magnitude(params, start, rates, rounds=5, scope=scope), layers(masks))
    assert_same(prune_by_magnitude(params, start, rates, rounds=0, scope=scope), layers(start))


def test_levels_of_lenet_have_the_percentages_of_the_paper():
    widths = {"hidden1": (784, 300), "hidden2": (300, 100), "output": (100, 10)}
    masks = full_masks({name: {"kernel": np.zeros(shape)} for name, shape in widths.items()})
    rates = layer_rates(masks, dense=0.2, conv=0.0, output=0.1)
    for level, percent in {0: 100.0, 3: 51.3, 7: 21.1, 9: 13.5, 11: 8.7, 15: 3.6, 16: 2.9}.items():
        assert round(100 * sum(kept_counts(masks, rates, level).values()) / 266_200, 1) == percent


def test_rates_and_counts_go_by_the_kind_of_layer():
    params, _ = instance(0)
    whole = full_masks(params)
    rates = {"a/kernel": 0.2, "b/kernel": 0.1, "experts/kernel_in": 0.2, "output/kernel": 0.05}
    assert layer_rates(whole, 0.2, 0.1, 0.05) == rates
    others = full_masks({"hidden_kernel": np.ones((2, 3)), "kernel": np.ones((3, 2))})
    assert layer_rates(others, 0.2, 0.1, 0.05) == {"hidden_kernel": 0.2, "kernel": 0.05}
    others = full_masks({"head": {"kernel": np.ones((3, 2))}, "patch_kernel": np.ones((2, 2, 1, 3))})
    assert layer_rates(others, 0.2, 0.1, 0.05) == {"head/kernel": 0.05, "patch_kernel": 0.1}
    sizes = {"a/kernel": 54, "b/kernel": 72, "experts/kernel_in": 60, "output/kernel": 45}
    assert kept_counts(whole, {"a/kernel": 0.5}, 1) == {**sizes, "a/kernel": 27}
    assert kept_counts(whole, {"a/kernel": 0.5, "output/kernel": 0.0}, 1, "global") == {"": 27}


@pytest.mark.parametrize(
    ("rates", "options", "message"),
    [
        ({"a/kernel": 1.0}, {}, "rate of 'a/kernel' is 1.0"),
        ({"a/kernel": "a"}, {}, "rate of 'a/kernel' is 'a'"),
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


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_weights_scores_and_masks_that_cannot_be_ranked_are_refused(scope):
    params, masks = instance(3)
    place = tuple(np.argwhere(masks["a"]["kernel"])[0])
    for value in (np.nan, np.inf, -np.inf):
        params["a"]["kernel"][place] = value
        with pytest.raises(ValueError, match=f"'a/kernel' has a weight or score of size {abs(value)}"):
            prune_by_magnitude(params, masks, {"a/kernel": 0.2}, scope=scope)
    for scores in ({"a/kernel": np.ones((9, 6))}, {"b/kernel": np.ones(SHAPES["b/kernel"])}):
        with pytest.raises(ValueError, match="scores of layer 'a/kernel'"):
            prune_by_scores(scores, masks, {"a/kernel": 0.2}, scope=scope)
    params["a"]["kernel"] = params["a"]["kernel"].T
    with pytest.raises(ValueError, match="the mask of 'a/kernel' has shape"):
        prune_by_magnitude(params, masks, {"a/kernel": 0.2}, scope=scope)
