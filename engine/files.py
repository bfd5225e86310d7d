"""Files that are whole or absent: write beside the target, then rename over it."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes


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
    """Write named arrays and text metadata to one safetensors file, whole or not at all."""
    # unlike ascontiguousarray, this leaves a number a number
    contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with atomic_path(path) as partial:
        partial.write_bytes(safetensors_bytes(contiguous, metadata=dict(metadata)))


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file whose metadata entry "format" is `kind`.

    Returns:
        The arrays by name, and the metadata.

    Raises:
        ValueError: no such file, not a safetensors file, or a file of another kind.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"no file {source}; give the path of a saved {kind} file")
    try:
        with safe_open(str(source), framework="numpy") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{source} is not a whole safetensors file ({error}); save it again") from error
    if metadata.get("format") != kind:
        raise ValueError(f"{source} holds {metadata.get('format', 'no named format')!r}, not {kind!r}")
    return tensors, metadata
