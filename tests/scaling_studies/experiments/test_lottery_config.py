from pathlib import Path

import pytest

from qrt_tn.models.lottery import preset
from qrt_tn.studies.experiments.lottery.config import LotteryConfig, overrides


def test_texts_become_settings_of_their_types() -> None:
    texts = ["batch_size=128", "learning_rate = 3e-4", "augment=yes", "drops=100, 200", "scope=global"]
    found = overrides(texts)
    assert found == {
        "batch_size": 128,
        "learning_rate": 3e-4,
        "augment": True,
        "drops": (100, 200),
        "scope": "global",
    }
    changed = preset("lenet", **found)
    assert changed.recipe.drops == (100, 200)
    assert changed.scope == "global"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["batch_size"], "not of the form name=value"),
        (["=3"], "not of the form name=value"),
        (["levels=3", "levels=4"], "levels is set twice"),
        (["levels=three"], "levels is 'three'; give a whole number"),
        (["rate=half"], "rate is 'half'; give a number"),
        (["drops=1,x"], "drops is 'x'; give a whole number"),
        (["recipe=sgd"], "set by its parts"),
        (["augment=maybe"], "give true or false"),
    ],
)
def test_texts_that_are_no_settings_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overrides(texts)


def test_what_is_known_of_the_settings_is_no_setting() -> None:
    with pytest.raises(ValueError, match="has no 'unverified'"):
        preset("vgg19", **overrides(["unverified=x"]))


def test_an_unknown_name_is_left_to_the_preset_which_knows_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'batch_size'"):
        preset("lenet", **overrides(["batchsize=3"]))


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        LotteryConfig("quick", preset("quick"), seed=-1)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        LotteryConfig("quick", preset("quick"), out=tmp_path / "file")
