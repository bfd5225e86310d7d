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
from qrt_tn.models.moe.checkpoints.unpacking import (
    MAX_KEYS,
    Tree,
    check_depth,
    check_end,
    check_type,
    dicts_of,
    unpack,
)

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
        shape: its shape.
        dtype: its type.
        boxes: the part of it that each chunk holds; together they cover it, each element once.
        shards: for each chunk, the number of the file that holds it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    boxes: tuple[Box, ...] = ()
    shards: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self.size * self.dtype.itemsize


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
    def size(self) -> int:
        """Elements of all arrays."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(leaf.nbytes for leaf in self.leaves)


def checked_prefix(prefix: str | Path) -> Path:
    """The prefix of a checkpoint as a path.

    Raises:
        ValueError: it is no path, or that of one of the checkpoint's files.
    """
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


def read_index(data: bytes) -> CheckpointSummary:
    """Read an index and check that it makes sense.

    Raises:
        ValueError: it does not, or is of another version.
        msgpack.UnpackException: it is not whole.
    """
    if len(data) > MAX_INDEX_BYTES:
        raise ValueError(f"an index of more than {MAX_INDEX_BYTES} bytes")
    unpacker = msgpack.Unpacker(
        ext_hook=_read_entry,
        object_pairs_hook=dicts_of(_check_entry, is_sorted=True),
        max_array_len=0,
        max_map_len=MAX_KEYS,
    )
    unpacker.feed(data)
    head: dict[Any, Any] = {}
    for _ in range(unpacker.read_map_header()):
        key = unpacker.unpack()
        if key not in ("shard_count", "index", "version") or key in head:
            raise ValueError(f"key {key!r:.40} of an index, unknown or for the second time")
        head[key] = unpacker.unpack()
    check_end(unpacker, len(data))
    shard_count, version, tree = head.get("shard_count"), head.get("version"), head.get("index")
    if type(shard_count) is not int or not 1 <= shard_count <= MAX_SHARDS:
        raise ValueError(f"shard_count is {shard_count!r:.40}; it should be 1 to {MAX_SHARDS}")
    if version not in (None, VERSION):
        raise ValueError(f"version {version!r:.40}, only {VERSION!r} is known: convert it with vmoe")
    if not isinstance(tree, dict):
        raise ValueError("no dict of arrays in the index")
    check_depth(tree)
    summary = summary_of(version, shard_count, tree)
    for leaf in summary.leaves:
        if wrong := [shard for shard in leaf.shards if shard >= shard_count]:
            raise ValueError(f"{leaf.name} has a chunk in shard {wrong[0]} of {shard_count}")
    return summary


def read_box(data: bytes) -> Box:
    """Read a slice of several axes: packed slices (start, stop, step).

    Raises:
        ValueError: it is none, or its step is not 1.
    """
    axes = unpack(data)
    if not isinstance(axes, list) or not all(isinstance(axis, bytes) for axis in axes):
        raise ValueError("a slice that is not a list of packed slices")
    return tuple(map(_read_slice, axes))


def _read_slice(data: bytes) -> tuple[int, int]:
    match unpack(data):
        case [start, stop, None | 1 as step] if (
            type(start) is type(stop) is int and step is not True and 0 <= start <= stop
        ):
            return start, stop
        case wrong:
            raise ValueError(f"slice {wrong!r:.60}; it should be start, stop, step with step 1")


def _check_entry(value: Any) -> ArrayEntry:
    if not isinstance(value, ArrayEntry):
        raise ValueError(f"{value!r:.40} in place of an array of the index")
    return value


def _read_entry(code: int, data: bytes) -> ArrayEntry:
    if code != INDEX_INFO:
        raise ValueError(f"extension type {code} in an index")
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
