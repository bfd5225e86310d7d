"""Arrays in npz files that nobody vouches for: nothing is unpickled, and what is torn is told."""

import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from qrt_tn.models.tables import first_line, memory_limit

# What NumPy and zipfile raise for torn, encrypted, oversized or foreign members.
_TORN = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    zlib.error,
)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class _RefusedError(ValueError):
    """A refusal that says all there is to say."""


def read_npz(
    source: Path, choose: Callable[[list[str]], Iterable[str]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read arrays of an npz file.

    A member is read only where its size in the archive is what its header promises, and no array of more
    than a quarter of the free memory is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder) / "some.npz", x=np.eye(2), y=np.arange(2))
    ...     arrays, names = read_npz(Path(folder) / "some.npz", lambda names: ["y"])
    >>> arrays, names
    ({'y': array([0, 1])}, ['x', 'y'])

    Args:
        source: the file.
        choose: gives the names to read of those that are there.

    Returns:
        The arrays by name, those of the names that are there; and all names.

    Raises:
        ValueError: not a whole npz file, a member that is no array of numbers or text, or one too large.
    """
    try:
        with source.open("rb") as handle:
            if handle.read(6) == npy.MAGIC_PREFIX:
                raise ValueError("it is one array, an npy file; write np.savez(path, x=..., y=...)")
            with zipfile.ZipFile(handle) as archive:
                members = archive.infolist()
                known = [member.filename.removesuffix(".npy") for member in members]
                twice = next((name for name in known if known.count(name) > 1), None)
                if twice is not None:
                    raise ValueError(f"it has two arrays named {twice!r}")
                named = dict(zip(known, members, strict=True))
                arrays = {
                    name: _read_member(source, archive, name, named[name])
                    for name in choose(known)
                    if name in named
                }
    except (_RefusedError, PermissionError):
        raise
    except _TORN as error:
        line = first_line(error)
        raise ValueError(f"{source} is not a whole npz file of numbers and text ({line})") from error
    return arrays, known


def _read_member(source: Path, archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{name!r} has version {version} of the npy format")
        shape, _, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise ValueError(f"{name!r} is pickled, which could run any code when read")
        size = math.prod(shape) * dtype.itemsize
        held = member.file_size - stream.tell()
        if size != held:
            raise ValueError(f"{name!r} of shape {shape}, {dtype} takes {size} bytes, but {held} are there")
        limit = memory_limit()
        if size > limit:
            raise _RefusedError(
                f"{source}: array {name!r} of shape {shape}, {dtype} takes {size / 2**20:.0f} MiB, more than"
                f" {limit / 2**20:.0f} MiB, a quarter of the free memory; give fewer points"
            )
    with archive.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)
