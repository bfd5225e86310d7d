import numpy as np
import pytest

from models.images import ImageFold


def clusters(points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 4 x 4 images of three kinds, so that a few steps of training show."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).normal(size=(3, 4, 4, 1))
    y = rng.integers(3, size=points)
    return (kinds[y] + rng.normal(size=(points, 4, 4, 1))).astype(np.float32), y.astype(np.int32)


@pytest.fixture(scope="session")
def small_fold() -> ImageFold:
    return ImageFold(*clusters(90, 0), *clusters(41, 1), *clusters(53, 2))
