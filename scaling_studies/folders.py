"""Output folders that are whole or absent, and what is written into them."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qrt_tn.engine.checkpoints import claim, identity
from qrt_tn.engine.files import atomic_path

LONGEST = 200  # bytes of a name that are kept in the names of its lock and its temporary folder


def check_new(target: Path) -> None:
    """Raise ValueError where an output folder would hide or replace something.

    Raises:
        ValueError: the target exists and is not an empty folder.
        OSError: it cannot be looked at, or could have no such name.
    """
    try:
        target.stat()  # exists() says False of some names that no folder can have
    except FileNotFoundError:
        return
    if not target.is_dir() or any(target.iterdir()):
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

    A block that raises, or is interrupted, leaves nothing behind. What a killed one left is removed by the
    next that writes the same folder.

    Raises:
        ValueError: the target exists and is not an empty folder, its parent cannot be made, or another run
            is writing it.
        OSError: its parent cannot be written, or the target could have no such name.
    """
    # one folder has one lock, however it is spelt; a link is followed, since no folder can be renamed over it
    target = Path(os.path.realpath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot make the folder {target.parent} ({error.strerror}); give another with --out"
        ) from error
    name = target.name
    if len(os.fsencode(name)) > LONGEST:  # what is put around it would make it longer than a name can be
        name = f"{name[:40]}-{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}"
    refusal = f"another run is writing the folder {target}; give another with --out"
    with locked(target.with_name(f".{name}.lock"), refusal) as held:
        check_new(target)
        left = f".{glob.escape(name)}.????????.partial"  # as mkdtemp names it; not that of name.more
        for old in target.parent.glob(left) if held else ():
            shutil.rmtree(old, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}.", suffix=".partial"))
        try:
            partial.chmod(0o755)
            yield partial
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[bool]:
    """Hold a lock while the block runs; the system releases it where the run is killed.

    Args:
        path: the file that is locked; it is made, and removed at the end.
        refusal: what to say where another process holds it.

    Yields:
        Whether there is a lock: not every file system has them.

    Raises:
        ValueError: another run holds it.
    """
    with path.open("w") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)  # `is_locked` holds it for a moment
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a run that ends may have removed the file after it was opened here: then it locks nothing
            free = held = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            free = held = False
        except OSError:
            free, held = True, False
        if not free:
            raise ValueError(refusal)
        try:
            yield held
        finally:
            path.unlink(missing_ok=True)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock; False where that cannot be told."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as a parquet table, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_path(path) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows)), partial)
