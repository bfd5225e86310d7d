import numpy as np
import pytest

from qrt_tn.models.moe.config import RouterConfig
from qrt_tn.models.moe.experts import leaves
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.trees import from_tree, infer_config, nested, to_tree
from tests.models.moe.conftest import random_network, small_config

PRUNED = {1: ExpertMap((0, 1, -1, -1), (1, 3), 4)}
ROUTER = "Encoder/encoderblock_1/Moe/Router/dense/kernel"


@pytest.fixture(scope="module")
def tree():
    return to_tree(random_network(small_config()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
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
    for (_, a), (_, b) in zip(leaves(tree), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    if not config.moe_layers:
        config = small_config(**changes, same_experts=True, experts=1, router={"selected": 2})
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
    assert shapes["cls"] == (1, 1, 8)
    assert shapes["embedding/kernel"] == (2, 2, 1, 8)
    assert shapes["Encoder/posembed_input/pos_embedding"] == (1, 10, 8)
    assert shapes["Encoder/encoderblock_0/Mlp/Dense_0/kernel"] == (8, 12)
    assert shapes["Encoder/encoderblock_0/SelfAttention/query/kernel"] == (8, 2, 4)
    assert shapes["Encoder/encoderblock_0/SelfAttention/out/kernel"] == (2, 4, 8)
    assert shapes[ROUTER] == (8, 4)
    assert shapes["Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel"] == (4, 8, 12)
    assert shapes["Encoder/encoderblock_1/Moe/Mlp/Dense_1/bias"] == (4, 8)
    assert shapes["Encoder/encoder_norm/scale"] == (8,)
    assert shapes["head/kernel"] == (8, 3)


def test_a_tree_is_a_copy(tree):
    network = from_tree(tree, small_config())
    to_tree(network)["head"]["kernel"][:] = 0
    assert np.abs(network.head.kernel[...]).max() > 0


def test_the_choices_of_a_pruned_network_are_not_made_fewer(tree):
    """A token still goes to two columns where one expert is left and its router whole."""
    smaller = dict(leaves(tree))
    for name in ("Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias"):
        smaller[f"Encoder/encoderblock_1/Moe/Mlp/{name}"] = np.zeros((1, 8, 8))
    maps = {1: ExpertMap((0, -1, -1, -1), (2,), 4)}
    assert infer_config(nested(smaller), maps=maps).router.selected == 2
    given = RouterConfig(selected=3)
    assert infer_config(nested(smaller), router=given, maps=maps).router == given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head/bias": None}, "the tree has no head/bias"),
        ({"head/bias": np.zeros(4)}, r"head/bias has shape \(4,\)"),
        ({"head/bias": np.zeros(3, complex)}, "head/bias is complex"),
        ({"extra/kernel": np.zeros(4)}, "the tree holds extra/kernel"),
    ],
)
def test_trees_that_do_not_fit_a_network_are_refused(changes, message, tree):
    changed = {path: leaf for path, leaf in {**dict(leaves(tree)), **changes}.items() if leaf is not None}
    with pytest.raises(ValueError, match=message):
        from_tree(nested(changed), small_config())


@pytest.mark.parametrize(
    ("path", "leaf", "message"),
    [
        ("Encoder/posembed_input/pos_embedding", np.zeros(10), "3 axes"),
        ("head/kernel", np.zeros(3), "2 axes"),
        ("embedding/kernel", np.zeros((4, 8)), "4 axes"),
        ("embedding/kernel", None, "no embedding/kernel"),
        (ROUTER, np.zeros((8, 2, 2)), "E3"),
        ("Encoder/encoderblock_3/LayerNorm_0/scale", np.zeros(8), r"blocks \[0, 1, 3\]"),
    ],
)
def test_trees_of_another_network_are_refused(path, leaf, message, tree):
    changed = {name: one for name, one in {**dict(leaves(tree)), path: leaf}.items() if one is not None}
    with pytest.raises(ValueError, match=message):
        infer_config(nested(changed))
    without = {name: one for name, one in leaves(tree) if "encoderblock" not in name}
    with pytest.raises(ValueError, match=r"encoder blocks \[\]"):
        infer_config(nested(without))
    for paths in (("a", "a/b"), ("a/b", "a")):
        with pytest.raises(ValueError, match="array"):
            nested(dict.fromkeys(paths, np.zeros(1)))
