"""Masks: what they name, that they choose and do not multiply, and what does not fit."""

import warnings

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
    unpruned,
    with_layers,
)
from qrt_tn.models.moe.vit import VisionMoe
from qrt_tn.models.vision import architecture
from tests.models.moe.conftest import small_config

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


def shapes(masks):
    return {name: mask.shape for name, mask in layers(masks).items()}


def abstract(build):
    """Shapes of a network's parameters; nothing is computed."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(build), nnx.Param))


def test_full_masks_keep_all_of_the_kernels_and_name_nothing_else():
    masks = full_masks(parameters(0))
    assert masks["norm"] == {"scale": None}
    assert all(masks[name]["bias"] is None for name in SHAPES)
    assert shapes(masks) == {f"{name}/kernel": shape for name, shape in SHAPES.items()}
    assert all(mask.dtype == bool and mask.all() for mask in layers(masks).values())
    assert counts(masks) == (18 + 40 + 15, 18 + 40 + 15)


def test_kernels_of_shallow_networks_and_numbered_layers_are_found_and_vectors_are_not():
    dense = nnx.to_pure_dict(nnx.state(DenseNetwork(4, 6, 2, rngs=nnx.Rngs(0)), nnx.Param))
    assert shapes(full_masks(dense)) == {"hidden_kernel": (4, 6), "kernel": (6, 2)}
    params = {"a": {"kernel": np.ones(3)}, "layers": {1: {"kernel": np.ones((2, 3))}}}
    assert shapes(full_masks(params)) == {"layers/1/kernel": (2, 3)}


def test_the_experts_of_a_mixture_are_pruned_and_its_router_is_not():
    params = abstract(lambda: VisionMoe(small_config(classifier="token"), rngs=nnx.Rngs(0)))
    masks = full_masks(params)  # a warning would be an error
    found, whole = shapes(masks), unpruned(masks, params)
    experts, heads = "blocks/1/mlp/experts", "blocks/0/attention/query"
    assert found[f"{experts}/kernel_in"] == (4, 8, 12)
    assert found[f"{experts}/kernel_out"] == (4, 12, 8)
    assert found[f"{heads}/kernel"] == (8, 2, 4)
    assert {"position", "class_token", f"{experts}/bias_in", "blocks/1/mlp/router/kernel"} < set(whole)
    assert whole[f"{heads}/bias"] == (2, 4)  # a row a head
    assert not any("kernel" in name for name in whole if "router" not in name)
    assert len(found) + len(whole) == sum(leaf.ndim > 1 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["lenet", "conv2", "resnet20"])
def test_ordinary_networks_give_no_warning(name):
    params = abstract(lambda: architecture(name, (32, 32, 3), 10, rngs=nnx.Rngs(0)))
    assert not unpruned(full_masks(params), params)


def test_what_no_rule_knows_is_told_and_a_rule_of_the_user_is_not():
    params = {**parameters(0), "experts": {"w_in": np.ones((2, 3, 4)), "bias_in": np.ones((2, 4))}}
    with pytest.warns(UserWarning, match=r"experts/w_in \(2, 3, 4\); .*prunable=") as told:
        full_masks(params)
    assert len(told) == 1
    assert "bias" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = full_masks(params, lambda name, leaf: name == "experts/w_in")
    assert list(layers(masks)) == ["experts/w_in"]
    with pytest.raises(ValueError, match="none of the parameters"):
        full_masks(params, lambda name, leaf: False)


def test_counts_order_and_replaced_layers_are_those_of_the_arrays():
    masks = random_masks(5, share=0.3)
    flat = np.concatenate([masks[name]["kernel"].ravel() for name in SHAPES])
    assert counts(masks) == (flat.sum(), flat.size)
    assert remaining(masks) == pytest.approx(flat.mean())
    fewer = jax.tree.map(lambda mask: mask & (np.arange(mask.size).reshape(mask.shape) % 2 == 0), masks)
    assert is_within(fewer, masks) and is_within(masks, masks) and not is_within(masks, fewer)
    new = np.zeros((8, 5), dtype=bool)
    changed = with_layers(masks, {"hidden/kernel": new})
    assert changed["hidden"]["kernel"] is new
    assert changed["output"]["kernel"] is masks["output"]["kernel"]
    assert changed["norm"] == {"scale": None}
    assert masks["hidden"]["kernel"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_masked_weights_are_exactly_0_and_all_others_the_same_bits(dtype):
    params, masks = parameters(1, dtype), random_masks(2)
    params["conv"]["kernel"].flat[:4] = np.nan, np.inf, -np.inf, -0.0
    masks["conv"]["kernel"].flat[:4] = False, False, False, True
    result = apply_masks(masks, params)
    values = layer_values(masks, params)
    for name in SHAPES:
        mask, before, after = masks[name]["kernel"], params[name]["kernel"], result[name]["kernel"]
        assert after.dtype == dtype
        assert np.asarray(after)[mask].tobytes() == before[mask].tobytes()
        assert not np.asarray(after)[~mask].astype(np.float32).any()
        assert result[name]["bias"] is params[name]["bias"]
        assert values[f"{name}/kernel"].tobytes() == before.tobytes()


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
    masks = full_masks(parameters(0))
    change(masks)
    for check in (check_masks, layer_values):
        with pytest.raises(ValueError, match=message):
            check(masks, parameters(0))
