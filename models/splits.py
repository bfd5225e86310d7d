"""Split points at random into parts for training, validation and the test, stratified by class."""

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.models.datasets import Dataset
from qrt_tn.models.tables import shown

# The digits' split in use: 1,797 points into 1,200 for training, 237 for validation, 360 for the test.
VALIDATION_SHARE = 237 / 1797
TEST_SHARE = 360 / 1797


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the points for training, for choosing settings, and for the test; each is sorted."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(
    dataset: Dataset,
    seed: Seed,
    validation: int | float = VALIDATION_SHARE,
    test: int | float = TEST_SHARE,
) -> Split:
    """Split at random into training, validation and test points, stratified by label where there are labels.

    `validation` and `test` are numbers of points, or shares if below 1.

    Raises:
        ValueError: no points left for training, or too few points of a class to have it in every part.
    """
    points = len(dataset)
    counts = {}
    for name, size in (("validation", validation), ("test", test)):
        if not size > 0 or (size > 1 and size != int(size)):
            raise ValueError(f"{name} is {size}; give a number of points, or a share between 0 and 1")
        counts[name] = round(size * points) if size < 1 else int(size)
    counts["train"] = points - sum(counts.values())
    strata = None if dataset.classes is None else dataset.y
    labels, members = np.unique(np.zeros(points, int) if strata is None else strata, return_counts=True)
    rare = [dataset.classes[label] for label in labels[members < 3]] if dataset.classes else []
    if rare:
        raise ValueError(
            f"{dataset.name}: classes of fewer than 3 points: {shown(rare)}; a split needs 3 of each: add"
            " points, merge classes, or say --task regression if they are quantities"
        )
    for name, count in counts.items():
        if count < len(labels):
            raise ValueError(
                f"{count} of {points} points are left for {name}, which needs {len(labels)}, one of each"
                " class; give more points, or other sizes of validation and test"
            )
    rng = generator(seed)
    state = int(rng.integers(2**31))
    rest, parts = np.arange(points), list[np.ndarray]()
    try:
        for size in (counts["test"], counts["validation"]):
            stratify = None if strata is None else strata[rest]
            rest, part = train_test_split(rest, test_size=size, stratify=stratify, random_state=state)
            parts.append(part)
    except ValueError:  # scikit-learn left a class with one point, which cannot be split
        pass
    whole = len(parts) == 2 and (
        strata is None or all(len(np.unique(strata[part])) == len(labels) for part in (rest, *parts))
    )
    if strata is not None and not whole:  # scikit-learn rounds the share of a rare class to nothing
        test_index, rest = draw_stratified(strata, counts["test"], rng, drawn=1, kept=2)
        aside, train = draw_stratified(strata[rest], counts["validation"], rng, drawn=1)
        rest, parts = rest[train], [test_index, rest[aside]]
    return Split(*map(np.sort, (rest, parts[1], parts[0])))


def draw_stratified(
    labels: np.ndarray, size: int, seed: Seed, *, drawn: int = 0, kept: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points at random, of each class its share, rounded so that rare classes keep theirs.

    >>> drawn, rest = draw_stratified(np.array([0, 0, 0, 0, 0, 1]), 3, 0)
    >>> len(drawn), sorted(rest.tolist())[-1]
    (3, 5)

    Args:
        labels: 0, 1, ..., shape (M,).
        size: how many points to draw.
        seed: an int or a Generator.
        drawn: how many of each class must be drawn.
        kept: how many of each class must be left.

    Returns:
        Indices of the points drawn, shape (size,), and of the others, each in random order.

    Raises:
        ValueError: fewer points than classes need.
    """
    counts = np.bincount(labels)
    high = np.maximum(counts - kept, 0)
    low = np.minimum(drawn, high)
    if not low.sum() <= size <= high.sum():
        raise ValueError(f"size is {size}; give {low.sum()} to {high.sum()} of {len(labels)} points")
    share = size * counts / len(labels)
    quota = np.clip(np.floor(share).astype(int), low, high)
    while (gap := size - quota.sum()) != 0:
        step = np.sign(gap)
        open_ = quota < high if gap > 0 else quota > low
        quota[np.argmax(np.where(open_, step * (share - quota), -np.inf))] += step
    order = generator(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    rank = np.empty(len(labels), dtype=np.int64)  # of a point within its class
    rank[by_class] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[by_class]]
    chosen = rank[order] < quota[labels[order]]
    return order[chosen], order[~chosen]
