"""A few nodes looked at closely, and how often frequencies take each value: what the report draws."""

from collections.abc import Sequence

import numpy as np

from qrt_tn.models.saved import SavedModel
from qrt_tn.states.filters import filter_amplitudes
from qrt_tn.studies.experiments.ticket.methods import Fit

SHOWN = 6
SAMPLES = 1024
STREAM = 4  # sets these draws of the first state apart from others


def showcase(model: SavedModel, fits: Sequence[tuple[int, Fit]]) -> dict[str, np.ndarray]:
    """Arrays of showcase.safetensors: nodes with the largest output weights, spectra of one coordinate.

    Args:
        model: the one that is saved.
        fits: by seed; of "qrt" the first state is sampled.

    Returns:
        `a`, shape (K, D), and `b`, shape (K,), of the nodes; `residual_spectrum`, `filter_spectrum` (at the
        width of the model) and, where there is a state, `qrt_spectrum`: how often each value occurs, shape
        (P,).
    """
    nodes = model.estimator.nodes_
    sizes = np.linalg.norm(model.estimator.coef_, axis=1)
    largest = np.argsort(-sizes, kind="stable")[:SHOWN]
    weights = filter_amplitudes(model.estimator.smoothing_, nodes.modulus) ** 2
    shown = {
        "a": nodes.a[largest],
        "b": nodes.b[largest],
        "residual_spectrum": np.bincount(nodes.a.ravel(), minlength=nodes.modulus) / nodes.a.size,
        "filter_spectrum": weights / weights.sum(),
    }
    state = next((fit.state for _, fit in fits if fit.method == "qrt" and fit.state is not None), None)
    if state is not None:
        u = state.sample_spectrum(SAMPLES, np.random.default_rng(STREAM))
        shown["qrt_spectrum"] = np.bincount(u.ravel(), minlength=state.modulus) / u.size
    return shown
