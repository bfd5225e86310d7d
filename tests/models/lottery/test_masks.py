"""Masks: what they name, that they choose and do not multiply, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.dense import DenseNetwork
from qrt_tn.models.lottery.masks import (
    apply_masks,
    check_masks,
    counts,
    full_masks,
    is_within,
    layer_values,
    layers,
    remaining,
    with_layers,
)

SHAPES = {"conv": (3, 3, 1, 2), "hidden": (8, 5), "output": (5, 3)}


def parameters(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    made = {
        name: {"kernel": rng.normal(size=s).astype(dtype), "bias": rng.normal(size=s[-1]).astype(dtype)}
        for name, s in SHAPES.items()
    }
    return {**made, "norm": {"scale": rng.normal(size=2).astype(dtype)}}


def random_masks(seed, share=0.5):
    rng = np.random.default_rng(seed)
    masks = full_masks(parameters(0))
    return with_layers(masks, {name: rng.random(m.shape) < share for name, m in layers(masks).items()})


def test_full_masks_keep_all_of_the_kernels_and_name_nothing_else():
    masks = full_masks(parameters(0))
    assert masks["norm"] == {"scale": None}
    assert all(masks[name]["bias"] is None for name in SHAPES)
    assert {name: mask.shape for name, mask in layers(masks).items()} == {
        f"{name}/kernel": shape for name, shape in SHAPES.items()
    }
    assert all(mask.dtype == bool and mask.all() for mask in layers(masks).values())
    assert counts(masks) == (18 + 40 + 15, 18 + 40 + 15)


def test_kernels_of_shallow_networks_are_found_and_vectors_are_not():
    params = nnx.to_pure_dict(nnx.state(DenseNetwork(4, 6, 2, rngs=nnx.Rngs(0)), nnx.Param))
    assert list(layers(full_masks(params))) == ["hidden_kernel", "kernel"]
    assert list(layers(full_masks({"a": {"kernel": np.ones(3)}, "kernel": np.ones((2, 2))}))) == ["kernel"]


def test_a_rule_chooses_what_may_be_pruned():
    masks = full_masks(parameters(0), lambda name, leaf: name == "norm/scale" or leaf.ndim == 4)
    assert list(layers(masks)) == ["conv/kernel", "norm/scale"]
    with pytest.raises(ValueError, match="none of the parameters"):
        full_masks(parameters(0), lambda name, leaf: False)


def test_numbered_layers_have_names():
    masks = full_masks({"layers": {1: {"kernel": np.ones((2, 3))}, 0: {"kernel": np.ones((4, 2))}}})
    assert {name: mask.shape for name, mask in layers(masks).items()} == {
        "layers/0/kernel": (4, 2),
        "layers/1/kernel": (2, 3),
    }


@pytest.mark.parametrize("seed", range(5))
def test_counts_and_shares_are_those_of_the_arrays(seed):
    masks = random_masks(seed, share=0.3)
    flat = np.concatenate([masks[name]["kernel"].ravel() for name in SHAPES])
    assert counts(masks) == (flat.sum(), flat.size)
    assert remaining(masks) == pytest.approx(flat.mean())


def test_replacing_a_layer_leaves_the_others():
    masks = random_masks(0)
    new = np.zeros((8, 5), dtype=bool)
    changed = with_layers(masks, {"hidden/kernel": new})
    assert changed["hidden"]["kernel"] is new
    assert changed["output"]["kernel"] is masks["output"]["kernel"]
    assert changed["norm"] == {"scale": None}
    assert masks["hidden"]["kernel"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_masked_weights_are_exactly_0_and_all_others_the_same_bits(dtype):
    params, masks = parameters(1, dtype), random_masks(2)
    result = apply_masks(masks, params)
    for name in SHAPES:
        mask, before, after = masks[name]["kernel"], params[name]["kernel"], result[name]["kernel"]
        assert after.dtype == dtype
        assert np.asarray(after)[mask].tobytes() == before[mask].tobytes()
        assert not np.asarray(after)[~mask].astype(np.float32).any()
        assert result[name]["bias"] is params[name]["bias"]


def test_weights_that_are_not_finite_are_pruned_to_0():
    weights = np.array([[np.nan, np.inf], [-np.inf, -0.0]], dtype=np.float32)
    masks = {"kernel": np.array([[False, False], [False, True]])}
    result = np.asarray(apply_masks(masks, {"kernel": weights})["kernel"])
    np.testing.assert_array_equal(result, np.zeros((2, 2)))
    assert np.signbit(result[1, 1])


def test_masks_are_arguments_of_a_compiled_function():
    params, compiled = parameters(3), jax.jit(apply_masks)
    for seed in range(3):
        masks = random_masks(seed)
        expected = np.where(masks["hidden"]["kernel"], params["hidden"]["kernel"], 0)
        np.testing.assert_array_equal(compiled(masks, params)["hidden"]["kernel"], expected)
    assert compiled._cache_size() == 1


def test_a_network_with_masked_parameters_computes_with_them():
    network = DenseNetwork(4, 6, 2, rngs=nnx.Rngs(1))
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    rng = np.random.default_rng(0)
    masks = jax.tree.map(lambda mask: rng.random(mask.shape) < 0.5, full_masks(params))
    x = rng.normal(size=(7, 4)).astype(np.float32)
    hidden = np.maximum(x @ (np.asarray(params["hidden_kernel"]) * masks["hidden_kernel"]), 0)
    expected = hidden @ (np.asarray(params["kernel"]) * masks["kernel"])
    result = nnx.merge(graph, apply_masks(masks, params), rest)(x)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_values_of_layers_are_the_parameters():
    params = parameters(4)
    values = layer_values(random_masks(0), params)
    assert list(values) == [f"{name}/kernel" for name in SHAPES]
    for name in SHAPES:
        np.testing.assert_array_equal(values[f"{name}/kernel"], params[name]["kernel"])


def test_masks_of_later_rounds_are_within_earlier_ones():
    masks = random_masks(5)
    fewer = jax.tree.map(lambda mask: mask & (np.arange(mask.size).reshape(mask.shape) % 2 == 0), masks)
    assert is_within(fewer, masks)
    assert is_within(masks, masks)
    assert not is_within(masks, fewer)


def broken(change):
    masks = jax.tree.map(np.copy, full_masks(parameters(0)))
    change(masks)
    return masks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda masks: masks["hidden"].pop("bias"), "the masks lack 'hidden/bias'"),
        (lambda masks: masks.update(other=None), "the masks name 'other'"),
        (
            lambda masks: masks["output"].update(kernel=np.ones((3, 5), bool)),
            r"\(3, 5\), its weights \(5, 3\)",
        ),
        (lambda masks: masks["output"].update(kernel=np.ones((5, 3))), "dtype float64"),
        (lambda masks: masks["conv"]["kernel"].fill(False), "'conv/kernel' is pruned to nothing"),
    ],
)
def test_masks_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_masks(broken(change), parameters(0))
    with pytest.raises(ValueError, match=message):
        layer_values(broken(change), parameters(0))
