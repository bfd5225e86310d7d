"""One file of msgpack as flax.serialization.to_bytes writes it."""

from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.progress import Progress, shown
from qrt_tn.models.moe.checkpoints.unpacking import Tree, check_memory, check_type, opened, unpack

NATIVE_COMPLEX = 2  # the extension type beside those of arrays
CHUNKED_KEY = "__msgpack_chunked_array__"  # marks the dict that an array of more than 1 GiB is


def load(path: Path, progress: Progress | None = None) -> Tree:
    """Nested dicts of the arrays of a file; numbers become arrays without axes.

    Raises:
        ValueError: the file is damaged, hostile or of another format, or larger than the free memory.
    """
    with opened(path) as reader, shown(progress, reader.size, "bytes") as show:
        check_memory(reader.size, path)

        def leaf() -> np.ndarray:
            found = reader.array()
            if found is None:
                packed = reader.payload(NATIVE_COMPLEX)
                found = _number(reader.item()) if packed is None else _complex(packed)
            show(reader.tell(), reader.size)
            return found

        tree = reader.tree(leaf, made=_joined)
        reader.check_end()
        return tree


def _complex(data: bytes) -> np.ndarray:
    match unpack(data):
        case [float(real), float(imaginary)]:
            return np.asarray(complex(real, imaginary))
    raise ValueError("a complex number that is not two floats")


def _number(value: Any) -> np.ndarray:
    if not isinstance(value, bool | int | float):
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
        return np.concatenate(pieces).reshape(shape)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError("an array in pieces that do not make one") from error
