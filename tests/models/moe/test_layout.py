import json

import pytest

from qrt_tn.models.moe.layout import NO_EXPERT, ExpertLayout, kept_first


def test_a_whole_layer_leads_every_column_to_its_expert():
    layout = ExpertLayout.whole(3)
    assert (layout.columns, layout.experts, layout.capacity_experts) == (3, 3, 3)
    assert layout.expert_of == layout.original == (0, 1, 2)


def test_a_layout_survives_json():
    layout = ExpertLayout((0, NO_EXPERT, 1, 0), (2, 3), 4, True)
    again = ExpertLayout.from_plain(json.loads(json.dumps(layout.plain())))
    assert again == layout
    assert hash(again) == hash(layout)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (((), (), 1), "at least one column"),
        (((NO_EXPERT, NO_EXPERT), (), 2), "every expert of a layer is gone"),
        (((0, 2), (0, 1), 2), "must lead to each of the 2 experts"),
        (((0, 0), (0, 1), 2), "must lead to each"),
        (((0, 1), (3, 3), 2), "name each expert once"),
        (((0, 1), (-1, 3), 2), "name each expert once"),
        (((0, 1), (0, 1), 0), "capacity_experts is 0"),
    ],
)
def test_what_cannot_be_a_layout_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ExpertLayout(*settings)


def test_unknown_keys_of_a_file_are_refused():
    with pytest.raises(ValueError, match="not the layout"):
        ExpertLayout.from_plain({"experts": 3})


def test_columns_of_kept_experts_come_first():
    assert kept_first((1, 3), 4) == (1, 3, 0, 2)
