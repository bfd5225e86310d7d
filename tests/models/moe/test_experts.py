"""The MoE layers of a tree of parameters, against loops over numbers and flax's own gelu."""

import copy
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.moe.experts import (
    ExpertWeights,
    check_pair,
    copied,
    expert_columns,
    expert_weights,
    group_count,
    leaves,
    map_of,
    moe_layers,
    parameter_bytes,
    replaced,
    router,
    router_kernel,
)
from qrt_tn.models.moe.maps import ExpertMap

HIDDEN, UNITS = 5, 3


def weights(seed, experts=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = (experts, HIDDEN, UNITS), (experts, UNITS), (experts, UNITS, HIDDEN), (experts, HIDDEN)
    return ExpertWeights(*(rng.normal(size=shape).astype(dtype) for shape in shapes))


def model(seed=0, layers=(1, 3), experts=4, members=None):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    encoder = {
        "posembed_input": {"pos_embedding": draw(1, 7, HIDDEN)},
        "encoder_norm": {"scale": draw(HIDDEN)},
    }
    for block in range(max(layers) + 1):
        held = encoder[f"encoderblock_{block}"] = {"LayerNorm_0": {"scale": draw(HIDDEN)}}
        if block in layers:
            w = weights(seed + block, experts, np.float32)
            columns = (experts,) if members is None else (members, experts // members)
            held["Moe"] = {
                "Router": {"dense": {"kernel": draw(HIDDEN, *columns)}},
                "Mlp": {
                    "Dense_0": {"kernel": w.kernel_in, "bias": w.bias_in},
                    "Dense_1": {"kernel": w.kernel_out, "bias": w.bias_out},
                },
            }
        else:
            held["Mlp"] = {"Dense_0": {"kernel": draw(HIDDEN, UNITS)}}
    return {
        "cls": draw(1, 1, HIDDEN),
        "Encoder": encoder,
        "head": {"kernel": draw(HIDDEN, 2), "bias": draw(2)},
    }


def test_experts_are_gelu_mlps():
    w = weights(0)
    x = np.random.default_rng(1).normal(size=(6, HIDDEN))
    out = w.apply(x)
    assert out.shape == (4, 6, HIDDEN) and out.dtype == np.float64
    for e in range(4):
        for t in range(6):
            hidden = []
            for u in range(UNITS):
                z = sum(x[t, i] * w.kernel_in[e, i, u] for i in range(HIDDEN)) + w.bias_in[e, u]
                hidden.append(z / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))))
            for i in range(HIDDEN):
                expected = sum(hidden[u] * w.kernel_out[e, u, i] for u in range(UNITS)) + w.bias_out[e, i]
                assert out[e, t, i] == pytest.approx(expected, rel=1e-12)


def test_experts_agree_with_flax():
    w = weights(2, dtype=np.float32)
    x = np.random.default_rng(3).normal(size=(9, HIDDEN)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        hidden = nn.gelu(jnp.einsum("th,ehm->etm", x, w.kernel_in) + w.bias_in[:, None])
        expected = jnp.einsum("etm,emh->eth", hidden, w.kernel_out) + w.bias_out[:, None]
    out = w.apply(x)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    half = ExpertWeights(*(jnp.asarray(a, jnp.bfloat16).__array__() for a in w.arrays))
    assert half.apply(x).dtype == np.float32
    np.testing.assert_allclose(half.apply(x), expected, atol=0.2)


def test_taking_experts_copies_them():
    w = weights(0)
    before = w.kernel_in.copy()
    some = w.take([2, 0])
    assert some.experts == 2 and some.nbytes == w.nbytes // 2
    np.testing.assert_array_equal(some.bias_out, w.bias_out[[2, 0]])
    some.kernel_in[:] = 0
    np.testing.assert_array_equal(w.kernel_in, before)
    for wrong in ([], [4], [-1]):
        with pytest.raises(ValueError, match="name at least one"):
            w.take(wrong)


def test_layers_are_found_in_the_order_of_their_numbers():
    tree = model(layers=(2, 10, 11))
    assert moe_layers(tree) == (2, 10, 11)
    assert expert_weights(tree, 10).kernel_in.shape == (4, HIDDEN, UNITS)
    kernel = tree["Encoder"]["encoderblock_2"]["Moe"]["Router"]["dense"]["kernel"]
    np.testing.assert_array_equal(router(tree, 2), kernel)


def test_the_router_of_an_ensemble_is_flattened_member_after_member():
    tree = model(experts=6, members=2)
    kernel = router_kernel(tree, 1)
    flat = router(tree, 1)
    assert kernel.shape == (HIDDEN, 2, 3) and flat.shape == (HIDDEN, 6)
    for member in range(2):
        for j in range(3):
            np.testing.assert_array_equal(flat[:, 3 * member + j], kernel[:, member, j])
    assert group_count(tree, 1) == group_count(tree, 1, 2) == 2
    with pytest.raises(ValueError, match="groups is 3, but the router of layer 1 has 2 members; give 2"):
        group_count(tree, 1, 3)
    assert group_count(model(experts=6), 1, 3) == 3
    with pytest.raises(ValueError, match="4 groups do not divide the 6 router columns of layer 1"):
        group_count(model(experts=6), 1, 4)


@pytest.mark.parametrize(
    "tree",
    [{}, {"Encoder": 3}, [], {"Encoder": {"encoderblock_0": {"Mlp": {}}, "encoderblock_x": {"Moe": {}}}}],
)
def test_a_tree_without_experts_is_refused(tree):
    with pytest.raises(ValueError, match="give"):
        moe_layers(tree)


@pytest.mark.parametrize(
    ("leaf", "shape"),
    [
        ("Mlp/Dense_0/kernel", (4, HIDDEN)),
        ("Mlp/Dense_0/kernel", (0, HIDDEN, UNITS)),
        ("Mlp/Dense_0/bias", (3, UNITS)),
        ("Mlp/Dense_1/kernel", (4, HIDDEN, UNITS)),
        ("Mlp/Dense_1/bias", (4, UNITS)),
        ("Router/dense/kernel", (HIDDEN,)),
        ("Router/dense/kernel", (HIDDEN, 0)),
    ],
)
def test_a_broken_shape_is_named(leaf, shape):
    tree = model()
    node = tree["Encoder"]["encoderblock_3"]["Moe"]
    *path, last = leaf.split("/")
    for key in path:
        node = node[key]
    node[last] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=f"Encoder/encoderblock_3/Moe/{leaf} has shape"):
        expert_weights(tree, 3)
    del node[last]
    with pytest.raises(ValueError, match=f"no 'Encoder/encoderblock_3/Moe/{leaf}'"):
        expert_weights(tree, 3)


