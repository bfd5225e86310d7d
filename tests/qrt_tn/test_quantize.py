"""Quantisers: scikit-learn's own checks, properties of the map and its rounding, files and refusals."""

import pickle

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from qrt_tn.quantize import KINDS, SCOPES, Quantizer


@parametrize_with_checks([*map(Quantizer, KINDS), Quantizer(trim=0.1), Quantizer(KINDS[2], components=1)])
def test_scikit_learn_takes_it_as_a_transformer(estimator, check):
    check(estimator)


def features(count):
    """Ties, an inflated zero, an outlier, neighbours among the floats, extreme sizes, a constant."""
    rng = np.random.default_rng(count)
    rows = (
        rng.normal(size=count),
        rng.integers(0, 5, count),
        np.where(rng.random(count) < 0.6, 0, rng.gamma(0.1, size=count)),
        np.r_[rng.normal(size=count - 1), 1e9],
        1 + rng.integers(0, 9, count) * np.spacing(1.0),
        rng.integers(0, 40, count) * 5e-324,
        rng.uniform(-1e307, 1e307, size=count),
        np.exp(rng.uniform(-740, 700, count)) * rng.choice([-1, 1], count),
        np.full(count, 3.5),
    )
    return np.column_stack(rows)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("settings", [{}, {"trim": 0.04}, {"kind": "quantile"}], ids=str)
@pytest.mark.parametrize("count", [2, 7, 501, 1300])
def test_levels_are_positions_rounded_and_come_back(count, settings, scope):
    x = features(count)
    order = np.argsort(x, axis=0)
    for levels in (2, 10, 113):
        quantizer = Quantizer(levels=levels, scope=scope, **settings).fit(x)
        positions, got = quantizer.positions(x), quantizer.transform(x)
        np.testing.assert_array_equal(got, np.rint(np.clip(positions, 0, levels - 1)))
        np.testing.assert_array_equal(quantizer.transform(quantizer.inverse_transform(got)), got)
        assert (np.diff(np.take_along_axis(positions, order, axis=0), axis=0) >= 0).all()
        assert got.dtype == np.int64
        if not settings.get("trim"):
            ranges = positions[:, :8] if scope == "feature" else positions.reshape(-1, 1)
            np.testing.assert_array_equal(ranges.min(axis=0), 0)
            np.testing.assert_array_equal(ranges.max(axis=0), levels - 1)
        if scope == "feature":
            np.testing.assert_array_equal(positions[:, 8], 0)
            np.testing.assert_array_equal(quantizer.inverse_transform(got)[:, 8], 3.5)


def test_quantiles_are_those_of_scikit_learn_and_ties_share_their_mean_rank():
    x = np.random.default_rng(0).normal(size=(2000, 3))
    reference = QuantileTransformer(n_quantiles=500, subsample=None).fit(x)
    inside = np.clip(np.random.default_rng(1).normal(size=(300, 3)), x.min(axis=0), x.max(axis=0))
    positions = Quantizer("quantile", levels=17).fit(x).positions(inside)
    np.testing.assert_allclose(positions, 16 * reference.transform(inside), atol=1e-9)
    tied = np.random.default_rng(2).integers(0, 6, 400)[:, None]
    positions = Quantizer("quantile", levels=17).fit(tied).positions(tied)
    inner = (tied > 0) & (tied < 5)
    np.testing.assert_allclose(positions[inner], (rankdata(tied)[:, None] - 1)[inner] * 16 / 399)


@pytest.mark.parametrize("settings", [{}, {"trim": 0.1}, {"kind": "quantile"}], ids=str)
def test_the_map_is_continuous_and_goes_on_outside(settings):
    x = np.random.default_rng(3).normal(size=(400, 1)).round(1)  # many ties
    quantizer = Quantizer(levels=9, **settings).fit(x)
    low, high = quantizer.knots_[0, [0, -1]]
    steps = np.diff(quantizer.positions(np.linspace(low - 3, high + 3, 100_001)[:, None])[:, 0])
    assert (steps > 0).all()
    assert steps.max() < 0.01
    beyond = quantizer.positions([[low - 2], [high + 2]])[:, 0]
    np.testing.assert_allclose(beyond, [-16 / (high - low), 8 + 16 / (high - low)])
    assert quantizer.transform([[-1e300], [1e300]]).tolist() == [[0], [8]]


