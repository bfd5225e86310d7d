"""The estimators as scikit-learn, and the people who use it, would have them."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_friedman1
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from qrt_tn import Quantizer
from qrt_tn.models import RidgeletClassifier, RidgeletFeatures, RidgeletRegressor, choosing, estimators

KINDS = [RidgeletFeatures, RidgeletClassifier, RidgeletRegressor]
# settings that leave nothing to choose, so that hundreds of fits are quick
FIXED = {"n_components": 10, "smoothing": 1.0, "beta": 4.0, "levels": 17, "quantizer": "uniform"}
FIXED |= {"random_state": 0}
IRIS = load_iris(return_X_y=True)


@parametrize_with_checks([kind(**FIXED, sweeps=1) for kind in KINDS])
def test_scikit_learn_accepts_them(estimator, check):
    check(estimator)


@pytest.fixture
def few_candidates(monkeypatch):
    monkeypatch.setattr(estimators, "WIDTHS", (0.5, 4.0))
    monkeypatch.setattr(estimators, "BETAS", (1.0, 64.0))


def test_settings_are_chosen_for_a_few_points(few_candidates):
    rng = np.random.default_rng(0)
    for count in (2, 6):
        x = rng.normal(size=(count, 3))
        assert np.isfinite(RidgeletRegressor(4, random_state=0).fit(x, np.arange(count)).predict(x)).all()
        labels = np.array(["b", "a"])[np.arange(count) % 2]
        assert set(RidgeletClassifier(4, random_state=0).fit(x, labels).predict(x)) <= {"a", "b"}


def test_settings_are_chosen_on_validation_points(few_candidates):
    """The smallest of the errors told; each fold halves what is tried; better than the worst settings."""
    x, y = make_friedman1(200, n_features=5, noise=0.1, random_state=1)
    regressor = RidgeletRegressor(70, random_state=0).fit(x[:150], y[:150])
    rows = regressor.search_results_
    first, last = ([row for row in rows if (row["nodes"] == 70) == full] for full in (False, True))
    assert len(first) == len(regressor._candidates(5))
    assert sorted({row["points"] for row in first}) == [30, 60, 90]
    assert sum(row["points"] > 30 for row in first) == -(-len(first) // 2)
    assert [row["points"] for row in last] == [150] * choosing._FINALISTS
    best = min(last, key=lambda row: row["squared_error"])
    found = regressor.quantizer_.kind, regressor.quantizer_.levels, regressor.smoothing_, regressor.beta_
    assert found == tuple(best[name] for name in ("quantizer", "levels", "smoothing", "beta"))
    assert regressor.validation_error_ == best["squared_error"]
    worst = max(first, key=lambda row: row["squared_error"])
    names = ("smoothing", "beta", "levels", "quantizer")
    fixed = RidgeletRegressor(70, **{name: worst[name] for name in names}, random_state=0)
    assert regressor.score(x[150:], y[150:]) > fixed.fit(x[:150], y[:150]).score(x[150:], y[150:])


def test_folds_of_a_race_are_those_that_all_would_have_had():
    """The error of what stays in is that over all folds, by fits of its own."""
    x, y = make_friedman1(60, n_features=5, random_state=0)
    y = (y - y.mean())[:, None]
    folds = choosing._folds(60, np.random.default_rng(0))
    trial = choosing._Trial("residual", x, y, folds, 1, None, 7)
    candidates = [choosing.Settings(Quantizer(), width, beta) for width in (0.5, 1.5) for beta in (1.0, 16.0)]
    results = trial.race(candidates, 8, [4, 2, 1], iter(range(7)))
    assert {result.settings for result in results} == set(candidates)
    assert [len(result.targets) for result in results] == [36, 24, 12, 12]
    fits = [trial.fit(results[0].settings, 8, fold) for fold in range(3)]
    wanted = np.concatenate([np.square(fit.outputs - fit.targets) for fit in fits]).mean()
    assert results[0].error == pytest.approx(wanted)
    assert np.log(results[0].penalty) == pytest.approx(np.mean([np.log(fit.penalty) for fit in fits]))


def test_each_class_is_shared_out_among_the_folds_of_a_choice():
    """A rare class neither leaves the training part nor is warned of."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        counts = [*rng.choice([1, 2, 3, 7], size=3), 30]
        y = rng.permutation(np.repeat(np.arange(4), counts))
        folds = choosing._folds(len(y), rng, y)
        for train, validation in folds:
            assert sorted([*train, *validation]) == list(range(len(y)))
            assert len(np.unique(y[train])) == 4
            drawn = np.bincount(y[validation], minlength=4)
            assert all(abs(k - n / 5) < 1 for k, n in zip(drawn, counts, strict=True) if n > 1)
        aside = np.sort(np.concatenate([validation for _, validation in folds]))
        np.testing.assert_array_equal(aside, np.flatnonzero(np.array(counts)[y] > 1))
    ((train, validation),) = choosing._folds(6, np.random.default_rng(0), np.arange(6))
    assert list(train) == list(validation) == list(range(6))