def test_a_router_of_another_width_is_named():
    tree = model()
    tree["Encoder"]["encoderblock_1"]["Moe"]["Router"]["dense"]["kernel"] = np.zeros((HIDDEN + 1, 4))
    with pytest.raises(
        ValueError, match=r"encoderblock_1/Moe/Mlp/Dense_0/kernel has shape .* tokens of 6 numbers"
    ):
        expert_weights(tree, 1)


def test_maps_must_fit():
    tree = model()
    assert map_of(tree, 1) == ExpertMap.whole(4)
    pruned = replaced(tree, 1, router(tree, 1), expert_weights(tree, 1).take([0, 2]))
    with pytest.raises(ValueError, match="layer 1 has 4 router columns but 2 experts; give maps="):
        map_of(pruned, 1)
    expert_map = ExpertMap((0, -1, 1, -1), (0, 2), 4)
    assert map_of(pruned, 1, {1: expert_map}) == expert_map
    assert expert_columns(expert_map, 1) == (0, 2)
    with pytest.raises(ValueError, match="the map of layer 3 has 4 columns and 2 experts, the tree 4 and 4"):
        map_of(tree, 3, {3: expert_map})
    with pytest.raises(ValueError, match=r"columns \[0, 2\] of layer 1 lead to one merged expert"):
        expert_columns(ExpertMap((0, 1, 0), (0, 1), 3), 1)


def test_replacing_a_layer_leaves_the_tree_as_it_was():
    tree = model()
    before = copy.deepcopy(tree)
    new = replaced(tree, 3, np.zeros((HIDDEN, 1)), weights(9, 1))
    assert router(new, 3).shape == (HIDDEN, 1) and router(new, 1) is not None
    new["Encoder"]["encoderblock_1"]["Moe"] = None
    copied(tree)["Encoder"].clear()
    for (path, array), (same, old) in zip(leaves(tree), leaves(before), strict=True):
        assert path == same
        np.testing.assert_array_equal(array, old)


def test_bytes_and_leaves():
    tree = model()
    flat = jax.tree_util.tree_leaves(tree)
    assert parameter_bytes(tree) == sum(a.nbytes for a in flat)
    assert all(a is b for (_, a), b in zip(leaves(tree), flat, strict=True))
    assert next(leaves(tree))[0] == "Encoder/encoder_norm/scale"


def test_a_pair_may_differ_in_its_heads_its_resolution_and_its_experts():
    tree, before = model(0), model(1)
    before["head"] = {"kernel": np.zeros((HIDDEN, 9))}
    before["pre_logits"] = {"bias": np.zeros(3)}
    before["Encoder"]["posembed_input"]["pos_embedding"] = np.zeros((1, 50, HIDDEN))
    check_pair(tree, before)
    check_pair(replaced(tree, 1, router(tree, 1)[:, :2], expert_weights(tree, 1).take([0, 1])), before)


def test_a_pair_of_different_models_is_refused():
    tree = model()
    with pytest.raises(
        ValueError, match=r"blocks with experts are \(1, 3\), in the pre-trained model \(1, 2\)"
    ):
        check_pair(tree, model(layers=(1, 2)))
    other = model()
    other["Encoder"]["encoderblock_0"]["LayerNorm_0"]["scale"] = np.zeros(HIDDEN + 1)
    with pytest.raises(
        ValueError, match=r"'Encoder/encoderblock_0/LayerNorm_0/scale' has shape \(5,\) .* \(6,\)"
    ):
        check_pair(tree, other)
    other = model()
    other["Encoder"]["encoderblock_1"]["Moe"]["Mlp"]["Dense_1"]["bias"] = np.zeros((4, HIDDEN + 1))
    with pytest.raises(ValueError, match="encoderblock_1/Moe/Mlp/Dense_1/bias"):
        check_pair(tree, other)
    other = model()
    del other["cls"]
    with pytest.raises(ValueError, match="the pre-trained model lacks 'cls'"):
        check_pair(tree, other)
    with pytest.raises(ValueError, match="the fine-tuned model lacks 'cls'"):
        check_pair(other, tree)
