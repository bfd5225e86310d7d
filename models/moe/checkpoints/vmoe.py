"""Checkpoints of google-research/vmoe (V-MoE and E3), read without TensorFlow or JAX.

A checkpoint `<prefix>` is an index, `<prefix>.index`, and files with data, `<prefix>.data-00000-of-00004`
and so on, all msgpack. The index is a tree that has, for each array, its shape, its type, and which part of
it lies in which file; the data files have the parts, under the number of the array.

Whatever the files contradict each other in is refused. The format has no checksum: a bit flipped inside an
array's data, or inside a key that keeps its place in the order, cannot be seen.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qrt_tn.engine.progress import Progress, shown
from qrt_tn.models.moe.checkpoints import flax_file
from qrt_tn.models.moe.checkpoints.allocation import allocate, as_bytes, check_limit, see_truths
from qrt_tn.models.moe.checkpoints.msgpack_reader import MsgpackReader, opened
from qrt_tn.models.moe.checkpoints.nested import Tree, renewed
from qrt_tn.models.moe.checkpoints.vmoe_index import (
    SHARD_NAME,
    CheckpointSummary,
    Index,
    LeafSummary,
    checked_prefix,
    index_path,
    read_index,
    shard_path,
)
from qrt_tn.models.moe.checkpoints.vmoe_types import (
    CHUNKS_KEY,
    SLICE_ND,
    Box,
    LeafIndex,
    array_data,
    box_shape,
    read_box,
    slices,
)

_FOREIGN = "files were renamed, damaged or taken from different checkpoints: get them again"


@dataclass(frozen=True)
class _Chunk:
    """A part of array number `leaf`, whose data begin at byte `at` of a file."""

    leaf: int
    box: Box
    at: int


def load_vmoe_checkpoint(
    prefix: str | Path, *, max_bytes: int | None = None, progress: Progress | None = None
) -> Tree:
    """Read a checkpoint of google-research/vmoe, or one file that flax.serialization.to_bytes wrote.

    Nothing is allocated until all files are known to hold what the index says, each element once. Then each
    chunk is read straight into its place, so that memory is that of the tree and at most one chunk.

    Arrays are numbered by sorted keys, as vmoe numbers them since it writes a version. In an index without
    version they are numbered as JAX flattens the tree that was saved; this is the same for nested dicts.
    Where keys are not in sorted order, as those of a dataclass or a long list, the numbers cannot be told,
    and the checkpoint is refused (vmoe asks for a template there).

    Args:
        prefix: path of the checkpoint without ".index"; or of a file of flax.
        max_bytes: memory it may take; None for what the machine has free.
        progress: called with (bytes read, bytes of all arrays); None for a bar on a terminal.

    Returns:
        Nested dicts of NumPy arrays (of type bfloat16 too), keys sorted. Lists and optimizer states are
        dicts, as flax's to_state_dict makes them; None stays None.

    Raises:
        ValueError: files are missing, damaged, swapped or hostile, or the tree takes more memory than there
            is; the message names the file.
    """
    check_limit(max_bytes)
    place = checked_prefix(prefix)
    if not _is_there(place):
        return flax_file.load(place, max_bytes, progress)
    with opened(index_path(place)) as reader:
        index = read_index(reader)
        leaves = list(index.leaves.values())
        chunks = _scanned(place, index, leaves)
        beside = max((_beside(leaf, box) for leaf in leaves for box in leaf.boxes), default=0)
        arrays = allocate([(leaf.shape, leaf.dtype) for leaf in leaves], beside, max_bytes, place)
        total = sum(array.nbytes for array in arrays)
        done = 0
        with shown(progress, total, "bytes") as show:
            for path, part in chunks.items():
                with opened(path) as shard:
                    for chunk in part:
                        done += _fill(shard, chunk, arrays[chunk.leaf])
                        show(done, total)
        reader.see_unchanged()
    for name, array in zip(index.leaves, arrays, strict=True):
        see_truths(array, name, place)
    numbered = iter(arrays)
    loaded: Tree = renewed(index.tree, lambda _: next(numbered))
    return loaded


def inspect_vmoe_checkpoint(prefix: str | Path) -> CheckpointSummary:
    """The names, shapes, types and shards of a checkpoint's arrays, from its index alone.

    Args:
        prefix: as for load_vmoe_checkpoint; the files with data need not be there.

    Raises:
        ValueError: no index, or one that is damaged or hostile.
    """
    place = checked_prefix(prefix)
    if not _is_there(place):
        leaves = (
            LeafSummary(name, shape, dtype, (0,))
            for name, (shape, dtype) in flax_file.contents(place).items()
        )
        return CheckpointSummary("flax", 1, tuple(leaves))
    with opened(index_path(place)) as reader:
        return read_index(reader).summary()


def _is_there(place: Path) -> bool:
    """Whether there is an index; if not, there must be one file of that name.

    Raises:
        ValueError: there is neither.
    """
    try:
        if index_path(place).is_file():
            return True
        if place.is_file():
            return False
        beside = place.parent.iterdir() if place.parent.is_dir() else ()
        shards = [path for path in beside if re.fullmatch(re.escape(place.name) + SHARD_NAME, path.name)]
    except OSError as error:
        raise ValueError(f"{place} cannot be read ({error}); see to its permissions and its name") from error
    if shards:
        raise ValueError(
            f"no file {index_path(place)}, but {len(shards)} of its shards: get it; or, if a save was cut"
            " short, save again"
        )
    raise ValueError(f"no file {index_path(place)} and no file {place}; give the path without '.index'")


def _scanned(place: Path, index: Index, leaves: list[LeafIndex]) -> dict[Path, list[_Chunk]]:
    """Where the chunks are in each file, once all files are seen to hold what the index says and no more."""
    paths = [shard_path(place, shard, index.shard_count) for shard in range(index.shard_count)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(paths)} shards are missing, such as {missing[0]}; get them or save again"
        )
    named: list[set[tuple[int, Box]]] = [set() for _ in paths]
    for number, leaf in enumerate(leaves):
        for box, shard in zip(leaf.boxes, leaf.shards, strict=True):
            named[shard].add((number, box))
    found = {}
    for path, wanted in zip(paths, named, strict=True):
        with opened(path) as reader:
            found[path] = _scan(reader, leaves, wanted)
            reader.finish()
    return found


def _scan(reader: MsgpackReader, leaves: list[LeafIndex], wanted: set[tuple[int, Box]]) -> list[_Chunk]:
    """Where the chunks are in a file, which must be those in `wanted` (this set is emptied).

    A file is a map from the number of an array, as text, to its chunks: pairs of the data, in pieces of one
    axis, and of the slice that they are of the array.
    """
    found = []
    marked = False
    numbers: set[int] = set()
    for _ in range(reader.map()):
        key = reader.text()
        if key == CHUNKS_KEY and not marked and reader.kind() == "bool":
            marked = reader.boolean()
            continue
        if not re.fullmatch("0|[1-9][0-9]{0,8}", key) or int(key) >= len(leaves):
            raise reader.error(f"array number {key!r}, where the index has {len(leaves)} arrays")
        number = int(key)
        if number in numbers:
            raise reader.error(f"array number {number} twice")
        numbers.add(number)
        for _ in range(reader.array()):
            reader.array(2)
            at = reader.at
            size = _pieces(reader, leaves[number].dtype)
            with reader.extension((SLICE_ND,)):
                box = read_box(reader)
            if (number, box) not in wanted:
                raise reader.error(
                    f"slice {list(box)} of array {number}, which the index does not name here", _FOREIGN
                )
            wanted.remove((number, box))
            if size != _nbytes(leaves[number], box):
                raise reader.error(f"slice {list(box)} of array {number} in {size} bytes of data", _FOREIGN)
            found.append(_Chunk(number, box, at))
    if not marked:
        raise reader.error(f"a map without {CHUNKS_KEY}, which marks a shard")
    if wanted:
        number, box = min(wanted)
        raise reader.error(
            f"no slice {list(box)} of array {number}, one of {len(wanted)} that the index names here and that"
            " are missing",
            _FOREIGN,
        )
    return found


def _nbytes(leaf: LeafIndex, box: Box) -> int:
    return math.prod(box_shape(box)) * leaf.dtype.itemsize


def _pieces(reader: MsgpackReader, dtype: np.dtype, target: memoryview | None = None) -> int:
    """The bytes of a chunk's pieces, which are skipped, or read into a buffer of so many bytes."""
    done = 0
    for _ in range(reader.array()):
        with array_data(reader) as (shape, found, length):
            if found != dtype or len(shape) != 1:
                raise reader.error(
                    f"data of type {found.name} and shape {shape}; they should be {dtype.name} in one axis",
                    _FOREIGN,
                )
            if target is None:
                reader.skip(length)
            else:
                reader.read_into(target[done : done + length])
        done += length
    return done


def _fill(reader: MsgpackReader, chunk: _Chunk, array: np.ndarray) -> int:
    """Read a chunk into its array; the number of its bytes."""
    part = array[slices(chunk.box)]
    held = part if part.flags.c_contiguous else np.empty_like(part, order="C")
    reader.go_to(chunk.at)
    if _pieces(reader, array.dtype, as_bytes(held)) != held.nbytes:
        raise reader.error("the checkpoint was changed while it was read", "read it again")
    if held is not part:
        part[...] = held
    return held.nbytes


def _beside(leaf: LeafIndex, box: Box) -> int:
    """Bytes that a chunk takes while it is read: none where it lies in one run of its array."""
    split = [axis for axis, (ends, size) in enumerate(zip(box, leaf.shape, strict=True)) if ends != (0, size)]
    in_one_run = not split or all(stop - start == 1 for start, stop in box[: split[-1]])
    return 0 if in_one_run else _nbytes(leaf, box)
