import copy
import json

import pytest

from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig, vmoe_config
from qrt_tn.models.moe.costs import parameter_count
from qrt_tn.models.moe.maps import ExpertMap
from tests.models.moe.conftest import small_config


@pytest.mark.parametrize(
    ("description", "hidden", "layers", "mlp", "heads", "blocks"),
    [
        ("S/32, E=8, K=2, Last 2", 512, 8, 2048, 8, (5, 7)),
        ("B/16, E=8, K=2, Every 2", 768, 12, 3072, 12, (1, 3, 5, 7, 9, 11)),
        ("L/16, E=32, K=1, Every 2", 1024, 24, 4096, 16, tuple(range(1, 24, 2))),
        ("H/14, Last 5", 1280, 32, 5120, 16, (23, 25, 27, 29, 31)),
        ("Ti/16, Every 3", 192, 12, 768, 3, (2, 5, 8, 11)),
        ("vmoe_b16_imagenet21k_randaug_strong", 768, 12, 3072, 12, (1, 3, 5, 7, 9, 11)),
    ],
)
def test_published_settings(description, hidden, layers, mlp, heads, blocks):
    patch = 14 if "14" in description else 32 if "/32" in description else 16
    config = vmoe_config(description, (7 * patch, 7 * patch, 3), 10)
    found = (config.hidden, config.layers, config.mlp, config.heads, config.moe_layers)
    assert found == (hidden, layers, mlp, heads, blocks)
    assert (config.tokens, config.group, config.representation) == (50, 400, hidden)
    assert config.same_experts


def test_parameters_of_the_released_sizes():
    """285,238,504 for B/16 at 384 px and 1000 classes; 56,258,148 for S/32 at 128 px and 100 classes."""
    fine_tuned = {"representation": None}
    assert parameter_count(vmoe_config("B/16, Every 2", (384, 384, 3), 1000, **fine_tuned)) == 285_238_504
    assert parameter_count(vmoe_config("S/32, Last 2", (128, 128, 3), 100, **fine_tuned)) == 56_258_148


def test_a_configuration_survives_json_and_copies():
    config = small_config(maps={1: ExpertMap((0, -1, 1, 0), (2, 3), 4)}, router={"selected": 1})
    again = VisionMoeConfig.from_plain(json.loads(json.dumps(config.plain())))
    assert again == copy.deepcopy(config) == VisionMoeConfig.from_plain(config.plain()) == config
    assert hash(again) == hash(config)
    assert again.expert_map(1).source_ids == (2, 3)
    for wrong in ({}, None, config.plain() | {"maps": [[1]]}, config.plain() | {"router": {"colour": 1}}):
        with pytest.raises(ValueError, match="not the settings") as caught:
            VisionMoeConfig.from_plain(wrong)
        assert "\n" not in str(caught.value)


def test_changes_go_to_the_network_or_to_its_router():
    described = vmoe_config("B/16, E=32, K=1, Every 2", (32, 32, 3), 10, capacity_factor=1.5, group=None)
    assert (described.experts, described.router.selected, described.router.capacity_factor) == (32, 1, 1.5)
    assert described.group is None
    both = vmoe_config("S/32", (32, 32, 3), 10, router=RouterConfig(noise_std=0), selected=1)
    assert both.router == RouterConfig(noise_std=0, selected=1)
    for changes, message in (
        ({"capacity_facto": 2.0}, "did you mean 'capacity_factor'"),
        ({"router": "token-choice", "selected": 1}, "router is 'token-choice'"),
    ):
        with pytest.raises(ValueError, match=message):
            vmoe_config("S/32", (32, 32, 3), 10, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 4}, "do not split into patches of 4"),
        ({"heads": 3}, "3 heads do not divide"),
        ({"moe_layers": (2,)}, "from 0 to 1"),
        ({"moe_layers": (1, 1)}, "name each block once"),
        ({"moe_layers": 1}, "moe_layers is 1"),
        ({"classifier": "map"}, "classifier is 'map'"),
        ({"experts": 0}, "experts is 0"),
        ({"experts": 2**40}, f"experts is {2**40}"),
        ({"image_shape": (6, 6)}, "image_shape"),
        ({"image_shape": 6}, "image_shape is 6"),
        ({"group": 0}, "group is 0"),
        ({"router": {"selected": 5}}, "selected is 5, but the router of block 1 has 4"),
        ({"router": {"kind": "random"}}, "kind is 'random'"),
        ({"router": {"kind": "expert-choice", "capacity_factor": None}}, "needs a number of slots"),
        ({"router": {"capacity_factor": 0}}, "capacity_factor is 0"),
        ({"router": {"noise_std": float("nan")}}, "noise_std is nan"),
        ({"router": {"softmax": "never"}}, "softmax is 'never'"),
        ({"maps": {0: ExpertMap.whole(4)}}, "block 0 has a map"),
        ({"maps": {1: "whole"}}, "'whole'; input should be an instance of ExpertMap"),
        ({"maps": {1: ExpertMap.whole(3)}}, "counts 3 experts before any pruning"),
        ({"maps": {1: ExpertMap((0,), (2,), 4)}}, "selected is 2, but the router of block 1 has 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        *((f"S/32, {where}", "of 8 blocks") for where in ("Every 100", "Last 5", "Every 0")),
        *((unknown, "not of the form") for unknown in ("X/16", 5, [])),
    ],
)
def test_descriptions_that_cannot_be_are_refused(description, message):
    with pytest.raises(ValueError, match=message):
        vmoe_config(description, (32, 32, 3), 10)


@pytest.mark.parametrize(("group", "images"), [(None, 1), (10, 1), (20, 2), (5, 1), (15, 3), (4, 2)])
def test_images_whose_tokens_are_routed_together(group, images):
    assert small_config(group=group).images_together == images
