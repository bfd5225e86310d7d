"""Read the layers of experts from a model's tree of parameters, and write them back.

The tree is that of google-research/vmoe: nested dicts of arrays, where a block "Encoder/encoderblock_i" with
experts has "Moe/Router/dense/kernel" and "Moe/Mlp/Dense_{0,1}/{kernel,bias}".
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.records import ExpertLayer, ExpertWeights
from qrt_tn.models.moe.statistics import LayerStatistics

Tree = Mapping[str, Any]  # nested dicts of arrays
Maps = Mapping[int, ExpertMap]  # by number of the block; layers that are not named are whole

_BLOCK = re.compile(r"encoderblock_(0|[1-9][0-9]*)")
_DENSE = (("Dense_0", "kernel"), ("Dense_0", "bias"), ("Dense_1", "kernel"), ("Dense_1", "bias"))


def read_layers(
    tree: Tree,
    *,
    maps: Maps | None = None,
    groups: int = 1,
    pretrained: Tree | None = None,
    statistics: Mapping[int, LayerStatistics] | None = None,
) -> dict[int, ExpertLayer]:
    """The layers of experts of a tree, by number of the block, ascending.

    Args:
        tree: the parameters; the records share its arrays.
        maps: what became of experts before; layers that are not named are whole.
        groups: ensemble members (E3), where the router's kernel has two axes; one of three tells it itself.
        pretrained: the parameters before fine-tuning and before any pruning. Its heads (`head`,
            `pre_logits`) and the number of position embeddings may differ.
        statistics: by number of the block, of all columns of its router.

    Raises:
        ValueError: no layers of experts, maps or statistics that do not fit them, checkpoints of different
            models, or groups that do not divide the columns.
    """
    check_whole("groups", groups, 1)
    present = moe_layers(tree)
    unknown = sorted(set(maps or {}) - set(present))
    if unknown:
        raise ValueError(f"layer {unknown[0]} has no experts; choose among {', '.join(map(str, present))}")
    if pretrained is not None:
        check_pair(tree, pretrained)
    found = {}
    for layer in present:
        kernel, experts = router_kernel(tree, layer), _expert_weights(tree, layer)
        members = kernel.shape[1] if kernel.ndim == 3 else groups
        if groups not in (1, members):
            raise ValueError(
                f"groups is {groups}, but the router of layer {layer} has {members} members; give {members}"
            )
        router = kernel.reshape(len(kernel), -1)
        expert_map = (maps or {}).get(layer) or _whole(layer, router.shape[1], experts.experts)
        before = None
        if pretrained is not None:
            before = router_kernel(pretrained, layer)
            before = before.reshape(len(before), -1)
            _whole(layer, before.shape[1], _expert_weights(pretrained, layer).experts)
        found[layer] = ExpertLayer(
            layer, router, experts, expert_map, members, before, (statistics or {}).get(layer)
        )
    return found


def write_layers(
    tree: Tree, layers: Mapping[int, ExpertLayer]
) -> tuple[dict[str, Any], dict[int, ExpertMap]]:
    """The tree with other layers of experts, and the maps of these.

    Args:
        tree: stays as it is; its other arrays are shared with the result, its dicts are not.
        layers: by number of the block.
    """
    new = copied(tree)
    for number, layer in layers.items():
        moe = new["Encoder"][f"encoderblock_{number}"]["Moe"]
        kernel, hidden = layer.router, len(layer.router)
        if np.ndim(moe["Router"]["dense"]["kernel"]) == 3:
            kernel = kernel.reshape(hidden, layer.members, -1)
        moe["Router"]["dense"]["kernel"] = kernel
        for (dense, part), array in zip(_DENSE, layer.experts.arrays, strict=True):
            moe["Mlp"][dense][part] = array
    return new, {number: layer.expert_map for number, layer in layers.items()}


def choose_layers(
    records: Mapping[int, ExpertLayer], numbers: Iterable[int] | None
) -> dict[int, ExpertLayer]:
    """The layers of these numbers, ascending; all if None; a ValueError where one is not there."""
    try:
        wanted = set(records if numbers is None else numbers)
    except TypeError as error:
        raise ValueError(f"layers is {numbers!r}; give a list of blocks") from error
    unknown = [number for number in wanted if number not in records]
    if unknown:
        raise ValueError(f"layer {unknown[0]!r} has no experts; choose among {', '.join(map(str, records))}")
    return {number: records[number] for number in sorted(wanted)}


def moe_layers(tree: Tree) -> tuple[int, ...]:
    """The numbers of the blocks that have experts, ascending; a ValueError where there is none."""
    encoder = tree.get("Encoder") if isinstance(tree, Mapping) else None
    if not isinstance(encoder, Mapping):
        raise ValueError("the tree has no 'Encoder'; give the parameters of a V-MoE, as vmoe names them")
    found = []
    for name, block in encoder.items():
        match = _BLOCK.fullmatch(str(name))
        if match and isinstance(block, Mapping) and "Moe" in block:
            found.append(int(match.group(1)))
    if not found:
        raise ValueError("no Encoder/encoderblock_i has a 'Moe'; give a model with mixture-of-experts layers")
    return tuple(sorted(found))


def router_kernel(tree: Tree, layer: int) -> np.ndarray:
    """The kernel of a layer's router as the tree holds it, shape (h, C), or (h, M, C/M) of M members.

    Raises:
        ValueError: there is no such layer, or a kernel of another shape.
    """
    path = f"{_moe(layer)}/Router/dense/kernel"
    kernel = _leaf(tree, path)
    if kernel.ndim not in (2, 3) or not kernel.size:
        raise ValueError(f"{path} has shape {kernel.shape}; give (h, C), or (h, M, C/M) for an ensemble")
    return kernel


def leaves(tree: Tree) -> Iterator[tuple[str, np.ndarray]]:
    """Each array of the tree with its path, the keys by slashes, in sorted order."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"the tree is a {type(tree).__name__}; give nested dicts of arrays")
    for key in sorted(tree, key=str):
        value = tree[key]
        if isinstance(value, Mapping):
            yield from ((f"{key}/{path}", array) for path, array in leaves(value))
        else:
            yield str(key), np.asarray(value)


