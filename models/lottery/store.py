"""Finished trials in a folder, as safetensors; files are whole or absent, so a run may be ended any time."""

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from qrt_tn.engine.checkpoints import identity
from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.checkpoint import Checkpoint, from_arrays, to_arrays
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery.checks import Trial
from qrt_tn.models.lottery.program import Program

KIND = "qrt-tn.lottery-trial-2"


class TrialStore:
    """A folder of trials (with masks), finished and under way, each known by a hash of all it depends on."""

    def __init__(self, folder: Path, program: Program, trials: Sequence[Trial], fold: ImageFold) -> None:
        self._folder, self._under_way = folder, folder / "under-way"
        folder.mkdir(parents=True, exist_ok=True)
        self._known = _identities(program, trials, fold)

    def load(self, trial: Trial, snapshots: list[int]) -> tuple[Any, np.ndarray, float] | None:
        """What `save` kept of a trial with these snapshots; None if there is none, or it is torn.

        Raises:
            ValueError: a trial of this name was trained otherwise.
        """
        path = self._folder / f"{trial.name}.safetensors"
        try:
            tensors, metadata = load_tensors(path, KIND)
        except ValueError:
            return None  # done again
        if metadata.get("identity") != self._known[trial.name]:
            raise ValueError(
                f"{path} is a trial of other weights, masks, data, seed or settings; name another folder, or"
                " delete it"
            )
        kept = trial.weights if trial.keep else None
        like = (kept, kept, dict.fromkeys(snapshots, trial.weights))
        try:
            if metadata["snapshots"] != str(snapshots):
                return None  # done again
            held = [tensors[f"array-{place:05d}"] for place in range(len(tensors) - 1)]
            return from_arrays(held, like), tensors["curves"], float(metadata["seconds"])
        except (ValueError, KeyError):
            return None  # done again: its weights were not kept, say

    def save(self, trial: Trial, tree: Any, curves: np.ndarray, seconds: float) -> None:
        """Keep a finished trial, and delete the checkpoints under its name, also those of other settings.

        The tree: last and best weights, None where they are not kept, and snapshots by iteration.
        """
        tensors = {f"array-{place:05d}": leaf for place, leaf in enumerate(to_arrays(tree))}
        metadata = {"format": KIND, "identity": self._known[trial.name], "seconds": repr(seconds)}
        metadata["snapshots"] = str(sorted(tree[2]))
        save_tensors(self._folder / f"{trial.name}.safetensors", {**tensors, "curves": curves}, metadata)
        for place in self._under_way.glob(f"{trial.name}@*"):
            shutil.rmtree(place, ignore_errors=True)

    def checkpoint(self, trials: list[Trial], about: Any, every: float) -> Checkpoint:
        """Of trials under way; another place for another set, or for what else is said `about` it."""
        text = repr((about, [self._known[trial.name] for trial in trials]))
        name = f"{trials[0].name}@{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
        return Checkpoint(self._under_way / name, every)


def _identities(program: Program, trials: Sequence[Trial], fold: ImageFold) -> dict[str, str]:
    """Hashes of what each trial's outcome depends on: weights, masks, seed, start, recipe and points."""
    weights = trials[0].weights
    # what the network computes, as JAX sees it, less the addresses in its text
    point = np.zeros((1, *fold.x_train.shape[1:]), np.float32)
    traced = (
        jax.make_jaxpr(lambda params, rest, x, graph=graph: nnx.merge(graph, params, rest)(x))(
            weights.params, weights.rest, point
        )
        for graph in (program.graph, program.evaluated)
    )
    common = {
        "recipe": program.recipe,
        "data": identity({}, dict(enumerate(vars(fold).values()))),
        "computed": [re.sub(r"0x[0-9a-f]+", "", str(text)) for text in traced],
    }
    return {
        trial.name: identity(
            {**common, "seed": trial.seed, "start": trial.start},
            dict(enumerate(to_arrays((trial.weights, trial.masks)))),
        )
        for trial in trials
    }
