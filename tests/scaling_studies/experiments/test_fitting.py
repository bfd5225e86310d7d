import numpy as np
import pytest

from qrt_tn.studies.experiments.fitting import draws_at, fit, mean_scores, scores_by_draw
from qrt_tn.studies.experiments.folds import Fold


def test_small_networks_are_drawn_more_often() -> None:
    assert [draws_at(count) for count in (1, 16, 64, 128, 256, 512, 1024)] == [8, 8, 8, 4, 2, 1, 1]


def test_draws_are_fitted_one_by_one(folds: list[Fold]) -> None:
    features = np.random.default_rng(0).normal(size=(150, 12))
    found = scores_by_draw(folds[0], features, 4)
    assert found == [fit(folds[0], features[:, k : k + 4])[2] for k in (0, 4, 8)]
    mean = mean_scores(found)
    assert mean["test_risk"] == pytest.approx(sum(row["test_risk"] or 0 for row in found) / 3)


def test_what_was_not_measured_has_no_mean() -> None:
    assert mean_scores(
        [{"test_accuracy": None, "test_risk": 1.0}, {"test_accuracy": None, "test_risk": 3.0}]
    ) == {
        "test_accuracy": None,
        "test_risk": 2.0,
    }
