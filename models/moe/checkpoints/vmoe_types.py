"""The msgpack extension types of google-research/vmoe's checkpoints (vmoe/checkpoints/serialization.py).

Types 1 to 3 are flax's. Where the format nests, it packs twice: a slice is a run of bytes that is msgpack
again, and so is a slice of several axes, and what an index says of a leaf.
"""

import math
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from qrt_tn.models.moe.checkpoints.msgpack_reader import MsgpackReader

NDARRAY, NATIVE_COMPLEX, NPSCALAR = 1, 2, 3
SLICE_ND, INDEX_INFO = 6, 8  # 4, 5 and 7 stand for what these two already hold

CHUNKS_KEY = "__msgpack_array_chunk_a87ca2__"  # marks the map that a shard is

_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
DTYPES = {name: np.dtype(name) for name in _NAMES.split()} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
MAX_AXES = 8
MAX_ELEMENTS = 2**58
MAX_CORNERS = 2**20  # of the chunks of one leaf: 65,536 chunks where four axes are split

Box = tuple[tuple[int, int], ...]  # (start, stop) along each axis


@dataclass(frozen=True)
class LeafIndex:
    """What an index says of one array.

    Attributes:
        shape: of the whole array.
        dtype: its type.
        boxes: which part of it each chunk holds; together they cover it, each element once.
        shards: for each chunk, the number of the file that holds it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    boxes: tuple[Box, ...]
    shards: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize


def box_shape(box: Box) -> tuple[int, ...]:
    """The shape of a chunk."""
    return tuple(stop - start for start, stop in box)


def slices(box: Box) -> tuple[Any, ...]:
    """What takes a chunk out of its array."""
    # the dots keep it an array where it has no axes
    return (*(slice(start, stop) for start, stop in box), ...)


def covers_once(shape: tuple[int, ...], boxes: Collection[Box]) -> bool:
    """Whether every element of an array lies in exactly one of the boxes.

    The number of boxes that an element lies in is a function on the grid; its mixed difference along all axes
    is +1 or -1 at the corners of each box and 0 elsewhere, and determines it. So boxes cover a whole once if
    and only if their corners cancel up to those of the whole: work in proportion to the number of boxes.

    Raises:
        ValueError: too many corners to hold.
    """
    whole = tuple((0, size) for size in shape)
    if any(
        not 0 <= start <= stop <= size
        for box in boxes
        for (start, stop), size in zip(box, shape, strict=True)
    ):
        return False
    if 0 in shape:
        return True  # nothing to cover
    if any(start == stop for box in boxes for start, stop in box):
        return False
    split = [axis for axis, ends in enumerate(whole) if any(box[axis] != ends for box in boxes)]
    if len(boxes) << len(split) > MAX_CORNERS:
        raise ValueError(f"an array in {len(boxes)} chunks, split along {len(split)} axes")
    corners: Counter[tuple[int, ...]] = Counter()
    for box, sign in [(whole, -1), *((box, 1) for box in boxes)]:
        for corner in product(*(((box[axis][0], 1), (box[axis][1], -1)) for axis in split)):
            corners[tuple(place for place, _ in corner)] += sign * math.prod(side for _, side in corner)
    return not any(corners.values())


def read_shape(reader: MsgpackReader) -> tuple[int, ...]:
    """Read the sizes of an array's axes."""
    axes = reader.array()
    if axes > MAX_AXES:
        raise reader.error(f"an array of {axes} axes, more than {MAX_AXES}")
    shape = tuple(reader.integer() for _ in range(axes))
    if not can_be(shape):
        raise reader.error(f"an array of shape {shape}")
    return shape


def can_be(shape: tuple[int, ...]) -> bool:
    """Whether NumPy can number the elements; it looks at the other axes even where one is 0."""
    return all(size >= 0 for size in shape) and math.prod(max(size, 1) for size in shape) <= MAX_ELEMENTS


def read_dtype(reader: MsgpackReader) -> np.dtype:
    """Read the name of an array's type."""
    name = reader.text()
    if name not in DTYPES:
        raise reader.error(f"an array of {name!r}, none of {', '.join(DTYPES)}")
    return DTYPES[name]


