"""One seed's share of a data set: its split, with missing numbers filled in from the training points."""

import numpy as np
from sklearn.impute import SimpleImputer

from qrt_tn.models import Dataset, split
from qrt_tn.studies.experiments.tickets.data import Points, Problem

LARGEST = 1e100


def make_problem(dataset: Dataset, seed: int) -> Problem:
    """Split for one seed: two thirds to train, the rest for validation and the test.

    Raises:
        ValueError: too few points for the split, or a target that does not vary in a part of it.
    """
    _check_range(dataset)
    parts = split(dataset, seed)
    x = filled(dataset, np.concatenate([parts.train, parts.validation]))[0]
    y = dataset.y if dataset.classes is not None or dataset.y.shape[1] > 1 else dataset.y[:, 0]

    def points(part: str) -> Points:
        rows = getattr(parts, part)
        if (y[rows] == y[rows][0]).all(axis=0).any():
            raise ValueError(
                f"{dataset.name}: the target {dataset.target!r} has one value in all {len(rows)} {part} "
                f"points of seed {seed}; give more points, or fewer seeds"
            )
        return Points(x[rows], y[rows])

    classes = 0 if dataset.classes is None else len(dataset.classes)
    images = dataset.image_shape is not None
    return Problem(points("train"), points("validation"), points("test"), classes, images)


def _check_range(dataset: Dataset) -> None:
    """Refuse columns whose squares or spreads leave floating point, which no method here could scale."""
    columns = dict(zip(dataset.names, dataset.x.T, strict=True))
    if dataset.classes is None:
        columns |= {f"target {k}": column for k, column in enumerate(dataset.y.T)}
    for name, column in columns.items():
        largest = float(np.nanmax(np.abs(column), initial=0.0, where=~np.isnan(column)))
        if largest > LARGEST or 0 < largest < 1 / LARGEST:
            raise ValueError(
                f"{dataset.name}: the largest of {name!r} is {largest:g} in size; rescale it to lie between "
                f"{1 / LARGEST:g} and {LARGEST:g}"
            )


def filled(dataset: Dataset, known: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The features with missing numbers filled in, and what they were filled with, (D,); None for nothing.

    Args:
        dataset: the data.
        known: rows that may be looked at.
    """
    if dataset.impute is None:
        return dataset.x, None
    imputer = SimpleImputer(strategy=dataset.impute, keep_empty_features=True).fit(dataset.x[known])
    return imputer.transform(dataset.x), imputer.statistics_