def test_uniform_keeps_numbers_trims_and_shares_a_scale():
    digits = load_digits().data
    quantizer = Quantizer(scope="global").fit(digits)
    np.testing.assert_array_equal(quantizer.positions(digits), digits)
    assert (quantizer.dim, quantizer.guard_band) == (64, 127 / 17)
    # the second feature has nothing between its quantiles
    trimmed = Quantizer(levels=9, trim=0.1).fit(np.column_stack([np.arange(101.0), np.arange(101) // 100]))
    assert trimmed.positions([[10, 0], [90, 1], [0, 0]]).tolist() == [[0, 0], [8, 8], [-1, 0]]
    x = np.array([[0.0, 0.0], [10.0, 1.0]], dtype=np.float32)
    assert Quantizer(levels=11, scope="global").fit_transform(x)[1].tolist() == [10, 1]


def test_principal_components_are_those_of_scikit_learn():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 6)) + 7
    for unit in (1.0, 1e-200, 1e300):
        quantizer = Quantizer("pca-quantile", levels=113).fit(x * unit)
        scores = PCA(4, svd_solver="full").fit(x).transform(x)
        expected = Quantizer("quantile", levels=113).fit(scores).positions(scores)
        np.testing.assert_allclose(quantizer.positions(x * unit)[:, :4], expected, atol=1e-7)
        assert (quantizer.transform(x * unit)[:, 4:] == 0).all()  # components without variance
        back = quantizer.inverse_transform(quantizer.transform(x * unit))
        np.testing.assert_array_equal(quantizer.transform(back), quantizer.transform(x * unit))
        assert np.linalg.norm(back / unit - x) < 0.1 * np.linalg.norm(x - x.mean(axis=0))
    assert quantizer.get_feature_names_out().tolist() == [f"quantizer{i}" for i in range(6)]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", KINDS)
def test_copies_transform_exactly_alike(kind, scope, tmp_path):
    x = np.random.default_rng(6).normal(size=(60, 5)).round(1)
    components = 3 if kind == "pca-quantile" else None
    quantizer = Quantizer(kind, np.int64(11), 13, components=components, scope=scope)
    levels = quantizer.fit_transform(x)
    quantizer.feature_names_in_ = np.array(list("abcde"), dtype=object)
    path = tmp_path / "q.safetensors"
    quantizer.save(path)
    loaded = Quantizer.load(path)
    assert loaded.feature_names_in_.tolist() == list("abcde")
    assert loaded.get_params() == quantizer.get_params()
    del quantizer.feature_names_in_, loaded.feature_names_in_
    piped = make_pipeline(StandardScaler(with_mean=False, with_std=False), clone(quantizer)).fit(x)
    for copy in (loaded, pickle.loads(pickle.dumps(quantizer)), clone(quantizer).fit(x), piped):
        np.testing.assert_array_equal(copy.transform(x), levels)
        np.testing.assert_array_equal(copy.inverse_transform(levels), quantizer.inverse_transform(levels))
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"q\.safetensors is damaged"):
        Quantizer.load(path)


four = np.array([[0.0, 2.0], [1.0, 5.0], [2.0, 2.0], [3.0, 1.0]])
levels4 = Quantizer(levels=4).fit(four)
REFUSALS = [
    (Quantizer("kmeans").check, (), "'kmeans'"),
    (Quantizer(scope="pixel").fit, (four,), "'pixel'"),
    (Quantizer(levels=1).check, (), "levels is 1"),
    (Quantizer(levels=128).check, (), "levels is 128"),
    (Quantizer(levels=3.0).check, (), "levels is 3.0"),
    (Quantizer(modulus=128).check, (), "128 is not prime"),
    (Quantizer(components=2).check, (), "components is 2 for 'uniform'"),
    (Quantizer("pca-quantile", components=0).check, (), "components is 0"),
    (Quantizer("pca-quantile", components=7).fit, (four,), "n_components=7"),
    (Quantizer("quantile", trim=0.1).check, (), "trim is 0.1 for 'quantile'"),
    (Quantizer(trim=0.5).check, (), "trim is 0.5"),
    (Quantizer().fit, (np.full((5, 2), 3.0),), "constant data"),
    (Quantizer().fit, ([["1"], ["2"]],), "strings"),
    (Quantizer().fit, ([[1.0], [np.nan]],), "NaN"),
    (Quantizer().fit, ([[-1.7e308], [1.7e308]],), r"X holds -1\.7e\+308"),
    (Quantizer().fit, (four.astype("M8[s]"),), "datetime64"),
    (Quantizer().transform, (four,), "not fitted yet"),
    (Quantizer().save, ("q.safetensors",), "not fitted yet"),
    (levels4.positions, (four[:, :1],), "1 features, but Quantizer is expecting 2"),
    (levels4.inverse_transform, ([[4, 0]],), "levels holds 4"),
    (levels4.inverse_transform, ([[1]],), r"shape \(1, 1\)"),
    (levels4.inverse_transform, (four,), "integers"),
]


@pytest.mark.parametrize(("method", "arguments", "shown"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(method, arguments, shown):
    with pytest.raises(ValueError, match=shown):
        method(*arguments)
