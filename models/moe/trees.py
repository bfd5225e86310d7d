"""Networks and layers of experts as google-research/vmoe's trees of parameters, and the other way round.

A tree is a nested dict of numpy arrays with vmoe's names and shapes, so that its checkpoints and ours are
pruned, inspected and loaded by the same code: a block "Encoder/encoderblock_i" with experts has
"Moe/Router/dense/kernel" and "Moe/Mlp/Dense_{0,1}/{kernel,bias}".
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.layers import MoeLayer
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.records import ExpertLayer, ExpertWeights
from qrt_tn.models.moe.statistics import LayerStatistics
from qrt_tn.models.moe.vit import VisionMoe

Tree = Mapping[str, Any]  # nested dicts of arrays
Maps = Mapping[int, ExpertMap]  # by number of the block; layers that are not named are whole

_BLOCK = re.compile(r"encoderblock_(0|[1-9][0-9]*)")
_DENSE = ("Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias")


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


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested dicts from leaves by path, the inverse of `leaves`."""
    tree: dict[str, Any] = {}
    for path, leaf in arrays.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise ValueError(f"{path} lies below {folder}, which is an array itself")
        if name in place:
            raise ValueError(f"{path} is an array, and there are others below it")
        place[name] = leaf
    return tree


def parameter_bytes(tree: Tree) -> int:
    """Bytes of all arrays of the tree."""
    return sum(array.nbytes for _, array in leaves(tree))


def to_tree(network: VisionMoe) -> dict[str, Any]:
    """The weights of a network, copied."""
    return nested({path: np.array(param[...]) for path, param in _params(network)})


def from_tree(tree: Tree, config: VisionMoeConfig, *, dispatch: str = "auto") -> VisionMoe:
    """A network with the weights of a tree; `dispatch` is one of qrt_tn.models.moe.config.DISPATCHES.

    Raises:
        ValueError: a leaf that is missing, of another shape than the configuration's, complex, or too many.
    """
    # shapes only: drawing weights, to be replaced at once, would compile for seconds
    network = nnx.eval_shape(lambda: VisionMoe(config, rngs=nnx.Rngs(0), dispatch=dispatch))
    held = dict(leaves(tree))
    for path, param in _params(network):
        if path not in held:
            raise ValueError(f"the tree has no {path}, which the configuration asks for")
        array = held.pop(path)
        if array.shape != param.shape:
            raise ValueError(f"{path} has shape {array.shape}; the configuration asks for {param.shape}")
        if np.iscomplexobj(array):
            raise ValueError(f"{path} is complex; give real weights")
        param.set_value(jnp.asarray(array, jnp.float32))
    if held:
        raise ValueError(f"the tree holds {min(held)}, which the configuration knows nothing of")
    return network


