from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import Program, Recipe, Weights, full_masks, random_masks, split

# without momentum a run has no memory but its weights, its place in the data and in the schedule
RECIPE = Recipe("sgd", learning_rate=0.1, drops=(40,), batch_size=10, iterations=60, evaluate_every=20)


def clusters(points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 4 x 4 images of three kinds, so that a few steps of training show."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).normal(size=(3, 4, 4, 1))
    y = rng.integers(3, size=points)
    return (kinds[y] + rng.normal(size=(points, 4, 4, 1))).astype(np.float32), y.astype(np.int32)


@pytest.fixture(scope="session")
def small_fold() -> ImageFold:
    return ImageFold(*clusters(90, 0), *clusters(41, 1), *clusters(53, 2))


class Small(nnx.Module):
    """16-12-3, with batch normalisation and dropout where asked for."""

    def __init__(self, seed: int, normal: bool = False, dropout: float = 0.0, outputs: int = 3) -> None:
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(16, 12, rngs=rngs)
        self.output = nnx.Linear(12, outputs, rngs=rngs)
        self.normal = nnx.BatchNorm(12, rngs=rngs) if normal else None
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.hidden(x.reshape(len(x), -1))
        if self.normal is not None:
            x = self.normal(x)
        x = jax.nn.relu(x)
        if self.dropout is not None:
            x = self.dropout(x)
        return self.output(x)


def some_masks(weights: Weights, seed: int) -> Any:
    return random_masks(full_masks(weights.params), {"hidden/kernel": 60, "output/kernel": 20}, seed)


@pytest.fixture(scope="session")
def small() -> tuple[Program, list[Weights]]:
    """One program, compiled once for all tests that train, and the weights of three seeds."""
    parts = [split(Small(seed), RECIPE) for seed in range(3)]
    assert len({program for program, _ in parts}) == 1
    return parts[0][0], [weights for _, weights in parts]
