"""What a checkpoint is: layers, experts, routers, and parameters and bytes by part."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.models.moe.checkpoints.native import KIND, load_moe_tree
from qrt_tn.models.moe.checkpoints.vmoe import inspect_vmoe_checkpoint, load_vmoe_checkpoint
from qrt_tn.models.moe.config import RELEASED, vmoe_config
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.trees import leaves as tree_leaves
from qrt_tn.models.moe.trees import router_kernel
from qrt_tn.studies.experiments.moe.source import (
    is_native,
    maps_from,
    read_sidecar,
    sidecar,
    source_files,
)

_BLOCK = re.compile(r"(?:.*/)?Encoder/encoderblock_(\d+)/(.*)")
_ROUTER = "Moe/Router/dense/kernel"
_PARTS = (  # the first that fits
    ("routers", re.compile(r"encoderblock_\d+/Moe/Router/")),
    ("experts", re.compile(r"encoderblock_\d+/Moe/Mlp/")),
    ("MLPs", re.compile(r"encoderblock_\d+/Mlp/")),
    ("attention", re.compile(r"encoderblock_\d+/SelfAttention/")),
    ("norms", re.compile(r"LayerNorm_|encoder_norm/")),
    ("embedding", re.compile(r"(^|/)(cls$|embedding/|Encoder/posembed_input/)")),
    ("head", re.compile(r"(^|/)(head|pre_logits)/")),
    ("other", re.compile("")),
)
_MODEL = re.compile(r"(?P<above>.*?)(embedding/kernel|Encoder/)")


@dataclass(frozen=True)
class Leaf:
    """One array, without its data: the shape, the name of its type, and its bytes."""

    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def inspect(name: str | Path, *, norms: bool = False) -> dict[str, Any]:
    """What a checkpoint holds, as JSON can hold it.

    Of a vmoe checkpoint only the index is read, and its files with data need not be there, unless norms are
    asked for. A file of ours is read whole.

    Args:
        name: the prefix of a vmoe checkpoint, a file of flax, or a .safetensors file of ours.
        norms: whether a vmoe checkpoint is read whole for the norms of its routers' columns.

    Returns:
        "checkpoint", "format", "parameters", "bytes", "parts" (parameters and bytes of each),
        "layers" (by block: experts, router columns and shape, norms or None, original numbers of the experts
        or None), "blocks", "hidden", "looks_like" and "released" (names of models of vmoe), "pruning" (how
        it was pruned, where that is known).

    Raises:
        ValueError: no such checkpoint, or one that is damaged.
    """
    tree: Mapping[str, Any] | None = None
    maps: Mapping[int, ExpertMap]
    if is_native(name):
        source_files(name)
        tree, config, about = load_moe_tree(name)
        arrays = dict(tree_leaves(tree))
        form, maps = KIND, config.all_maps
        leaves = {path: Leaf(array.shape, array.dtype.name, array.nbytes) for path, array in arrays.items()}
    else:
        summary = inspect_vmoe_checkpoint(name)
        form = "flax" if summary.version == "flax" else f"vmoe {summary.version or 'without version'}"
        leaves = {leaf.name: Leaf(leaf.shape, leaf.dtype.name, leaf.nbytes) for leaf in summary.leaves}
        about = read_sidecar(name)
        maps = maps_from(about, sidecar(name))
        tree = load_vmoe_checkpoint(name) if norms else None
    # of a state of training the model is one part
    above = next((found["above"] for path in leaves if (found := _MODEL.match(path))), "")
    model = {path.removeprefix(above): leaf for path, leaf in leaves.items() if path.startswith(above)}
    columns = _norms(tree)
    return {
        "checkpoint": str(name),
        "format": form,
        "parameters": sum(prod(leaf.shape) for leaf in leaves.values()),
        "bytes": sum(leaf.nbytes for leaf in leaves.values()),
        "types": sorted({leaf.dtype for leaf in leaves.values()}),
        "parts": _parts(leaves),
        "layers": {
            str(block): _layer(model, block, maps.get(block), columns)
            for block in _blocks(model)
            if f"Encoder/encoderblock_{block}/{_ROUTER}" in model
        },
        "blocks": len(_blocks(model)),
        **_shape(model),
        **_likeness(model),
        "pruning": _pruning(about),
    }


def _norms(tree: Mapping[str, Any] | None) -> Callable[[int], np.ndarray | None]:
    """Gives the norms of the columns of a block's router, where the tree was read."""
    if tree is None:
        return lambda block: None
    held = tree["params"] if "Encoder" not in tree and "params" in tree else tree
    return lambda block: np.linalg.norm(router_kernel(held, block).astype(np.float64), axis=0).ravel()


