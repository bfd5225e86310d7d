import json

import pytest

from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap, kept_first


def test_a_whole_layer_leads_every_column_to_its_expert():
    expert_map = ExpertMap.whole(3)
    assert (expert_map.columns, expert_map.experts, expert_map.capacity_experts) == (3, 3, 3)
    assert expert_map.column_to_expert == expert_map.source_ids == (0, 1, 2)


def test_a_map_survives_json():
    expert_map = ExpertMap((0, NO_EXPERT, 1, 0), (2, 3), 4, True)
    again = ExpertMap.from_plain(json.loads(json.dumps(expert_map.plain())))
    assert again == expert_map
    assert hash(again) == hash(expert_map)


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


def test_unknown_keys_of_a_file_are_refused():
    with pytest.raises(ValueError, match="column_to_expert is missing"):
        ExpertMap.from_plain({"experts": 3})


def test_columns_of_kept_experts_come_first():
    assert kept_first((1, 3), 4) == (1, 3, 0, 2)
