import numpy as np
import pytest

from qrt_tn.models.moe.config import RouterConfig
from qrt_tn.models.moe.experts import leaves
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.trees import from_tree, infer_config, nested, to_tree
from tests.models.moe.conftest import random_network, small_config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"classifier": "gap", "representation": 5},
        {"moe_layers": ()},
        {"moe_layers": (0, 1), "maps": {1: ExpertMap((0, 1, -1, -1), (1, 3), 4)}},
    ],
)
def test_a_tree_gives_the_network_back(changes):
    config = small_config(**changes)
    tree = to_tree(random_network(config))
    again = to_tree(from_tree(tree, config))
    assert [path for path, _ in leaves(again)] == [path for path, _ in leaves(tree)]
    for (_, a), (_, b) in zip(leaves(tree), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_and_shapes_are_those_of_vmoe():
    shapes = {path: leaf.shape for path, leaf in leaves(to_tree(random_network(small_config())))}
    assert shapes["cls"] == (1, 1, 8)
    assert shapes["embedding/kernel"] == (2, 2, 1, 8)
    assert shapes["Encoder/posembed_input/pos_embedding"] == (1, 10, 8)
    assert shapes["Encoder/encoderblock_0/Mlp/Dense_0/kernel"] == (8, 12)
    assert shapes["Encoder/encoderblock_0/SelfAttention/query/kernel"] == (8, 2, 4)
    assert shapes["Encoder/encoderblock_0/SelfAttention/out/kernel"] == (2, 4, 8)
    assert shapes["Encoder/encoderblock_1/Moe/Router/dense/kernel"] == (8, 4)
    assert shapes["Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel"] == (4, 8, 12)
    assert shapes["Encoder/encoderblock_1/Moe/Mlp/Dense_1/bias"] == (4, 8)
    assert shapes["Encoder/encoder_norm/scale"] == (8,)
    assert shapes["head/kernel"] == (8, 3)


def test_a_tree_is_a_copy():
    network = random_network(small_config())
    to_tree(network)["head"]["kernel"][:] = 0
    assert np.abs(network.head.kernel[...]).max() > 0


@pytest.mark.parametrize("representation", [None, 5])
@pytest.mark.parametrize("classifier", ["token", "gap"])
def test_a_configuration_is_read_from_shapes(representation, classifier):
    config = small_config(
        representation=representation, classifier=classifier, moe_layers=(0,), same_experts=True
    )
    found = infer_config(to_tree(random_network(config)), router=RouterConfig())
    assert found == config


def test_a_pruned_tree_needs_its_maps():
    maps = {1: ExpertMap((0, 1, -1, -1), (1, 3), 4)}
    config = small_config(moe_layers=(0, 1), maps=maps, same_experts=True)
    tree = to_tree(random_network(config))
    with pytest.raises(ValueError, match="block 1 has 2 experts and another 4; give maps"):
        infer_config(tree)
    assert infer_config(tree, maps=maps) == config


def test_every_layer_may_have_lost_experts():
    """The capacity still counts those that were there."""
    maps = {1: ExpertMap((0, 1), (1, 3), 4)}
    config = small_config(maps=maps, same_experts=True)
    assert infer_config(to_tree(random_network(config)), maps=maps) == config


def test_images_that_are_not_square():
    config = small_config(image_shape=(4, 6, 1))
    tree = to_tree(random_network(config))
    with pytest.raises(ValueError, match="6 patches make no square image"):
        infer_config(tree)
    assert infer_config(tree, image_shape=(4, 6, 1)).image_shape == (4, 6, 1)
    with pytest.raises(ValueError, match="have 10 tokens, the tree 7"):
        infer_config(tree, image_shape=(6, 6, 1))


def test_trees_that_do_not_fit_are_refused():
    config = small_config()
    held = dict(leaves(to_tree(random_network(config))))
    lacking = {path: leaf for path, leaf in held.items() if path != "head/bias"}
    with pytest.raises(ValueError, match="the tree has no head/bias"):
        from_tree(nested(lacking), config)
    with pytest.raises(ValueError, match=r"head/bias has shape \(4,\)"):
        from_tree(nested(held | {"head/bias": np.zeros(4)}), config)
    with pytest.raises(ValueError, match="the tree holds extra/kernel"):
        from_tree(nested(held | {"extra/kernel": np.zeros(4)}), config)
    with pytest.raises(ValueError, match="no embedding/kernel"):
        infer_config({"head": {"kernel": np.zeros((2, 2))}})


def test_the_choices_of_a_pruned_network_are_not_made_fewer():
    """A token still goes to two columns where one expert is left and its router whole."""
    config = small_config(maps={1: ExpertMap((0, -1, -1, -1), (2,), 4)}, same_experts=True)
    tree = to_tree(random_network(config))
    assert infer_config(tree, maps=dict(config.maps)).router.selected == 2
    given = RouterConfig(selected=3)
    assert infer_config(tree, router=given, maps=dict(config.maps)).router == given


def test_odd_trees_are_refused():
    held = dict(leaves(to_tree(random_network(small_config()))))
    for path, leaf, message in [
        ("Encoder/posembed_input/pos_embedding", np.zeros(10), "3 axes"),
        ("head/kernel", np.zeros(3), "2 axes"),
        ("embedding/kernel", np.zeros((4, 8)), "4 axes"),
        ("Encoder/encoderblock_1/Moe/Router/dense/kernel", np.zeros((8, 2, 2)), "E3"),
        ("Encoder/encoderblock_3/LayerNorm_0/scale", np.zeros(8), r"blocks \[0, 1, 3\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            infer_config(nested(held | {path: leaf}))
    without = {path: leaf for path, leaf in held.items() if "encoderblock" not in path}
    with pytest.raises(ValueError, match=r"encoder blocks \[\]"):
        infer_config(nested(without))
    with pytest.raises(ValueError, match="complex"):
        from_tree(nested(held | {"head/bias": np.zeros(3, complex)}), small_config())
    for paths in (("a", "a/b"), ("a/b", "a")):
        with pytest.raises(ValueError, match="array"):
            nested(dict.fromkeys(paths, np.zeros(1)))
