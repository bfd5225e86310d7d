"""Folders that keep the finished parts of one run, so that it goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.backends import to_host
from qrt_tn.engine.files import atomic_path


def claim(
    folder: Path,
    identity: str,
    kind: str,
    manifest: str,
    facts: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Make a folder the checkpoint of one run, or see that it is.

    Args:
        folder: made if it is not there.
        identity: a hash of what the run's results depend on.
        kind: what it holds, for the manifest.
        manifest: the name of the file that says so.
        facts: gives what else that file is to tell, asked for where there is none yet.

    Returns:
        What that file tells.

    Raises:
        ValueError: the folder holds the results of another run or other files, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"checkpoint {folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / manifest
    # looked at before the manifest, which every rank writes before its first batch
    others = any(path.name != manifest and not path.name.startswith(".") for path in folder.iterdir())
    if place.is_file():
        try:
            known: dict[str, Any] = json.loads(place.read_text())
            own = known["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{place} is not whole; delete the folder {folder}") from error
        if own != identity:
            raise ValueError(
                f"checkpoint {folder} holds another run's results (other data, settings, seed, dtype or "
                "backend); name another folder or delete it"
            )
        return known
    if others:
        raise ValueError(f"checkpoint {folder} holds other files; name a folder of its own")
    made = {"format": kind, "identity": identity, **facts()}
    with atomic_path(place) as partial:
        partial.write_text(json.dumps(made) + "\n")
    return made


def identity(settings: Mapping[str, Any], constants: Mapping[int, Any]) -> str:
    """A hash of a run's settings (as their text) and constant arrays (by their bytes)."""
    found = hashlib.blake2b(digest_size=20)
    found.update(repr(sorted(settings.items())).encode())
    for number, array in sorted(constants.items()):
        held = np.ascontiguousarray(to_host(array))
        found.update(repr((number, held.dtype.str, held.shape)).encode())
        found.update(held.data)
    return found.hexdigest()
