"""Read arrays from IDX and npz files that may be damaged or hostile; nothing is unpickled."""

import gzip
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from qrt_tn.models.tables import TooLargeError, check_memory, first_line

_MOST_AXES = 8


def read_idx(path: str | Path) -> np.ndarray:
    """Read the array of unsigned bytes in an IDX file, gzipped or not, such as MNIST's.

    The format: two zero bytes, the type code 8, the number of axes, each extent as four bytes (the greatest
    first), and the values (Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database").

    Raises:
        ValueError: no such file, another format, a file that is not whole, or one too large for the free
            memory. No more is unpacked than the header promises.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"no file {source}; give the path of an IDX file")
    with source.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(source) if packed else source.open("rb") as file:
            start = file.read(4)
            if start[:3] != b"\0\0\x08" or not 1 <= start[3] <= _MOST_AXES:
                raise ValueError(f"{source} is not an IDX file of unsigned bytes and 1 to {_MOST_AXES} axes")
            header = file.read(4 * start[3])
            shape = tuple(np.frombuffer(header[: len(header) // 4 * 4], ">u4").tolist())
            promised = math.prod(shape) if len(shape) == start[3] else 0
            check_memory(f"{source} of shape {shape}", promised)
            values = file.read(promised + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{source} is not a whole gzip file: {error}") from error
    if not promised or len(values) != promised:
        raise ValueError(
            f"{source} does not hold the {promised} values of its shape {shape}; it is not whole"
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def read_npz(source: Path, choose: Callable[[list[str]], Iterable[str]]) -> dict[str, np.ndarray]:
    """Read those arrays of an npz file that `choose` chooses from the names that are there.

    Raises:
        ValueError: not a whole npz file, no array of a name, an array of other things than numbers or text,
            one of another size than its header promises, or one of more than a quarter of the free memory.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            chosen = list(choose(list(members)))
            arrays = {
                name: _read_member(source, archive, members[name]) for name in chosen if name in members
            }
    except (PermissionError, TooLargeError):
        raise
    except Exception as error:  # a foreign header can make zipfile, ast and NumPy raise anything
        line = first_line(error)
        raise ValueError(f"{source} is not a whole npz file of numbers and text ({line})") from error
    for name in chosen:
        if name not in arrays:
            raise ValueError(f"{source} has no array {name!r}; it holds {', '.join(members) or 'none'}")
    return arrays


def _read_member(source: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    check_memory(f"{source}: array {member.filename}", member.file_size)
    with archive.open(member) as stream:
        # NumPy refuses headers of more than 10,000 bytes; at its end the stream checks its sum
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"{member.filename} holds more than its shape {array.shape}")
    return array
