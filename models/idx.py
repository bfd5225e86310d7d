"""Arrays in IDX files, the format of MNIST and of the data sets made after it."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from qrt_tn.models.tables import memory_limit

_UBYTE = 0x08  # the type code of unsigned bytes


def read_idx(path: str | Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, gzipped or not.

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
    with source.open("rb") as file:
        squeezed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not squeezed:
            return _read(file, source, source.stat().st_size)
        try:
            with gzip.open(file) as unpacked:
                return _read(unpacked, source, None)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{source} is not a whole gzip file: {error}") from error


def _read(file: IO[bytes] | gzip.GzipFile, source: Path, size: int | None) -> np.ndarray:
    """The array in an open file of so many bytes; None where that is not known before it is unpacked."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UBYTE:
        raise ValueError(f"{source} is not an IDX file of unsigned bytes")
    axes = start[3]
    extents = file.read(4 * axes)
    if len(extents) < 4 * axes:
        raise ValueError(f"{source} ends within its header; it is not whole")
    shape = struct.unpack(f">{axes}I", extents)
    promised = math.prod(shape)
    if size is not None and size - 4 - 4 * axes != promised:
        raise ValueError(f"{source} holds {size - 4 - 4 * axes} values, not {shape}; it is not whole")
    limit = memory_limit()
    if promised > limit:
        raise ValueError(
            f"{source} promises {shape}, {promised} values, more than {limit} bytes, a quarter of the free"
            " memory; give a smaller file"
        )
    values = file.read(promised)
    if len(values) < promised:
        raise ValueError(f"{source} holds {len(values)} values, not {shape}; it is not whole")
    if file.read(1):
        raise ValueError(f"{source} holds more values than {shape}; it is not whole")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)
