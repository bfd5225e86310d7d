import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.images import fold, load_images
from qrt_tn.models.lottery import CONTROLS, PRESETS, LotteryStudy, Run, preset
from qrt_tn.models.vision import architecture
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError, experiment
from qrt_tn.studies.experiments.lottery import point
from qrt_tn.studies.experiments.lottery.point import Way, chosen_preset, measure
from qrt_tn.studies.experiments.lottery.settings import EXPERIMENT, Lottery, Method
from qrt_tn.studies.experiments.lottery.settings import Preset as PresetName

SEED, ROUNDS, SHARE = 1, 2, 0.8**2  # two of the preset's own rounds
SHORT: dict[str, Any] = {"iterations": 40, "evaluate_every": 20, "points": 120, "validation": 40}
Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Measure:
    def measured(
        seed: int = SEED, folder: Path | None = None, say: Any = lambda _: None, **changes: Any
    ) -> Any:
        settings = Lottery.model_validate({**SHORT, "shares": [SHARE], "rounds": [ROUNDS], **changes})
        return dict(measure(settings, seed, Context(folder or tmp_path, say=say)))

    return measured


def studied(
    rewinding: str = "weights", rewind: int = 0, controls: Sequence[str] = CONTROLS, **changes: Any
) -> dict[tuple[str, int], Run]:
    """The same networks from a whole study of two trials: those of the second, by method and level."""
    settings = {name: value for name, value in SHORT.items() if name != "points"} | changes
    chosen = preset("quick", levels=ROUNDS, trials=2, reinitialisations=1, rewind=rewind, **settings)
    images = load_images("digits")

    def build(seed: int) -> nnx.Module:
        return architecture(
            "lenet", (8, 8, 1), 10, rngs=nnx.Rngs(seed), kernel_init=nnx.initializers.glorot_normal()
        )

    study = LotteryStudy(
        build,
        chosen,
        fold(images, 0, chosen.validation, SHORT["points"]),
        controls=controls,
        control_levels=[ROUNDS],
        rewinding=rewinding,
    )
    return {(run.method, run.level): run for runs in study.rounds() for run in runs if run.trial == SEED}


def agrees(found: dict[str, Any], run: Run, dense: Run) -> None:
    assert found["remaining"] == run.remaining
    assert found["accuracy"] == run.trained.at_early("test_accuracy")
    assert found["validation_loss"] == run.trained.at_early("validation_loss")
    assert found["early_iteration"] == run.trained.early_iteration
    assert found["gain"] == found["accuracy"] - dense.trained.at_early("test_accuracy")
    assert found["early_ratio"] == run.trained.early_iteration / dense.trained.early_iteration


def test_every_method_is_that_of_a_whole_study(run: Measure) -> None:
    """To the same bits: weights, order of points, masks and redraws are those of the study's trial."""
    methods = list(typing.get_args(Method))
    found, whole = run(methods=methods), studied()
    assert [row["method"] for row in found["sparse"]] == methods
    for row in found["sparse"]:
        agrees(row, whole[row["method"], ROUNDS], whole["dense", 0])
        assert (row["share"], row["pruning_rounds"], row["back_to"]) == (SHARE, ROUNDS, 0)
    (dense,) = found["dense"]
    assert dense["accuracy"] == whole["dense", 0].trained.at_early("test_accuracy")
    # the dense network, the ticket's rounds, and a network for each of its controls
    assert dense["trainings"] == 1 + ROUNDS + len(methods) - 1


@pytest.mark.parametrize(("rewinding", "rewind"), [("weights", 20), ("rate", 0)])
def test_rewinding_is_that_of_a_whole_study(rewinding: str, rewind: int, run: Measure) -> None:
    methods = ("sign-reinit", "oneshot")
    whole = studied(rewinding, rewind, controls=methods)
    back = "rate" if rewinding == "rate" else rewind
    for row in run(methods=["imp", *methods], rewind=[back])["sparse"]:
        agrees(row, whole[row["method"], ROUNDS], whole["dense", 0])


