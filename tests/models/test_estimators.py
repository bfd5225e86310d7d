"""The estimators as scikit-learn, and the people who use it, would have them."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_friedman1
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from qrt_tn import Quantizer
from qrt_tn.models import RidgeletClassifier, RidgeletFeatures, RidgeletRegressor, choosing, estimators

KINDS = [RidgeletFeatures, RidgeletClassifier, RidgeletRegressor]
# settings that leave nothing to choose, so that hundreds of fits are quick
FIXED = {"n_components": 10, "smoothing": 1.0, "beta": 4.0, "levels": 17, "quantizer": "uniform"}


@parametrize_with_checks(
    [kind(**FIXED) for kind in KINDS]
    + [
        RidgeletClassifier(**FIXED, method="qrt"),
        RidgeletRegressor(**(FIXED | {"n_components": 50}), method="filter"),
    ]
)
def test_scikit_learn_accepts_them(estimator, check):
    check(estimator)


def test_scikit_learn_accepts_choosing(monkeypatch):
    """The same with settings to choose from, a few of each kind."""
    monkeypatch.setattr(estimators, "WIDTHS", (0.5, 1.0))
    monkeypatch.setattr(estimators, "BETAS", (1.0, 16.0))
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 6, 11):
        x = rng.normal(size=(count, 3))
        if count == 1:
            with pytest.raises(ValueError, match="minimum of 2"):
                RidgeletRegressor(4).fit(x, [1.0])
            continue
        assert np.isfinite(RidgeletRegressor(4, random_state=0).fit(x, np.arange(count)).predict(x)).all()
        labels = np.array(["b", "a"])[np.arange(count) % 2]
        assert set(RidgeletClassifier(4, random_state=0).fit(x, labels).predict(x)) <= {"a", "b"}


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return x[order[:1200]], y[order[:1200]], x[order[1200:]], y[order[1200:]]


def test_digits(digits):
    """Far from what random features reach at 32 nodes (about 0.86), with probabilities worth the name."""
    x, y, x_test, y_test = digits
    classifier = RidgeletClassifier(32, smoothing=0.5, beta=64.0, random_state=0).fit(x, y)
    assert classifier.score(x_test, y_test) > 0.92
    probabilities = classifier.predict_proba(x_test)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(classifier.decision_function(x_test).argmax(axis=1), probabilities.argmax(axis=1))
    sure = probabilities.max(axis=1)
    right = classifier.predict(x_test) == y_test
    assert abs(sure.mean() - right.mean()) < 0.05
    assert sure[right].mean() > sure[~right].mean() + 0.1


def test_targets_keep_their_units_and_shapes():
    x, y = load_diabetes(return_X_y=True)
    regressor = RidgeletRegressor(**FIXED, random_state=0)
    one = regressor.fit(x, y).predict(x)
    assert one.shape == y.shape
    assert abs(one.mean() - y.mean()) < 1
    assert np.allclose(clone(regressor).fit(x, 1e6 * y - 3).predict(x), 1e6 * one - 3, rtol=1e-4)
    both = np.column_stack([y, -y])
    found = clone(regressor).fit(x, both).predict(x)
    assert found.shape == both.shape
    assert np.allclose(found[:, 0], -found[:, 1], atol=1e-6 * np.abs(y).max())
    constant = clone(regressor).fit(x, np.full(len(y), 7.5)).predict(x[:3])
    assert np.allclose(constant, 7.5)


def test_settings_are_chosen_on_validation_points(monkeypatch):
    """The choice is the smallest of the errors told, and it is no worse than any fixed settings by much."""
    monkeypatch.setattr(estimators, "WIDTHS", (0.5, 4.0))
    monkeypatch.setattr(estimators, "BETAS", (1.0, 64.0))
    x, y = make_friedman1(400, n_features=5, noise=0.1, random_state=1)
    regressor = RidgeletRegressor(100, random_state=0).fit(x[:300], y[:300])
    rows = regressor.search_results_
    last = [row for row in rows if row["nodes"] == 100]
    assert len(last) == choosing._FINALISTS
    best = min(last, key=lambda row: row["squared_error"])
    assert (best["smoothing"], best["beta"], best["quantizer"], best["levels"]) == (
        regressor.smoothing_,
        regressor.beta_,
        regressor.quantizer_.kind,
        regressor.quantizer_.levels,
    )
    worst = max((row for row in rows if row["nodes"] < 100), key=lambda row: row["squared_error"])
    fixed = RidgeletRegressor(
        100,
        smoothing=worst["smoothing"],
        beta=worst["beta"],
        levels=worst["levels"],
        quantizer=worst["quantizer"],
        random_state=0,
    ).fit(x[:300], y[:300])
    assert regressor.score(x[300:], y[300:]) > fixed.score(x[300:], y[300:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_random_state_gives_the_same_numbers_after_pickling_too(kind):
    x, y = load_iris(return_X_y=True)
    y = y if kind is RidgeletClassifier else y.astype(float)
    one, two, other = (kind(**FIXED, random_state=state).fit(x, y) for state in (1, 1, 2))
    method = "transform" if kind is RidgeletFeatures else "predict"
    assert np.array_equal(one.nodes_.a, two.nodes_.a)
    assert not np.array_equal(one.nodes_.a, other.nodes_.a)
    assert np.array_equal(getattr(one, method)(x), getattr(pickle.loads(pickle.dumps(two)), method)(x))


def test_pipelines_searches_and_output_containers():
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), RidgeletFeatures(**FIXED, random_state=0), Ridge())
    assert pipeline.fit(x, y.astype(float)).score(x, y) > 0.9
    search = GridSearchCV(RidgeletClassifier(**FIXED, random_state=0), {"n_components": [2, 12]}, cv=3)
    assert search.fit(x, y).best_params_ == {"n_components": 12}
    names = np.array(["one", "two", "three"])[y]
    assert cross_val_score(RidgeletClassifier(**FIXED, random_state=0), x, names, cv=3).mean() > 0.85
    features = RidgeletFeatures(**FIXED, random_state=0).fit(x, names)
    same = RidgeletFeatures(**FIXED, random_state=0).fit(x, names.astype(object)[:, None])
    assert np.array_equal(features.nodes_.a, same.nodes_.a)
    assert features.get_feature_names_out()[:2].tolist() == ["ridgeletfeatures0", "ridgeletfeatures1"]
    assert "RidgeletFeatures" in features._repr_html_()


def test_the_last_fit_has_the_penalty_of_validation(monkeypatch):
    """And settings chosen on part of many points are chosen by the targets of those points."""
    x, y = make_friedman1(500, n_features=5, noise=1.0, random_state=0)
    seen = []
    monkeypatch.setattr(
        estimators,
        "fit_output_weights",
        lambda phi, targets, ridge: (
            seen.append((phi, targets, ridge)) or (np.zeros((phi.shape[1], 1)), np.zeros(1))
        ),
    )
    kept = []
    choose = choosing.choose_settings
    monkeypatch.setattr(
        estimators, "choose_settings", lambda *a, **k: kept.append(choose(*a, **k)) or kept[-1]
    )
    RidgeletRegressor(**FIXED, random_state=0).fit(x, y)
    (_, targets, ridge), (best, _) = seen[0], kept[0]
    assert ridge == best.penalty
    assert min(choosing.RIDGES) <= best.penalty <= max(choosing.RIDGES)
    assert np.allclose(targets[:, 0] * y.std() + y.mean(), y)
    # many points: the part they are chosen on keeps its own targets
    monkeypatch.setattr(choosing, "_MOST_POINTS", 200)
    RidgeletRegressor(**FIXED, random_state=0).fit(x, y)
    found = kept[1][0]
    assert found.error < 0.9  # of targets of variance 1: misaligned, it would be above 1


def test_few_points_of_a_class_and_points_that_hardly_differ():
    """A training part may have one label, or points that are all the same."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    for place in range(5):
        y = np.zeros(40, dtype=int)
        y[place] = 1
        assert RidgeletClassifier(**FIXED, random_state=place).fit(x, y).score(x, y) > 0.9
        RidgeletRegressor(**FIXED, random_state=place).fit(x, np.where(y, 0.7, 0.1))
    same = np.zeros((40, 2))
    same[7, 0] = 1
    assert np.isfinite(
        RidgeletRegressor(**FIXED, random_state=0).fit(same, np.arange(40.0)).predict(same)
    ).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_sizes_of_targets_and_inputs_far_from_those_fitted(scale):
    x = np.random.default_rng(0).normal(size=(100, 3))
    y = x[:, 0] + x[:, 1]
    one = RidgeletRegressor(**FIXED, random_state=0).fit(x, y).predict(x)
    found = RidgeletRegressor(**FIXED, random_state=0).fit(x, y * scale).predict(x) / scale
    assert np.allclose(found, one, rtol=1e-5, atol=1e-6)
    small = RidgeletRegressor(**FIXED, random_state=0).fit(x * 1e-9, y)
    assert np.isfinite(small.predict(np.full((1, 3), 1e306))).all()


