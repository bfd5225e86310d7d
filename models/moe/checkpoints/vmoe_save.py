"""Checkpoints in the format of google-research/vmoe, version 20220622, written without TensorFlow."""

from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import msgpack
import numpy as np
from flax.serialization import to_state_dict

from qrt_tn.engine.arguments import check_whole
from qrt_tn.engine.files import atomic_path
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.models.moe.checkpoints.boxes import MAX_CHUNKS, box_shape, box_slices, cut
from qrt_tn.models.moe.checkpoints.unpacking import DTYPES, NDARRAY, Reader, Tree
from qrt_tn.models.moe.checkpoints.vmoe import CHUNKS_KEY
from qrt_tn.models.moe.checkpoints.vmoe_index import (
    MAX_SHARDS,
    SLICE_ND,
    ArrayEntry,
    checked_prefix,
    find_shards,
    index_path,
    pack_box,
    pack_index,
    read_index,
    shard_path,
)

MAX_CHUNK_BYTES = 2**30  # flax keeps its pieces below it, msgpack any below 2**32


def save_vmoe_checkpoint(
    prefix: str | Path,
    tree: Tree,
    *,
    shards: int = 1,
    max_chunk_bytes: int = 2**26,
    progress: Progress | None = None,
) -> None:
    """Write a tree as google-research/vmoe writes it.

    A checkpoint is whole or has no index. All files are written beside their places first. If their names
    are taken, the old index is deleted before the first of them is replaced, and the new one appears last: a
    program killed in between leaves a checkpoint without index, which cannot be loaded, never one of old and
    new files. The shards of other checkpoints of this prefix are deleted at the end.

    Args:
        prefix: path of the checkpoint, without ".index"; its folder must be there.
        tree: nested dicts (or lists, which become dicts) of arrays, or None.
        shards: number of files with data.
        max_chunk_bytes: arrays are cut, along their first axes, into chunks of at most so many bytes; beside
            the tree, saving takes memory for about four.
        progress: called with (bytes written, bytes of all arrays); None for a bar on a terminal.

    Raises:
        ValueError: leaves that are no arrays, arrays of types the format does not have, keys that could be
            paths, no folder to write to, or arguments out of range.
    """
    for name, value, most in (
        ("shards", shards, MAX_SHARDS),
        ("max_chunk_bytes", max_chunk_bytes, MAX_CHUNK_BYTES),
    ):
        check_whole(name, value)
        if value > most:
            raise ValueError(f"{name} is {value}; give at most {most}")
    place = checked_prefix(prefix)
    try:
        tree = to_state_dict(tree)
        if not isinstance(tree, dict):
            raise ValueError(f"tree is a {type(tree).__name__}; give nested dicts of arrays")
        found, structure = jax.tree_util.tree_flatten_with_path(tree)
    except RecursionError as error:
        raise ValueError("tree is nested without end; give nested dicts of arrays") from error
    loads = [0] * shards
    entries = [
        _entry("/".join(key.key for key in keys), array, max_chunk_bytes, loads) for keys, array in found
    ]
    packed = pack_index(shards, jax.tree.unflatten(structure, entries))
    try:
        read_index(Reader(BytesIO(packed)))
    except ValueError as error:
        raise ValueError(f"tree cannot be saved: {error}; change it, or max_chunk_bytes") from error
    arrays, total = [array for _, array in found], sum(loads)
    targets = [shard_path(place, shard, shards) for shard in range(shards)]
    with ExitStack() as stack, shown(progress, total, "bytes") as show:
        # a stack is left from its end: the shards get their names first, the index last
        stack.enter_context(atomic_path(index_path(place))).write_bytes(packed)
        done = 0
        for shard, target in enumerate(targets):
            with stack.enter_context(atomic_path(target)).open("wb") as file:
                for part, count in _shard(shard, arrays, entries):
                    file.write(part)
                    if count:
                        done += count
                        show(done, total)
        if any(target.exists() for target in targets):
            index_path(place).unlink(missing_ok=True)
    for path in find_shards(place):
        if path not in targets:
            path.unlink(missing_ok=True)


def _shard(shard: int, arrays: list[Any], entries: list[ArrayEntry]) -> Iterator[tuple[bytes, int]]:
    """A file with data, part by part, and how many bytes of data each has."""
    chunks = [
        [box for box, owner in zip(entry.boxes, entry.shards, strict=True) if owner == shard]
        for entry in entries
    ]
    packer = msgpack.Packer()
    yield packer.pack_map_header(1 + sum(map(bool, chunks))), 0
    yield packer.pack(CHUNKS_KEY) + packer.pack(True), 0
    for number, boxes in enumerate(chunks):
        if not boxes:
            continue
        yield packer.pack(str(number)) + packer.pack_array_header(len(boxes)), 0
        array = np.asarray(arrays[number])
        for box in boxes:
            part = array[box_slices(box)]
            data = msgpack.packb([[part.size], part.dtype.name, part.tobytes()])
            # the data, in one piece, and its slice
            chunk = ([msgpack.ExtType(NDARRAY, data)], msgpack.ExtType(SLICE_ND, pack_box(box)))
            yield packer.pack(chunk), part.nbytes


def _entry(name: str, array: Any, max_chunk_bytes: int, loads: list[int]) -> ArrayEntry:
    """An array's chunks, each in the shard that has the fewest bytes so far (`loads`, which this updates)."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or not hasattr(array, "shape"):
        raise ValueError(f"{name} is a {type(array).__name__}; give an array, or None")
    if not isinstance(dtype, np.dtype) or dtype not in DTYPES.values():
        raise ValueError(f"{name} is of type {dtype}; give one of {', '.join(DTYPES)}")
    shape = tuple(map(int, array.shape))
    # vmoe cannot restore a chunk without elements: an array without any has no chunk
    parts = cut(shape, max(1, max_chunk_bytes // dtype.itemsize)) if 0 not in shape else iter(())
    boxes = tuple(islice(parts, MAX_CHUNKS + 1))  # more cannot be read
    shards = []
    for box in boxes:
        shards.append(min(range(len(loads)), key=loads.__getitem__))
        loads[shards[-1]] += int(np.prod(box_shape(box))) * dtype.itemsize
    return ArrayEntry(name, shape, dtype, boxes, tuple(shards))
