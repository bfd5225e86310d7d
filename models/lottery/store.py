"""Finished trials in a folder, as safetensors; files are whole or absent, so a run may be ended any time."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.checkpoint import from_arrays, to_arrays
from qrt_tn.models.lottery.masks import Masks, layers, with_layers

KIND = "qrt-tn.lottery-trial-2"
MASKS_KIND = "qrt-tn.lottery-masks"


class TrialStore:
    """A folder of trials.

    Args:
        folder: made if it is not there.

    Attributes:
        under_way: the folder of those not finished.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.under_way = folder, folder / "under-way"
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str, identity: str, like: Any) -> tuple[Any, np.ndarray, float] | None:
        """The arrays, curves and seconds of a finished trial; None if there is none, or it is torn.

        Args:
            name: the trial's.
            identity: of what it was trained on and how.
            like: weights, best weights and snapshots by iteration, of the arrays' shapes.

        Raises:
            ValueError: a trial of this name was trained otherwise.
        """
        path = self._folder / f"{name}.safetensors"
        try:
            tensors, metadata = load_tensors(path, KIND)
        except ValueError:
            return None  # done again
        if metadata.get("identity") != identity:
            raise ValueError(
                f"{path} is a trial of other weights, masks, data, seed or settings; name another folder, or"
                " delete it"
            )
        try:
            if metadata["snapshots"] != str(sorted(like[2])):
                return None  # done again
            held = [tensors[f"array-{place:05d}"] for place in range(len(tensors) - 1)]
            return from_arrays(held, like), tensors["curves"], float(metadata["seconds"])
        except (ValueError, KeyError):
            return None  # done again: its weights were not kept, say

    def save(self, name: str, identity: str, tree: Any, curves: np.ndarray, seconds: float) -> None:
        """Keep a finished trial, and delete the checkpoints under its name, also those of other settings."""
        tensors = {f"array-{place:05d}": leaf for place, leaf in enumerate(to_arrays(tree))}
        metadata = {"format": KIND, "identity": identity, "seconds": repr(seconds)}
        metadata["snapshots"] = str(sorted(tree[2]))
        save_tensors(self._folder / f"{name}.safetensors", {**tensors, "curves": curves}, metadata)
        for place in self.under_way.glob(f"{name}@*"):
            shutil.rmtree(place, ignore_errors=True)


def kept_masks(path: Path, identity: str, like: Masks, make: Callable[[], Masks]) -> Masks:
    """Masks from a file, or made and kept there if it has none, torn ones, or those of something else.

    Args:
        path: the file; its folder is made.
        identity: of what the masks follow from.
        like: masks of the same shapes.
        make: gives the masks.
    """
    shapes = {name: mask.shape for name, mask in layers(like).items()}
    try:
        tensors, metadata = load_tensors(path, MASKS_KIND)
        if metadata.get("identity") == identity:
            bits = {
                name: np.unpackbits(tensors[name], count=int(np.prod(shape)))
                for name, shape in shapes.items()
            }
            return with_layers(like, {n: held.astype(bool).reshape(shapes[n]) for n, held in bits.items()})
    except (ValueError, KeyError):
        pass
    masks = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {name: np.packbits(mask) for name, mask in layers(masks).items()}
    save_tensors(path, packed, {"format": MASKS_KIND, "identity": identity})
    return masks
