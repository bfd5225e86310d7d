from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.models.moe.criteria import CRITERIA
from qrt_tn.studies.experiments.moe.config import OF_NETWORKS, PRESETS, MoeStudyConfig, overrides, preset


def test_every_preset_can_be_had_and_names_every_criterion() -> None:
    for name in PRESETS:
        config = preset(name)
        assert config.name == name
        assert set(config.criteria) == {*CRITERIA, "merge"}
    assert set(OF_NETWORKS) < {item.name for item in fields(MoeStudyConfig)}


def test_texts_become_settings_of_their_types() -> None:
    texts = ["prune=1, 3", "learning_rate=1e-2", "theory=no", "pretrain_points=none", "capacity_factor=none"]
    found = overrides([*texts, "criteria=frequency,merge", "finetune_points=90", "softmax=after"])
    assert found == {
        "prune": (1, 3),
        "learning_rate": 0.01,
        "theory": False,
        "pretrain_points": None,
        "capacity_factor": None,
        "criteria": ("frequency", "merge"),
        "finetune_points": 90,
        "softmax": "after",
    }
    config = preset("quick", **found, tune_prune=())
    assert config.prune == (1, 3)
    assert config.router("token-choice").capacity_factor is None
    assert config.router("expert-choice").capacity_factor == config.expert_capacity


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["seeds"], "not of the form name=value"),
        (["seeds=1", "seeds=2"], "seeds is set twice"),
        (["seeds=few"], "seeds is 'few'; give a whole number"),
        (["learning_rate=fast"], "give a number"),
        (["theory=perhaps"], "give true or false"),
        (["out=there"], "use --preset and --out"),
        (["finetune_points=some"], "finetune_points is 'some'; give a whole number"),
    ],
)
def test_texts_that_are_no_settings_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overrides(texts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune": (2, 8)}, "prune holds 8, but a layer has 8 experts; prune at most 7"),
        ({"prune": ()}, r"prune is \(\)"),
        ({"prune": (2,)}, "tune_prune holds 4, which prune does not"),
        ({"criteria": ("router-chang",)}, "did you mean 'router-change'"),
        ({"criteria": ()}, r"criteria is \(\)"),
        ({"modes": ("drop",)}, "modes.0 is 'drop'"),
        ({"routers": ("token-choice",) * 2}, "name each once"),
        ({"selected": 9}, "selected is 9"),
        ({"pretrain": "digits:3"}, "only one class"),
        ({"seeds": 0}, "seeds is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"heads": 5}, "5 heads do not divide"),
        ({"moe_layers": (2,)}, "moe_layers"),
        ({"setps": 3}, "unknown setting 'setps'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset("quick", **changes)


def test_an_unknown_preset_and_a_file_for_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown preset 'quik'; choose one of quick, small"):
        preset("quik")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        preset("quick", out=tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "values"), [("criteria", ("reap", "reap")), ("prune", (2, 2)), ("tune_prune", (4, 4))]
)
def test_what_is_named_twice_is_refused(name, values):
    with pytest.raises(ValueError, match=f"{name} is .* name each once"):
        preset("quick", **{name: values})
