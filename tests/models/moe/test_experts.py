"""Layers of experts read from trees of parameters, and written back."""

import copy

import jax
import numpy as np
import pytest

from qrt_tn.models.moe.experts import (
    check_pair,
    leaves,
    moe_layers,
    parameter_bytes,
    read_layers,
    write_layers,
)
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.pruning import remove
from tests.models.moe.conftest import HIDDEN, UNITS, random_tree

MOE = "Encoder/encoderblock_3/Moe"


def changed(path, value, **options):
    """A tree with another leaf, or without it."""
    tree = random_tree(**options)
    *folders, name = path.split("/")
    node = tree
    for folder in folders:
        node = node.setdefault(folder, {})
    if value is None:
        del node[name]
    else:
        node[name] = value
    return tree


@pytest.mark.parametrize("members", [None, 2, 3])
def test_layers_are_read_and_written_back(members):
    tree = random_tree(layers=(2, 10, 11), members=members)
    layers = read_layers(tree)
    assert list(layers) == list(moe_layers(tree)) == [2, 10, 11]
    kernel = tree["Encoder"]["encoderblock_10"]["Moe"]["Router"]["dense"]["kernel"]
    assert layers[10].members == (members or 1)
    for member in range(layers[10].members):
        for column in range(layers[10].width):
            one = kernel[:, column] if members is None else kernel[:, member, column]
            np.testing.assert_array_equal(layers[10].router[:, member * layers[10].width + column], one)
    new, maps = write_layers(tree, layers)
    assert maps == dict.fromkeys((2, 10, 11), ExpertMap.whole(6))
    for (path, array), (same, old) in zip(leaves(new), leaves(tree), strict=True):
        assert path == same and array.shape == old.shape and np.shares_memory(array, old)
    before = copy.deepcopy(tree)
    new["Encoder"]["encoderblock_2"]["Moe"].clear()
    assert jax.tree.structure(tree) == jax.tree.structure(before)


def test_bytes_and_leaves():
    tree = random_tree()
    flat = jax.tree_util.tree_leaves(tree)
    assert parameter_bytes(tree) == sum(array.nbytes for array in flat)
    assert all(a is b for (_, a), b in zip(leaves(tree), flat, strict=True))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "no 'Encoder'"),
        ([], "no 'Encoder'"),
        (
            {"Encoder": {"encoderblock_0": {"Mlp": {}}, "encoderblock_x": {"Moe": {}}}},
            "no Encoder/encoderblock_i",
        ),
        (changed(f"{MOE}/Mlp/Dense_0/kernel", np.zeros((6, HIDDEN))), f"{MOE}/Mlp: kernel_in has shape"),
        (changed(f"{MOE}/Mlp/Dense_1/bias", np.zeros((4, UNITS))), f"{MOE}/Mlp: bias_out has shape"),
        (changed(f"{MOE}/Mlp/Dense_1/bias", None), f"no '{MOE}/Mlp/Dense_1/bias'"),
        (changed(f"{MOE}/Mlp/Dense_1/bias", {}), "is a dict; give an array"),
        (changed(f"{MOE}/Router/dense/kernel", np.zeros(HIDDEN)), f"{MOE}/Router/dense/kernel has shape"),
        (changed(f"{MOE}/Router/dense/kernel", np.zeros((HIDDEN, 0))), "dense/kernel has shape"),
        (changed(f"{MOE}/Router/dense/kernel", np.zeros((6, 6))), "layer 3 take tokens of 5 numbers"),
        (changed(f"{MOE}/Router/dense/kernel", np.zeros((HIDDEN, 7))), "layer 3 has 7 router columns but 6"),
    ],
)
def test_broken_trees_are_refused(tree, message):
    with pytest.raises(ValueError, match=message):
        read_layers(tree)


def test_a_pair_may_differ_in_its_heads_its_resolution_and_its_experts():
    before = random_tree(1)
    before["head"] = {"kernel": np.zeros((HIDDEN, 9))}
    before["pre_logits"] = {"bias": np.zeros(3)}
    before["Encoder"]["posembed_input"]["pos_embedding"] = np.zeros((1, 50, HIDDEN))
    check_pair(random_tree(), before)
    check_pair(remove(random_tree(), {1: (0, 1)}, "drop-router")[0], before)


@pytest.mark.parametrize(
    ("tree", "before", "message"),
    [
        (random_tree(), random_tree(layers=(1, 2)), r"are \(1, 3\), in the pre-trained model \(1, 2\)"),
        (random_tree(), changed("cls", None), "the pre-trained model lacks 'cls'"),
        (changed("cls", None), random_tree(), "the fine-tuned model lacks 'cls'"),
        (random_tree(), changed("cls", np.zeros((1, 1, 6))), r"'cls' has shape \(1, 1, 5\) .* \(1, 1, 6\)"),
        (random_tree(), changed(f"{MOE}/Mlp/Dense_1/bias", np.zeros((6, 6))), "Moe/Mlp/Dense_1/bias"),
        (random_tree(members=2), random_tree(members=3), "2 ensemble members in the fine-tuned and 3"),
    ],
)
def test_a_pair_of_different_models_is_refused(tree, before, message):
    with pytest.raises(ValueError, match=message):
        check_pair(tree, before)
