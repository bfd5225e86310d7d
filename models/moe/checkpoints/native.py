"""This project's own checkpoints of networks with experts: one safetensors file.

It holds vmoe's tree of weights and the network's configuration, pruned layers included, so that a pruned
network is loaded with no further word, and a checksum.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.trees import Tree, from_tree, leaves, nested, to_tree
from qrt_tn.models.moe.vit import VisionMoe

KIND = "qrt-tn.vision-moe-2"


def save_moe(path: str | Path, network: VisionMoe, *, about: Mapping[str, Any] | None = None) -> None:
    """Write a network to one safetensors file, whole or not at all, and `about`, what else to keep, as JSON.

    Raises:
        ValueError: no such folder, or `about` is not JSON.
    """
    save_moe_tree(path, to_tree(network), network.config, about=about)


def save_moe_tree(
    path: str | Path,
    tree: Mapping[str, Any],
    config: VisionMoeConfig,
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """`save_moe` for a tree of weights and the configuration that it fits.

    Raises:
        ValueError: a tree that does not fit, no such folder, or `about` is not JSON.
    """
    from_tree(tree, config)
    try:
        told = json.dumps(about or {})
    except TypeError as error:
        raise ValueError(f"about cannot be kept as JSON ({error}); give texts, numbers, lists") from error
    metadata = {"format": KIND, "config": json.dumps(config.plain()), "about": told}
    save_tensors(path, {name: np.asarray(leaf, np.float32) for name, leaf in leaves(tree)}, metadata)


def load_moe(path: str | Path, *, dispatch: str = "auto") -> VisionMoe:
    """The network in a file that `save_moe` wrote; `dispatch` is one of qrt_tn.models.moe.config.DISPATCHES.

    Raises:
        ValueError: no such file, another kind of file, or weights that do not fit its configuration.
    """
    tree, config, _ = load_moe_tree(path)
    return from_tree(tree, config, dispatch=dispatch)


def load_moe_tree(path: str | Path) -> tuple[Tree, VisionMoeConfig, dict[str, Any]]:
    """The weights, configuration and other matters in a file that `save_moe` wrote.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    tensors, metadata = load_tensors(path, KIND)
    try:
        config = VisionMoeConfig.from_plain(json.loads(metadata["config"]))
        about = json.loads(metadata.get("about", "{}"))
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has no readable configuration ({error}); save it again") from error
    return nested(tensors), config, about
