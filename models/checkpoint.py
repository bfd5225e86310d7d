"""Runs under way, kept in folders by orbax, so that they go on after a kill."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from qrt_tn.models.training import Progression, TrainState

_ORBAX = threading.Lock()  # it runs an event loop, which threads cannot share


class Checkpoint:
    """A run under way, kept in a folder of its own by orbax; the one before goes when a new one is whole."""

    def __init__(self, folder: Path, every: float = 60.0) -> None:
        self._folder, self.every = folder.absolute(), every  # orbax wants it so

    def save(self, now: Progression) -> None:
        """Keep a run as it is now."""
        tree = {
            "state": to_arrays(now.state),
            "rows": [to_arrays(row) for row in now.rows],
            "snapshots": {str(step): to_arrays(held) for step, held in now.snapshots.items()},
            "seconds": np.asarray(now.seconds),
        }
        with _ORBAX, self._manager() as manager:
            manager.save(now.done, args=ocp.args.StandardSave(tree))

    def load(self, like: TrainState) -> Progression | None:
        """The run as it was saved last, or None; ValueError if its structure is not that of `like`."""
        if not self._folder.is_dir():
            return None
        with _ORBAX, self._manager() as manager:
            done = manager.latest_step()
            if done is None:
                return None
            tree = manager.restore(done, args=ocp.args.StandardRestore())
        weights = (like.params, like.rest)
        rows = [row[0] if len(row) == 1 else tuple(row) for row in tree["rows"]]
        snapshots = {int(step): from_arrays(held, weights) for step, held in tree["snapshots"].items()}
        state = from_arrays(tree["state"], like)
        return Progression(done, state, rows, snapshots, float(tree["seconds"]))

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self._folder, options=options)


def to_arrays(tree: Any) -> list[Any]:
    """The arrays of a tree, on the host; random keys, which files do not know, as their integers."""
    return [
        np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)
    ]


def from_arrays(arrays: Sequence[Any], like: Any) -> Any:
    """A tree like another, from the arrays that `to_arrays` gave; ValueError for other numbers or shapes."""
    leaves, structure = jax.tree.flatten(like)
    if [np.shape(array) for array in arrays] != [np.shape(array) for array in to_arrays(like)]:
        raise ValueError("the saved arrays have other shapes than the network's; delete them")
    pairs = zip(arrays, leaves, strict=True)
    found = [jax.random.wrap_key_data(array) if _is_key(leaf) else array for array, leaf in pairs]
    return jax.tree.unflatten(structure, found)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
