"""What unfinished points keep: one folder for each task that has begun a point, which no other writes."""

import shutil
from pathlib import Path

KEPT = "kept"  # the experiment's own part, in which files are renamed into place


def begun_by(folder: Path) -> set[str]:
    """The tasks that have begun the point of a folder, dead or alive."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def open_work(folder: Path, owner: str) -> Path:
    """The folder of one task under a point's; it goes on from a copy of whatever was kept last."""
    own = folder / owner
    kept = own / KEPT
    newest = max((path for path in folder.glob(f"*/{KEPT}")), key=_changed, default=kept)
    if newest != kept:
        copy = own / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(newest, copy, ignore=shutil.ignore_patterns(".*"))
            shutil.rmtree(kept, ignore_errors=True)
            copy.rename(kept)
        except OSError:  # the other has ended the point meanwhile, or no room is left: then this is told next
            shutil.rmtree(copy, ignore_errors=True)
    kept.mkdir(parents=True, exist_ok=True)
    return own


def _changed(folder: Path) -> float:
    """When something in a folder was last written, or it was made."""
    latest = 0.0
    for path in (folder, *folder.rglob("*")):
        try:
            latest = max(latest, path.stat().st_mtime)
        except FileNotFoundError:
            continue  # renamed meanwhile
    return latest
