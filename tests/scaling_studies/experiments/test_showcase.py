import numpy as np

from qrt_tn import Ridgelet, states
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.showcase import likely_harmonics, showcase
from qrt_tn.studies.experiments.sources import Setting, Sources


def test_likely_harmonics_against_the_whole_posterior() -> None:
    rng = np.random.default_rng(0)
    state, ridgelet = states.from_dense(rng.normal(size=(7, 7))), Ridgelet("relu", 7)
    a = rng.integers(7, size=(30, 2))
    v = likely_harmonics(state, ridgelet, a)
    for row, found in zip(a, v, strict=True):
        spectrum = [np.abs(state.spectrum((w * row % 7)[None]).value()[0]) ** 2 for w in range(7)]
        weights = np.array(spectrum) * np.abs(ridgelet.spectrum) ** 2
        np.testing.assert_allclose(weights[found], weights.max(), rtol=1e-5)
        assert found <= 3  # f and r are real, and of v and -v the smaller is given


def test_the_showcase_is_what_was_drawn(sources: Sources, folds: list[Fold]) -> None:
    shown = showcase(sources, folds[0], Setting("triangle", 0.5))
    np.testing.assert_allclose(shown["probability"].sum(axis=1), 1)
    np.testing.assert_array_equal((shown["v"][:, None] * shown["a"] - shown["u"]) % 31, 0)
    for name in ("node_spectrum_smoothed", "node_spectrum_unsmoothed", "filter_spectrum"):
        np.testing.assert_allclose(shown[name].sum(), 1)
    assert shown["filter_spectrum"].argmax() == 0
