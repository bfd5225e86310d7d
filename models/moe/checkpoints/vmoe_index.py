"""The index of a checkpoint of google-research/vmoe: its arrays, and which file holds what of them.

msgpack's extension types are those of vmoe/checkpoints/serialization.py. Where the format nests, it packs
twice: a slice is a run of bytes that is msgpack again, and so is a slice of several axes, and what an index
tells of an array.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import msgpack
import numpy as np

from qrt_tn.models.moe.checkpoints.boxes import Box, covers_once
from qrt_tn.models.moe.checkpoints.unpacking import Reader, Tree, check_type, unpack

VERSION = "20220622"
SHARD_NAME = r"\.data-[0-9]{5}-of-[0-9]{5}"  # what follows the prefix
MAX_SHARDS = 99_999  # the names of the files have five digits
MAX_INDEX_BYTES = 2**24  # some 200,000 arrays; a released model has fewer than 300
SLICE_ND, INDEX_INFO = 6, 8  # 4, 5 and 7 stand for what these two already hold


@dataclass(frozen=True)
class ArrayEntry:
    """One array of a checkpoint.

    Attributes:
        name: its keys, such as "head/kernel".
        boxes: the part of it that each chunk holds; together they cover it, each element once.
        shards: for each chunk, the number of the file that holds it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    boxes: tuple[Box, ...] = ()
    shards: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class CheckpointSummary:
    """What a checkpoint holds, as its index says.

    Attributes:
        version: of the format: "20220622", None for one from before versions, "flax" for a file of flax.
        shard_count: number of files with data.
        leaves: its arrays, by sorted keys, which is the order of their numbers in the shards.
        structure: of the nested dicts that hold them, as JAX describes it.
    """

    version: str | None
    shard_count: int
    leaves: tuple[ArrayEntry, ...]
    structure: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(leaf.nbytes for leaf in self.leaves)


def checked_prefix(prefix: str | Path) -> Path:
    """The prefix of a checkpoint as a path; ValueError if it is none, or that of one of its files."""
    if not isinstance(prefix, str | os.PathLike) or not Path(prefix).name:
        raise ValueError(f"prefix is {prefix!r}; give the path of a checkpoint, without '.index'")
    place = Path(prefix)
    if found := re.fullmatch(rf"(.+?)(\.index|{SHARD_NAME})", place.name):
        raise ValueError(f"prefix is {prefix}, one of several files; give {place.with_name(found[1])}")
    return place


def index_path(prefix: Path) -> Path:
    """Where the index of a checkpoint is."""
    return prefix.with_name(f"{prefix.name}.index")


def shard_path(prefix: Path, shard: int, shard_count: int) -> Path:
    """Where a file with data of a checkpoint is."""
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shard_count:05d}")


def find_shards(prefix: Path) -> list[Path]:
    """The files with data of this prefix, whatever their number."""
    beside = prefix.parent.iterdir() if prefix.parent.is_dir() else ()
    return [path for path in beside if re.fullmatch(re.escape(prefix.name) + SHARD_NAME, path.name)]


def summary_of(version: str | None, shard_count: int, tree: Tree) -> CheckpointSummary:
    """The summary of nested dicts of entries, or of arrays."""
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = []
    for keys, leaf in found:
        name = "/".join(key.key for key in keys)
        is_entry = isinstance(leaf, ArrayEntry)
        leaves.append(replace(leaf, name=name) if is_entry else ArrayEntry(name, leaf.shape, leaf.dtype))
    return CheckpointSummary(version, shard_count, tuple(leaves), structure)