def infer_config(
    tree: Tree,
    *,
    router: RouterConfig | None = None,
    image_shape: tuple[int, int, int] | None = None,
    maps: Maps | None = None,
) -> VisionMoeConfig:
    """The configuration of a tree, as far as its shapes tell; tokens are routed image by image.

    Args:
        tree: with the names of vmoe.
        router: which no shape tells; left out, token choice with K = 2 and the capacity factor 1.5.
        image_shape: left out, square images of as many patches as there are positions.
        maps: of pruned layers, which no shape tells; left out, every layer is whole.

    Raises:
        ValueError: leaves that are missing or of other shapes, positions that make no square image, or the
            routers of an ensemble (E3).
    """
    shapes = {path: leaf.shape for path, leaf in leaves(tree)}

    def shape(path: str, axes: int) -> tuple[int, ...]:
        if path not in shapes:
            raise ValueError(f"the tree has no {path}; give the parameters of a vision transformer of vmoe")
        if len(shapes[path]) != axes:
            raise ValueError(f"{path} has shape {shapes[path]}; vmoe's has {axes} axes")
        return shapes[path]

    patch, _, channels, hidden = shape("embedding/kernel", 4)
    tokens, token = shape("Encoder/posembed_input/pos_embedding", 3)[1], "cls" in shapes
    if image_shape is None:
        side = round((tokens - token) ** 0.5)
        if side * side != tokens - token:
            raise ValueError(f"{tokens - token} patches make no square image; give image_shape")
        image_shape = (side * patch, side * patch, channels)
    found = [_BLOCK.fullmatch(path.split("/")[1]) for path in shapes if path.startswith("Encoder/")]
    blocks = sorted({int(match[1]) for match in found if match})
    if not blocks or blocks != list(range(len(blocks))):
        raise ValueError(f"the tree has the encoder blocks {blocks}; give one with all of them, from 0 on")
    routers = {block: f"{_moe(block)}/Router/dense/kernel" for block in blocks}
    routers = {block: path for block, path in routers.items() if path in shapes}
    if any(len(shapes[path]) == 3 for path in routers.values()):
        raise ValueError(
            "the routers have three axes, an ensemble's (E3); such a tree can be pruned, but not run here"
        )
    columns = [shape(path, 2)[1] for path in routers.values()]
    maps = dict(maps or {})
    widths = {block: shape(f"{_moe(block)}/Mlp/Dense_0/kernel", 3)[0] for block in routers}
    most = max(widths.values(), default=1)
    for block, width in widths.items():
        if width != most and block not in maps:
            raise ValueError(f"block {block} has {width} experts and another {most}; give maps")
    config = VisionMoeConfig(
        image_shape=image_shape,
        classes=shape("head/kernel", 2)[1],
        patch=patch,
        hidden=hidden,
        layers=len(blocks),
        mlp=next((shape[-1] for path, shape in shapes.items() if path.endswith("Dense_0/kernel")), 0),
        heads=shape("Encoder/encoderblock_0/SelfAttention/query/kernel", 3)[1],
        moe_layers=tuple(routers),
        experts=max((one.capacity_experts for one in maps.values()), default=most),
        router=router or RouterConfig(selected=min([2, *columns])),
        classifier="token" if token else "gap",
        representation=shape("pre_logits/kernel", 2)[1] if "pre_logits/kernel" in shapes else None,
        maps=maps,
    )
    if config.tokens != tokens:
        raise ValueError(f"images of shape {image_shape} have {config.tokens} tokens, the tree {tokens}")
    return config


def moe_layers(tree: Tree) -> tuple[int, ...]:
    """The blocks that have experts, ascending; ValueError if none has."""
    encoder = tree.get("Encoder") if isinstance(tree, Mapping) else None
    if not isinstance(encoder, Mapping):
        raise ValueError("the tree has no 'Encoder'; give the parameters of a V-MoE, as vmoe names them")
    found = []
    for name, block in encoder.items():
        match = _BLOCK.fullmatch(str(name))
        if match and isinstance(block, Mapping) and "Moe" in block:
            found.append(int(match[1]))
    if not found:
        raise ValueError("no Encoder/encoderblock_i has a 'Moe'; give a model with mixture-of-experts layers")
    return tuple(sorted(found))


def router_kernel(tree: Tree, layer: int) -> np.ndarray:
    """The kernel of a layer's router as the tree holds it, shape (h, C), or (h, M, C/M) of M members."""
    path = f"{_moe(layer)}/Router/dense/kernel"
    kernel = _leaf(tree, path)
    if kernel.ndim not in (2, 3) or not kernel.size:
        raise ValueError(f"{path} has shape {kernel.shape}; give (h, C), or (h, M, C/M) for an ensemble")
    return kernel


def read_layers(
    tree: Tree,
    *,
    maps: Maps | None = None,
    groups: int = 1,
    pretrained: Tree | None = None,
    statistics: Mapping[int, LayerStatistics] | None = None,
) -> dict[int, ExpertLayer]:
    """The layers of experts of a tree, by number of the block, ascending; they share its arrays.

    Args:
        tree: the parameters.
        maps: what became of experts before; layers that are not named are whole.
        groups: ensemble members (E3), where the router's kernel has two axes; one of three tells it itself.
        pretrained: the parameters before fine-tuning and before any pruning (see `check_pair`).
        statistics: by number of the block, of all columns of its router.

    Raises:
        ValueError: no layers of experts, maps or statistics that do not fit them, checkpoints of different
            models, or groups that do not divide the columns.
    """
    check_whole("groups", groups, 1)
    maps, present = maps or {}, moe_layers(tree)
    unknown = sorted(set(maps) - set(present))
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
        before = None
        if pretrained is not None:
            before = router_kernel(pretrained, layer)
            before = before.reshape(len(before), -1)
            _whole(layer, before.shape[1], _expert_weights(pretrained, layer).experts)
        found[layer] = ExpertLayer(
            layer,
            router,
            experts,
            maps.get(layer) or _whole(layer, router.shape[1], experts.experts),
            members,
            before,
            (statistics or {}).get(layer),
        )
    return found


