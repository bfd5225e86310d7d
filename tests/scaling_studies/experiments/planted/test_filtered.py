import numpy as np
import pytest
import scipy.stats

from qrt_tn import QuantumRidgeletTransform, Ridgelet
from qrt_tn.studies.experiments.planted import filtered
from qrt_tn.studies.experiments.planted.filtered import FilteredSamples, kernel_forms, width_of

CASES = [(5, 3, 0.6, 1), (7, 2, 1.3, 1), (3, 4, 0.9, 2)]


def smoothed_spectrum(x: np.ndarray, y: np.ndarray, modulus: int, width: float) -> np.ndarray:
    """f^ tau over its norm, and that norm, by a dense transform; shape (P, ..., P, C)."""
    dim = x.shape[1]
    dense = np.zeros((modulus,) * dim + (y.shape[1],))
    np.add.at(dense, tuple(x.T), y)
    spectrum = np.fft.fftn(dense, axes=range(dim), norm="ortho")
    u = np.arange(modulus)
    tau = np.exp(-(np.minimum(u, modulus - u) ** 2) / (2 * width**2))
    for axis in range(dim):
        spectrum *= tau.reshape((-1,) + (1,) * (dim - axis))
    return spectrum


def data(modulus: int, dim: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([modulus, dim])
    # more points than fit on the grid without repeating now and then
    return rng.integers(modulus, size=(25, dim)), rng.normal(size=(25, outputs))


def all_frequencies(modulus: int, dim: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(modulus)] * dim, indexing="ij"), axis=-1).reshape(-1, dim)


@pytest.mark.parametrize(("modulus", "dim", "width", "outputs"), CASES)
def test_spectrum_and_norm_are_those_of_a_dense_transform(
    modulus: int, dim: int, width: float, outputs: int
) -> None:
    x, y = data(modulus, dim, outputs)
    state = FilteredSamples(x, y, modulus, width)
    wanted = smoothed_spectrum(x, y, modulus, width).reshape(-1, outputs)
    norm = np.linalg.norm(wanted)
    assert state.norm == pytest.approx(norm, rel=1e-11)
    found = state.spectrum(all_frequencies(modulus, dim)).value()
    np.testing.assert_allclose(found, wanted / norm, atol=1e-12)


@pytest.mark.parametrize(("modulus", "dim", "width", "outputs"), CASES)
def test_draws_follow_the_dense_distribution(modulus: int, dim: int, width: float, outputs: int) -> None:
    x, y = data(modulus, dim, outputs)
    power = (np.abs(smoothed_spectrum(x, y, modulus, width)) ** 2).sum(axis=-1).ravel()
    power /= power.sum()
    drawn = FilteredSamples(x, y, modulus, width).sample_spectrum(20_000, seed=1)
    counts = np.bincount(np.ravel_multi_index(tuple(drawn.T), (modulus,) * dim), minlength=len(power))
    often = power * 20_000 >= 10
    tested, wanted = counts[often], 20_000 * power[often]
    rest = [counts[~often].sum()], [20_000 * power[~often].sum()]
    result = scipy.stats.chisquare(np.append(tested, rest[0]), np.append(wanted, rest[1]))
    assert result.pvalue > 1e-4


@pytest.mark.parametrize(("modulus", "dim", "width", "outputs"), CASES)
def test_marginals_and_the_network(modulus: int, dim: int, width: float, outputs: int) -> None:
    x, y = data(modulus, dim, outputs)
    state = FilteredSamples(x, y, modulus, width)
    spectrum = smoothed_spectrum(x, y, modulus, width)
    spectrum /= np.linalg.norm(spectrum)
    power = (np.abs(spectrum) ** 2).sum(axis=-1)
    for kept in ([1], [dim - 1, 0], list(range(dim))):
        others = tuple(axis for axis in range(dim) if axis not in kept)
        marginal = power.sum(axis=others).transpose(np.argsort(np.argsort(kept)))
        values = all_frequencies(modulus, len(kept))
        np.testing.assert_allclose(
            np.exp(state.log_marginals(kept, values)), marginal[tuple(values.T)], atol=1e-12
        )
    function = np.fft.ifftn(spectrum, axes=range(dim), norm="ortho")
    names = [f"x{site}" for site in range(dim)] + ["c"]
    held = state.network().contract(output_inds=names).transpose(*names).data
    np.testing.assert_allclose(held, function, atol=1e-12)


def test_nodes_of_its_transform_have_their_probabilities() -> None:
    x, y = data(5, 2, 1)
    transform = QuantumRidgeletTransform(FilteredSamples(x, y[:, 0], 5, 0.8), Ridgelet("relu", 5), "numpy")
    dense = np.abs(transform.to_dense()) ** 2
    assert dense.sum() == pytest.approx(1, rel=1e-11)
    nodes = transform.sample(500, seed=2)
    np.testing.assert_allclose(np.exp(nodes.log_probability), dense[(*nodes.a.T, nodes.b)], rtol=1e-9)


@pytest.mark.parametrize("width", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("block", [2**22, 40])
def test_kernel_forms_by_summing_frequencies(
    width: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filtered, "_BLOCK", block)
    rng = np.random.default_rng(0)
    x, vectors = rng.integers(11, size=(13, 2)), rng.normal(size=(13, 3))
    u = all_frequencies(11, 2)
    pi = np.exp(-(np.minimum(u, 11 - u) ** 2).sum(axis=1) / width**2)
    phases = np.exp(-2j * np.pi * (u @ x.T) / 11)
    wanted = (pi / pi.sum()) @ np.abs(phases @ vectors) ** 2
    np.testing.assert_allclose(kernel_forms(x, vectors, 11, width), wanted, rtol=1e-10)


def test_a_width_has_its_share_of_nonzero_entries() -> None:
    for share in (1e-3, 0.1, 0.7):
        u = np.arange(-63, 64)
        weights = np.exp(-(u**2) / width_of(share, 127) ** 2)
        assert 1 - weights[63] / weights.sum() == pytest.approx(share, rel=1e-9)


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(5, 3, 1)
    with pytest.raises(ValueError, match=r"width is 2\.5"):
        FilteredSamples(x, y, 5, 2.5)
    with pytest.raises(ValueError, match=r"share of 0\.9"):
        width_of(0.9, 127)
    state = FilteredSamples(x, y, 5, 0.6)
    monkeypatch.setattr(filtered, "MOST_PROPOSALS", 100)
    with pytest.raises(ValueError, match="fewer nodes"):
        state.sample_spectrum(1000)
