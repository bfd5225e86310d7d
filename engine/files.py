"""Files that are whole or absent, and arrays in files that know when they were changed."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

_CHECKSUM = "checksum"  # the metadata entry that holds it
_MAX_HEADER = 2**24  # bytes; the library takes 100 MB, and 18 s for a million names
_DTYPES = frozenset(
    ["BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "F16", "F32", "F64", "C64"]
)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it to `path` when the block ends well.

    A block that raises leaves the target as it was and removes the temporary file, so a reader never
    sees half a file and a full disk costs nothing already written.

    Raises:
        ValueError: the target's folder does not exist, or the target is a folder.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise ValueError(f"folder {target.parent} does not exist; make it first")
    if target.is_dir():
        raise ValueError(f"{target} is a folder; name a file in it")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    os.close(handle)
    partial = Path(name)
    # mkstemp makes the file private (0600); a result file should be as readable as any other
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o666 & ~umask)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write named arrays and text metadata to one safetensors file, whole or not at all.

    A checksum of all of it goes with the metadata.

    Raises:
        ValueError: a dtype that such files do not hold, or no such folder.
    """
    # unlike ascontiguousarray, this leaves a number a number
    arrays = {name: np.asarray(value, order="C") for name, value in sorted(tensors.items())}
    header: dict[str, Any] = {"__metadata__": {**metadata, _CHECKSUM: _checksum(arrays, metadata)}}
    # the library's own writer holds two more copies of everything, or hides which error the disk met
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # so that all are aligned
    end = 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _code(name, array.dtype),
            "shape": array.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"names and metadata take {len(text)} bytes; give at most {_MAX_HEADER}")
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(_bytes_of(array).data)


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a file that `save_tensors` wrote, whose metadata entry "format" is `kind`.

    The header alone decides whether it is one; a large file of another kind is refused at once.

    Returns:
        The arrays by name, and the metadata.

    Raises:
        ValueError: no such file, a file of another kind, or one that was damaged or changed.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"no file {source}; give the path of a saved {kind} file")
    try:
        with source.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, source.stat().st_size):
            raise OSError(f"a header of {length} bytes")
        with safe_open(str(source), framework="numpy") as opened:
            metadata = dict(opened.metadata() or {})
            if (found := metadata.get("format")) != kind:
                named = "no named format" if found is None else f"format {found!r:.60}"
                raise ValueError(f"{source} is a safetensors file of {named}; this reads {kind!r}")
            names = opened.keys()
            for name in names:
                if (dtype := opened.get_slice(name).get_dtype()) not in _DTYPES:
                    raise ValueError(f"{source}: {name!r:.60} is of type {dtype}, which NumPy lacks; cast it")
            tensors = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{source} is not a whole safetensors file ({error}); save it again") from error
    if metadata.pop(_CHECKSUM, None) != _checksum(tensors, metadata):
        raise ValueError(f"{source} is damaged: its checksum does not fit its content; save it again")
    return tensors, metadata


def _checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    found = hashlib.blake2b(json.dumps(sorted(metadata.items())).encode(), digest_size=20)
    for name, array in sorted(arrays.items()):
        found.update(f"{name!r} {array.dtype.name} {array.shape}".encode())
        found.update(_bytes_of(array).data)
    return found.hexdigest()


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """The bytes of an array, as numbers, in the order of a file."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)


def _code(name: str, dtype: np.dtype) -> str:
    """What safetensors files call a dtype."""
    code = "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"
    if dtype.kind not in "biufc" or dtype.itemsize > 8:
        raise ValueError(f"array {name!r} is {dtype}, which safetensors files do not hold; cast it first")
    return code
