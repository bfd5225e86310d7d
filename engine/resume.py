"""Finished batches kept in a folder, so that a run that was ended goes on where it was."""

from pathlib import Path

import numpy as np

from qrt_tn.engine.checkpoints import claim
from qrt_tn.engine.exponents import Part
from qrt_tn.engine.files import load_tensors, save_tensors
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
