from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.pruning import remove
from qrt_tn.models.moe.training import accuracy, predict
from qrt_tn.models.moe.trees import copied, from_tree, to_tree
from qrt_tn.studies.experiments.moe.data import Points
from qrt_tn.studies.experiments.moe.programs import Programs, anonymous, is_merged, spread

Make = Callable[..., dict[str, Any]]


def test_networks_are_built_and_measured_as_the_library_does(make: Make, config: VisionMoeConfig) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 4, 4, 1)).astype(np.float32), rng.integers(0, 3, 40).astype(np.int32)
    points = Points(x[:1], y[:1], x, y)
    tree = make()
    programs = Programs(config, tree)
    merged = ExpertMap((0, 1, 0, 1), (0, 2), 4)
    half = {block: [3, 1] for block in (0, 1)}
    pruned, maps = remove(tree, half, "keep-router", selected=2)
    # an untouched layer shows that a merged one is not mistaken for it
    shapes = [
        (config, tree),
        (anonymous(config, maps), pruned),
        (replace(config, maps={0: merged}), _halved(tree)),
    ]
    assert [is_merged(shape) for shape, _ in shapes] == [False, False, True]
    for shape, held in shapes:
        known = from_tree(held, shape)
        assert programs.accuracy(shape, held, points) == accuracy(known, x, y)
        built = programs.network(shape, held)
        np.testing.assert_allclose(predict(built, x), predict(known, x), atol=1e-5)
        assert np.array_equal(to_tree(built)["head"]["kernel"], held["head"]["kernel"])
    # the labels that it gives itself are all right, and others wrong
    own = predict(from_tree(tree, config), x).argmax(axis=1)
    assert programs.accuracy(config, tree, Points(x[:1], y[:1], x, own)) == 1.0
    assert programs.accuracy(config, tree, Points(x[:1], y[:1], x, (own + 1) % 3)) == 0.0


def test_a_merged_network_computes_the_same_when_its_experts_are_copied(
    make: Make, config: VisionMoeConfig
) -> None:
    merged = replace(config, maps={0: ExpertMap((0, 1, 0, 1), (0, 2), 4)})
    tree = _halved(make())
    x = np.random.default_rng(2).normal(size=(9, 4, 4, 1)).astype(np.float32)
    copies = from_tree(spread(tree, merged.all_maps), config)
    np.testing.assert_allclose(predict(copies, x), predict(from_tree(tree, merged), x), atol=1e-5)


def test_numbers_of_experts_make_no_new_program(config: VisionMoeConfig) -> None:
    one, two = (
        anonymous(config, dict.fromkeys((0, 1), ExpertMap((0, 1), left, 4))) for left in ((3, 1), (0, 2))
    )
    assert one == two
    assert hash(one) == hash(two)


def _halved(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with two experts in block 0, and all columns of its router."""
    halved = copied(tree)
    for dense in halved["Encoder"]["encoderblock_0"]["Moe"]["Mlp"].values():
        for name in dense:
            dense[name] = dense[name][[0, 2]]
    return halved
