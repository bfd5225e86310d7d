"""Records of points as files: one JSON object each, whole or absent, under the first digits of their ids."""

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qrt_tn.engine.files import atomic_path

SUFFIX = ".json"
FULL = (errno.ENOSPC, errno.EDQUOT)
ABANDONED = 3600.0  # seconds after which a file under way is what a killed writer left
Stamp = tuple[int, int]  # when a file was written, and its size
# what readers rely on; where a record has such a value, it is of this kind
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("parameters", "tables", "device", "versions"), dict),
    **dict.fromkeys(("kind", "reason", "finished", "log"), str),
    **dict.fromkeys(("seed", "attempt", "peak_bytes", "baseline_bytes"), int),
    "wall_seconds": (int, float),
}


class DiskFullError(OSError):
    """No room, or no quota, is left where a study is kept. What is finished stays so."""


@contextmanager
def room_needed(folder: Path) -> Iterator[None]:
    """A block that writes; where the disk is full it says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_full(folder, error.errno) from error


def disk_full(folder: Path, number: int = errno.ENOSPC) -> DiskFullError:
    """The error for a disk, or a quota, that is full."""
    return DiskFullError(
        number,
        f"the disk of {folder} is full ({os.strerror(number)}); finished points are kept: free some space "
        "and give the same command again",
    )


class Records:
    """A folder of records by id.

    Args:
        folder: made where the first record is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, point: str) -> Path:
        """Where the record of an id is."""
        return self.folder / point[:2] / (point + SUFFIX)

    def __contains__(self, point: str) -> bool:
        return self.path(point).exists()

    def write(self, point: str, record: Mapping[str, Any]) -> None:
        """Keep a record for good: on the disk before its name is, in place of an older one.

        Raises:
            DiskFullError: no room is left; an older record stays.
        """
        path = self.path(point)
        with room_needed(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(record, allow_nan=False))

    def read(self, point: str) -> dict[str, Any] | None:
        """A record; None where there is none, or a file that is not whole (after a loss of power, say)."""
        try:
            return parsed(self.path(point).read_bytes(), point)
        except OSError:
            return None

    def remove(self, point: str) -> None:
        """Forget a record, if there is one."""
        self.path(point).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed writers left behind."""
        for place, names in self._listing(hidden=True):
            for name in names:
                with suppress(OSError):
                    path = Path(place, name)
                    if time.time() - path.stat().st_mtime > ABANDONED:
                        path.unlink()

    def ids(self) -> set[str]:
        """The ids of all records."""
        return {name.removesuffix(SUFFIX) for _, names in self._listing() for name in names}

    def stamps(self) -> dict[str, Stamp]:
        """When each record was written, and its size, by id."""
        found = {}
        for place, names in self._listing():
            for name in names:
                try:
                    facts = os.stat(f"{place}/{name}")  # noqa: PTH116 (a hundred thousand of them)
                except FileNotFoundError:
                    continue  # removed meanwhile
                found[name.removesuffix(SUFFIX)] = (facts.st_mtime_ns, facts.st_size)
        return found

    def _listing(self, *, hidden: bool = False) -> Iterator[tuple[str, list[str]]]:
        """Subfolders and the records in each; hidden files are under way."""
        if not self.folder.is_dir():
            return
        for place in sorted(os.listdir(self.folder)):  # noqa: PTH208
            inside = f"{self.folder}/{place}"
            try:
                names = os.listdir(inside)  # noqa: PTH208
            except (FileNotFoundError, NotADirectoryError):
                continue
            yield inside, [name for name in names if (name[0] == ".") == hidden and name.endswith(SUFFIX)]


def write_whole(path: Path, text: str) -> None:
    """Write a line of text for good: its bytes are on the disk before its name is.

    Raises:
        DiskFullError: no room is left; what was there stays.
    """
    with room_needed(path.parent):
        with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_names(path.parent)


def parsed(content: bytes, point: str) -> dict[str, Any] | None:
    """A record from its file; None where it is not whole, not this point's, or of another shape."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("id") != point:
        return None
    well = ("tables" in record or {"kind", "reason"} <= record.keys()) and all(
        record.get(name) is None or isinstance(record[name], kind) for name, kind in _KINDS.items()
    )
    tables = (record.get("tables") or {}).values() if well else ()
    well = well and all(isinstance(rows, list) and all(type(row) is dict for row in rows) for rows in tables)
    return record if well else None


def _sync_names(folder: Path) -> None:
    """See that the names in a folder are on the disk; not every file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
