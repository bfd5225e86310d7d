"""Arrays in npz files that nobody vouches for: nothing is unpickled, and what is torn is told."""

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

# What NumPy and zipfile raise for torn, encrypted, oversized or foreign members.
_TORN = (OSError, ValueError, EOFError, BadZipFile, AttributeError, RuntimeError, MemoryError, zlib.error)


def read_npz(
    source: Path, choose: Callable[[list[str]], Iterable[str]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of an npz file.

    Args:
        source: the file.
        choose: gives the names to read of those that are there.

    Returns:
        The arrays by name, those of the names that are there; and all names.

    Raises:
        ValueError: not a whole npz file, or a member that is no array of numbers or text.
    """
    try:
        # np.load leaves a file that it opened itself open when the content is torn
        with source.open("rb") as handle, np.load(handle, allow_pickle=False) as opened:
            known = list(opened.files)
            arrays = {name: opened[name] for name in choose(known) if name in known}
    except _TORN as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ValueError(f"{source} is not a whole npz file of numbers and text ({line})") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{source} is not a whole npz file of numbers and text ({name!r} is no array)")
    return arrays, known
