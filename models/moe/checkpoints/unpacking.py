"""Read msgpack from files that may be damaged or hostile: bounded memory, errors of one line.

msgpack reserves memory for the lengths that a file claims, so every length has a limit: of arrays and maps by
`max_array_len` and `max_map_len`, of all else by `max_buffer_size`. It raises StackError past 1,024 levels.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import msgpack
import numpy as np

from qrt_tn.engine.backends import device_memory

NDARRAY = 1  # flax's extension type for arrays
READ_SIZE = 2**20  # bytes at a time
MAX_AXES = 8
MAX_DEPTH = 64
MAX_ENTRIES = 2**20
MAX_KEYS = 2**12  # of one dict
_MAX_KEY = 256
_MAX_ELEMENTS = 2**58
_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
DTYPES = {name: np.dtype(name) for name in _NAMES.split()} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}

Tree = dict[str, Any]


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read msgpack; what fails in the block becomes one line that names the file.

    Raises:
        ValueError: no such file, or one that cannot be read, is damaged or of another format.
    """
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"no file {path}; give the path of a checkpoint with all its files")
    try:
        before = file_identity(path)
        with path.open("rb") as file:
            yield file
        if file_identity(path) != before:
            raise ValueError("it was changed while it was read: read it again")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}); see to its permissions and its disk") from error
    except (ValueError, msgpack.UnpackException) as error:
        reason = {
            msgpack.OutOfData: "it ends too early",
            msgpack.BufferFull: "something is longer than it can be",
            msgpack.StackError: "it is nested too deep",
            msgpack.FormatError: "it holds a byte that msgpack never uses",
        }.get(type(error), str(error))
        raise ValueError(
            f"{path}: {reason}; the file is damaged or not of this format: get it again"
        ) from error


def file_identity(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_memory(needed: int, path: Path) -> None:
    """Refuse a checkpoint that does not fit into the machine's free memory.

    Raises:
        ValueError: it does not.
    """
    _, free = device_memory("numpy")
    if free is not None and needed > free:
        raise ValueError(f"{path} takes {needed} bytes of memory, {free} are free; use a machine with more")


def check_end(unpacker: msgpack.Unpacker, size: int) -> None:
    """Refuse bytes behind the last object.

    Raises:
        ValueError: there are some.
    """
    if left := size - unpacker.tell():
        raise ValueError(f"{left} bytes that belong to nothing")


def unpack(data: bytes) -> Any:
    """One object in a run of bytes: lists, numbers, texts and bytes."""
    return msgpack.unpackb(data, max_array_len=min(len(data), 2**16), max_map_len=0)


def check_type(shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the type of an array, as a file gives them.

    Raises:
        ValueError: a shape that NumPy cannot have, or a type that such files do not hold.
    """
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_AXES
        or not all(type(size) is int and size >= 0 for size in shape)
        # NumPy looks at the other axes even where one is 0
        or math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS
    ):
        raise ValueError(f"an array of shape {shape!r:.200}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"an array of type {dtype!r:.200}, none of {', '.join(DTYPES)}")
    return tuple(shape), DTYPES[dtype]


def array_view(data: bytes) -> np.ndarray:
    """The array in the payload of flax's extension types for arrays, a read-only view of these bytes.

    Raises:
        ValueError: it is not [shape, name of the type, bytes], or these contradict each other.
    """
    header = msgpack.Unpacker(max_array_len=MAX_AXES, max_map_len=0)
    header.feed(data[:256])  # the shape and the type; msgpack would copy the rest
    if header.read_array_header() != 3:
        raise ValueError("an array that is not shape, type and bytes")
    shape, dtype = check_type(header.unpack(), header.unpack())
    at = header.tell()
    start = at + 1 + {b"\xc4": 1, b"\xc5": 2, b"\xc6": 4}.get(data[at : at + 1], 0)
    claimed = int.from_bytes(data[at + 1 : start], "big")
    if not claimed == len(data) - start == math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} and type {dtype.name} in {len(data) - start} bytes")
    values = np.frombuffer(data, np.uint8, claimed, start)
    if dtype.kind == "b" and values.size and values.max() > 1:  # NumPy takes them for neither true nor false
        raise ValueError("bools that are neither 0 nor 1")
    return values.view(dtype).reshape(shape)


def dicts_of(leaf: Callable[[Any], Any], *, is_sorted: bool = False) -> Callable[[list[Any]], Any]:
    """An `object_pairs_hook` for nested dicts: no key twice, none that could be a path, not too many.

    Args:
        leaf: called with each value that is neither a dict nor None; gives what stands for it.
        is_sorted: whether keys must come in sorted order.
    """
    count = 0

    def read(pairs: list[tuple[Any, Any]]) -> Tree:
        nonlocal count
        count += len(pairs)
        if count > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES} entries")
        found: Tree = {}
        last = ""
        for key, value in pairs:
            _check_key(key)
            if key in found:
                raise ValueError(f"key {key!r} twice")
            if is_sorted and key < last:
                raise ValueError(
                    f"key {key!r} after {last!r}: arrays have the numbers of sorted keys, so that which is"
                    " which is plain only where keys are in this order, as those of nested dicts are"
                )
            last = key
            found[key] = value if value is None or isinstance(value, dict) else leaf(value)
        return dict(sorted(found.items()))

    return read


def check_depth(tree: Tree) -> None:
    """Refuse dicts nested too deep for what visits them.

    Raises:
        ValueError: they are.
    """
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [value for dicts in level for value in dicts.values() if isinstance(value, dict)]
    if level:
        raise ValueError(f"more than {MAX_DEPTH} dicts in one another")


def _check_key(key: Any) -> None:
    """Keys become names such as "head/kernel", and parts of paths."""
    if not isinstance(key, str) or not 1 <= len(key) <= _MAX_KEY:
        raise ValueError(f"key {key!r:.40}; keys are texts of 1 to {_MAX_KEY} characters")
    if key in (".", "..") or not key.isprintable() or set(key) & {"/", "\\"}:
        raise ValueError(f"key {key!r} could be a path")
