"""Filters from widths and tables, the sites made of them, and what is drawn from them."""

import numpy as np
import pytest
from scipy import stats

from qrt_tn.states.filters import checked_filter, chosen_sites

TABLES = ["width", "even", "odd", "complex", "sparse"]


def table(kind, modulus, dim, rng):
    u = np.minimum(np.arange(modulus), modulus - np.arange(modulus))
    if kind == "width":
        return np.tile(np.exp(-(u**2) / (2 * (0.2 * modulus) ** 2)), (dim, 1))
    if kind == "even":
        return rng.normal(size=(dim, modulus))[:, u]
    if kind == "odd":
        return rng.normal(size=(dim, modulus))
    if kind == "complex":
        return rng.normal(size=(dim, modulus)) + 1j * rng.normal(size=(dim, modulus))
    return (
        np.where(rng.random((dim, modulus)) < 0.6, 0.0, rng.normal(size=(dim, modulus))) + np.eye(modulus)[1]
    )


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("modulus", [2, 3, 11])
def test_a_site_holds_the_filtered_waves_and_their_kernel(kind, modulus):
    tables = table(kind, modulus, 3, np.random.default_rng(0))
    x = np.arange(modulus)
    for site, tau in zip(chosen_sites(checked_filter(tables, 3, modulus), 0.0), tables, strict=True):
        waves = tau[:, None] * np.exp(-2j * np.pi * np.outer(x, x) / modulus)  # by u and x
        waves /= np.linalg.norm(tau)
        held = np.zeros_like(waves)
        features = site.features(x.astype(np.uint8))
        held[site.support] = site.to_spectrum(features.T[None])[0]
        assert np.abs(held - waves).max() < 1e-13
        assert not np.iscomplexobj(features) or kind not in ("width", "even")
        gram = waves.T @ waves.conj()  # <x'|x> at [x, x']
        differences = (x[:, None] - x[None, :]) % modulus
        assert np.abs(site.kernel[differences] - gram).max() < 1e-13
        assert np.abs(site.full - site.kernel).max() < 1e-13


def test_frequencies_of_little_weight_are_dropped_in_pairs():
    site = chosen_sites(checked_filter(1.0, 1, 31), 1e-3)[0]
    weights = np.exp(-(np.arange(16.0) ** 2))
    shares = np.cumsum((2 * weights)[::-1])[::-1] / (2 * weights.sum() - 1)  # all |u| >= k
    last = int(np.flatnonzero(shares > 1e-3).max())
    assert site.support.tolist() == [*range(last + 1), *range(31 - last, 31)]
    assert np.isclose(1 - site.kernel[0], shares[last + 1])
    assert np.isclose(site.full[0], 1)


@pytest.mark.parametrize("kind", TABLES)
def test_frequencies_are_drawn_from_the_squares(kind, oracle):
    rng = np.random.default_rng(1)
    tables = table(kind, 5, 2, rng)
    product = checked_filter(tables, 2, 5)
    u = product.sample(20_000, rng)
    weights = np.abs(tables) ** 2
    weights /= weights.sum(axis=1, keepdims=True)
    assert oracle.p_value(u, np.outer(*weights)) > 1e-4
    assert np.allclose(product.log_probabilities(u), np.log(weights[[0, 1], u]).sum(axis=1))
    assert np.allclose(
        product.phases(u), (tables / np.abs(np.where(tables == 0, 1, tables)))[[0, 1], u].prod(axis=1)
    )
    assert np.isclose(product.log_weight, np.log((np.abs(tables) ** 2).sum(axis=1)).sum())


def test_one_table_for_all_coordinates_and_rows_that_repeat():
    rng = np.random.default_rng(2)
    one = rng.normal(size=(1, 7))
    product = checked_filter(one, 5, 7)
    assert product.rows.tolist() == [0] * 5
    rows = np.concatenate([one, one * 2, one])
    product = checked_filter(rows, 3, 7)
    assert np.allclose(product.tables[product.rows] * np.exp(product.log_peaks[product.rows])[:, None], rows)


@pytest.mark.parametrize("dim", [1, 50, 3000])
def test_a_tempered_filter_is_broader_by_the_entropy_asked_for(dim):
    product = checked_filter(0.7, dim, 127)
    broad = product.tempered(2.0)
    p, q = product.probabilities[0], broad.probabilities[0]
    apart = dim * stats.entropy(p, np.maximum(q, 1e-300))
    assert q[0] < p[0]
    assert apart <= 2.0 * 1.001
    assert dim == 1 or apart > 1.99  # one coordinate cannot be so far from uniform


@pytest.mark.parametrize("scale", [1e-307, 1e-200, 1e200, 1.7e308])
def test_tables_of_any_size(scale):
    rng = np.random.default_rng(3)
    rows = rng.uniform(0.1, 1, size=(2, 7)) * np.array([[1], [1 + 1j]])
    far = (np.stack([rows.real, rows.imag], axis=-1) * scale).view(complex)[..., 0]
    plain, scaled = checked_filter(rows, 2, 7), checked_filter(far, 2, 7)
    assert np.allclose(plain.probabilities[plain.rows], scaled.probabilities[scaled.rows])
    assert np.isclose(scaled.log_weight, plain.log_weight + 4 * np.log(scale))


@pytest.mark.parametrize(
    ("smoothing", "message"),
    [
        ("broad", "give a width, one per coordinate, or a table"),
        (-1.0, "widths must be positive"),
        ([1.0, np.nan, 1.0], "widths must be positive and finite"),
        ([1.0, 1.0], r"one per coordinate of shape \(3,\)"),
        (None, "give a width"),
        (np.ones((2, 5)), r"table of shape \(2, 5\).*\(1, 5\) or \(3, 5\)"),
        (np.ones((3, 4)), r"table of shape \(3, 4\)"),
        (np.full((1, 5), "x"), "give numbers"),
        (np.full((1, 5), np.inf), "holds inf; every value must be finite"),
        (np.array([[1.0] * 5, [0.0] * 5, [1.0] * 5]), "row 1 of smoothing is zero everywhere"),
    ],
)
def test_bad_filters(smoothing, message):
    with pytest.raises(ValueError, match=message):
        checked_filter(smoothing, 3, 5)
