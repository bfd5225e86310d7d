"""One file of msgpack as flax.serialization.to_bytes writes it, read with limits on its lengths."""

from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from qrt_tn.engine.progress import Progress, shown
from qrt_tn.models.moe.checkpoints.unpacking import (
    MAX_KEYS,
    NDARRAY,
    READ_SIZE,
    Tree,
    array_view,
    check_depth,
    check_end,
    check_memory,
    check_type,
    dicts_of,
    opened,
    unpack,
)

NATIVE_COMPLEX, NPSCALAR = 2, 3  # extension types beside that of arrays
CHUNKED_KEY = "__msgpack_chunked_array__"  # marks the dict that an array of more than 1 GiB is


def load(path: Path, progress: Progress | None = None) -> Tree:
    """Nested dicts of the arrays of a file; numbers become arrays without axes.

    Raises:
        ValueError: the file is damaged, hostile or of another format, or larger than the free memory.
    """
    size = path.stat().st_size
    check_memory(size, path)
    with shown(progress, size, "bytes") as show, opened(path) as file:

        def extension(code: int, data: bytes) -> np.ndarray:
            show(min(file.tell(), size), size)
            if code == NATIVE_COMPLEX:
                return _complex(data)
            if code not in (NDARRAY, NPSCALAR):
                raise ValueError(f"extension type {code} in place of an array")
            return array_view(data).copy()

        dicts = dicts_of(_leaf)
        unpacker = msgpack.Unpacker(
            file,
            read_size=READ_SIZE,
            ext_hook=extension,
            object_pairs_hook=lambda pairs: _joined(dicts(pairs)),
            max_buffer_size=min(size + READ_SIZE, 2**32 - 1),
            max_array_len=0,
            max_map_len=MAX_KEYS,
        )
        tree = unpacker.unpack()
        if not isinstance(tree, dict):
            raise ValueError("no dict of arrays")
        check_end(unpacker, size)
        check_depth(tree)
        return tree


def _complex(data: bytes) -> np.ndarray:
    match unpack(data):
        case [float(real), float(imaginary)]:
            return np.asarray(complex(real, imaginary))
    raise ValueError("a complex number that is not two floats")


def _leaf(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray | bool | int | float):
        raise ValueError(f"{value!r:.40} in place of an array or a number")
    return np.asarray(value)


def _joined(tree: Tree) -> Any:
    """A dict; or the array that it stands for, if it holds a large array in pieces."""
    if CHUNKED_KEY not in tree:
        return tree
    try:
        sizes, pieces = ([part[f"{k}"] for k in range(len(part))] for part in (tree["shape"], tree["chunks"]))
        shape, dtype = check_type([size.item() for size in sizes], pieces[0].dtype.name)
        if len(tree) != 3 or any(piece.ndim != 1 or piece.dtype != dtype for piece in pieces):
            raise ValueError
        whole = np.concatenate(pieces).reshape(shape)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError("an array in pieces that do not make one") from error
    return whole
