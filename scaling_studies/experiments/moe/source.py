"""A checkpoint to be pruned, in vmoe's format or our own, with what is known of its experts."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrt_tn.models.moe.checkpoints.native import load_moe_tree
from qrt_tn.models.moe.checkpoints.vmoe import inspect_vmoe_checkpoint, load_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints.vmoe_index import index_path, shard_path
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.maps import ExpertMap

NATIVE, VMOE = "native", "vmoe"
KIND = "qrt-tn.pruned-experts"
_BLOCK_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class Source:
    """A checkpoint as read.

    Attributes:
        name: its prefix or file, as given.
        form: "native" or "vmoe".
        files: that hold it.
        tree: its parameters.
        config: of the network, which only our own format has.
        maps: what became of experts before, by block; empty where nothing is known.
        about: what else the file, or the one beside it, tells.
    """

    name: str
    form: str
    files: tuple[Path, ...]
    tree: Mapping[str, Any]
    config: VisionMoeConfig | None
    maps: Mapping[int, ExpertMap]
    about: Mapping[str, Any]


def is_native(name: str | Path) -> bool:
    """Whether a name is that of a file of ours."""
    return Path(name).suffix == ".safetensors"


def sidecar(prefix: str | Path) -> Path:
    """The file beside a vmoe checkpoint that says how it was pruned."""
    return Path(f"{prefix}.json")


def source_files(name: str | Path) -> tuple[Path, ...]:
    """The files of a checkpoint that is there.

    Raises:
        ValueError: no such checkpoint, or an index that cannot be read.
    """
    place = Path(name)
    if is_native(place):
        if not place.is_file():
            raise ValueError(f"no file {place}; give a .safetensors file, or the prefix of a vmoe checkpoint")
        return (place,)
    found = inspect_vmoe_checkpoint(place)
    if found.version == "flax":
        return (place,)
    shards = range(found.shard_count)
    return (index_path(place), *(shard_path(place, shard, found.shard_count) for shard in shards))


def read_source(name: str | Path) -> Source:
    """Read a checkpoint whole.

    Args:
        name: the prefix of a vmoe checkpoint, a file of flax, or a .safetensors file of ours.

    Raises:
        ValueError: files that are missing, damaged or of another kind.
    """
    files = source_files(name)
    if is_native(name):
        tree, config, about = load_moe_tree(files[0])
        return Source(str(name), NATIVE, files, tree, config, config.all_maps, about)
    about = read_sidecar(name)
    maps = maps_from(about, sidecar(name))
    return Source(str(name), VMOE, files, load_vmoe_checkpoint(name), None, maps, about)


def read_sidecar(prefix: str | Path) -> dict[str, Any]:
    """What the file beside a vmoe checkpoint tells; nothing where there is none, or it is not ours.

    Raises:
        ValueError: a file that is not JSON.
    """
    path = sidecar(prefix)
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} beside the checkpoint is not JSON ({error}); mend or remove it") from error
    return about if isinstance(about, dict) and about.get("format") == KIND else {}


def is_left_behind(path: Path) -> bool:
    """Whether a file is one of ours about a pruned checkpoint, which a run that was cut short may leave."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and about.get("format") == KIND


def maps_from(about: Mapping[str, Any], place: Path) -> dict[int, ExpertMap]:
    """The maps that metadata of ours name, by block.

    Raises:
        ValueError: entries that are no maps.
    """
    held = about.get("maps", {})
    try:
        return {int(block): ExpertMap.from_plain(expert_map) for block, expert_map in held.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{place} has maps that cannot be read ({error}); write it again") from error


def digests(source: Source) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint, by its name."""
    return {path.name: _digest(path) for path in source.files}


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()
