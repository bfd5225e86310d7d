import numpy as np
import pytest

from qrt_tn.studies.benchmarks import checkpoints


def test_reading_stays_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own reads 30 MB; 4 MB is the largest array."""
    monkeypatch.setattr(checkpoints, "HIDDEN", 192)
    monkeypatch.setattr(checkpoints, "MLP", 768)
    (row,) = checkpoints.measure(30, 3, ("load",))
    tree = checkpoints.make_tree(30 * 10**6)
    size = sum(array.nbytes for array in leaves(tree))
    assert size <= row["bytes"] < 1.01 * size
    assert 0.9 < row["peak_over_tree"] < checkpoints.LIMIT


def leaves(tree: object) -> list[np.ndarray]:
    if isinstance(tree, dict):
        return [array for value in tree.values() for array in leaves(value)]
    assert isinstance(tree, np.ndarray)
    return [tree]
