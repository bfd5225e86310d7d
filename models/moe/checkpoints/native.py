"""This project's own checkpoints of networks with experts: one safetensors file, or an orbax folder.

Both hold vmoe's tree of weights and the network's configuration, pruned layers included, so that a pruned
network is loaded with no further word.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.experts import leaves
from qrt_tn.models.moe.trees import Tree, from_tree, nested, to_tree
from qrt_tn.models.moe.vit import VisionMoe

KIND = "qrt-tn.vision-moe-2"
_ORBAX_CONFIG = "qrt-tn-config.json"


def save_moe(path: str | Path, network: VisionMoe, *, about: Mapping[str, Any] | None = None) -> None:
    """Write a network to one safetensors file, whole or not at all.

    Args:
        path: the file; its folder must exist.
        network: whole or pruned.
        about: what else to keep, as JSON: where it comes from, how it was pruned.

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
    metadata = {"format": KIND, "config": json.dumps(config.plain()), "about": _json(about or {})}
    save_tensors(path, {name: np.asarray(leaf, np.float32) for name, leaf in leaves(tree)}, metadata)


def load_moe(path: str | Path, *, dispatch: str = "auto") -> VisionMoe:
    """The network in a file that `save_moe` wrote.

    Args:
        path: the file.
        dispatch: one of qrt_tn.models.moe.config.DISPATCHES.

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


def save_moe_orbax(folder: str | Path, network: VisionMoe) -> None:
    """Write a network as an orbax checkpoint, for tools that read those.

    Args:
        folder: which must not exist; it appears whole or not at all.
        network: whole or pruned.

    Raises:
        ValueError: something is there already.
    """
    target = Path(folder).absolute()
    if target.exists():
        raise ValueError(f"{target} exists; name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(made / target.name, to_tree(network))
        (made / target.name / _ORBAX_CONFIG).write_text(json.dumps(network.config.plain()), encoding="utf-8")
        (made / target.name).rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def load_moe_orbax(folder: str | Path, *, dispatch: str = "auto") -> VisionMoe:
    """The network in a folder that `save_moe_orbax` wrote.

    Raises:
        ValueError: no such folder, or another kind of checkpoint.
    """
    source = Path(folder).absolute()
    try:
        config = VisionMoeConfig.from_plain(json.loads((source / _ORBAX_CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not a folder that save_moe_orbax wrote ({error})") from error
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            tree = checkpointer.restore(source)
        except (ValueError, OSError, KeyError) as error:
            reason = f"{error}".partition("\n")[0]
            raise ValueError(f"{source} does not hold the weights of a network ({reason})") from error
    return from_tree(tree, config, dispatch=dispatch)


def _json(about: Mapping[str, Any]) -> str:
    try:
        return json.dumps(about)
    except TypeError as error:
        raise ValueError(f"about cannot be kept as JSON ({error}); give texts, numbers, lists") from error
