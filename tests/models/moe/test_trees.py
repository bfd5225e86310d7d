"""Trees of networks and of layers: read and written back, and those of other models."""

import copy

import jax
import numpy as np
import pytest

from qrt_tn.models.moe.config import RouterConfig
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.pruning import remove
from qrt_tn.models.moe.trees import (
    check_pair,
    from_tree,
    infer_config,
    leaves,
    moe_layers,
    nested,
    parameter_bytes,
    read_layers,
    to_tree,
    write_layers,
)
from tests.models.moe.conftest import HIDDEN, UNITS, random_network, random_tree, small_config

PRUNED = {1: ExpertMap((0, 1, -1, -1), (1, 3), 4)}
ROUTER = "Encoder/encoderblock_1/Moe/Router/dense/kernel"
MOE = "Encoder/encoderblock_3/Moe"


@pytest.fixture(scope="module")
def tree():
    return to_tree(random_network(small_config()))


def changed(path, value, tree=None):
    """A tree with another leaf, or without it."""
    return nested(
        {p: v for p, v in {**dict(leaves(tree or random_tree())), path: value}.items() if v is not None}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"classifier": "gap", "representation": 5, "moe_layers": (0,)},
        {"moe_layers": ()},
        {"moe_layers": (0, 1), "maps": PRUNED},
        # every layer lost experts, and the capacity still counts those that were there
        {"maps": PRUNED},
        {"image_shape": (4, 6, 1)},
    ],
)
def test_a_tree_gives_the_network_and_its_configuration_back(changes):
    config = small_config(**changes, same_experts=True)
    tree = to_tree(random_network(config))
    again = to_tree(from_tree(tree, config))
    assert [path for path, _ in leaves(again)] == [path for path, _ in leaves(tree)]
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    if not config.moe_layers:
        config = small_config(**changes, same_experts=True, experts=1)
    shape = changes.get("image_shape")
    given = {"router": config.router, "maps": dict(config.maps), "image_shape": shape}
    assert infer_config(tree, **given) == config
    if shape:
        with pytest.raises(ValueError, match="6 patches make no square image"):
            infer_config(tree)
        with pytest.raises(ValueError, match="have 10 tokens, the tree 7"):
            infer_config(tree, image_shape=(6, 6, 1))
    if len(config.moe_layers) == 2:
        with pytest.raises(ValueError, match="block 1 has 2 experts and another 4; give maps"):
            infer_config(tree)


def test_names_and_shapes_are_those_of_vmoe(tree):
    shapes = {path: leaf.shape for path, leaf in leaves(tree)}
    expected = {
        "cls": (1, 1, 8),
        "embedding/kernel": (2, 2, 1, 8),
        "Encoder/posembed_input/pos_embedding": (1, 10, 8),
        "Encoder/encoderblock_0/Mlp/Dense_0/kernel": (8, 12),
        "Encoder/encoderblock_0/SelfAttention/query/kernel": (8, 2, 4),
        "Encoder/encoderblock_0/SelfAttention/out/kernel": (2, 4, 8),
        ROUTER: (8, 4),
        "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel": (4, 8, 12),
        "Encoder/encoderblock_1/Moe/Mlp/Dense_1/bias": (4, 8),
        "Encoder/encoder_norm/scale": (8,),
        "head/kernel": (8, 3),
    }
    assert shapes | expected == shapes
    network = from_tree(tree, small_config())
    to_tree(network)["head"]["kernel"][:] = 0  # a copy
    assert np.abs(network.head.kernel[...]).max() > 0


def test_the_choices_of_a_pruned_network_are_not_made_fewer(tree):
    """A token still goes to two columns where one expert is left and its router whole."""
    smaller, maps = remove(tree, {1: [2]}, "keep-router")
    assert infer_config(smaller, maps=maps).router.selected == 2
    given = RouterConfig(selected=3)
    assert infer_config(smaller, router=given, maps=maps).router == given


@pytest.mark.parametrize(
    ("read", "path", "leaf", "message"),
    [
        (from_tree, "head/bias", None, "the tree has no head/bias"),
        (from_tree, "head/bias", np.zeros(4), r"head/bias has shape \(4,\)"),
        (from_tree, "head/bias", np.zeros(3, complex), "head/bias is complex"),
        (from_tree, "extra/kernel", np.zeros(4), "the tree holds extra/kernel"),
        (infer_config, "Encoder/posembed_input/pos_embedding", np.zeros(10), "3 axes"),
        (infer_config, "head/kernel", np.zeros(3), "2 axes"),
        (infer_config, "embedding/kernel", None, "no embedding/kernel"),
        (infer_config, ROUTER, np.zeros((8, 2, 2)), "E3"),
        (infer_config, "Encoder/encoderblock_3/LayerNorm_0/scale", np.zeros(8), r"blocks \[0, 1, 3\]"),
        (infer_config, "head/kernel/a", np.zeros(8), "head/kernel/a lies below kernel"),
        (infer_config, "head", np.zeros(8), "head is an array"),
    ],
)
def test_trees_that_fit_no_network_are_refused(read, path, leaf, message, tree):
    with pytest.raises(ValueError, match=message):
        read(changed(path, leaf, tree), *[small_config()] * (read is from_tree))


