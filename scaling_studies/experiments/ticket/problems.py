"""One seed's share of a data set: its split, with missing numbers filled in from the training points."""

import numpy as np
from sklearn.impute import SimpleImputer

from qrt_tn.models import Dataset, split
from qrt_tn.studies.experiments.tickets.data import Points, Problem


def make_problem(dataset: Dataset, seed: int) -> Problem:
    """Split for one seed: two thirds to train, the rest for validation and the test.

    Raises:
        ValueError: too few points for the split.
    """
    parts = split(dataset, seed)
    known = np.concatenate([parts.train, parts.validation])
    x = filled(dataset, known)[0]
    y = dataset.y if dataset.classes is not None or dataset.y.shape[1] > 1 else dataset.y[:, 0]

    def points(rows: np.ndarray) -> Points:
        return Points(x[rows], y[rows])

    return Problem(
        points(parts.train),
        points(parts.validation),
        points(parts.test),
        0 if dataset.classes is None else len(dataset.classes),
        images=dataset.image_shape is not None,
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