def test_candidates_keep_frequencies_sparse_and_levels_within_the_modulus():
    wide = RidgeletClassifier()._candidates(784)
    assert {settings.quantizer.levels for settings in wide} == {17}
    assert max(settings.smoothing for settings in wide) <= 0.6
    own = RidgeletClassifier(quantizer=Quantizer(levels=33))._candidates(784)
    assert [s.smoothing for s in own] == [s.smoothing for s in wide]
    assert {s.quantizer.levels for s in RidgeletClassifier(modulus=13)._candidates(3)} == {13}
    assert {s.quantizer.levels for s in RidgeletClassifier()._candidates(5)} == {17, 33}


def test_methods_share_all_but_their_nodes():
    x, y = make_friedman1(300, n_features=5, random_state=0)
    scores = {}
    for method in choosing.METHODS:
        regressor = RidgeletRegressor(**(FIXED | {"n_components": 40}), method=method, random_state=0)
        scores[method] = regressor.fit(x[:200], y[:200]).score(x[200:], y[200:])
    assert scores["residual"] > max(scores["qrt"], scores["filter"])
    assert scores["qrt"] != scores["filter"]


def test_a_quantizer_of_ones_own():
    x, y = load_iris(return_X_y=True)
    given = Quantizer("pca-quantile", levels=9, modulus=31, components=2)
    classifier = RidgeletClassifier(10, quantizer=given, smoothing=1.0, beta=4.0, random_state=0).fit(x, y)
    assert classifier.quantizer_.components == 2
    assert classifier.nodes_.modulus == 31
    assert not hasattr(given, "knots_")


REFUSED = [
    ({"n_components": 0}, "n_components is 0"),
    ({"method": "magic"}, "method is 'magic'"),
    ({"quantizer": "round"}, "quantizer is 'round'"),
    ({"levels": 1}, "levels is 1"),
    ({"levels": "many"}, "levels is 'many'"),
    ({"modulus": 126}, "126 is not prime"),
    ({"smoothing": 0}, "smoothing is 0"),
    ({"smoothing": "wide"}, "smoothing is 'wide'"),
    ({"beta": 0.5}, "beta is 0.5"),
    ({"sweeps": 0}, "sweeps is 0"),
    ({"subsample": 1}, "subsample is 1"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_parameters_are_refused_by_value(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(**changes).fit([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]], [0, 1, 1])
