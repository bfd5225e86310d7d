"""How far the distribution of drawn weights is from ones that know no data, estimated from the draws."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from qrt_tn.baselines import filter_log_weights
from qrt_tn.engine.arguments import Seed
from qrt_tn.states.base import check_count
from qrt_tn.transform import QuantumRidgeletTransform


@dataclass(frozen=True)
class Estimate:
    """A mean over draws, with its standard error; natural logarithms are estimates too."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g}"


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; all logarithms are natural.

    Attributes:
        nodes: draws that the estimates rest on.
        dim: D.
        modulus: P.
        entropy: of p(a), in nats; at most D log P.
        log_participation: log of 1 / sum_a p(a)^2, the number of weights that share the probability.
        log_ess_uniform: log of the effective sample size that one uniform node has, at most 0.
        log_ess_filter: the same for a node of the smoothing filter; None where no filter was given.
    """

    nodes: int
    dim: int
    modulus: int
    entropy: Estimate
    log_participation: Estimate
    log_ess_uniform: Estimate
    log_ess_filter: Estimate | None

    def __str__(self) -> str:
        most = self.dim * np.log(self.modulus)
        lines = [
            f"p(a) on Z_{self.modulus}^{self.dim}, from {self.nodes} draws",
            f"entropy                  {self.entropy} nats of {most:.6g}",
            f"participation            exp({self.log_participation})",
            f"sample size per uniform  exp({self.log_ess_uniform})",
        ]
        if self.log_ess_filter is not None:
            lines.append(f"sample size per filter   exp({self.log_ess_filter})")
        return "\n".join(lines)


def diagnose(
    qrt: QuantumRidgeletTransform, n: int = 1024, seed: Seed = 0, *, smoothing: Any = None
) -> Diagnosis:
    """Entropy, participation, and effective sample sizes of p(a) = sum_b |R[f](a, b)|^2.

    With a ~ p, the entropy is -E[log p], the participation 1 / E[p], and a node drawn from q instead is worth
    1 / E[p / q] = 1 / (1 + chi^2(p, q)) draws from p (A. Kong, "A note on importance sampling using
    standardized weights", University of Chicago, 1992). The last two means hang on the largest terms: where
    log p varies by far more than log n, their error is larger than it says.

    Args:
        qrt: the transform.
        n: draws, at least 2.
        seed: an int or a NumPy generator.
        smoothing: the filter to compare with, as in `filter_nodes`; left out, none.

    Raises:
        ValueError: n below 2, or a bad width.
    """
    count = check_count(n)
    if count < 2:
        raise ValueError("n is 1; give at least 2 draws, or there is no standard error")
    a = qrt.sample(count, seed).a
    log_p = qrt.log_weights(a)
    uniform = -qrt.dim * float(np.log(qrt.modulus))
    mean, error = _log_mean(log_p)
    against_filter = None
    if smoothing is not None:
        log_ratio, ratio_error = _log_mean(log_p - filter_log_weights(a, qrt.ridgelet, smoothing))
        against_filter = Estimate(-log_ratio, ratio_error)
    return Diagnosis(
        nodes=count,
        dim=qrt.dim,
        modulus=qrt.modulus,
        entropy=Estimate(-float(log_p.mean()), float(log_p.std(ddof=1) / np.sqrt(count))),
        log_participation=Estimate(-mean, error),
        log_ess_uniform=Estimate(-(mean - uniform), error),
        log_ess_filter=against_filter,
    )


def _log_mean(logs: np.ndarray) -> tuple[float, float]:
    """Log of the mean of exp(logs), and the standard error of that log."""
    mean = float(logsumexp(logs) - np.log(len(logs)))
    if not np.isfinite(mean):
        return mean, 0.0
    relative = np.exp(logs - mean)
    return mean, float(relative.std(ddof=1) / np.sqrt(len(logs)))