@pytest.mark.parametrize("members", [None, 2, 3])
def test_layers_are_read_and_written_back(members):
    tree = random_tree(layers=(2, 10, 11), members=members)
    layers = read_layers(tree)
    assert list(layers) == list(moe_layers(tree)) == [2, 10, 11]
    assert {layer.expert_map for layer in layers.values()} == {ExpertMap.whole(6)}
    kernel = tree["Encoder"]["encoderblock_10"]["Moe"]["Router"]["dense"]["kernel"]
    assert (layers[10].members, layers[10].width) == (members or 1, 6 // (members or 1))
    for column in range(6):
        one = (
            kernel[:, column]
            if members is None
            else kernel[:, column * members // 6, column % (6 // members)]
        )
        np.testing.assert_array_equal(layers[10].router[:, column], one)
    new = write_layers(tree, layers)
    for (path, array), (same, old) in zip(leaves(new), leaves(tree), strict=True):
        assert path == same and array.shape == old.shape and np.shares_memory(array, old)
    assert parameter_bytes(new) == sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    before = copy.deepcopy(tree)
    new["Encoder"]["encoderblock_2"]["Moe"].clear()
    assert jax.tree.structure(tree) == jax.tree.structure(before)


OTHER = {"Encoder": {"encoderblock_0": {"Mlp": {}}, "encoderblock_x": {"Moe": {}}}}
DICT = random_tree()
DICT["Encoder"]["encoderblock_3"]["Moe"]["Mlp"]["Dense_1"]["bias"] = {}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "no 'Encoder'"),
        ([], "no 'Encoder'"),
        (OTHER, "no Encoder/encoderblock_i"),
        (DICT, "is a dict; give an array"),
        (changed(f"{MOE}/Mlp/Dense_0/kernel", np.zeros((6, HIDDEN))), f"{MOE}/Mlp: kernel_in has shape"),
        (changed(f"{MOE}/Mlp/Dense_1/bias", np.zeros((4, UNITS))), f"{MOE}/Mlp: bias_out has shape"),
        (changed(f"{MOE}/Mlp/Dense_1/bias", None), f"no '{MOE}/Mlp/Dense_1/bias'"),
        (changed(f"{MOE}/Router/dense/kernel", np.zeros(HIDDEN)), f"{MOE}/Router/dense/kernel has shape"),
        (changed(f"{MOE}/Router/dense/kernel", np.zeros((HIDDEN, 0))), "dense/kernel has shape"),
        (changed(f"{MOE}/Router/dense/kernel", np.zeros((6, 6))), "layer 3 take tokens of 5 numbers"),
        (changed(f"{MOE}/Router/dense/kernel", np.zeros((HIDDEN, 7))), "layer 3 has 7 router columns but 6"),
    ],
)
def test_broken_trees_are_refused(tree, message):
    with pytest.raises(ValueError, match=message):
        read_layers(tree)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 4}, "4 groups do not divide the 6 router columns of layer 1"),
        ({"maps": {2: ExpertMap.whole(6)}}, "layer 2 has no experts"),
        (
            {"maps": {1: ExpertMap.whole(5)}},
            "the map of layer 1 has 5 columns and 5 experts, the tree 6 and 6",
        ),
        ({"pretrained": random_tree(hidden=7)}, r"\(5, 3\) in the fine-tuned and \(7, 3\)"),
        ({"pretrained": random_tree(experts=4)}, "layer 1 had 6 columns before .* has 4"),
    ],
)
def test_what_does_not_fit_a_tree_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        read_layers(random_tree(), **options)


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
        (
            random_tree(),
            random_tree(layers=(1, 2)),
            "'Encoder/encoderblock_2/Mlp/bias' has shape .* and none",
        ),
        (random_tree(), changed("cls", None), r"'cls' has shape \(1, 1, 5\) .* and none in"),
        (changed("cls", None), random_tree(), "'cls' has shape none in"),
        (random_tree(), changed("cls", np.zeros((1, 1, 6))), r"'cls' has shape \(1, 1, 5\) .* \(1, 1, 6\)"),
        (random_tree(), changed(f"{MOE}/Mlp/Dense_1/bias", np.zeros((6, 6))), "Moe/Mlp/Dense_1/bias"),
        (random_tree(members=2), random_tree(members=3), "2 ensemble members in the fine-tuned and 3"),
    ],
)
def test_a_pair_of_different_models_is_refused(tree, before, message):
    with pytest.raises(ValueError, match=message):
        check_pair(tree, before)