def test_digits():
    """Far from what random features reach at 32 nodes (about 0.86), with probabilities worth the name."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order], y[order]
    classifier = RidgeletClassifier(32, smoothing=0.5, beta=64.0, levels=17, random_state=0)
    classifier.fit(x[:1000], y[:1000])
    x, y = x[1000:], y[1000:]
    assert classifier.score(x, y) > 0.92
    probabilities = classifier.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(classifier.decision_function(x).argmax(axis=1), probabilities.argmax(axis=1))
    sure, right = probabilities.max(axis=1), classifier.predict(x) == y
    assert abs(sure.mean() - right.mean()) < 0.05
    assert sure[right].mean() > sure[~right].mean() + 0.1


def test_targets_keep_their_units_and_shapes():
    x, y = load_diabetes(return_X_y=True)

    def fitted(targets):
        return RidgeletRegressor(**FIXED).fit(x[:150], targets).predict(x)

    y = y[:150]
    one = fitted(y)
    assert one.shape == (442,)
    assert abs(one[:150].mean() - y.mean()) < 1
    np.testing.assert_allclose(fitted(1e6 * y - 3), 1e6 * one - 3, rtol=1e-4)
    both = fitted(np.column_stack([y, -y]))
    np.testing.assert_allclose(both[:, 0], -both[:, 1], atol=1e-6 * np.abs(y).max())
    np.testing.assert_allclose(fitted(np.full(150, 7.5)), 7.5)
    for scale in (1e-300, 1e-200, 1e200, 1e300):
        np.testing.assert_allclose(fitted(y * scale) / scale, one, rtol=1e-5)


def test_inputs_far_from_those_fitted_and_points_that_hardly_differ():
    """A training part may have one label, or points that are all the same."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    small = RidgeletRegressor(**FIXED).fit(x * 1e-9, x[:, 0])
    assert np.isfinite(small.predict(np.full((1, 3), 1e306))).all()
    for place in range(5):
        y = np.arange(40) == place
        assert RidgeletClassifier(**FIXED).fit(x, y).score(x, y) > 0.9
    same = np.zeros((40, 2))
    same[7, 0] = 1
    assert np.isfinite(RidgeletRegressor(**FIXED).fit(same, np.arange(40.0)).predict(same)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_random_state_gives_the_same_numbers_after_pickling_too(kind):
    x, y = IRIS[0], IRIS[1] if kind is RidgeletClassifier else IRIS[1].astype(float)
    one, two, other = (clone(kind(**FIXED)).set_params(random_state=state).fit(x, y) for state in (1, 1, 2))
    method = "transform" if kind is RidgeletFeatures else "predict"
    assert np.array_equal(one.nodes_.a, two.nodes_.a)
    assert not np.array_equal(one.nodes_.a, other.nodes_.a)
    assert np.array_equal(getattr(one, method)(x), getattr(pickle.loads(pickle.dumps(two)), method)(x))


def test_pipelines_searches_and_output_containers():
    x, y = IRIS
    pipeline = make_pipeline(StandardScaler(), RidgeletFeatures(**FIXED), Ridge())
    assert pipeline.fit(x, y.astype(float)).score(x, y) > 0.9
    names = np.array(["one", "two", "three"])[y]
    search = GridSearchCV(RidgeletClassifier(**FIXED), {"n_components": [2, 12]}, cv=3).fit(x, names)
    assert search.best_params_ == {"n_components": 12}
    assert search.best_score_ > 0.85
    features = RidgeletFeatures(**FIXED).fit(x, names)
    same = RidgeletFeatures(**FIXED).fit(x, names.astype(object)[:, None])
    assert np.array_equal(features.nodes_.a, same.nodes_.a)
    assert features.get_feature_names_out()[:2].tolist() == ["ridgeletfeatures0", "ridgeletfeatures1"]
    assert "RidgeletFeatures" in features._repr_html_()


def test_the_last_fit_has_the_penalty_of_validation(monkeypatch):
    """And settings chosen on part of many points are chosen by the targets of those points."""
    x, y = make_friedman1(500, n_features=5, noise=1.0, random_state=0)
    seen, kept, choose, fit = [], [], choosing.choose_settings, estimators.fit_output_weights
    monkeypatch.setattr(estimators, "fit_output_weights", lambda *a: seen.append(a) or fit(*a))
    monkeypatch.setattr(
        estimators, "choose_settings", lambda *a, **k: kept.append(choose(*a, **k)[0]) or (kept[-1], [])
    )
    RidgeletRegressor(**FIXED).fit(x, y)
    (_, targets, ridge), best = seen[0], kept[0]
    assert ridge == best.penalty
    assert min(choosing.RIDGES) <= best.penalty <= max(choosing.RIDGES)
    np.testing.assert_allclose(targets[:, 0] * y.std() + y.mean(), y)
    monkeypatch.setattr(choosing, "_MOST_POINTS", 200)
    RidgeletRegressor(**FIXED).fit(x, y)
    assert len(kept[1].targets) == 200
    assert kept[1].error < 0.9  # of targets of variance 1: misaligned, it would be above 1


def test_methods_share_all_but_their_nodes():
    x, y = make_friedman1(300, n_features=5, random_state=0)
    scores = {}
    for method in choosing.METHODS:
        regressor = RidgeletRegressor(**FIXED | {"n_components": 40}, method=method)
        scores[method] = regressor.fit(x[:200], y[:200]).score(x[200:], y[200:])
    assert scores["residual"] > max(scores["qrt"], scores["filter"])
    assert scores["qrt"] != scores["filter"]


def test_a_quantizer_of_ones_own():
    given = Quantizer("pca-quantile", levels=9, modulus=31, components=2)
    classifier = RidgeletClassifier(10, quantizer=given, smoothing=1.0, beta=4.0, random_state=0).fit(*IRIS)
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
def test_bad_parameters_are_refused_by_value(changes, message):
    for kind in KINDS:
        with pytest.raises(ValueError, match=message):
            kind(**changes).fit([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]], [0, 1, 1])
