"""Arrays in IDX files, the format of MNIST and of the data sets made after it."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

_UBYTE = 0x08  # the type code of unsigned bytes


def read_idx(path: str | Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, gzipped or not.

    The format: two zero bytes, the type code, the number of axes, each extent as four bytes (the greatest
    first), and the values (Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database").

    Args:
        path: such as train-images-idx3-ubyte.gz, shape (images, height, width), or
            train-labels-idx1-ubyte.gz, shape (labels,).

    Raises:
        ValueError: no such file, one of another format, or one that is not whole.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"no file {source}; give the path of an IDX file")
    content = source.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{source} is not a whole gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UBYTE:
        raise ValueError(f"{source} is not an IDX file of unsigned bytes")
    axes = content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise ValueError(f"{source} ends within its header; it is not whole")
    shape = struct.unpack_from(f">{axes}I", content, 4)
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{source} holds {values.size} values, not {shape}; it is not whole")
    return values.reshape(shape)
