"""Output weights fitted in closed form to drawn nodes, and scores averaged over draws of few nodes."""

import numpy as np

from qrt_tn.models import select_ridge
from qrt_tn.studies.experiments.folds import Fold

Scores = dict[str, float | None]
BUDGET = 512  # nodes that the draws of one small network share: 8 draws of up to 64 nodes, 2 of 256
MOST_DRAWS = 8


def draws_at(count: int) -> int:
    """How many draws of `count` nodes to average: fewer nodes vary more from draw to draw."""
    return max(1, min(MOST_DRAWS, BUDGET // count))


def fit(fold: Fold, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, Scores]:
    """Ridge regression on the training points, its penalty chosen on the validation points.

    Args:
        fold: the data.
        features: of all points, shape (M, N).

    Returns:
        kernel (N, C), bias (C,), and the scores.
    """
    train, validation = fold.split.train, fold.split.validation
    kernel, bias, _ = select_ridge(
        features[train], fold.targets[train], features[validation], fold.targets[validation]
    )
    return kernel, bias, fold.scores(features @ kernel + bias)


def mean_scores(found: list[Scores]) -> Scores:
    """The mean of each score over draws; None where it was not measured."""
    means: Scores = {}
    for name in found[0]:
        values = [row[name] for row in found]
        means[name] = None if None in values else float(np.mean(np.array(values, dtype=np.float64)))
    return means


def rank(found: list[Scores]) -> tuple[float, float]:
    """What the better of two settings has more of: mean validation accuracy over seeds, then less risk."""
    if not found:
        return 0.0, 0.0
    accuracies = [row["validation_accuracy"] or 0.0 for row in found]
    risks = [row["validation_risk"] or 0.0 for row in found]
    return float(np.mean(accuracies)), -float(np.mean(risks))