def _blocks(model: Mapping[str, Leaf]) -> list[int]:
    found = {int(match[1]) for path in model if (match := _BLOCK.fullmatch(path))}
    return sorted(found)


def _parts(leaves: Mapping[str, Leaf]) -> dict[str, dict[str, int]]:
    parts: dict[str, dict[str, int]] = {}
    for path, leaf in leaves.items():
        part = next(name for name, form in _PARTS if form.search(path))
        entry = parts.setdefault(part, {"parameters": 0, "bytes": 0})
        entry["parameters"] += prod(leaf.shape)
        entry["bytes"] += leaf.nbytes
    return {name: parts[name] for name, _ in _PARTS if name in parts}


def _layer(
    model: Mapping[str, Leaf],
    block: int,
    expert_map: ExpertMap | None,
    columns: Callable[[int], np.ndarray | None],
) -> dict[str, Any]:
    above = f"Encoder/encoderblock_{block}/"
    kernel = model[above + _ROUTER].shape
    experts = model.get(above + "Moe/Mlp/Dense_0/kernel")
    norms = columns(block)
    return {
        "experts": experts.shape[0] if experts else None,
        "columns": prod(kernel[1:]),
        "members": kernel[1] if len(kernel) == 3 else 1,
        "router_shape": list(kernel),
        "router_norms": None if norms is None else [float(norm) for norm in norms],
        "original": None if expert_map is None else list(expert_map.source_ids),
    }


def _shape(model: Mapping[str, Leaf]) -> dict[str, Any]:
    """Sizes that the shapes tell; None for what they do not."""

    def extent(path: str, axis: int) -> int | None:
        leaf = model.get(path)
        return leaf.shape[axis] if leaf is not None and len(leaf.shape) > abs(axis) - (axis < 0) else None

    first = next(iter(_blocks(model)), 0)
    mlp = next((leaf.shape[-1] for path, leaf in model.items() if path.endswith("Dense_0/kernel")), None)
    return {
        "hidden": extent("embedding/kernel", -1),
        "patch": extent("embedding/kernel", 0),
        "heads": extent(f"Encoder/encoderblock_{first}/SelfAttention/query/kernel", 1),
        "mlp": mlp,
        "tokens": extent("Encoder/posembed_input/pos_embedding", 1),
        "classes": extent("head/kernel", -1),
    }


def _likeness(model: Mapping[str, Leaf]) -> dict[str, Any]:
    """The model of vmoe that has these sizes, if any, and the released checkpoints of that name."""
    sizes = _shape(model)
    patch, blocks = sizes["patch"], _blocks(model)
    owned = tuple(block for block in blocks if f"Encoder/encoderblock_{block}/{_ROUTER}" in model)
    columns = max(
        (prod(model[f"Encoder/encoderblock_{block}/{_ROUTER}"].shape[1:]) for block in owned), default=0
    )
    places = ("Every 2", f"Last {len(owned)}")
    for where, variant in product(places, ("Ti", "S", "B", "L", "H")) if patch and owned else ():
        name = f"{variant}/{patch}, E={columns}, K=2, {where}"
        try:
            like = vmoe_config(f"{variant}/{patch}, E={max(columns, 2)}, K=2, {where}", (patch, patch, 3), 2)
        except ValueError:
            continue  # more layers of experts than a model of this size can have
        same = (like.hidden, like.layers, like.mlp, like.heads, like.moe_layers)
        if same == (sizes["hidden"], len(blocks), sizes["mlp"], sizes["heads"], owned):
            released = [known for known, description in RELEASED.items() if description == name]
            return {"looks_like": f"V-MoE-{name}".replace("K=2, ", ""), "released": released}
    return {"looks_like": None, "released": []}


def _pruning(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The main facts of how it was pruned."""
    if "experts" not in about:
        return None
    names = ("criterion", "mode", "scope", "prune", "left", "budget_bytes", "finetuned", "pretrained", "date")
    return {name: about.get(name) for name in (*names, "experts")}
