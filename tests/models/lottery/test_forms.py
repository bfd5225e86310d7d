"""Fully connected networks in all their forms, against NumPy."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.lottery.forms import compact, forms, measure
from qrt_tn.models.lottery.masks import full_masks, layers, with_layers


def random_network(rng, widths):
    """Parameters, the names of their kernels, and masks of all weights."""
    params = {
        f"layer{place}": {
            "kernel": (rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32),
            "bias": rng.normal(size=shape[1]).astype(np.float32),
        }
        for place, shape in enumerate(pairwise(widths))
    }
    return params, [f"{name}/kernel" for name in params], full_masks(params)


def outputs(params, masks, x):
    """The masked network in float64, by NumPy."""
    for place, name in enumerate(params):
        x = np.maximum(x, 0) if place else np.asarray(x, np.float64)
        kernel = np.where(masks[name]["kernel"], np.asarray(params[name]["kernel"], np.float64), 0)
        x = x @ kernel + params[name].get("bias", 0)
    return x


def live_units(masks):
    """How many inputs, hidden units and outputs are alive, taking dead ones away until nothing changes."""
    masks = [mask.copy() for mask in masks]
    before = None
    while before != (before := sum(mask.sum() for mask in masks)):
        for one, other in pairwise(masks):
            dead = ~(one.any(axis=0) & other.any(axis=1))
            one[:, dead], other[dead] = False, False
    return [*(int(mask.any(axis=1).sum()) for mask in masks), masks[-1].shape[1]]


def test_compaction_computes_the_same_and_finds_every_dead_unit():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.1, 0.2, 0.4, 1.0) * 3:
        params, _, masks = random_network(rng, [9, *rng.integers(3, 9, size=rng.integers(1, 5)), 3])
        kept = {name: rng.random(mask.shape) < density for name, mask in layers(masks).items()}
        stack = [(jnp.asarray(layer["kernel"]), jnp.asarray(layer["bias"])) for layer in params.values()]
        smaller, inputs = compact(stack, list(kept.values()))
        alive = live_units(kept.values())
        assert [kernel.shape for kernel, _ in smaller] == list(pairwise(alive))
        x = rng.normal(size=(20, 9)).astype(np.float32)
        own = {f"{n}": {"kernel": kernel, "bias": bias} for n, (kernel, bias) in enumerate(smaller)}
        found = outputs(own, full_masks(own), x if inputs is None else x[:, inputs])
        expected = outputs(params, with_layers(masks, kept), x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_chain_of_constants_folds_to_the_outputs():
    stack = [(jnp.array([[w]]), jnp.array([b])) for w, b in ((5.0, 1.5), (2.0, -1.0), (-3.0, 10.0))]
    smaller, inputs = compact(stack, [np.array([[False]]), np.array([[True]]), np.array([[True]])])
    # relu(1.5) = 1.5, relu(2 * 1.5 - 1) = 2, 10 - 3 * 2 = 4
    assert [kernel.shape for kernel, _ in smaller] == [(0, 0), (0, 0), (0, 1)]
    assert smaller[-1][1] == 4
    assert len(inputs) == 0


def test_forms_compute_the_same_and_hold_what_they_say():
    rng = np.random.default_rng(6)
    params, kernels, masks = random_network(rng, [8, 6, 3])
    masks = with_layers(masks, {name: rng.random(m.shape) < 0.4 for name, m in layers(masks).items()})
    del params["layer1"]["bias"], masks["layer1"]["bias"]
    masks["layer0"]["kernel"][4] = False  # an unread feature
    masks["layer0"]["kernel"][:, 0] = False  # a constant unit
    # pruned weights count for nothing, whatever they are, and a surviving zero is stored
    kept = masks["layer0"]["kernel"]
    params["layer0"]["kernel"][~kept] = np.nan
    params["layer0"]["kernel"][tuple(np.argwhere(kept)[0])] = 0
    x = rng.normal(size=(10, 8)).astype(np.float32)
    expected = outputs(params, masks, x)
    found = forms(params, masks, kernels)
    for form in found.values():
        np.testing.assert_allclose(jax.jit(form.run)(form.held, x), expected, rtol=1e-5, atol=1e-5)
    rows = measure(params, masks, kernels, x, rounds=2)
    assert [(row["batch"], row["form"]) for row in rows] == [(n, form) for n in (1, 10) for form in found]
    weights, units = 8 * 6 + 6 * 3, 6 + 3
    left = sum(int(mask.sum()) for mask in layers(masks).values())
    for row in rows:
        assert row["seconds"] > 0
        assert 0 < row["disk_bytes"] - row["memory_bytes"] < 2000  # a file has a header
    for dense, masked, compacted, coo, csr in (rows[:5], rows[5:]):
        assert dense["memory_bytes"] == 4 * (weights + units)
        assert masked["memory_bytes"] == 4 * (2 * weights + units)
        assert coo["memory_bytes"] == 4 * (3 * left + units)
        assert csr["memory_bytes"] == 4 * (2 * left + units + units + 2)
        assert compacted["memory_bytes"] < dense["memory_bytes"]
        assert dense["flops"] == masked["flops"] == 2 * weights
        assert coo["flops"] == csr["flops"] == 2 * left
        assert compacted["flops"] == 2 * sum(np.prod(k.shape) for k, _ in found["compacted"].held[0])


def layer(*shape):
    return {"kernel": np.ones(shape, np.float32), "bias": np.ones(shape[-1], np.float32)}


@pytest.mark.parametrize(
    ("params", "kernels", "message"),
    [
        ({"one": layer(4, 3)}, ["one/kernel", "three/kernel"], "'three/kernel' is no"),
        ({"one": layer(4, 3)}, ["one/bias"], "'one/bias' is no"),
        ({"one": layer(4, 3)}, [], "one/bias, one/kernel is of none"),
        ({"one": layer(4, 3), "two": layer(3, 2)}, ["one/kernel"], "two/bias, two/kernel is of none"),
        ({"one": layer(4, 3), "two": layer(3, 2)}, ["two/kernel", "one/kernel"], "'one/kernel' is no .* 2"),
        ({"conv": layer(3, 3, 1, 2)}, ["conv/kernel"], "'conv/kernel' is no"),
    ],
)
def test_what_is_no_fully_connected_network_is_refused(params, kernels, message):
    with pytest.raises(ValueError, match=message):
        forms(params, full_masks(params), kernels)


@pytest.mark.parametrize(
    ("x", "rounds", "message"),
    [
        (np.ones((2, 3, 4)), 1, r"x has shape \(2, 3, 4\)"),
        (np.ones((2, 11)), 1, r"x has shape \(2, 11\)"),
        (np.ones((0, 12)), 1, r"x has shape \(0, 12\)"),
        (np.ones((2, 12)), 0, "rounds is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(x, rounds, message):
    params, kernels, masks = random_network(np.random.default_rng(7), [12, 3])
    with pytest.raises(ValueError, match=message):
        measure(params, masks, kernels, x, rounds)
