"""The index of a checkpoint of google-research/vmoe: its arrays, and which file holds what of them."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.models.moe.checkpoints.msgpack_reader import MsgpackReader
from qrt_tn.models.moe.checkpoints.nested import Tree, TreeReader, numbered
from qrt_tn.models.moe.checkpoints.vmoe_types import LeafIndex, read_leaf

VERSION = "20220622"
SHARD_NAME = r"\.data-[0-9]{5}-of-[0-9]{5}"  # what follows the prefix
MAX_SHARDS = 99_999  # the names of the files have five digits
MAX_INDEX_BYTES = 2**24  # some 200,000 arrays; a released model has fewer than 300


@dataclass(frozen=True)
class LeafSummary:
    """One array of a checkpoint.

    Attributes:
        name: its keys, such as "head/kernel".
        shape: its shape.
        dtype: its type.
        shards: numbers of the files that hold parts of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    shards: tuple[int, ...]

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
        leaves: its arrays, by sorted keys.
    """

    version: str | None
    shard_count: int
    leaves: tuple[LeafSummary, ...]

    @property
    def size(self) -> int:
        """Elements of all arrays."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(leaf.nbytes for leaf in self.leaves)


@dataclass(frozen=True)
class Index:
    """An index as read.

    Attributes:
        version: of the format, or None.
        shard_count: number of files with data.
        tree: nested dicts of what is known of each array.
    """

    version: str | None
    shard_count: int
    tree: Tree

    @property
    def leaves(self) -> dict[str, LeafIndex]:
        """The arrays by name, in the order of the numbers that they have in the shards."""
        return numbered(self.tree)

    def summary(self) -> CheckpointSummary:
        """For people to look at."""
        found = (
            LeafSummary(name, leaf.shape, leaf.dtype, tuple(sorted(set(leaf.shards))))
            for name, leaf in self.leaves.items()
        )
        return CheckpointSummary(self.version, self.shard_count, tuple(found))


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


def read_index(reader: MsgpackReader) -> Index:
    """Read an index, and see that it makes sense.

    Raises:
        ValueError: it is damaged, hostile, or of a version that is not known.
    """
    if reader.size > MAX_INDEX_BYTES:
        raise reader.error(f"an index of more than {MAX_INDEX_BYTES} bytes")
    places = _places(reader)
    reader.go_to(places["shard_count"])
    shard_count = reader.integer()
    if not 1 <= shard_count <= MAX_SHARDS:
        raise reader.error(f"{shard_count} shards")
    version: Any = None
    if "version" in places:
        reader.go_to(places["version"])
        version = None if reader.kind() == "nil" else reader.text()
        if version not in (None, VERSION):
            raise reader.error(
                f"version {version!r}", f"only version {VERSION!r} is known: convert it with vmoe"
            )
    reader.go_to(places["index"])
    if reader.kind() != "map":
        raise reader.error(f"{reader.kind()} in place of a dict of arrays")
    tree = TreeReader(reader, lambda: read_leaf(reader, shard_count), ordered=True).read()
    return Index(version, shard_count, tree)


def _places(reader: MsgpackReader) -> dict[str, int]:
    """Where the values of the outermost map are; they may come in any order."""
    places: dict[str, int] = {}
    for _ in range(reader.map()):
        key = reader.text()
        if key not in ("shard_count", "index", "version") or key in places:
            raise reader.error(f"key {key!r} of an index, unknown or for the second time")
        places[key] = reader.at
        reader.pass_over()
    reader.finish()
    if missing := {"shard_count", "index"} - set(places):
        raise reader.error(f"an index without {' and '.join(sorted(missing))}")
    return places
