"""Read arrays from IDX and npz files that may be damaged or hostile, in memory bounded by the file's size."""

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from qrt_tn.models.delimited import check_names
from qrt_tn.models.tables import TooLargeError, check_memory, first_line

_RATIO = 1_032  # deflate makes nothing smaller than this many times (zlib's technical notes)
_UNSIGNED_BYTES = 0x08  # IDX's code of the type
_MOST_AXES = 8
_LONGEST_HEADER = 10_000  # bytes of an npy header: NumPy's own limit
_NPY = {
    (1, 0): (2, npy.read_array_header_1_0),  # bytes that hold the header's length, and its reader
    (2, 0): (4, npy.read_array_header_2_0),
}


def read_idx(path: str | Path) -> np.ndarray:
    """Read the array of unsigned bytes in an IDX file, gzipped or not.

    The format: two zero bytes, the type code, the number of axes, each extent as four bytes (the greatest
    first), and the values (Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database").

    Args:
        path: such as train-images-idx3-ubyte.gz, shape (images, height, width), or
            train-labels-idx1-ubyte.gz, shape (labels,).

    Raises:
        ValueError: no such file, one of another format, one that is not whole, or one too large for the
            free memory. No more is unpacked than the header promises.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"no file {source}; give the path of an IDX file")
    most = source.stat().st_size
    with source.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        try:
            return _read_idx(stream, source, _RATIO * most if packed else most)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{source} is not a whole gzip file: {error}") from error


def _read_idx(file: Any, source: Path, most: int) -> np.ndarray:
    """The array in an open file of at most so many bytes."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UNSIGNED_BYTES:
        raise ValueError(f"{source} is not an IDX file of unsigned bytes")
    axes = start[3]
    if not 1 <= axes <= _MOST_AXES:
        raise ValueError(f"{source} has {axes} axes; an IDX file has 1 to {_MOST_AXES}")
    extents = file.read(4 * axes)
    if len(extents) < 4 * axes:
        raise ValueError(f"{source} ends within its header; it is not whole")
    shape = struct.unpack(f">{axes}I", extents)
    promised = math.prod(shape)
    if promised == 0:
        raise ValueError(f"{source} has shape {shape}, no values")
    if promised > most:
        raise ValueError(f"{source} promises {shape}, {promised} values, more than it can hold")
    check_memory(f"{source} of shape {shape}", promised)
    values = file.read(promised + 1)
    if len(values) != promised:
        held = "more" if len(values) > promised else len(values)
        raise ValueError(f"{source} holds {held} values, not {shape}; it is not whole")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def read_npz(source: Path, choose: Callable[[list[str]], Iterable[str]]) -> dict[str, np.ndarray]:
    """Read arrays of an npz file; nothing is unpickled.

    Args:
        source: the file.
        choose: gives, from the names that are there, those to read.

    Raises:
        ValueError: not a whole npz file, no array of a name, an array of other things than numbers or text,
            one of another size than its header promises, or one of more than a quarter of the free memory.
    """
    try:
        with source.open("rb") as handle:
            if handle.read(6) == npy.MAGIC_PREFIX:
                raise ValueError("it is one array, an npy file; write np.savez(path, x=..., y=...)")
            with zipfile.ZipFile(handle) as archive:
                members = archive.infolist()
                known = [member.filename.removesuffix(".npy") for member in members]
                check_names("it", known)
                chosen = list(choose(known))
                arrays = {
                    name: _read_member(source, archive, name, members[known.index(name)])
                    for name in chosen
                    if name in known
                }
    except (PermissionError, TooLargeError):
        raise
    except Exception as error:  # a foreign header can make zipfile, ast and NumPy raise anything
        line = first_line(error)
        raise ValueError(f"{source} is not a whole npz file of numbers and text ({line})") from error
    for name in chosen:
        if name not in arrays:
            raise ValueError(f"{source} has no array {name!r}; it holds {', '.join(known) or 'none'}")
    return arrays


def _read_member(source: Path, archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name!r} is compressed by method {member.compress_type}; np.savez_compressed")
    ratio = _RATIO if member.compress_type == zipfile.ZIP_DEFLATED else 1
    if member.file_size > ratio * min(member.compress_size, source.stat().st_size):
        raise ValueError(f"{name!r} promises {member.file_size} bytes, more than it can hold")
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in _NPY:
            raise ValueError(f"{name!r} has version {version} of the npy format")
        width, read_header = _NPY[version]
        start = stream.read(width)
        length = int.from_bytes(start, "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"{name!r} has a header of {length} bytes, more than {_LONGEST_HEADER}")
        shape, _, dtype = read_header(io.BytesIO(start + stream.read(length)))
        if dtype.hasobject:
            raise ValueError(f"{name!r} is pickled, which could run any code when read")
        promised = math.prod(shape) * dtype.itemsize
        held = member.file_size - stream.tell()
        if promised != held or min(shape, default=0) < 0:
            raise ValueError(
                f"{name!r} of shape {shape}, {dtype} takes {promised} bytes, but {held} are there"
            )
        check_memory(f"{source}: array {name!r} of shape {shape}, {dtype}", promised)
    with archive.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)
