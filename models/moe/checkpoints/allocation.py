"""Arrays for a checkpoint, allocated once it is known that they fit, and filled in place."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.engine.backends import device_memory


def check_limit(max_bytes: int | None) -> None:
    """See that a limit is None or a number of bytes.

    Raises:
        ValueError: it is not.
    """
    if max_bytes is not None:
        check_whole("max_bytes", max_bytes)


def allocate(
    wanted: Sequence[tuple[tuple[int, ...], np.dtype]], beside: int, max_bytes: int | None, path: Path
) -> list[np.ndarray]:
    """Arrays of these shapes and types, with nothing in them yet.

    Args:
        wanted: their shapes and types.
        beside: bytes that reading takes beside them.
        max_bytes: how much both may take; None for what the machine has free.
        path: of the checkpoint, for messages.

    Raises:
        ValueError: they take more.
    """
    needed = beside + sum(math.prod(shape) * dtype.itemsize for shape, dtype in wanted)
    if max_bytes is not None and needed > max_bytes:
        raise ValueError(
            f"{path} takes {needed} bytes of memory, max_bytes is {max_bytes}; give at least so much"
        )
    _, free = device_memory("numpy")
    if free is not None and needed > free:
        raise ValueError(f"{path} takes {needed} bytes of memory, {free} are free; use a machine with more")
    try:
        return [np.empty(shape, dtype) for shape, dtype in wanted]
    except MemoryError as error:
        raise ValueError(f"{path} takes {needed} bytes of memory, which cannot be had; free some") from error


def as_bytes(array: np.ndarray) -> memoryview:
    """The bytes of a C-contiguous array, to be read or written in place."""
    return array.reshape(-1).view(np.uint8).data


def see_truths(array: np.ndarray, name: str, path: Path) -> None:
    """See that an array of bools holds 0 and 1 only: NumPy takes other bytes for neither true nor false.

    Raises:
        ValueError: it holds others.
    """
    if array.dtype == bool and array.size and array.reshape(-1).view(np.uint8).max() > 1:
        raise ValueError(f"{path}: the bools of {name} are not 0 or 1; the file is damaged: get it again")
