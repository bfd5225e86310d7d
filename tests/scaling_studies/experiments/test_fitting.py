from qrt_tn.studies.experiments.fitting import draws_at, mean_scores


def test_small_networks_are_drawn_more_often() -> None:
    assert [draws_at(count) for count in (1, 16, 64, 128, 256, 512, 1024)] == [8, 8, 8, 4, 2, 1, 1]


def test_what_was_not_measured_has_no_mean() -> None:
    assert mean_scores(
        [{"test_accuracy": None, "test_risk": 1.0}, {"test_accuracy": None, "test_risk": 3.0}]
    ) == {
        "test_accuracy": None,
        "test_risk": 2.0,
    }
