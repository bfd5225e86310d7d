"""Finished batches kept in a folder, so that a run that was ended goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.backends import to_host
from qrt_tn.engine.exponents import Part
from qrt_tn.engine.files import atomic_path, load_tensors, save_tensors
from qrt_tn.engine.loading import Batch

KIND = "qrt-tn.batch"
MANIFEST = "batches.json"


class Checkpoint:
    """The folder of one run; files are whole or absent, so it may be ended at any moment.

    Args:
        folder: made if it is not there.
        identity: a hash of everything but the varying operands.

    Raises:
        ValueError: the folder holds the results of another run, or is a file.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        claim(folder, identity, KIND, MANIFEST)
        self.folder = folder

    def read(self, batch: Batch) -> Part | None:
        """The results of a finished batch, or None.

        Raises:
            ValueError: they are the results of other operands.
        """
        path = self._path(batch.number)
        if not path.is_file():
            return None
        try:
            tensors, metadata = load_tensors(path, KIND)
        except ValueError:
            return None  # damaged: done again
        if metadata["digest"] != batch.digest:
            raise ValueError(
                f"{path} holds the results of other operands; name another checkpoint folder or delete it"
            )
        mantissa = tensors["mantissa"]
        return mantissa.view(metadata["dtype"])[..., 0], tensors["exponent"]

    def write(self, batch: Batch, part: Part) -> None:
        """Keep a batch's results."""
        # safetensors has no complex128: complex numbers are kept as pairs
        pairs = np.ascontiguousarray(part[0])[..., None].view(part[0].real.dtype)
        save_tensors(
            self._path(batch.number),
            {"mantissa": pairs, "exponent": part[1]},
            {"format": KIND, "digest": batch.digest, "dtype": part[0].dtype.name},
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"batch-{number:08d}.safetensors"


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
            raise ValueError(of_another_run(folder))
        return known
    if others:
        raise ValueError(f"checkpoint {folder} holds other files; name a folder of its own")
    made = {"format": kind, "identity": identity, **facts()}
    with atomic_path(place) as partial:
        partial.write_text(json.dumps(made) + "\n")
    return made


def of_another_run(folder: Path) -> str:
    """What to say of a checkpoint that is not this run's."""
    return (
        f"checkpoint {folder} holds another run's results (other data, settings, seed, dtype or backend); "
        "name another folder or delete it"
    )


def identity(settings: Mapping[str, Any], constants: Mapping[int, Any]) -> str:
    """A hash of a run's settings (as their text) and constant arrays (by their bytes)."""
    found = hashlib.blake2b(digest_size=20)
    found.update(repr(sorted(settings.items())).encode())
    for number, array in sorted(constants.items()):
        held = np.ascontiguousarray(to_host(array))
        found.update(repr((number, held.dtype.str, held.shape)).encode())
        found.update(held.data)
    return found.hexdigest()