def parameter_bytes(tree: Tree) -> int:
    """Bytes of all arrays of the tree."""
    return sum(array.nbytes for _, array in leaves(tree))


def copied(tree: Tree) -> dict[str, Any]:
    """The tree in new dicts, with the same arrays."""
    return {key: copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def check_pair(tree: Tree, pretrained: Tree) -> None:
    """Check that two trees are of one model, before and after fine-tuning.

    The heads may differ, as may the number of position embeddings (another resolution) and, after pruning,
    the number of experts.

    Raises:
        ValueError: blocks with experts, parameters or shapes that differ, by name.
    """
    ours, theirs = moe_layers(tree), moe_layers(pretrained)
    if ours != theirs:
        raise ValueError(
            f"the blocks with experts are {ours}, in the pre-trained model {theirs};"
            " give checkpoints of one model"
        )
    mine, other = _shared(tree), _shared(pretrained)
    odd = sorted(set(mine) ^ set(other))
    if odd:
        where = "pre-trained" if odd[0] in mine else "fine-tuned"
        raise ValueError(f"the {where} model lacks {odd[0]!r}; give checkpoints of one model")
    for layer in ours:
        members, others = (router_kernel(one, layer).shape[1:-1] for one in (tree, pretrained))
        if members and others and members != others:
            raise ValueError(
                f"the router of layer {layer} has {members[0]} ensemble members in the fine-tuned and"
                f" {others[0]} in the pre-trained model; give checkpoints of one model"
            )
    for path, shape in mine.items():
        if shape != other[path]:
            raise ValueError(
                f"{path!r} has shape {shape} in the fine-tuned and {other[path]} in the pre-trained model"
                " (without axes that may differ); give checkpoints of one model"
            )


def _expert_weights(tree: Tree, layer: int) -> ExpertWeights:
    arrays = [_leaf(tree, f"{_moe(layer)}/Mlp/{dense}/{part}") for dense, part in _DENSE]
    try:
        return ExpertWeights(*arrays)
    except ValueError as error:
        raise ValueError(f"{_moe(layer)}/Mlp: {error}") from None


def _whole(layer: int, columns: int, experts: int) -> ExpertMap:
    """The map of a layer of which nothing is known, so that column e leads to expert e."""
    if columns != experts:
        raise ValueError(
            f"layer {layer} has {columns} router columns but {experts} experts;"
            " give maps= that say which column leads to which expert"
        )
    return ExpertMap.whole(experts)


def _moe(layer: int) -> str:
    return f"Encoder/encoderblock_{layer}/Moe"


def _leaf(tree: Tree, path: str) -> np.ndarray:
    node: Any = tree
    for key in path.split("/"):
        if not isinstance(node, Mapping) or key not in node:
            raise ValueError(f"the tree has no {path!r}; give the parameters of a V-MoE, as vmoe names them")
        node = node[key]
    if isinstance(node, Mapping):
        raise ValueError(f"{path!r} is a dict; give an array")
    return np.asarray(node)


def _shared(tree: Tree) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that both models have, less the axes that may differ."""
    shapes = {}
    for path, array in leaves(tree):
        if path.split("/")[0] in ("head", "pre_logits"):
            continue
        shape = array.shape
        if path.endswith("/pos_embedding"):
            shape = shape[:1] + shape[2:]
        elif "/Moe/Router/" in path:  # an ensemble's may be stored with two axes or three
            shape = shape[:1]
        elif "/Moe/Mlp/" in path:
            shape = shape[1:]
        shapes[path] = shape
    return shapes
