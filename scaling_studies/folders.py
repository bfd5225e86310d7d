"""Output folders that are whole or absent, and what is written into them."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qrt_tn.engine.atomic import atomic_path
from qrt_tn.engine.resume import claim, identity


def check_new(target: Path) -> None:
    """Raise ValueError where an output folder would hide or replace something."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; give another with --out")


def claim_folder(
    target: Path, part: str, kind: str, settings: Mapping[str, Any], about: Mapping[str, Any], arrays: Any
) -> None:
    """Make a folder that of one study, or see that it is: one that goes on where it was.

    Args:
        target: the folder; absent, empty, or the study's.
        part: the subfolder of what is kept between calls, with the file study.json.
        kind: of the study.
        settings: what the kept results depend on.
        about: what study.json tells a reader.
        arrays: the data that they depend on, one after the other.

    Raises:
        ValueError: it cannot be made, or holds other files, or the results of another study.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {target} ({error.strerror}); give another") from error
    if not (target / part).is_dir() and any(target.iterdir()):
        raise ValueError(f"{target} holds other files; give another folder with --out")
    known = identity(dict(settings), dict(enumerate(arrays)))
    claim(target / part, known, kind, "study.json", lambda: dict(about))


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`, and rename it there when the block ends well.

    A block that raises, or is interrupted, leaves nothing behind.

    Raises:
        ValueError: the target exists and is not an empty folder, or its parent cannot be made.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot make the folder {target.parent} ({error.strerror}); give another with --out"
        ) from error
    check_new(target)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    partial.chmod(0o755)
    try:
        yield partial
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as a parquet table, whole or not at all."""
    with atomic_path(path) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows)), partial)