def read_index(reader: Reader) -> CheckpointSummary:
    """Read an index; ValueError if it makes no sense or is of another version."""
    if reader.size > MAX_INDEX_BYTES:
        raise ValueError(f"an index of more than {MAX_INDEX_BYTES} bytes")
    head: dict[Any, Any] = {}
    for _ in range(reader.item("read_map_header")):
        key = reader.item()
        if key not in ("shard_count", "index", "version") or key in head:
            raise ValueError(f"key {key!r:.40} of an index, unknown or for the second time")
        is_tree = key == "index"
        head[key] = reader.tree(lambda: _read_entry(reader), is_sorted=True) if is_tree else reader.item()
    reader.check_end()
    shard_count, version = head.get("shard_count"), head.get("version")
    if type(shard_count) is not int or not 1 <= shard_count <= MAX_SHARDS:
        raise ValueError(f"shard_count is {shard_count!r:.40}; it should be 1 to {MAX_SHARDS}")
    if version not in (None, VERSION):
        raise ValueError(f"version {version!r:.40}, only {VERSION!r} is known: convert it with vmoe")
    if "index" not in head:
        raise ValueError("no dict of arrays in the index")
    summary = summary_of(version, shard_count, head["index"])
    for leaf in summary.leaves:
        if wrong := [shard for shard in leaf.shards if shard >= shard_count]:
            raise ValueError(f"{leaf.name} has a chunk in shard {wrong[0]} of {shard_count}")
    return summary


def read_box(data: bytes) -> Box:
    """Read a slice of several axes: packed slices (start, stop, step)."""
    axes = unpack(data)
    if not isinstance(axes, list) or not all(isinstance(axis, bytes) for axis in axes):
        raise ValueError("a slice that is not a list of packed slices")
    slices = list(map(unpack, axes))
    for one in slices:
        match one:
            case [int(start), int(stop), None | 1] if not {*map(type, one)} & {bool} and 0 <= start <= stop:
                continue
        raise ValueError(f"slice {one!r:.60}; it should be start, stop, step with step 1")
    return tuple((start, stop) for start, stop, _ in slices)


def _read_entry(reader: Reader) -> ArrayEntry:
    data = reader.payload(INDEX_INFO)
    if data is None:
        raise ValueError(f"{reader.item()!r:.40} in place of an array of the index")
    match unpack(data):
        case [bytes(about), [*packed], [*shards]] if all(isinstance(box, bytes) for box in packed):
            boxes = tuple(map(read_box, packed))
        case _:
            raise ValueError("an array of the index that is not its type, its slices and their shards")
    match unpack(about):
        case [sizes, name, bool(), {}]:  # JAX's weak type, and named axes, which it had until 2024
            shape, dtype = check_type(sizes, name)
        case _:
            raise ValueError("an array of the index that is not its shape, its type, weak and no named axes")
    if len(shards) != len(boxes) or not all(type(shard) is int and shard >= 0 for shard in shards):
        raise ValueError(f"shards {shards!r:.60} of {len(boxes)} chunks")
    if any(len(box) != len(shape) for box in boxes):
        raise ValueError(f"a slice of another number of axes than an array of shape {shape}")
    if not covers_once(shape, boxes):
        raise ValueError(f"chunks that do not cover each element of an array of shape {shape} once")
    return ArrayEntry("", shape, dtype, boxes, tuple(shards))


def pack_index(shard_count: int, tree: Tree) -> bytes:
    """The index of nested dicts of entries, as vmoe writes it."""
    head = {"shard_count": shard_count, "index": tree, "version": VERSION}
    packed: bytes = msgpack.packb(head, default=_pack_entry)
    return packed


def pack_box(box: Sequence[tuple[int, int]]) -> bytes:
    """A slice of several axes, packed."""
    packed: bytes = msgpack.packb([msgpack.packb((start, stop, None)) for start, stop in box])
    return packed


def _pack_entry(entry: ArrayEntry) -> msgpack.ExtType:
    about = msgpack.packb((entry.shape, entry.dtype.name, False, {}))
    boxes = [pack_box(box) for box in entry.boxes]
    return msgpack.ExtType(INDEX_INFO, msgpack.packb((about, boxes, entry.shards)))
