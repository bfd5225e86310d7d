"""Maps and records of layers: experts against flax's own gelu, and parts that do not fit."""

import json
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.records import ExpertWeights
from tests.models.moe.conftest import HIDDEN, UNITS, gathered, random_layer


def test_a_map_survives_json():
    expert_map = ExpertMap((0, NO_EXPERT, 1, 0), (2, 3), 4, True)
    again = ExpertMap.from_plain(json.loads(json.dumps(expert_map.plain())))
    assert again == expert_map and hash(again) == hash(expert_map)
    for wrong in ({"experts": 3}, 3):
        with pytest.raises(ValueError, match=r"column_to_expert is missing|3 is not the map"):
            ExpertMap.from_plain(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (((), (), 1), "column_to_expert is"),
        (((NO_EXPERT, NO_EXPERT), (), 2), "every expert of a layer is gone"),
        (((0, 2), (0, 1), 2), "must lead to each of the 2 experts"),
        (((0, 0), (0, 1), 2), "must lead to each"),
        (((0, 1), (3, 3), 2), "name each expert once"),
        (((0, 1), (-1, 3), 2), "name each expert once"),
        (((0, 1), (0, 2), 2), "from 0 to 1"),
        (((0, 1), (0, 1), 0), "capacity_experts is 0"),
    ],
)
def test_what_cannot_be_a_map_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ExpertMap(*settings)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_experts_agree_with_flax(dtype):
    weights = ExpertWeights(*(np.asarray(a).astype(jnp.dtype(dtype)) for a in random_layer().experts.arrays))
    x = np.random.default_rng(3).normal(size=(9, HIDDEN)).astype(np.float32)
    arrays = [np.asarray(a, np.float32) for a in weights.arrays]
    inside = np.einsum("th,ehm->etm", x, arrays[0]) + arrays[1][:, None]
    expected = np.einsum("etm,emh->eth", jax.jit(nn.gelu)(inside), arrays[2]) + arrays[3][:, None]
    out = weights.apply(x)
    assert out.dtype == (np.float64 if dtype == "float64" else np.float32)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_taking_experts_copies_them():
    weights = random_layer().experts
    before = weights.kernel_in.copy()
    some = weights.take([2, 0])
    assert some.experts == 2 and some.nbytes == weights.nbytes // 3
    np.testing.assert_array_equal(some.bias_out, weights.bias_out[[2, 0]])
    some.kernel_in[:] = 0
    np.testing.assert_array_equal(weights.kernel_in, before)
    for wrong in ([], [6], [-1]):
        with pytest.raises(ValueError, match="name at least one"):
            weights.take(wrong)


def test_evidence_has_an_entry_for_each_expert():
    layer = random_layer()
    before = np.arange(HIDDEN * 6.0).reshape(HIDDEN, 6)
    layer = replace(
        layer,
        experts=layer.experts.take([5, 0, 3]),
        expert_map=ExpertMap((-1, 1, 0, -1, 2, -1), (5, 0, 3), 6),
        pretrained=before,
        statistics=gathered([0, 11, 10, 0, 12, 0]),
    )
    pretrained, router, experts, statistics = layer.evidence()
    np.testing.assert_array_equal(pretrained, before[:, [5, 0, 3]])
    np.testing.assert_array_equal(router, layer.router[:, [2, 1, 4]])
    assert experts is layer.experts and statistics.count.tolist() == [10, 11, 12]
    assert (layer.columns, layer.groups, layer.width) == ((2, 1, 4), [[0, 1, 2]], 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router": np.zeros((HIDDEN + 1, 6))}, "layer 1 take tokens of 5 numbers, its router of 6"),
        ({"router": np.zeros((HIDDEN, 5))}, "has 6 columns and 6 experts, the tree 5 and 6"),
        ({"expert_map": ExpertMap.whole(4)}, "has 4 columns and 4 experts, the tree 6 and 6"),
        ({"members": 4}, "4 groups do not divide the 6 router columns of layer 1"),
        ({"pretrained": np.zeros((HIDDEN, 8))}, "had 6 columns before pruning, .* has 8"),
        ({"statistics": gathered([1] * 5)}, "layer 1 are of 5 router columns, it has 6"),
        ({"kernel_in": np.zeros((6, HIDDEN))}, "kernel_in has shape"),
        ({"kernel_in": np.zeros((0, HIDDEN, UNITS))}, "kernel_in has shape"),
        ({"bias_in": np.zeros((5, UNITS))}, "bias_in has shape"),
        ({"kernel_out": np.zeros((6, HIDDEN, UNITS))}, "kernel_out has shape"),
        ({"bias_out": np.zeros((6, UNITS))}, "bias_out has shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    layer = random_layer()
    with pytest.raises(ValueError, match=message):
        replace(layer if hasattr(layer, next(iter(changes))) else layer.experts, **changes)
