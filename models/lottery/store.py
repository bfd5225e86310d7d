"""Trials kept in a folder: finished ones as safetensors, those under way as orbax checkpoints."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.lottery.masks import Masks, layers, with_layers

KIND = "qrt-tn.lottery-trial"
MASKS_KIND = "qrt-tn.lottery-masks"
UNDER_WAY = "under-way"


class TrialStore:
    """A folder of trials; files are whole or absent, so the program may be ended at any moment.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # orbax wants it so
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()  # orbax runs an event loop, which threads cannot share

    def finished(self, name: str, identity: str, like: Any) -> tuple[Any, np.ndarray, float] | None:
        """The arrays, curves and seconds of a finished trial; None if there is none, or it is torn.

        Args:
            name: the trial's.
            identity: of what it was trained on and how.
            like: a tree of the arrays' shapes.

        Raises:
            ValueError: a trial of this name was trained otherwise.
        """
        path = self._finished_path(name)
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
            held = [tensors[f"array-{place:05d}"] for place in range(len(tensors) - 1)]
            return _typed(held, like), tensors["curves"], float(metadata["seconds"])
        except (ValueError, KeyError):
            return None  # done again

    def finish(self, name: str, identity: str, tree: Any, curves: np.ndarray, seconds: float) -> None:
        """Keep a finished trial."""
        tensors = {f"array-{place:05d}": np.asarray(leaf) for place, leaf in enumerate(plain(tree))}
        metadata = {"format": KIND, "identity": identity, "seconds": repr(seconds)}
        save_tensors(self._finished_path(name), {**tensors, "curves": curves}, metadata)

    def save(self, name: str, step: int, tree: Any) -> None:
        """Keep a trial under way at an iteration; the checkpoint before it goes when this one is whole."""
        with self._lock, self._manager(name) as manager:
            manager.save(step, args=ocp.args.StandardSave(plain(tree)))

    def under_way(self, name: str, like: Callable[[int], Any]) -> tuple[int, Any] | None:
        """The iteration and tree that were saved last, or None.

        Args:
            name: the trial's.
            like: gives, for an iteration, a tree of the shapes that were saved then.

        Raises:
            ValueError: what was saved has other shapes.
        """
        place = self._folder / UNDER_WAY / name
        if not place.is_dir():
            return None
        with self._lock, self._manager(name) as manager:
            step = manager.latest_step()
            if step is None:
                return None
            tree = like(step)
            try:
                held = manager.restore(step, args=ocp.args.StandardRestore(plain(tree)))
            except ValueError as error:
                raise ValueError(f"{place} holds another run's checkpoint; delete it ({error})") from error
        return step, _typed(held, tree)

    def forget(self, name: str) -> None:
        """Drop the checkpoints of trials that have finished: all whose names begin with `name` and "@"."""
        for place in (self._folder / UNDER_WAY).glob("*"):
            if place.name.split("@")[0] == name:
                shutil.rmtree(place, ignore_errors=True)

    def _finished_path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _manager(self, name: str) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self._folder / UNDER_WAY / name, options=options)


def kept_masks(path: Path, identity: str, like: Masks, make: Callable[[], Masks]) -> Masks:
    """Masks from a file, or made and kept there if it has none, torn ones, or those of something else.

    Args:
        path: the file; its folder is made.
        identity: of what the masks follow from.
        like: masks of the same shapes.
        make: gives the masks.
    """
    try:
        tensors, metadata = load_tensors(path, MASKS_KIND)
        if metadata.get("identity") == identity:
            bits = {name: np.unpackbits(tensors[name]).astype(bool) for name in layers(like)}
            return with_layers(
                like,
                {name: bits[name][: mask.size].reshape(mask.shape) for name, mask in layers(like).items()},
            )
    except (ValueError, KeyError):
        pass
    masks = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {name: np.packbits(mask) for name, mask in layers(masks).items()}
    save_tensors(path, packed, {"format": MASKS_KIND, "identity": identity})
    return masks


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(tree: Any) -> list[Any]:
    """The arrays of a tree; random keys, which files do not know, as their integers."""
    return [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]


def _typed(held: list[Any], like: Any) -> Any:
    """A tree like another from the arrays that `_plain` gave.

    Raises:
        ValueError: another number of arrays, or other shapes.
    """
    leaves, structure = jax.tree.flatten(like)
    wanted = [np.shape(leaf) for leaf in plain(like)]
    if [np.shape(array) for array in held] != wanted:
        raise ValueError("the arrays have other shapes")
    keyed = zip(held, leaves, strict=True)
    found = [jax.random.wrap_key_data(array) if _is_key(leaf) else array for array, leaf in keyed]
    return jax.tree.unflatten(structure, found)
