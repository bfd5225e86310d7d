"""Checkpoints of google-research/vmoe (V-MoE and E3), read without TensorFlow.

A checkpoint `<prefix>` is an index, `<prefix>.index`, and files with data, `<prefix>.data-00000-of-00004`
and so on, all msgpack. The index is a tree that has, for each array, its shape, its type, and which part of
it lies in which file; the data files have the parts, under the number of the array.

Whatever the files contradict each other in is refused. The format has no checksum: a bit flipped inside an
array's data, or inside a key that keeps its place in the order, cannot be seen.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from qrt_tn.engine.progress import Progress, shown
from qrt_tn.models.moe.checkpoints import flax_file
from qrt_tn.models.moe.checkpoints.boxes import Box, box_shape, box_slices
from qrt_tn.models.moe.checkpoints.unpacking import Reader, Tree, check_memory, file_identity, opened
from qrt_tn.models.moe.checkpoints.vmoe_index import (
    SLICE_ND,
    CheckpointSummary,
    checked_prefix,
    find_shards,
    index_path,
    read_box,
    read_index,
    shard_path,
    summary_of,
)

CHUNKS_KEY = "__msgpack_array_chunk_a87ca2__"  # marks the map that a shard is
_MAX_PIECES = 2**10  # of one chunk; vmoe's have at most 1 GiB each

Chunk = tuple[int, Box]  # number of an array, and the part of it


def load_vmoe_checkpoint(prefix: str | Path, *, progress: Progress | None = None) -> Tree:
    """Read a checkpoint of google-research/vmoe, or one file that flax.serialization.to_bytes wrote.

    Nothing is allocated until the index is known to make sense, each element in one chunk, and the files to
    be as large as what it lists. Beside the tree one chunk is in memory (two where it is in pieces, as those
    above 1 GiB are); of a file of flax none.

    Arrays are numbered by sorted keys, as vmoe numbers them since it writes a version. In an index without
    version they are numbered as JAX flattens the tree that was saved; this is the same for nested dicts.
    Where keys are not in sorted order, as those of a dataclass or a long list, the numbers cannot be told,
    and the checkpoint is refused (vmoe asks for a template there).

    Args:
        prefix: path of the checkpoint without ".index"; or of a file of flax.
        progress: called with (bytes read, bytes in all); None for a bar on a terminal.

    Returns:
        Nested dicts of NumPy arrays (of type bfloat16 too), keys sorted. Lists and optimizer states are
        dicts, as flax's to_state_dict makes them; None stays None.

    Raises:
        ValueError: files are missing, damaged, swapped or hostile, or the tree takes more memory than there
            is; the message names the file.
    """
    place = checked_prefix(prefix)
    if not _has_index(place):
        return flax_file.load(place, progress)
    identity = file_identity(index_path(place))
    index = _read_index(place)
    paths = [shard_path(place, shard, index.shard_count) for shard in range(index.shard_count)]
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(
            f"{len(missing)} of {len(paths)} shards are missing, such as {missing[0]}; get them or save again"
        )
    stored, total = sum(path.stat().st_size for path in paths), index.nbytes
    if stored < total:
        raise ValueError(f"{place}: its shards hold {stored} bytes, its index {total}: get them again")
    wanted: list[set[Chunk]] = [set() for _ in paths]
    for number, leaf in enumerate(index.leaves):
        for box, shard in zip(leaf.boxes, leaf.shards, strict=True):
            wanted[shard].add((number, box))
    largest = max(
        (math.prod(box_shape(box)) * leaf.dtype.itemsize for leaf in index.leaves for box in leaf.boxes),
        default=0,
    )
    check_memory(total + 2 * largest, place)
    arrays = [np.empty(leaf.shape, leaf.dtype) for leaf in index.leaves]
    done = 0
    with shown(progress, total, "bytes") as show:
        for path, chunks in zip(paths, wanted, strict=True):
            for count in _read_shard(path, chunks, arrays):
                done += count
                show(done, total)
    if file_identity(index_path(place)) != identity:
        raise ValueError(f"{index_path(place)} was replaced while the checkpoint was read; read it again")
    tree: Tree = jax.tree.unflatten(index.structure, arrays)
    return tree


def inspect_vmoe_checkpoint(prefix: str | Path) -> CheckpointSummary:
    """The names, shapes, types and shards of a checkpoint's arrays, from its index alone.

    Args:
        prefix: as for load_vmoe_checkpoint; the files with data need not be there. A file of flax, which has
            no index, is read whole.

    Raises:
        ValueError: no index, or one that is damaged or hostile.
    """
    place = checked_prefix(prefix)
    return _read_index(place) if _has_index(place) else summary_of("flax", 1, flax_file.load(place))


def _has_index(place: Path) -> bool:
    """Whether there is an index; if not, there must be one file of that name."""
    try:
        if index_path(place).is_file():
            return True
        if place.is_file():
            return False
        shards = find_shards(place)
    except OSError as error:
        raise ValueError(f"{place} cannot be read ({error}); see to its permissions and its name") from error
    if shards:
        raise ValueError(
            f"no file {index_path(place)}, but {len(shards)} of its shards: get it; or, if a save was cut"
            " short, save again"
        )
    raise ValueError(f"no file {index_path(place)} and no file {place}; give the path without '.index'")


def _read_index(place: Path) -> CheckpointSummary:
    with opened(index_path(place)) as reader:
        return read_index(reader)


def _read_shard(path: Path, wanted: set[Chunk], arrays: Sequence[np.ndarray]) -> Iterator[int]:
    """Read the chunks in `wanted`, which is emptied, into the arrays; yield the bytes of each.

    A file is a map from the number of an array, as text, to its chunks: pairs of the data, in pieces of one
    axis, and of the slice that they are of the array.
    """
    with opened(path) as reader:
        is_marked = False
        for _ in range(reader.item("read_map_header")):
            key = reader.item()
            if key == CHUNKS_KEY:
                is_marked = reader.item() is True
                continue
            # a number may come twice: what counts is that each chunk comes once
            is_number = isinstance(key, str) and re.fullmatch("0|[1-9][0-9]{0,8}", key)
            if not is_number or int(key) >= len(arrays):
                raise ValueError(f"array number {key!r:.60}, where the index has {len(arrays)} arrays")
            for _ in range(reader.item("read_array_header")):
                yield _read_chunk(reader, int(key), wanted, arrays[int(key)])
        if not is_marked:
            raise ValueError(f"a map without {CHUNKS_KEY}, which marks a shard")
        if wanted:
            number, box = min(wanted)
            raise ValueError(
                f"slice {list(box)} of array {number}, one of {len(wanted)} that the index names here, is"
                " missing (files of different checkpoints?)"
            )
        reader.check_end()


def _read_chunk(reader: Reader, number: int, wanted: set[Chunk], array: np.ndarray) -> int:
    """Read one chunk into its array; its bytes."""
    if reader.item("read_array_header") != 2:
        raise ValueError("a chunk that is not a pair of data and a slice")
    count, left, pieces = reader.item("read_array_header"), array.nbytes, []
    if count > _MAX_PIECES:
        raise ValueError(f"{count} pieces of array {number}, more than {_MAX_PIECES}")
    for _ in range(count):
        piece = reader.array(left)
        if piece is None or piece.ndim != 1 or piece.dtype != array.dtype:
            raise ValueError(f"data of array {number} that are not of one axis and type {array.dtype}")
        pieces.append(piece)
        left -= piece.nbytes
    packed = reader.payload(SLICE_ND)
    box = None if packed is None else read_box(packed)
    if box is None or (number, box) not in wanted:
        raise ValueError(
            f"slice {box!r:.60} of array {number}, which the index does not name here (files of different"
            " checkpoints, or renamed?)"
        )
    wanted.remove((number, box))
    part = array[box_slices(box)]
    if array.nbytes - left != part.nbytes:
        raise ValueError(f"slice {list(box)} of array {number} in {array.nbytes - left} bytes")
    if pieces:
        part[...] = (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(part.shape)
    return part.nbytes
