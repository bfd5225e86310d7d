from collections.abc import Callable

import numpy as np
import pytest

from qrt_tn.models import Dataset, load_digits
from qrt_tn.studies.experiments.folds import Fold, make_folds
from qrt_tn.studies.experiments.grid import GridConfig


def test_folds_share_no_point_between_their_parts(folds: list[Fold]) -> None:
    for fold in folds:
        parts = np.concatenate([fold.split.train, fold.split.validation, fold.split.test])
        assert sorted(parts) == list(range(150))
        assert fold.grid.min() >= 0
        assert fold.grid.max() < 9
        np.testing.assert_allclose(fold.state_targets.sum(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(fold.scaled[fold.split.train].mean(axis=0), 0, atol=1e-12)
    assert not np.array_equal(folds[0].split.test, folds[1].split.test)


def test_digits_are_their_own_grid_points(config: Callable[..., GridConfig]) -> None:
    digits = load_digits()
    (fold,) = make_folds(digits, config(modulus=127, levels=17, seeds=1))
    np.testing.assert_array_equal(fold.grid, digits.x)
    assert [len(part) for part in (fold.split.train, fold.split.validation, fold.split.test)] == [
        1200,
        237,
        360,
    ]


def test_scores_against_plain_sums(folds: list[Fold]) -> None:
    fold = folds[0]
    outputs = np.random.default_rng(0).normal(size=fold.targets.shape)
    scores = fold.scores(outputs)
    right = [outputs[m].argmax() == fold.labels[m] for m in fold.split.test]  # type: ignore[index]
    risk = sum(((outputs[m] - fold.targets[m]) ** 2).sum() for m in fold.split.test) / len(right)
    assert scores["test_accuracy"] == pytest.approx(np.mean(right))
    assert scores["test_risk"] == pytest.approx(risk)


def test_real_targets_are_standardised_by_the_training_points(config: Callable[..., GridConfig]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    dataset = Dataset(x, 5 + 3 * x[:, :1], "line", None)
    (fold,) = make_folds(dataset, config(seeds=1))
    training = fold.targets[fold.split.train]
    np.testing.assert_allclose([training.mean(), training.std()], [0, 1], atol=1e-12)
    assert fold.labels is None
    assert fold.scores(fold.targets)["test_accuracy"] is None
    assert fold.scores(fold.targets)["test_risk"] == 0
