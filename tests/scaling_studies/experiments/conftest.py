"""A small data set of three noisy prototypes, cheap enough to run any experiment on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qrt_tn.models import Dataset
from qrt_tn.studies.experiments.folds import Fold, make_folds
from qrt_tn.studies.experiments.grid import GridConfig
from qrt_tn.studies.experiments.sources import Sources


def prototypes(points: int = 150, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(3, dim)) * 2
    labels = np.arange(points) % 3
    return centres[labels] + 0.5 * rng.normal(size=(points, dim)), labels


@pytest.fixture
def config() -> Callable[..., GridConfig]:
    def make(**changes: Any) -> GridConfig:
        settings: dict[str, Any] = {
            "activations": ("cosine", "triangle"),
            "smoothings": (0.5, 0.8),
            "seeds": 2,
            "modulus": 31,
            "levels": 9,
        }
        return GridConfig(**{**settings, **changes})

    return make


@pytest.fixture
def folds(config: Callable[..., GridConfig]) -> list[Fold]:
    x, labels = prototypes()
    return make_folds(Dataset(x, labels, "prototypes", ("a", "b", "c")), config())


@pytest.fixture
def sources(folds: list[Fold], config: Callable[..., GridConfig]) -> Sources:
    made = Sources(folds, config())
    made.build_states((0.5, 0.8), 0.05, lambda: None)
    return made
