import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from qrt_tn.models.moe.checkpoints import load_vmoe_checkpoint, save_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints.native import load_moe_tree, save_moe_tree
from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.merging import merge
from qrt_tn.models.moe.statistics import calibrate
from qrt_tn.models.moe.trees import Tree, from_tree, infer_config, leaves, parameter_bytes
from qrt_tn.studies.experiments.moe import checkpoint as job
from qrt_tn.studies.experiments.moe.request import PruneRequest, parse_bytes
from qrt_tn.studies.experiments.moe.sheets import pruned_sheet
from qrt_tn.studies.progress import StageTimer

Make = Callable[..., dict[str, Any]]


def prune(folder: Path, **options: Any) -> dict[str, Any]:
    given = {"finetuned": str(folder / "after"), "out": folder / "smaller", **options}
    for name in ("finetuned", "pretrained"):
        if name in given:
            given[name] = str(given[name])
    return job.prune_checkpoint(
        PruneRequest(**given), "qrt-tn moe prune", StageTimer(Console(file=io.StringIO()))
    )


def moe(tree: Tree, block: int) -> Any:
    return tree["Encoder"][f"encoderblock_{block}"]["Moe"]


@pytest.fixture
def pair(make: Make, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two checkpoints of vmoe, before and after fine-tuning, with different heads."""
    before, after = make(0), make(1)
    before["head"] = {"kernel": np.zeros((6, 7), np.float32), "bias": np.zeros(7, np.float32)}
    save_vmoe_checkpoint(tmp_path / "before", before)
    save_vmoe_checkpoint(tmp_path / "after", after, shards=2, max_chunk_bytes=200)
    return before, after


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_pair_of_vmoe_checkpoints_is_pruned_by_router_change(pair: Any, tmp_path: Path) -> None:
    before, after = pair
    sources = contents(tmp_path)
    about = prune(tmp_path, pretrained=tmp_path / "before", prune=2)
    smaller = load_vmoe_checkpoint(tmp_path / "smaller")
    for block in (0, 1):
        norms = [np.linalg.norm(moe(t, block)["Router"]["dense"]["kernel"], axis=0) for t in (after, before)]
        change = norms[0] - norms[1]
        order = np.argsort(change, kind="stable")
        gone, kept = sorted(order[:2]), sorted(order[2:])
        ours, theirs = moe(smaller, block), moe(after, block)
        for dense in ("Dense_0", "Dense_1"):
            for name in ("kernel", "bias"):
                assert np.array_equal(ours["Mlp"][dense][name], theirs["Mlp"][dense][name][kept])
        columns = theirs["Router"]["dense"]["kernel"][:, [*kept, *gone]]
        assert np.array_equal(ours["Router"]["dense"]["kernel"], columns)
        found = about["experts"][str(block)]
        assert (found["kept"], found["gone"]) == (kept, gone)
        np.testing.assert_allclose([found["scores"][str(e)] for e in range(4)], change, rtol=1e-5)
        assert about["maps"][str(block)]["column_to_expert"] == (0, 1, -1, -1)
    for path, leaf in leaves(after):
        if "/Moe/" not in path:
            assert np.array_equal(dict(leaves(smaller))[path], leaf)
    assert about["bytes"] == {"before": parameter_bytes(after), "after": parameter_bytes(smaller)}
    kept_about = json.loads((tmp_path / "smaller.json").read_text())
    assert kept_about == json.loads(json.dumps({k: v for k, v in about.items() if k != "written"}))
    assert kept_about["unpruned_experts"] == "encoderblock_0=2,encoderblock_1=2"
    hashes = kept_about["sources"]["finetuned"]
    assert set(hashes) == {"after.index", "after.data-00000-of-00002", "after.data-00001-of-00002"}
    assert all(hashes[name] == hashlib.sha256(sources[name]).hexdigest() for name in hashes)
    now = contents(tmp_path)
    assert {name: now[name] for name in sources} == sources
    assert {Path(path).name for path in about["written"]} == set(now) - set(sources)


def test_a_pruned_checkpoint_is_pruned_again_by_the_numbers_of_the_first(pair: Any, tmp_path: Path) -> None:
    once = prune(tmp_path, pretrained=tmp_path / "before", prune=1)
    again = prune(
        tmp_path,
        finetuned=tmp_path / "smaller",
        out=tmp_path / "least",
        pretrained=tmp_path / "before",
        prune=1,
        mode="drop-router",
    )
    (tmp_path / "two").mkdir()
    at_once = prune(
        tmp_path, out=tmp_path / "two" / "x", pretrained=tmp_path / "before", prune=2, mode="drop-router"
    )
    for block in ("0", "1"):
        assert sorted(again["experts"][block]["kept"]) == at_once["experts"][block]["kept"]
        assert again["earlier"][block] == once["experts"][block]
        assert again["maps"][block]["capacity_experts"] == 4
    smaller = load_vmoe_checkpoint(tmp_path / "least")
    assert moe(smaller, 0)["Router"]["dense"]["kernel"].shape == (6, 2)


def test_ensembles_lose_as_many_of_each_member(make: Make, tmp_path: Path) -> None:
    save_vmoe_checkpoint(tmp_path / "before", make(0, members=2))
    save_vmoe_checkpoint(tmp_path / "after", make(1, members=2))
    about = prune(
        tmp_path, pretrained=tmp_path / "before", prune=2, mode="drop-router", router="expert-choice"
    )
    smaller = load_vmoe_checkpoint(tmp_path / "smaller")
    assert moe(smaller, 0)["Router"]["dense"]["kernel"].shape == (6, 2, 1)
    assert sorted(number // 2 for number in about["experts"]["0"]["kept"]) == [0, 1]
    with pytest.raises(ValueError, match="not offered for ensembles"):
        np.savez(tmp_path / "x.npz", x=np.zeros((2, 4, 4, 1), np.float32))
        prune(
            tmp_path, out=tmp_path / "b", criterion="frequency", prune=2, calibration=str(tmp_path / "x.npz")
        )


def test_a_budget_is_kept_and_not_undercut_by_an_expert(pair: Any, tmp_path: Path) -> None:
    size = parameter_bytes(pair[1])
    one = 4 * (2 * 6 * 5 + 5 + 6)
    about = prune(tmp_path, criterion="random", budget_bytes=size - 2 * one - 1, seed=3)
    assert about["bytes"]["after"] == size - 3 * one
    assert sum(len(found["gone"]) for found in about["experts"].values()) == 3
    with pytest.raises(ValueError, match="budget_bytes is 10,"):
        prune(tmp_path, out=tmp_path / "none", criterion="random", budget_bytes=10)


def test_criteria_that_need_images_run_the_network(pair: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(5).normal(size=(12, 4, 4, 1)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    about = prune(
        tmp_path, criterion="frequency", prune=1, calibration=str(tmp_path / "x.npz"), selected=1, images=10
    )
    router = RouterConfig(selected=1)
    network = from_tree(pair[1], infer_config(pair[1], router=router))
    for block, statistics in calibrate(network, x[:10]).items():
        assert list(about["experts"][str(block)]["scores"].values()) == statistics.count.tolist()
    assert about["calibration"]["images"] == 10
    # two experts have as many tokens, and one of them goes: the sheet says so
    assert about["experts"]["1"]["ties"] == [1, 3] and "ties" not in about["experts"]["0"]
    assert "Of equal scores, some of which go: 1, 3 of layer 1." in pruned_sheet(about).note
    np.savez(tmp_path / "wide.npz", x=np.zeros((2, 4, 6, 1)))
    with pytest.raises(ValueError, match=r"shape \(4, 6, 1\), the network takes \(4, 4, 1\)"):
        prune(
            tmp_path,
            out=tmp_path / "b",
            criterion="frequency",
            prune=1,
            calibration=str(tmp_path / "wide.npz"),
        )


def test_a_file_of_ours_is_merged_and_tells_how(make: Make, config: VisionMoeConfig, tmp_path: Path) -> None:
    tree = make(1)
    save_moe_tree(tmp_path / "after.safetensors", tree, config)
    x = np.random.default_rng(5).normal(size=(12, 4, 4, 1)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    out = tmp_path / "merged.safetensors"
    about = prune(
        tmp_path,
        finetuned=tmp_path / "after.safetensors",
        out=out,
        criterion="merge",
        left=2,
        calibration=str(tmp_path / "x.npz"),
    )
    merged, shape, kept_about = load_moe_tree(out)
    known, maps = merge(tree, calibrate(from_tree(tree, config), x), 2)
    assert shape.all_maps == maps
    for path, leaf in leaves(known):
        np.testing.assert_allclose(dict(leaves(merged))[path], leaf, atol=1e-6)
    assert kept_about["experts"] == about["experts"]
    assert about["mode"] == "merge"
    assert about["experts"]["0"]["kept"] == list(maps[0].source_ids)


def test_a_write_that_fails_leaves_nothing(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(job, "save_vmoe_checkpoint", full)
    with pytest.raises(OSError, match="no space"):
        prune(tmp_path, criterion="router-norm", prune=1)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": 4}, "4 experts of layer 0 cannot go"),
        ({"prune": 3, "mode": "drop-router"}, "would keep 1 experts, but a token goes to 2"),
        ({"prune": 1, "budget_bytes": 5}, "either --prune or --budget"),
        ({}, "either --prune or --budget"),
        ({"prune": 1, "layers": (7,)}, "layer 7 has no experts"),
        ({"prune": 1, "mode": "drop"}, "mode is 'drop'"),
        ({"prune": 1, "scope": "all"}, "scope is 'all'"),
        ({"prune": 1, "groups": 3}, "3 groups do not divide"),
        ({"prune": 1, "router": "soft"}, "router is 'soft'"),
        ({"prune": 1, "left": 1}, "--left is 1, which is for --criterion merge"),
        ({"prune": 1, "criterion": "merge"}, "give --left alone"),
        ({"prune": 1, "criterion": "router-change"}, "give it as --pretrained"),
        ({"prune": 1, "criterion": "reap"}, "give them as --calibration"),
        ({"prune": 1, "criterion": "rape"}, "unknown criterion 'rape'"),
        ({"prune": 1, "finetuned": "nowhere"}, "no file nowhere.index"),
        ({"prune": 1, "finetuned": "nowhere.safetensors"}, "give a .safetensors file"),
        ({"prune": 1, "out": "x.safetensors"}, "give a prefix, without .safetensors"),
        ({"prune": 1, "out": "missing/x"}, "folder .*missing does not exist"),
        ({"prune": 1, "out": "after"}, "after.index exists"),
        ({"prune": 1, "out": "other"}, "other.json exists"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(
    pair: Any, tmp_path: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    before = contents(tmp_path)
    given = {"criterion": "router-norm", **options}
    if "out" in given:
        given["out"] = tmp_path / given["out"]
    with pytest.raises(ValueError, match=message):
        prune(tmp_path, **given)
    assert contents(tmp_path) == before


def test_checkpoints_of_different_models_are_refused(pair: Any, make: Make, tmp_path: Path) -> None:
    save_vmoe_checkpoint(tmp_path / "wide", make(0, experts=6))
    with pytest.raises(ValueError, match="4 columns before pruning, that of the pre-trained model has 6"):
        prune(tmp_path, pretrained=tmp_path / "wide", prune=1)
    other = make(0)
    other["Encoder"]["encoderblock_0"]["LayerNorm_0"]["scale"] = np.ones(9, np.float32)
    save_vmoe_checkpoint(tmp_path / "other", other)
    with pytest.raises(ValueError, match=r"LayerNorm_0/scale.*checkpoints of one model"):
        prune(tmp_path, pretrained=tmp_path / "other", prune=1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("300MB", 300_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("1000", 1000),
        ("2kb", 2000),
        (".5KiB", 512),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3MB", "3 apples", "1e3", "0", "0.4B"])
def test_texts_that_are_no_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="budget is"):
        parse_bytes(text)


def test_checkpoints_of_one_name_keep_their_hashes_apart(make: Make, tmp_path: Path) -> None:
    for folder, seed in (("x", 0), ("y", 1)):
        (tmp_path / folder).mkdir()
        save_vmoe_checkpoint(tmp_path / folder / "m", make(seed))
    about = prune(tmp_path, finetuned=tmp_path / "y" / "m", pretrained=tmp_path / "x" / "m", prune=1)
    hashed = {
        role: hashlib.sha256((tmp_path / folder / "m.data-00000-of-00001").read_bytes()).hexdigest()
        for role, folder in (("finetuned", "y"), ("pretrained", "x"))
    }
    assert {role: held["m.data-00000-of-00001"] for role, held in about["sources"].items()} == hashed


def test_pairs_that_are_no_pairs_are_refused(make: Make, config: VisionMoeConfig, tmp_path: Path) -> None:
    save_vmoe_checkpoint(tmp_path / "after", make(1))
    with pytest.raises(ValueError, match="are equal; give the checkpoint from before"):
        prune(tmp_path, pretrained=tmp_path / "after", prune=1)
    save_vmoe_checkpoint(tmp_path / "two", make(1, members=2))
    save_vmoe_checkpoint(tmp_path / "four", make(0, members=4))
    with pytest.raises(ValueError, match="has 2 ensemble members in the fine-tuned and 4 in the pre-trained"):
        prune(tmp_path, finetuned=tmp_path / "two", pretrained=tmp_path / "four", prune=2)
    other = replace(config, router=replace(config.router, kind="expert-choice"))
    save_moe_tree(tmp_path / "a.safetensors", make(1), config)
    save_moe_tree(tmp_path / "b.safetensors", make(0), other)
    places = {"finetuned": tmp_path / "a.safetensors", "out": tmp_path / "c.safetensors"}
    with pytest.raises(ValueError, match="router is"):
        prune(tmp_path, **places, pretrained=tmp_path / "b.safetensors", prune=1)
    assert not (tmp_path / "c.safetensors").exists()


def test_what_a_run_that_was_cut_short_left_is_replaced(pair: Any, tmp_path: Path) -> None:
    prune(tmp_path, pretrained=tmp_path / "before", prune=1)
    (tmp_path / "smaller.index").unlink()
    next(tmp_path.glob("smaller.data-*-of-*")).unlink()
    for path in tmp_path.glob("smaller.data-*"):
        path.unlink()
    again = prune(tmp_path, pretrained=tmp_path / "before", prune=2)
    assert json.loads((tmp_path / "smaller.json").read_text())["prune"] == again["prune"] == 2
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other.json exists"):
        prune(tmp_path, pretrained=tmp_path / "before", prune=2, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"criterion": "router-norm", "prune": 1, "selected": 5},
            "selected is 5, but .* block 0 has 4",
        ),
        ({"criterion": "merge", "left": 2, "calibration": "x", "scope": "global"}, "leave out --scope"),
        ({"criterion": "merge", "left": 2, "calibration": "x", "mode": "drop-router"}, "leave out --scope"),
        (
            {"criterion": "reconstruction", "prune": 1, "calibration": "x", "scope": "global"},
            "--prune alone",
        ),
        (
            {"criterion": "reconstruction", "prune": 1, "calibration": "x", "router": "expert-choice"},
            "token choice only",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    pair: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prune(tmp_path, **options)


def test_huge_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="more than a machine can hold"):
        parse_bytes("9" * 400 + "GB")
