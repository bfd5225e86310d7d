"""A few drawn nodes looked at closely, and the spectra that nodes are drawn from: what the report draws."""

import numpy as np

from qrt_tn import Ridgelet, states
from qrt_tn.field import centred
from qrt_tn.states.filters import filter_amplitudes
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.sources import Setting, Sources

SHOWN = 6
SAMPLES = 1024
STREAM = 4


def showcase(sources: Sources, fold: Fold, setting: Setting) -> dict[str, np.ndarray]:
    """Arrays of `showcase.safetensors`: `SHOWN` nodes with their profiles, and distributions of one u_i."""
    assert setting.smoothing is not None
    transform = sources.transform(fold, setting)
    ridgelet, modulus = sources.ridgelet(setting), transform.modulus
    nodes = transform.sample(SHOWN, np.random.default_rng([fold.seed, STREAM]))
    profiles = transform.profiles(nodes.a)
    weights = (np.abs(profiles.mantissa) ** 2).sum(axis=2)
    leading = np.abs(profiles.mantissa).sum(axis=1).argmax(axis=1)
    shown = profiles.mantissa[np.arange(SHOWN), :, leading].real
    v = likely_harmonics(transform.state, ridgelet, nodes.a)
    exact = sources.transform(fold, Setting(setting.activation)).state
    return {
        "a": centred(nodes.a, modulus),
        "b": nodes.b,
        "v": centred(v, modulus),
        "u": centred((v[:, None] * nodes.a) % modulus, modulus),
        "profiles": np.ascontiguousarray(shown / np.abs(shown).max(axis=1, keepdims=True)),
        "probability": weights / weights.sum(axis=1, keepdims=True),
        "node_spectrum_smoothed": _coordinate_distribution(transform.state, fold.seed),
        "node_spectrum_unsmoothed": _coordinate_distribution(exact, fold.seed),
        "filter_spectrum": _normalised(filter_amplitudes(setting.smoothing, modulus) ** 2),
        "activation": ridgelet.activation,
        "ridgelet_spectrum": np.abs(ridgelet.spectrum) ** 2,
    }


def likely_harmonics(state: states.State, ridgelet: Ridgelet, a: np.ndarray) -> np.ndarray:
    """The v that each node a = v^{-1} u most likely came from.

    Given a, v has probability proportional to |f^(v a)|^2 |r^(v)|^2. Where f and r are real, v and -v are
    equally likely, and the smaller v is given.

    Args:
        state: f.
        ridgelet: r.
        a: int in 0..P-1, shape (N, D).

    Returns:
        v in 1..P-1, shape (N,).
    """
    harmonics = np.flatnonzero(ridgelet.spectrum)
    u = (harmonics[None, :, None] * a[:, None, :]) % state.modulus
    spectrum = state.spectrum(u.reshape(-1, state.dim))
    logs = 2 * spectrum.log_abs().reshape(len(a), len(harmonics), -1).max(axis=2)
    with np.errstate(invalid="ignore"):
        logs = logs + 2 * np.log(np.abs(ridgelet.spectrum[harmonics]))
    # a tie is decided by rounding unless it is given some room
    return harmonics[np.argmax(logs >= logs.max(axis=1, keepdims=True) - 1e-6, axis=1)]


def _coordinate_distribution(state: states.State, seed: int) -> np.ndarray:
    """How often each value of a single coordinate occurs among `SAMPLES` draws of u, shape (P,)."""
    u = state.sample_spectrum(SAMPLES, np.random.default_rng([seed, STREAM + 1]))
    return np.bincount(u.ravel(), minlength=state.modulus) / u.size


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()
