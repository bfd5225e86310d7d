"""The ridgelet mass of experts: how much of the transform their hidden nodes carry, known before training."""

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from qrt_tn import QuantumRidgeletTransform, RidgeNodes


def log_mean_mass(transform: QuantumRidgeletTransform, experts: Sequence[RidgeNodes]) -> np.ndarray:
    """Log of the mean over an expert's m nodes of the mass, log (1/m) sum_n sum_c |R[f_c](a_n, b_n)|^2.

    The mean follows the few nodes of largest mass. The mass is a probability, of order P^{-D}, hence the
    logarithm. With f the training data's own state, without smoothing, |R[f](a, b)|^2 is up to a factor the
    squared correlation of the node's feature with the targets over the training points, whatever the node
    was drawn from: R[f](a, b) = P^{-D/2} sum_m y_m conj r((a.x_m - b) mod P) / ||f||.

    Returns:
        float64, shape (E,); -inf where no node has any mass, as outside the frequencies of a smoothed state.

    Raises:
        ValueError: no experts, or nodes of another space than the transform's.
    """
    return np.array([logsumexp(logs) - np.log(len(logs)) for logs in _log_masses(transform, experts)])


def mean_log_mass(transform: QuantumRidgeletTransform, experts: Sequence[RidgeNodes]) -> np.ndarray:
    """The mean over an expert's m nodes of the log of the mass, (1/m) sum_n log sum_c |R[f_c](a_n, b_n)|^2.

    It weighs all nodes equally, where `log_mean_mass` follows the largest; it is -inf where one has no mass.
    """
    return np.array([logs.mean() for logs in _log_masses(transform, experts)])


def _log_masses(transform: QuantumRidgeletTransform, experts: Sequence[RidgeNodes]) -> list[np.ndarray]:
    nodes = RidgeNodes.concatenate(experts)
    if nodes.modulus != transform.modulus:
        raise ValueError(f"the nodes live on Z_{nodes.modulus}, the transform on Z_{transform.modulus}")
    ends = np.cumsum([len(one) for one in experts])[:-1]
    return np.split(transform.log_probabilities(nodes.a, nodes.b), ends)