def write_layers(tree: Tree, layers: Mapping[int, ExpertLayer]) -> dict[str, Any]:
    """The tree with other layers of experts, by number of the block; it shares all other arrays."""
    new = copied(tree)
    for number, layer in layers.items():
        moe, kernel = new["Encoder"][f"encoderblock_{number}"]["Moe"], layer.router
        if np.ndim(moe["Router"]["dense"]["kernel"]) == 3:
            kernel = kernel.reshape(len(kernel), layer.members, -1)
        moe["Router"]["dense"]["kernel"] = kernel
        for name, array in zip(_DENSE, layer.experts.arrays, strict=True):
            dense, part = name.split("/")
            moe["Mlp"][dense][part] = array
    return new


def copied(tree: Tree) -> dict[str, Any]:
    """The tree in new dicts, with the same arrays."""
    return {key: copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def check_pair(tree: Tree, pretrained: Tree) -> None:
    """Refuse two trees that are not of one model, before and after fine-tuning.

    The heads (`head`, `pre_logits`) may differ, as may the number of position embeddings (another resolution)
    and, after pruning, the number of experts.
    """
    mine, other = _shared(tree), _shared(pretrained)
    for path in sorted(set(mine) | set(other)):
        ours, theirs = mine.get(path, "none"), other.get(path, "none")
        if ours != theirs:
            raise ValueError(
                f"{path!r} has shape {ours} in the fine-tuned and {theirs} in the pre-trained model"
                " (without axes that may differ); give checkpoints of one model"
            )
    for layer in moe_layers(tree):
        members, others = (router_kernel(one, layer).shape[1:-1] for one in (tree, pretrained))
        if members and others and members != others:
            raise ValueError(
                f"the router of layer {layer} has {members[0]} ensemble members in the fine-tuned and"
                f" {others[0]} in the pre-trained model; give checkpoints of one model"
            )


def _shared(tree: Tree) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that both models have, less the axes that may differ."""
    shapes = {}
    for path, array in leaves(tree):
        if path.split("/")[0] in ("head", "pre_logits"):
            continue
        shapes[path] = shape = array.shape
        if path.endswith("/pos_embedding"):
            shapes[path] = shape[:1] + shape[2:]
        elif "/Moe/Router/" in path:  # an ensemble's may be stored with two axes or three
            shapes[path] = shape[:1]
        elif "/Moe/Mlp/" in path:
            shapes[path] = shape[1:]
    return shapes


def _expert_weights(tree: Tree, layer: int) -> ExpertWeights:
    arrays = [_leaf(tree, f"{_moe(layer)}/Mlp/{name}") for name in _DENSE]
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


def _params(network: VisionMoe) -> Iterator[tuple[str, Any]]:
    """The parameters by their path in the tree."""

    def layer(path: str, module: Any, weights: str = "kernel") -> Iterator[tuple[str, Any]]:
        yield f"{path}/{weights}", getattr(module, weights)
        yield f"{path}/bias", module.bias

    if network.class_token is not None:
        yield "cls", network.class_token
    yield "embedding/kernel", network.patch_kernel
    yield "embedding/bias", network.patch_bias
    yield "Encoder/posembed_input/pos_embedding", network.position
    for number, block in enumerate(network.blocks):
        above = f"Encoder/encoderblock_{number}"
        yield from layer(f"{above}/LayerNorm_0", block.norm_attention, "scale")
        yield from layer(f"{above}/LayerNorm_1", block.norm_mlp, "scale")
        for name in ("query", "key", "value", "out"):
            yield from layer(f"{above}/SelfAttention/{name}", getattr(block.attention, name))
        mlp: Any = block.mlp
        if isinstance(mlp, MoeLayer):
            yield f"{above}/Moe/Router/dense/kernel", mlp.router.kernel
            mlp, above = mlp.experts, f"{above}/Moe"
        for name, inner in zip(_DENSE, ("kernel_in", "bias_in", "kernel_out", "bias_out"), strict=True):
            yield f"{above}/Mlp/{name}", getattr(mlp, inner)
    yield from layer("Encoder/encoder_norm", network.norm, "scale")
    if network.representation is not None:
        yield from layer("pre_logits", network.representation)
    yield from layer("head", network.head)
