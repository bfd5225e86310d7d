"""The weights of a network with experts as google-research/vmoe's tree, and the other way round.

The tree is a nested dict of numpy arrays with the names and shapes of vmoe's parameters, so that its
checkpoints and ours are pruned, inspected and loaded by the same code.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig
from qrt_tn.models.moe.experts import leaves
from qrt_tn.models.moe.layers import Experts, Mlp, MoeLayer
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.vit import VisionMoe

Tree = dict[str, Any]
_BLOCK = re.compile(r"Encoder/encoderblock_(\d+)/")


def to_tree(network: VisionMoe) -> Tree:
    """The weights of a network, copied."""
    return nested({path: np.array(param[...]) for path, param in _params(network)})


def from_tree(tree: Mapping[str, Any], config: VisionMoeConfig, *, dispatch: str = "auto") -> VisionMoe:
    """A network with the weights of a tree.

    Args:
        tree: nested dicts of arrays, with the names of vmoe.
        config: its shape; `infer_config` reads most of it from a tree.
        dispatch: one of qrt_tn.models.moe.config.DISPATCHES.

    Raises:
        ValueError: a leaf that is missing, of another shape, or too many.
    """
    # shapes only: drawing weights, to be replaced at once, would compile for seconds
    network = nnx.eval_shape(lambda: VisionMoe(config, rngs=nnx.Rngs(0), dispatch=dispatch))
    held = dict(leaves(tree))
    for path, param in _params(network):
        if path not in held:
            raise ValueError(f"the tree has no {path}, which the configuration asks for")
        array = np.asarray(held.pop(path))
        if array.shape != param.shape:
            raise ValueError(f"{path} has shape {array.shape}; the configuration asks for {param.shape}")
        if np.iscomplexobj(array):
            raise ValueError(f"{path} is complex; give real weights")
        param.set_value(jnp.asarray(array, jnp.float32))
    if held:
        raise ValueError(f"the tree holds {min(held)}, which the configuration knows nothing of")
    return network


def infer_config(
    tree: Mapping[str, Any],
    *,
    router: RouterConfig | None = None,
    image_shape: tuple[int, int, int] | None = None,
    group: int | None = None,
    maps: Mapping[int, ExpertMap] | None = None,
) -> VisionMoeConfig:
    """The configuration of a tree, as far as its shapes tell.

    Args:
        tree: nested dicts of arrays, with the names of vmoe.
        router: which no shape tells; left out, token choice with K = 2 and the capacity factor 1.5.
        image_shape: left out, square images of as many patches as there are positions.
        group: tokens that are routed together, which no shape tells; None for those of each image.
        maps: of pruned layers, which no shape tells; left out, every layer is whole.

    Raises:
        ValueError: leaves that are missing or of other shapes, positions that make no square image, or the
            routers of an ensemble (E3).
    """
    extents = {path: np.shape(leaf) for path, leaf in leaves(tree)}

    def shape(path: str, axes: int) -> tuple[int, ...]:
        if path not in extents:
            raise ValueError(f"the tree has no {path}; give the parameters of a vision transformer of vmoe")
        if len(extents[path]) != axes:
            raise ValueError(f"{path} has shape {extents[path]}; vmoe's has {axes} axes")
        return extents[path]

    patch, _, channels, hidden = shape("embedding/kernel", 4)
    tokens = shape("Encoder/posembed_input/pos_embedding", 3)[1]
    token = "cls" in extents
    if image_shape is None:
        side = round((tokens - token) ** 0.5)
        if side * side != tokens - token:
            raise ValueError(f"{tokens - token} patches make no square image; give image_shape")
        image_shape = (side * patch, side * patch, channels)
    blocks = sorted({int(match[1]) for match in map(_BLOCK.match, extents) if match})
    if not blocks or blocks != list(range(len(blocks))):
        raise ValueError(f"the tree has the encoder blocks {blocks}; give one with all of them, from 0 on")
    experts = tuple(b for b in blocks if f"Encoder/encoderblock_{b}/Moe/Router/dense/kernel" in extents)
    first = f"Encoder/encoderblock_{blocks[0]}/"
    mlp = next((extent for path, extent in extents.items() if path.endswith("Dense_0/kernel")), (0,))[-1]
    routers = [f"Encoder/encoderblock_{b}/Moe/Router/dense/kernel" for b in experts]
    if any(len(extents[path]) == 3 for path in routers):
        raise ValueError(
            "the routers have three axes, an ensemble's (E3); such a tree can be pruned, but not run here"
        )
    columns = [shape(path, 2)[1] for path in routers]
    found = dict(maps or {})
    widths = [shape(f"Encoder/encoderblock_{b}/Moe/Mlp/Dense_0/kernel", 3)[0] for b in experts]
    for block, width in zip(experts, widths, strict=True):
        if width != max(widths) and block not in found:
            raise ValueError(f"block {block} has {width} experts and another {max(widths)}; give maps")
    config = VisionMoeConfig(
        image_shape=image_shape,
        classes=shape("head/kernel", 2)[1],
        patch=patch,
        hidden=hidden,
        layers=len(blocks),
        mlp=mlp,
        heads=shape(first + "SelfAttention/query/kernel", 3)[1],
        moe_layers=experts,
        experts=max([found[b].capacity_experts for b in found] or widths or [1]),
        router=router or RouterConfig(selected=min([2, *columns])),
        group=group,
        classifier="token" if token else "gap",
        representation=extents["pre_logits/kernel"][1] if "pre_logits/kernel" in extents else None,
        maps=found,
    )
    if config.tokens != tokens:
        raise ValueError(f"images of shape {image_shape} have {config.tokens} tokens, the tree {tokens}")
    return config


def nested(arrays: Mapping[str, np.ndarray]) -> Tree:
    """Nested dicts from leaves by path, the inverse of qrt_tn.models.moe.experts.leaves."""
    tree: Tree = {}
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


def _params(network: VisionMoe) -> Iterator[tuple[str, Any]]:
    """The parameters by their path in the tree."""
    if network.class_token is not None:
        yield "cls", network.class_token
    yield "embedding/kernel", network.patch_kernel
    yield "embedding/bias", network.patch_bias
    yield "Encoder/posembed_input/pos_embedding", network.position
    for number, block in enumerate(network.blocks):
        above = f"Encoder/encoderblock_{number}/"
        for name, norm in (("LayerNorm_0", block.norm_attention), ("LayerNorm_1", block.norm_mlp)):
            yield f"{above}{name}/scale", norm.scale
            yield f"{above}{name}/bias", norm.bias
        for name in ("query", "key", "value", "out"):
            dense = getattr(block.attention, name)
            yield f"{above}SelfAttention/{name}/kernel", dense.kernel
            yield f"{above}SelfAttention/{name}/bias", dense.bias
        mlp: Mlp | Experts
        if isinstance(block.mlp, MoeLayer):
            yield f"{above}Moe/Router/dense/kernel", block.mlp.router.kernel
            mlp, place = block.mlp.experts, f"{above}Moe/Mlp/"
        else:
            mlp, place = block.mlp, f"{above}Mlp/"
        for name, kernel, bias in (
            ("Dense_0", mlp.kernel_in, mlp.bias_in),
            ("Dense_1", mlp.kernel_out, mlp.bias_out),
        ):
            yield f"{place}{name}/kernel", kernel
            yield f"{place}{name}/bias", bias
    yield "Encoder/encoder_norm/scale", network.norm.scale
    yield "Encoder/encoder_norm/bias", network.norm.bias
    if network.representation is not None:
        yield "pre_logits/kernel", network.representation.kernel
        yield "pre_logits/bias", network.representation.bias
    yield "head/kernel", network.head.kernel
    yield "head/bias", network.head.bias
