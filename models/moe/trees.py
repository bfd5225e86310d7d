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
from qrt_tn.models.moe.layers import MoeLayer
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
    shapes = {path: np.shape(leaf) for path, leaf in leaves(tree)}

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
    blocks = sorted({int(match[1]) for match in map(_BLOCK.match, shapes) if match})
    if not blocks or blocks != list(range(len(blocks))):
        raise ValueError(f"the tree has the encoder blocks {blocks}; give one with all of them, from 0 on")
    routers = {block: f"Encoder/encoderblock_{block}/Moe/Router/dense/kernel" for block in blocks}
    routers = {block: path for block, path in routers.items() if path in shapes}
    if any(len(shapes[path]) == 3 for path in routers.values()):
        raise ValueError(
            "the routers have three axes, an ensemble's (E3); such a tree can be pruned, but not run here"
        )
    columns = [shape(path, 2)[1] for path in routers.values()]
    found = dict(maps or {})
    widths = {block: shape(f"Encoder/encoderblock_{block}/Moe/Mlp/Dense_0/kernel", 3)[0] for block in routers}
    most = max(widths.values(), default=1)
    for block, width in widths.items():
        if width != most and block not in found:
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
        experts=max((one.capacity_experts for one in found.values()), default=most),
        router=router or RouterConfig(selected=min([2, *columns])),
        group=group,
        classifier="token" if token else "gap",
        representation=shape("pre_logits/kernel", 2)[1] if "pre_logits/kernel" in shapes else None,
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
        yield f"{above}/Mlp/Dense_0/kernel", mlp.kernel_in
        yield f"{above}/Mlp/Dense_0/bias", mlp.bias_in
        yield f"{above}/Mlp/Dense_1/kernel", mlp.kernel_out
        yield f"{above}/Mlp/Dense_1/bias", mlp.bias_out
    yield from layer("Encoder/encoder_norm", network.norm, "scale")
    if network.representation is not None:
        yield from layer("pre_logits", network.representation)
    yield from layer("head", network.head)
