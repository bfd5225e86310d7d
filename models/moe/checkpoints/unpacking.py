"""Read msgpack from files that may be damaged or hostile: bounded memory, errors of one line.

What a file claims, it must have room for before memory is taken for it. msgpack reads what is small, from the
next few bytes of the file; the data of an array go from the file into the array, and nowhere else.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from qrt_tn.engine.backends import device_memory

NDARRAY, NPSCALAR = 1, 3  # flax's extension types for arrays
MAX_ENTRIES = 2**20
_MAX_PAYLOAD = 2**24  # bytes of an extension that is no array
_SMALL = 2**11  # bytes of what is neither an array nor a dict
_MAX_AXES = 8
_MAX_DEPTH = 64
_MAX_KEY = 256
_MAX_ELEMENTS = 2**58
_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
DTYPES = {name: np.dtype(name) for name in _NAMES.split()} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
# how an extension and a run of bytes begin; the group is the length, which d4 to d8 imply
_EXTENSION = re.compile(rb"[\xd4-\xd8]|\xc7(.)|\xc8(..)|\xc9(....)", re.DOTALL)
_BYTES = re.compile(rb"\xc4(.)|\xc5(..)|\xc6(....)", re.DOTALL)

Tree = dict[str, Any]


class Reader:
    """msgpack's objects, one after the other.

    All methods raise ValueError where the file does not hold what they read.
    """

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._entries = 0
        file.seek(0)

    def tell(self) -> int:
        """The bytes read."""
        return self._file.tell()

    def item(self, method: str = "unpack") -> Any:
        """A small object: number, text, bytes, list; or what another method of msgpack's Unpacker reads."""
        start = self.tell()
        unpacker = msgpack.Unpacker(max_buffer_size=_SMALL, max_array_len=_MAX_AXES, max_map_len=0)
        unpacker.feed(self._file.read(_SMALL))
        try:
            found = getattr(unpacker, method)()
        except msgpack.OutOfData:
            raise ValueError("it ends too early") from None
        self._file.seek(start + unpacker.tell())
        return found

    def payload(self, code: int) -> bytes | None:
        """The data of an extension of this type; None if something else comes next, which is left."""
        length = self._enter(code)
        if length is not None and length > _MAX_PAYLOAD:
            raise ValueError(f"an extension of {length} bytes")
        return None if length is None else self._file.read(length)

    def array(self, most: int | None = None) -> np.ndarray | None:
        """An array of at most so many bytes; None if something else comes next, which is left."""
        length = self._enter(NDARRAY, NPSCALAR)
        if length is None:
            return None
        end = self.tell() + length
        if self.item("read_array_header") != 3:
            raise ValueError("an array that is not shape, type and bytes")
        shape, dtype = check_type(self.item(), self.item())
        nbytes = math.prod(shape) * dtype.itemsize
        found = _BYTES.match(self._ahead())
        if not found or not _length(found) == nbytes == end - self.tell() - found.end():
            raise ValueError(f"an array of shape {shape} and type {dtype.name} in another number of bytes")
        if most is not None and nbytes > most:
            raise ValueError(f"an array of {nbytes} bytes in place of one of {most}")
        self._file.seek(found.end(), os.SEEK_CUR)
        values = np.empty(nbytes, np.uint8)
        if self._file.readinto(values.data) != nbytes:
            raise ValueError("it ends too early")
        if dtype.kind == "b" and nbytes and values.max() > 1:  # NumPy takes them for neither true nor false
            raise ValueError("bools that are neither 0 nor 1")
        return values.view(dtype).reshape(shape)

    def tree(
        self, leaf: Callable[[], Any], *, is_sorted: bool = False, made: Callable[[Tree], Any] | None = None
    ) -> Tree:
        """Nested dicts, keys sorted.

        Args:
            leaf: reads what is neither a dict nor None.
            is_sorted: whether keys must come in sorted order.
            made: gives what stands for a dict; by default itself.
        """

        def value(depth: int) -> Any:
            first = self._ahead()[:1]
            if first == b"\xc0":
                return self.item()
            if not (b"\x80" <= first <= b"\x8f" or first in (b"\xde", b"\xdf")):
                return leaf()
            count = self.item("read_map_header")
            self._entries += count
            if depth == _MAX_DEPTH or self._entries > MAX_ENTRIES:
                raise ValueError(f"more than {_MAX_DEPTH} dicts in one another, or {MAX_ENTRIES} entries")
            found: Tree = {}
            for _ in range(count):
                key = _checked_key(self.item())
                if key in found:
                    raise ValueError(f"key {key!r} twice")
                if is_sorted and found and key < (last := next(reversed(found))):
                    raise ValueError(
                        f"key {key!r} after {last!r}: arrays are numbered by sorted keys, so that which is"
                        " which is plain only where keys are in this order, as those of nested dicts are"
                    )
                found[key] = value(depth + 1)
            found = dict(sorted(found.items()))
            return made(found) if made else found

        head = self._ahead()[:8]
        tree = value(0)
        if not isinstance(tree, dict):
            raise ValueError(f"no dict of arrays, but what begins with {head!r}")
        return tree

    def check_end(self) -> None:
        """Refuse bytes behind the last object."""
        if left := self.size - self.tell():
            raise ValueError(f"{left} bytes that belong to nothing")

    def _ahead(self) -> bytes:
        data = self._file.read(_SMALL)
        self._file.seek(-len(data), os.SEEK_CUR)
        return data

    def _enter(self, *codes: int) -> int | None:
        """Go to the data of an extension and tell their length; None where there is none of these types."""
        head = self._ahead()
        found = _EXTENSION.match(head)
        if not found or found.end() == len(head) or head[found.end()] not in codes:
            return None
        self._file.seek(found.end() + 1, os.SEEK_CUR)
        length = _length(found)
        if length > self.size - self.tell():
            raise ValueError("it ends too early")
        return length


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """Open a file to read msgpack; what fails in the block becomes a ValueError of one line that names it."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"no file {path}; give the path of a checkpoint with all its files")
    try:
        before = file_identity(path)
        with path.open("rb") as file:
            yield Reader(file)
        if file_identity(path) != before:
            raise ValueError("it was changed while it was read: read it again")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}); see to its permissions and its disk") from error
    except ValueError as error:
        reason = f"{error}" or "it holds what is not msgpack"
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
    """Refuse a checkpoint that does not fit into the machine's free memory."""
    _, free = device_memory("numpy")
    if free is not None and needed > free:
        raise ValueError(f"{path} takes {needed} bytes of memory, {free} are free; use a machine with more")


def unpack(data: bytes) -> Any:
    """One object in a run of bytes: lists, numbers, texts and bytes."""
    return msgpack.unpackb(data, max_array_len=min(len(data), 2**16), max_map_len=0)


def check_type(shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the type of an array, as a file gives them."""
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_AXES
        or not all(type(size) is int and size >= 0 for size in shape)
        # NumPy looks at the other axes even where one is 0
        or math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS
    ):
        raise ValueError(f"an array of shape {shape!r:.200}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"an array of type {dtype!r:.200}, none of {', '.join(DTYPES)}")
    return tuple(shape), DTYPES[dtype]


def _length(found: re.Match[bytes]) -> int:
    return int.from_bytes(found[found.lastindex]) if found.lastindex else 1 << found[0][0] - 0xD4


def _checked_key(key: Any) -> str:
    """Keys become names such as "head/kernel", and parts of paths."""
    if not isinstance(key, str) or not 1 <= len(key) <= _MAX_KEY:
        raise ValueError(f"key {key!r:.40}; keys are texts of 1 to {_MAX_KEY} characters")
    if key in (".", "..") or not key.isprintable() or set(key) & {"/", "\\"}:
        raise ValueError(f"key {key!r} could be a path")
    return key
