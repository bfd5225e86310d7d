"""Checkpoints in the format of google-research/vmoe, version 20220622, written without TensorFlow or JAX."""

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.engine.files import atomic_path
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.models.moe.checkpoints.allocation import as_bytes
from qrt_tn.models.moe.checkpoints.msgpack_reader import opened
from qrt_tn.models.moe.checkpoints.nested import Tree, numbered, plain, renewed
from qrt_tn.models.moe.checkpoints.vmoe_index import (
    MAX_INDEX_BYTES,
    MAX_SHARDS,
    SHARD_NAME,
    VERSION,
    checked_prefix,
    index_path,
    read_index,
    shard_path,
)
from qrt_tn.models.moe.checkpoints.vmoe_types import (
    CHUNKS_KEY,
    DTYPES,
    MAX_AXES,
    MAX_CORNERS,
    Box,
    LeafIndex,
    array_header,
    box_extension,
    box_shape,
    leaf_extension,
    slices,
)

MAX_CHUNK_BYTES = 2**30  # flax keeps its pieces below it, msgpack any below 2**32


def save_vmoe_checkpoint(
    prefix: str | Path,
    tree: Tree,
    *,
    shards: int = 1,
    max_chunk_bytes: int = 2**28,
    progress: Progress | None = None,
) -> None:
    """Write a tree as google-research/vmoe writes it.

    A checkpoint is whole or has no index. All files are written beside their places first. If their names
    are taken, the old index is deleted before the first of them is replaced, and the new one appears last: a
    program killed in between leaves a checkpoint without index, which cannot be loaded, never one of old and
    new files. With another number of shards the old checkpoint stays until the new index replaces its own.
    The shards of other checkpoints of this prefix are deleted at the end.

    Args:
        prefix: path of the checkpoint, without ".index"; its folder must be there.
        tree: nested dicts (or lists, which become dicts) of arrays, or None.
        shards: number of files with data.
        max_chunk_bytes: arrays are cut, along their first axes, into chunks of at most so many bytes.
        progress: called with (bytes written, bytes of all arrays); None for a bar on a terminal.

    Raises:
        ValueError: leaves that are no arrays, arrays of types the format does not have, keys that could be
            paths, no folder to write to, or arguments out of range.
    """
    check_whole("shards", shards)
    if shards > MAX_SHARDS:
        raise ValueError(f"shards is {shards}; give at most {MAX_SHARDS}")
    check_whole("max_chunk_bytes", max_chunk_bytes)
    if max_chunk_bytes > MAX_CHUNK_BYTES:
        raise ValueError(f"max_chunk_bytes is {max_chunk_bytes}; give at most {MAX_CHUNK_BYTES}")
    place = checked_prefix(prefix)
    if not isinstance(tree := plain(tree), dict):
        raise ValueError(f"tree is a {type(tree).__name__}; give nested dicts of arrays")
    arrays = numbered(tree)
    for name, array in arrays.items():
        _check_array(name, array)
    loads = [0] * shards
    leaves = [_spread(array, max_chunk_bytes, loads) for array in arrays.values()]
    _write(place, tree, list(arrays.values()), leaves, loads, progress)


def _write(
    place: Path,
    tree: Tree,
    arrays: list[Any],
    leaves: list[LeafIndex],
    loads: list[int],
    progress: Progress | None,
) -> None:
    shards, total = len(loads), sum(loads)
    targets = [shard_path(place, shard, shards) for shard in range(shards)]
    infos = iter(leaves)
    index = {
        "shard_count": shards,
        "index": renewed(tree, lambda _: leaf_extension(next(infos))),
        "version": VERSION,
    }
    packed = msgpack.packb(index)
    if len(packed) > MAX_INDEX_BYTES:
        raise ValueError(
            f"the index takes {len(packed)} bytes, at most {MAX_INDEX_BYTES} will do; give fewer arrays, or a"
            " larger max_chunk_bytes"
        )
    with ExitStack() as stack, shown(progress, total, "bytes") as show:
        # a stack is left from its end: the shards get their names first, the index last
        stack.enter_context(atomic_path(index_path(place))).write_bytes(packed)
        done = 0
        for shard, target in enumerate(targets):
            with stack.enter_context(atomic_path(target)).open("wb") as file:
                for piece, counts in _shard(shard, arrays, leaves):
                    file.write(piece)
                    if counts:
                        done += len(piece)
                        show(done, total)
        if any(target.exists() for target in targets) and _shards_there(place) in (None, shards):
            index_path(place).unlink(missing_ok=True)
    name = re.compile(re.escape(place.name) + SHARD_NAME)
    for path in list(place.parent.iterdir()):
        if name.fullmatch(path.name) and path not in targets:
            path.unlink(missing_ok=True)


