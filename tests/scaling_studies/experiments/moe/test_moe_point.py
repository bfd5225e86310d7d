import io
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from qrt_tn.models.moe.config import ROUTERS, VisionMoeConfig
from qrt_tn.models.moe.criteria import CRITERIA
from qrt_tn.models.moe.pruning import MODES
from qrt_tn.models.moe.training import MoeRecipe
from qrt_tn.models.moe.vit import VisionMoe
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError, experiment
from qrt_tn.studies.experiments.moe import networks, point, pruning
from qrt_tn.studies.experiments.moe.config import MERGE, PRESETS, MoeStudyConfig, preset
from qrt_tn.studies.experiments.moe.data import load_set
from qrt_tn.studies.experiments.moe.networks import Pair, train_networks
from qrt_tn.studies.experiments.moe.point import measure
from qrt_tn.studies.experiments.moe.programs import Programs
from qrt_tn.studies.experiments.moe.pruning import prune_networks
from qrt_tn.studies.experiments.moe.settings import EXPERIMENT, Criterion, Mode, Moe
from qrt_tn.studies.progress import StageTimer

SEED = 0
Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Noisy pictures of four kinds, in a file."""
    path = tmp_path_factory.mktemp("images") / "kinds.npz"
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, size=(4, 4, 4))
    y = np.arange(320) % 4
    x = np.clip(kinds[y] + rng.normal(scale=90, size=(320, 4, 4)), 0, 255).astype(np.uint8)
    np.savez(path, x_train=x[:240], y_train=y[:240], x_test=x[240:], y_test=y[240:])
    return str(path)


def settings(images: str, **changes: Any) -> dict[str, Any]:
    """A small point: one block of four experts, a few steps of training."""
    return {
        **{"pretrain": f"{images}:0-1", "finetune": f"{images}:2-3", "pretrain_points": 80},
        **{"finetune_points": 80, "pretrain_steps": 5, "finetune_steps": 5, "hidden": 8, "mlp": 4},
        **{"layers": 1, "experts": 4, "prune": [2], "draws": 3},
        **changes,
    }


@pytest.fixture(scope="module")
def programs() -> dict[VisionMoeConfig, Programs]:
    """Compiled programs, by configuration: they hold no weights."""
    return {}


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch: pytest.MonkeyPatch, programs: dict[VisionMoeConfig, Programs]) -> None:
    def shared(config: VisionMoeConfig, tree: Any) -> Programs:
        if config not in programs:
            programs[config] = Programs(config, tree)
        return programs[config]

    monkeypatch.setattr(pruning, "Programs", shared)


def shaken(
    network: VisionMoe, x: np.ndarray, y: np.ndarray, recipe: MoeRecipe, *, seed: Any, progress: Any = None
) -> None:
    """In place of training, which takes long to compile: noise that depends on all that training does."""
    size = (
        0.1 * recipe.steps * recipe.learning_rate / 1e-3 * float(np.abs(x).mean()) / (1 + float(y[:10].sum()))
    )
    params = nnx.state(network, nnx.Param)

    def moved(leaf: jax.Array) -> np.ndarray:
        return np.asarray(leaf) + (size * seed.normal(size=leaf.shape)).astype(np.float32)

    nnx.update(network, jax.tree.map(moved, params))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pruning, networks):
        monkeypatch.setattr(module, "train_moe", shaken)


@pytest.fixture
def run(images: str, tmp_path: Path) -> Measure:
    def measured(
        seed: int = SEED, folder: Path | None = None, say: Any = lambda _: None, **changes: Any
    ) -> Any:
        given = Moe.model_validate(settings(images, **changes))
        return dict(measure(given, seed, Context(folder or tmp_path, say=say)))

    return measured


def of_study(
    images: str, out: Path, router: str, mode: str, criteria: tuple[str, ...]
) -> tuple[Pair, list[dict[str, Any]]]:
    """The same network and its prunings by `qrt-tn moe study`."""
    given = settings(images)
    changes = {name: given[name] for name in point.CHANGED if name in given}
    study: MoeStudyConfig = preset(
        "quick",
        **changes,
        **{"moe_layers": (0,), "routers": (router,), "modes": (mode,), "prune": (1, 2), "seeds": 1},
        **{"criteria": (*criteria, "random"), "random_draws": given["draws"], "out": out},
        **{"tune_steps": 3, "tune_prune": (2,), "tune_criteria": ("router-change",)},
    )
    timer = StageTimer(Console(file=io.StringIO()))
    (out / "networks").mkdir(parents=True)
    pairs, _ = train_networks(study, load_set(study.pretrain), load_set(study.finetune), timer)
    rows, _, _ = prune_networks(study, pairs, timer)
    return pairs[0], rows


@pytest.mark.parametrize(
    ("router", "mode", "criteria"),
    [
        ("token-choice", "keep-router", ("router-change", MERGE)),
        ("expert-choice", "drop-router", ("router-norm",)),
    ],
)
def test_points_are_those_of_the_study(
    router: str,
    mode: str,
    criteria: tuple[str, ...],
    images: str,
    run: Measure,
    tmp_path: Path,
    untrained: None,
) -> None:
    """Networks, choices, draws and fine-tuning are those of the same seed there."""
    pair, rows = of_study(images, tmp_path / "study", router, mode, criteria)
    found = run(router=router, modes=[mode], criteria=list(criteria), prune=[1, 2], tune_steps=3)
    (network,) = found["networks"]
    assert network == {name: pair.row[name] for name in network} | {"seconds": network["seconds"]}
    ways = [(row["criterion"], row["mode"], row["pruned"]) for row in found["pruned"]]
    assert set(ways) == {(row["criterion"], row["mode"], row["pruned"]) for row in rows}
    assert len(set(ways)) == len(ways) == 2 * (len(criteria) + 1)
    for row, way in zip(found["pruned"], ways, strict=True):
        random = [r["accuracy"] for r in rows if (r["criterion"], r["pruned"]) == ("random", way[2])]
        own = [r for r in rows if (r["criterion"], r["mode"], r["pruned"]) == way]
        assert (len(random), len(own)) == (3, 3 if way[0] == "random" else 1)
        assert row["accuracy"] == pytest.approx(np.mean([r["accuracy"] for r in own]), abs=1e-15)
        assert row["gain"] == pytest.approx(row["accuracy"] - np.mean(random), abs=1e-15)
        assert row["loss"] == network["accuracy"] - row["accuracy"]
        assert row["parameters_left"] == own[0]["parameters"] / network["parameters"]
        assert row["ratio"] == way[2] / 4
        assert (row["flops_left"] == 1) == (way[0] == MERGE)
        if own[0]["finetuned_accuracy"] is not None:
            assert row["finetuned_accuracy"] == own[0]["finetuned_accuracy"]


def test_a_point_goes_on_where_it_was_killed(run: Measure, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(line: str) -> None:
        if line.startswith("trained"):
            raise KilledError

    killed = tmp_path / "killed"
    killed.mkdir()
    (tmp_path / "whole").mkdir()
    with pytest.raises(KilledError):
        run(folder=killed, say=kill)
    kept = sorted(killed.iterdir())
    assert [path.name.partition("-0-")[2] for path in kept] == [
        "finetuned.safetensors",
        "pretrained.safetensors",
    ]
    written = kept[1].stat().st_mtime_ns
    kept[0].write_bytes(b"torn")  # trained again
    found, whole = (run(folder=place) for place in (killed, tmp_path / "whole"))
    assert kept[1].stat().st_mtime_ns == written
    assert found["pruned"] == whole["pruned"]
    assert found["networks"][0] | {"seconds": 0} == whole["networks"][0] | {"seconds": 0}
    (tmp_path / "other").mkdir()
    other = run(SEED + 1, folder=tmp_path / "other")
    assert other["pruned"] != found["pruned"]


def test_settings_name_what_the_models_have() -> None:
    assert set(typing.get_args(Criterion)) == {*CRITERIA, MERGE}
    assert set(typing.get_args(Mode)) == set(MODES)
    for name, known in (("router", ROUTERS), ("preset", tuple(PRESETS))):
        assert typing.get_args(Moe.model_fields[name].annotation) == known
    assert experiment("moe") is EXPERIMENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune": [1, 4]}, "4 of 4 experts cannot go, since at least 1 must be left; prune at most 3"),
        (
            {"prune": [3], "modes": ["keep-router", "drop-router"]},
            "3 of 4 experts cannot go, since at least 2 must be left",
        ),
        ({"prune": [3], "criteria": ["reconstruction"]}, "at least 2 must be left"),
        ({"selected": 5}, "a token cannot go to 5 of 4 experts"),
        ({"router": "expert-choice", "criteria": ["reconstruction"]}, "is defined for token choice"),
        ({"criteria": ["abacus"]}, "router-change"),
    ],
)
def test_points_that_cannot_be_are_refused(changes: dict[str, Any], message: str, images: str) -> None:
    with pytest.raises(ValueError, match=message):
        Moe.model_validate(settings(images, **changes))
    Moe.model_validate(settings(images, prune=[3], modes=["drop-router"], router="expert-choice"))
    Moe.model_validate(settings(images, prune=[3], criteria=[MERGE]))


def test_bad_data_is_refused_before_any_training(run: Measure, images: str, tmp_path: Path) -> None:
    for changes, message in (
        ({"finetune": f"{images}:3-2"}, "fall; give the lower one first"),
        ({"finetune": "digits"}, "give sets of one shape"),
        ({"finetune_points": 30}, "30 training images of kinds:2-3 are fewer than a batch of 64"),
        ({"hidden": 6}, "heads"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)
    with pytest.raises(UnavailableError, match="is no data set"):
        run(pretrain="nowhere:0-1")
    assert not list(tmp_path.rglob("*.safetensors"))
