"""What unfinished points keep: one folder for each task that has begun a point, which no other writes."""

import shutil
from contextlib import suppress
from pathlib import Path

KEPT = "kept"  # the experiment's own part, in which files are renamed into place


def begun_by(folder: Path) -> set[str]:
    """The tasks that have begun the point of a folder, dead or alive."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def open_work(folder: Path, owner: str) -> Path:
    """The folder of one task under a point's; it goes on from a copy of whatever was kept last.

    Raises:
        OSError: no room is left, or another task has ended the point meanwhile.
    """
    own = folder / owner
    kept = own / KEPT
    if not folder.exists():
        kept.mkdir(parents=True)
        return own
    newest = max(folder.glob(f"*/{KEPT}"), key=_changed, default=kept)
    if newest != kept:
        copy = own / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        _copy(newest, copy)
        shutil.rmtree(kept, ignore_errors=True)
        copy.rename(kept)
    kept.mkdir(parents=True, exist_ok=True)
    return own


def _copy(source: Path, target: Path) -> None:
    """Copy what is whole in a folder while another task writes there, or removes it."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        with suppress(FileNotFoundError):
            if path.is_dir():
                _copy(path, target / path.name)
            elif path.name[0] != ".":
                shutil.copy2(path, target / path.name)


def _changed(folder: Path) -> float:
    """When something in a folder was last written, or it was made."""
    latest = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):  # renamed meanwhile
            latest = max(latest, path.stat().st_mtime)
    return latest