def _shards_there(place: Path) -> int | None:
    """The number of shards that the index in this place speaks of; None where there is no sound index."""
    if not index_path(place).is_file():
        return None
    try:
        with opened(index_path(place)) as reader:
            return read_index(reader).shard_count
    except ValueError:
        return None


def _shard(
    shard: int, arrays: list[Any], leaves: list[LeafIndex]
) -> Iterator[tuple[bytes | memoryview, bool]]:
    """What a file with data is made of, piece by piece, and whether that is data."""
    chunks = [
        [box for box, there in zip(leaf.boxes, leaf.shards, strict=True) if there == shard] for leaf in leaves
    ]
    packer = msgpack.Packer()
    yield (
        packer.pack_map_header(1 + sum(map(bool, chunks))) + packer.pack(CHUNKS_KEY) + packer.pack(True),
        False,
    )
    for number, boxes in enumerate(chunks):
        if not boxes:
            continue
        yield packer.pack(str(number)) + packer.pack_array_header(len(boxes)), False
        array = np.asarray(arrays[number])
        for box in boxes:
            part = np.asarray(array[slices(box)], order="C")
            pair = packer.pack_array_header(2) + packer.pack_array_header(
                1
            )  # the data, in one piece, and its slice
            yield pair + array_header(part.dtype, part.size), False
            yield as_bytes(part), True
            yield packer.pack(box_extension(box)), False


def _check_array(name: str, array: Any) -> None:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise ValueError(f"{name} is a {type(array).__name__}; give an array, or None")
    if not isinstance(array.dtype, np.dtype) or array.dtype not in DTYPES.values():
        raise ValueError(f"{name} is of type {array.dtype}; give one of {', '.join(DTYPES)}")
    if len(array.shape) > MAX_AXES:
        raise ValueError(f"{name} has {len(array.shape)} axes; give at most {MAX_AXES}")


def _spread(array: Any, max_chunk_bytes: int, loads: list[int]) -> LeafIndex:
    """An array's chunks, each in the shard that has the fewest bytes so far (`loads`, which this updates)."""
    shape, dtype = tuple(map(int, array.shape)), array.dtype
    # vmoe cannot restore a chunk without elements: an array without any has no chunk
    cut = _cut(shape, max(1, max_chunk_bytes // dtype.itemsize)) if 0 not in shape else iter(())
    most = MAX_CORNERS >> len(shape)
    boxes = tuple(islice(cut, most + 1))
    if len(boxes) > most:
        raise ValueError(
            f"max_chunk_bytes is {max_chunk_bytes}, which cuts an array of shape {shape} into more than"
            f" {most} chunks; give more"
        )
    shards = []
    for box in boxes:
        shards.append(min(range(len(loads)), key=loads.__getitem__))
        loads[shards[-1]] += math.prod(box_shape(box)) * dtype.itemsize
    return LeafIndex(shape, dtype, boxes, tuple(shards))


def _cut(shape: tuple[int, ...], most: int) -> Iterator[Box]:
    """Boxes of at most `most` elements that cover an array, each in one run of its memory."""
    if math.prod(shape) <= most:
        yield tuple((0, size) for size in shape)
        return
    row = math.prod(shape[1:])
    if row > most:
        for place in range(shape[0]):
            for rest in _cut(shape[1:], most):
                yield ((place, place + 1), *rest)
        return
    step = most // row
    for start in range(0, shape[0], step):
        yield ((start, min(start + step, shape[0])), *((0, size) for size in shape[1:]))