@contextmanager
def array_data(
    reader: MsgpackReader, codes: Collection[int] = (NDARRAY,)
) -> Iterator[tuple[tuple[int, ...], np.dtype, int]]:
    """Yield the shape, the type and the bytes of an array; the block must read or skip so many bytes."""
    with reader.extension(codes):
        reader.array(3)
        shape, dtype = read_shape(reader), read_dtype(reader)
        with reader.binary() as length:
            if length != math.prod(shape) * dtype.itemsize:
                raise reader.error(f"an array of shape {shape} and type {dtype.name} in {length} bytes")
            yield shape, dtype, length


def read_box(reader: MsgpackReader) -> Box:
    """Read a slice of several axes: an array of runs of bytes, each an array (start, stop, step)."""
    axes = reader.array()
    if axes > MAX_AXES:
        raise reader.error(f"a slice of {axes} axes, more than {MAX_AXES}")
    return tuple(_read_slice(reader) for _ in range(axes))


def _read_slice(reader: MsgpackReader) -> tuple[int, int]:
    with reader.binary():
        reader.array(3)
        start, stop = reader.integer(), reader.integer()
        if reader.kind() == "nil":
            reader.nil()
        elif reader.integer() != 1:
            raise reader.error("a slice whose step is not 1")
    if not 0 <= start <= stop:
        raise reader.error(f"a slice from {start} to {stop}")
    return start, stop


def read_leaf(reader: MsgpackReader, shard_count: int) -> LeafIndex:
    """Read what an index says of a leaf, and see that it makes sense."""
    with reader.extension((INDEX_INFO,)):
        reader.array(3)
        with reader.binary():
            reader.array(4)
            shape, dtype = read_shape(reader), read_dtype(reader)
            reader.boolean()  # JAX's weak type, which NumPy does not know
            if reader.map():  # named axes, which JAX had until 2024
                raise reader.error("an array with named axes")
        boxes = []
        for _ in range(reader.array()):
            with reader.binary():
                boxes.append(read_box(reader))
            if len(boxes[-1]) != len(shape):
                raise reader.error(f"a slice of {len(boxes[-1])} axes of an array of shape {shape}")
        shards = tuple(reader.integer() for _ in range(reader.array(len(boxes))))
    if wrong := [shard for shard in shards if not 0 <= shard < shard_count]:
        raise reader.error(f"a chunk in shard {wrong[0]} of {shard_count}")
    if len(set(boxes)) != len(boxes):
        raise reader.error("a chunk that is named twice")
    try:
        whole = covers_once(shape, boxes)
    except ValueError as error:
        raise reader.error(str(error)) from error
    if not whole:
        raise reader.error(f"chunks that do not cover each element of an array of shape {shape} once")
    return LeafIndex(shape, dtype, tuple(boxes), shards)


def leaf_extension(leaf: LeafIndex) -> msgpack.ExtType:
    """What an index says of a leaf, as msgpack takes it."""
    about = msgpack.packb((leaf.shape, leaf.dtype.name, False, {}))
    boxes = [_box_bytes(box) for box in leaf.boxes]
    return msgpack.ExtType(INDEX_INFO, msgpack.packb((about, boxes, leaf.shards)))


def box_extension(box: Box) -> msgpack.ExtType:
    """A slice of several axes, as msgpack takes it."""
    return msgpack.ExtType(SLICE_ND, _box_bytes(box))


def _box_bytes(box: Box) -> bytes:
    packed: bytes = msgpack.packb([msgpack.packb((start, stop, None)) for start, stop in box])
    return packed


def array_header(dtype: np.dtype, size: int) -> bytes:
    """The bytes before the data of an array of one axis; so the data need not be copied to be written."""
    length = size * dtype.itemsize
    inner = msgpack.packb([[size], dtype.name])
    inner = b"\x93" + inner[1:] + _length((0xC4, 0xC5, 0xC6), length)  # an array of three: the data follow
    total = len(inner) + length
    if total in (1, 2, 4, 8, 16):
        return bytes((0xD4 + total.bit_length() - 1, NDARRAY)) + inner
    return _length((0xC7, 0xC8, 0xC9), total) + bytes((NDARRAY,)) + inner


def _length(firsts: tuple[int, int, int], length: int) -> bytes:
    """The first byte and the length of a run of bytes or an extension type, as short as can be."""
    for first, form in zip(firsts, (">B", ">H", ">I"), strict=True):
        if length < 1 << 8 * struct.calcsize(form):
            return bytes((first,)) + struct.pack(form, length)
    raise ValueError(f"{length} bytes in one piece; msgpack takes less than 4 GiB")