def test_ways_of_one_network_are_those_of_networks_of_their_own(run: Measure, tmp_path: Path) -> None:
    """No network is trained twice, and none depends on what else a point is asked for."""
    ways: dict[str, list[Any]] = {
        "shares": [0.5, 0.2],
        "rounds": [1, 2],
        "rewind": [20, "rate"],
        "methods": ["imp", "reinit"],
    }
    found = run(folder=tmp_path / "all", **ways)
    assert len(found["sparse"]) == 2**4
    # dense; for each of the 4 shares and ways back 1 and 2 rounds; for each ticket a redraw
    assert found["dense"][0]["trainings"] == 1 + 4 * (1 + 2) + 8
    row = found["sparse"][-1]
    one = {"shares": [0.2], "rounds": [2], "rewind": ["rate"], "methods": ["reinit"]}
    assert run(folder=tmp_path / "one", **one)["sparse"] == [row]


def test_a_random_mask_under_the_global_scope_has_the_tickets_counts(
    run: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everywhere(name: str, **changes: Any) -> Any:
        if "rate" in changes:
            changes["output_rate"] = changes["rate"]
        return preset(name, scope="global", **changes)

    monkeypatch.setattr(point, "preset", everywhere)
    methods = ("random", "snip", "magnitude-init")
    whole = studied(controls=methods, scope="global", output_rate=0.2)
    # the rounds' rate is computed from the share, so the last bit of it may differ, and no count
    random, *others = run(methods=list(methods))["sparse"]
    agrees(random, whole["random", ROUNDS], whole["dense", 0])
    for row in others:
        assert row["remaining"] == whole[row["method"], ROUNDS].remaining


@pytest.mark.parametrize("rounds", [1, 3, 7])
def test_shares_do_not_depend_on_the_rounds(rounds: int) -> None:
    found = chosen_preset(Lottery(), Way(0.1, rounds, 0))
    assert (1 - found.rate) ** rounds == pytest.approx(0.1)
    # a layer of rate 0.1 keeps 0.9^l when one of rate 0.2 keeps 0.8^l
    level = np.log(0.1) / np.log(0.8)
    assert (1 - found.output_rate) ** rounds == pytest.approx(0.9**level)
    assert (found.conv_rate, found.levels) == (0, rounds)
    deep = chosen_preset(Lottery(preset="resnet20"), Way(0.1, rounds, 0))
    assert (deep.rate, deep.output_rate) == (0, 0)
    assert (1 - deep.conv_rate) ** rounds == pytest.approx(0.1)


def test_a_point_goes_on_where_it_was_killed(run: Measure, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(line: str) -> None:
        if line.startswith("round 1 of 2"):
            raise KilledError

    with pytest.raises(KilledError):
        run(folder=tmp_path / "killed", say=kill)
    kept = sorted(path.name for path in (tmp_path / "killed" / "trainings").glob("*.safetensors"))
    assert kept == ["dense.safetensors", f"imp-{SHARE}-{ROUNDS}-0-01.safetensors"]
    times = {name: (tmp_path / "killed" / "trainings" / name).stat().st_mtime_ns for name in kept}
    found, whole = run(folder=tmp_path / "killed"), run(folder=tmp_path / "whole")
    assert times == {name: (tmp_path / "killed" / "trainings" / name).stat().st_mtime_ns for name in kept}
    assert found["sparse"] == whole["sparse"]
    assert found["dense"][0] | {"training_seconds": 0} == whole["dense"][0] | {"training_seconds": 0}


def test_seeds_differ_and_the_split_does_not(run: Measure, tmp_path: Path) -> None:
    def loss(seed: int, name: str, **changes: Any) -> float:
        found = run(seed, folder=tmp_path / name, methods=["random"], **changes)
        return float(found["sparse"][0]["validation_loss"])

    first = loss(0, "first")
    assert first != loss(1, "second")
    assert first != loss(0, "split", split=1)


def test_settings_name_what_the_models_have() -> None:
    assert typing.get_args(PresetName) == tuple(PRESETS)
    assert typing.get_args(Method) == ("imp", *CONTROLS)
    assert experiment("lottery") is EXPERIMENT


def test_bad_points_are_refused_before_any_training(run: Measure, tmp_path: Path) -> None:
    for changes, message in (
        ({"rewind": [0, 10]}, "rewind is 10; give a multiple of evaluate_every, 20"),
        ({"rewind": [40]}, "rewind is 40, but a run has 40 iterations"),
        ({"shares": [0.5, 1e-6]}, "would be pruned to nothing"),
        ({"shares": [0.5, 0.5]}, "with one twice"),
        ({"points": 5000}, "points is 5000; give a whole number from 1 to"),
        ({"points": 10}, "batch"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)
    with pytest.raises(UnavailableError, match="is no data set"):
        run(data="nowhere")
    assert not list(tmp_path.rglob("*.safetensors"))
