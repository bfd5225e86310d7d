"""Quantisers against scikit-learn's own transform, their inverses, and their errors."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import KBinsDiscretizer

from qrt_tn.engine.atomic import save_tensors
from qrt_tn.quantize import FORMAT, Quantizer


@pytest.fixture
def points():
    rng = np.random.default_rng(5)
    return rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) * 10.0 ** np.arange(-3, 3)


@pytest.mark.parametrize("kind", ["uniform", "quantile"])
@pytest.mark.parametrize("levels", [2, 5, 17])
def test_levels_are_those_of_scikit_learn(points, kind, levels):
    binning = KBinsDiscretizer(
        levels, encode="ordinal", strategy=kind, quantile_method="averaged_inverted_cdf", subsample=None
    ).fit(points)
    quantizer = Quantizer(kind, levels=levels, modulus=31).fit(points)
    fresh = np.random.default_rng(6).normal(size=(200, 6)) * 2 * points.std(axis=0)  # some outside the range
    for x in (points, fresh):
        got = quantizer.transform(x)
        np.testing.assert_array_equal(got, binning.transform(x).astype(int))
        np.testing.assert_allclose(
            quantizer.inverse_transform(got),
            binning.inverse_transform(binning.transform(x)),
            rtol=1e-12,
            atol=1e-12,
        )
    assert got.dtype == np.int64
    assert set(np.unique(quantizer.transform(points))) == set(range(levels))


def test_pca_levels_are_those_of_scikit_learn(points):
    pca = PCA(3, svd_solver="full").fit(points)
    binning = KBinsDiscretizer(
        7, encode="ordinal", strategy="quantile", quantile_method="averaged_inverted_cdf", subsample=None
    ).fit(pca.transform(points))
    quantizer = Quantizer("pca-quantile", levels=7, modulus=31, components=3).fit(points)
    expected = binning.transform(pca.transform(points)).astype(int)
    # a quantile can fall on a data point, where the last digit of the product decides
    assert np.mean(quantizer.transform(points) != expected) < 0.01
    assert (quantizer.dim, quantizer.features) == (3, 6)


def test_digits_keep_their_grey_levels():
    x = load_digits().data
    quantizer = Quantizer("uniform", levels=17, modulus=127, scope="global").fit(x)
    np.testing.assert_array_equal(quantizer.transform(x), x.astype(int))
    assert quantizer.guard_band == pytest.approx(127 / 17)
    assert quantizer.dim == 64


@pytest.mark.parametrize("scope", ["feature", "global"])
@pytest.mark.parametrize("kind", ["uniform", "quantile", "pca-quantile"])
def test_levels_come_back_from_bin_centres(points, kind, scope):
    quantizer = Quantizer(kind, levels=11, modulus=13, scope=scope)
    levels = quantizer.fit_transform(points)
    assert levels.min() >= 0
    assert levels.max() <= 10
    centres = quantizer.inverse_transform(levels)
    np.testing.assert_array_equal(quantizer.transform(centres), levels)


def test_a_point_comes_back_within_half_a_bin(points):
    quantizer = Quantizer("uniform", levels=9, modulus=13)
    back = quantizer.inverse_transform(quantizer.fit_transform(points))
    assert (np.abs(back - points) <= np.ptp(points, axis=0) / 18 * (1 + 1e-9)).all()


def test_all_components_bring_the_point_back(points):
    quantizer = Quantizer("pca-quantile", levels=113, modulus=113)
    back = quantizer.inverse_transform(quantizer.fit_transform(points))
    assert np.linalg.norm(back - points) < 0.1 * np.linalg.norm(points - points.mean(axis=0))


def test_global_scope_shares_one_scale():
    x = np.array([[0.0, 0.0], [10.0, 1.0]])
    np.testing.assert_array_equal(
        Quantizer(levels=10, modulus=11, scope="global").fit_transform(x)[1], [9, 1]
    )
    np.testing.assert_array_equal(
        Quantizer(levels=10, modulus=11, scope="feature").fit_transform(x)[1], [9, 9]
    )


@pytest.mark.parametrize("kind", ["uniform", "quantile"])
def test_constant_features_are_level_zero_without_a_warning(kind):
    x = np.column_stack([np.full(20, 3.5), np.arange(20.0)])
    quantizer = Quantizer(kind, levels=4, modulus=5)
    levels = quantizer.fit_transform(x)
    assert (levels[:, 0] == 0).all()
    assert quantizer.transform([[99.0, 0.0]])[0, 0] == 0
    assert (quantizer.inverse_transform(levels)[:, 0] == 3.5).all()


def test_components_without_variance_are_level_zero():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 5)) + 7.0
    levels = Quantizer("pca-quantile", levels=4, modulus=5).fit_transform(x)
    assert (levels[:, 2:] == 0).all()
    assert levels[:, :2].max() == 3


def test_tiny_units_keep_all_quantiles():
    x = np.arange(40.0)[:, None] * 1e-12
    np.testing.assert_array_equal(
        np.bincount(Quantizer("quantile", 8, 11).fit_transform(x)[:, 0]), np.full(8, 5)
    )


@pytest.mark.parametrize("scope", ["feature", "global"])
@pytest.mark.parametrize("kind", ["uniform", "quantile", "pca-quantile"])
def test_saved_quantisers_transform_exactly_alike(points, kind, scope, tmp_path):
    quantizer = Quantizer(kind, levels=11, modulus=13, scope=scope).fit(points)
    quantizer.save(tmp_path / "q.safetensors")
    loaded = Quantizer.load(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(loaded.transform(points), quantizer.transform(points))
    levels = quantizer.transform(points)
    np.testing.assert_array_equal(loaded.inverse_transform(levels), quantizer.inverse_transform(levels))
    assert repr(loaded) == repr(quantizer)
    assert loaded.dim == quantizer.dim


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "kmeans"}, "uniform, quantile, pca-quantile"),
        ({"scope": "pixel"}, "feature, global"),
        ({"levels": 1}, "levels is 1"),
        ({"levels": 128}, "levels is 128"),
        ({"levels": 3.0}, "levels is 3.0"),
        ({"modulus": 128}, "128 is not prime"),
        ({"components": 2}, "only pca-quantile takes"),
        ({"kind": "pca-quantile", "components": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Quantizer(**arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 3)), "empty"),
        (np.zeros((3, 0)), "empty"),
        (np.arange(4.0), "shape"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "nan"),
        (np.array([[0.0, np.inf], [1.0, 2.0]]), "inf"),
        (np.array([["a"], ["b"]]), "real numbers"),
        (np.full((5, 2), 3.0), "constant data"),
    ],
)
def test_bad_data_is_named(x, message):
    with pytest.raises(ValueError, match=message):
        Quantizer(levels=3, modulus=5).fit(x)


def test_misuse_after_fitting_is_named(points, tmp_path):
    with pytest.raises(ValueError, match="call fit first"):
        Quantizer().transform(points)
    with pytest.raises(ValueError, match="call fit first"):
        Quantizer().save(tmp_path / "q.safetensors")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="components is 7, more than 6"):
        Quantizer("pca-quantile", components=7).fit(points)
    quantizer = Quantizer(levels=4, modulus=5).fit(points)
    with pytest.raises(ValueError, match="4 features; the quantiser was fitted on 6"):
        quantizer.transform(points[:, :4])
    with pytest.raises(ValueError, match="holds 4"):
        quantizer.inverse_transform(np.full((1, 6), 4))
    with pytest.raises(ValueError, match="shape"):
        quantizer.inverse_transform(np.zeros((1, 5), dtype=int))
    with pytest.raises(ValueError, match="integers"):
        quantizer.inverse_transform(np.zeros((1, 6)))


def test_malformed_files_are_named(tmp_path):
    path = tmp_path / "q.safetensors"
    with pytest.raises(ValueError, match="no file"):
        Quantizer.load(path)
    save_tensors(path, {"edges": np.zeros((1, 2))}, {"format": FORMAT, "settings": "{}"})
    with pytest.raises(ValueError, match="whole quantiser"):
        Quantizer.load(path)
