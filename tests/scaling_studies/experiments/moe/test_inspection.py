import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrt_tn.models.moe.checkpoints import save_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints.native import save_moe_tree
from qrt_tn.models.moe.checkpoints.vmoe_index import ArrayEntry, CheckpointSummary
from qrt_tn.models.moe.config import VisionMoeConfig, vmoe_config
from qrt_tn.models.moe.trees import leaves, parameter_bytes
from qrt_tn.studies.experiments.moe import inspection
from qrt_tn.studies.experiments.moe.sheets import inspection_sheets

Make = Callable[..., dict[str, Any]]


def test_the_index_alone_tells_all_but_the_norms(make: Make, tmp_path: Path) -> None:
    tree = make()
    save_vmoe_checkpoint(tmp_path / "model", tree)
    found = inspection.inspect(tmp_path / "model", norms=True)
    for shard in tmp_path.glob("*.data-*"):
        shard.unlink()
    without = inspection.inspect(tmp_path / "model")
    assert json.loads(json.dumps(without)) == without
    sizes = {path: leaf.size for path, leaf in leaves(tree)}
    assert without["parameters"] == sum(sizes.values())
    assert without["bytes"] == parameter_bytes(tree) == sum(p["bytes"] for p in without["parts"].values())
    routers = sum(size for path, size in sizes.items() if "/Router/" in path)
    experts = sum(size for path, size in sizes.items() if "/Moe/Mlp/" in path)
    head = sum(size for path, size in sizes.items() if path.startswith("head/"))
    embedding = sizes["cls"] + sizes["Encoder/posembed_input/pos_embedding"]
    embedding += sizes["embedding/kernel"] + sizes["embedding/bias"]
    counted = {name: part["parameters"] for name, part in without["parts"].items()}
    assert "other" not in counted
    assert (counted["routers"], counted["experts"], counted["head"]) == (routers, experts, head)
    assert counted["embedding"] == embedding
    assert (without["blocks"], without["hidden"], without["heads"], without["classes"]) == (2, 6, 2, 3)
    for block in ("0", "1"):
        kernel = tree["Encoder"][f"encoderblock_{block}"]["Moe"]["Router"]["dense"]["kernel"]
        known = np.linalg.norm(kernel, axis=0)
        np.testing.assert_allclose(found["layers"][block].pop("router_norms"), known, rtol=1e-6)
        assert without["layers"][block].pop("router_norms") is None
        assert without["layers"][block]["router_shape"] == [6, 4]
    assert found == without
    assert without["looks_like"] is None


def test_ensembles_and_states_of_training(make: Make, tmp_path: Path) -> None:
    tree = make(members=2)
    state = {"params": tree, "step": np.array(3)}
    save_vmoe_checkpoint(tmp_path / "state", state)
    found = inspection.inspect(tmp_path / "state", norms=True)
    layer = found["layers"]["1"]
    assert (layer["members"], layer["columns"], layer["experts"]) == (2, 4, 4)
    assert len(layer["router_norms"]) == 4
    assert found["parts"]["other"] == {"parameters": 1, "bytes": 8}


def test_a_file_of_ours(make: Make, config: VisionMoeConfig, tmp_path: Path) -> None:
    tree = make()
    save_moe_tree(tmp_path / "model.safetensors", tree, config, about={"experts": {}, "criterion": "random"})
    found = inspection.inspect(tmp_path / "model.safetensors")
    assert found["bytes"] == parameter_bytes(tree)
    assert found["layers"]["0"]["original"] == [0, 1, 2, 3]
    assert len(found["layers"]["0"]["router_norms"]) == 4
    assert found["pruning"]["criterion"] == "random"
    titles = [sheet.title for sheet in inspection_sheets(found)]
    assert titles == [f"{tmp_path / 'model.safetensors'}: qrt-tn.vision-moe-2", "Layers of experts"]


def like(config: VisionMoeConfig) -> CheckpointSummary:
    """The index of a model of vmoe, of which only the leaves that are looked at."""
    h, m, patch = config.hidden, config.mlp, config.patch
    shapes: dict[str, tuple[int, ...]] = {"embedding/kernel": (patch, patch, 3, h), "head/kernel": (h, 1000)}
    for block in range(config.layers):
        above = f"Encoder/encoderblock_{block}"
        shapes[f"{above}/SelfAttention/query/kernel"] = (h, config.heads, h // config.heads)
        if block in config.moe_layers:
            shapes[f"{above}/Moe/Router/dense/kernel"] = (h, config.experts)
            shapes[f"{above}/Moe/Mlp/Dense_0/kernel"] = (config.experts, h, m)
        else:
            shapes[f"{above}/Mlp/Dense_0/kernel"] = (h, m)
    made = (ArrayEntry(name, shape, np.dtype("float32")) for name, shape in sorted(shapes.items()))
    return CheckpointSummary("20220622", 1, tuple(made))


@pytest.mark.parametrize(
    ("description", "name", "released"),
    [
        ("B/16, E=8, K=2, Every 2", "V-MoE-B/16, E=8, Every 2", 2),
        ("S/32, E=8, K=2, Last 2", "V-MoE-S/32, E=8, Last 2", 3),
        ("L/16, E=32, K=2, Every 2", "V-MoE-L/16, E=32, Every 2", 0),
    ],
)
def test_published_models_are_known_by_their_shapes(
    description: str, name: str, released: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = like(vmoe_config(description, (384, 384, 3), 1000))
    monkeypatch.setattr(inspection, "inspect_vmoe_checkpoint", lambda _: summary)
    found = inspection.inspect("any")
    assert found["looks_like"] == name
    assert len(found["released"]) == released


def test_an_index_may_claim_any_number_of_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {
        "Encoder/encoderblock_0/Moe/Router/dense/kernel": (1, 2**50),
        "embedding/kernel": (4, 4, 1, 1),
    }
    made = tuple(ArrayEntry(name, shape, np.dtype("float32")) for name, shape in shapes.items())
    summary = CheckpointSummary("20220622", 1, made)
    monkeypatch.setattr(inspection, "inspect_vmoe_checkpoint", lambda _: summary)
    assert inspection.inspect("any")["layers"]["0"]["columns"] == 2**50


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*model.index"):
        inspection.inspect(tmp_path / "model")
    with pytest.raises(ValueError, match=r"no file .*model.safetensors"):
        inspection.inspect(tmp_path / "model.safetensors")
