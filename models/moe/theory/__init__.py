"""The theory of router-norm-change pruning, replicated on a small mixture of experts.

Chowdhury et al., A provably effective method for pruning experts in fine-tuned sparse mixture-of-experts
(ICML 2024, arXiv 2405.16646) state, for binary labels and a simplified model: (1) experts that learn the
patterns that tell the labels have a router change Delta_s = ||w_s after|| - ||w_s before|| of order 1, others
of O(1 / sqrt(d)); (2) accuracy is guaranteed without fine-tuning after pruning up to the ratio gamma, the
share of irrelevant experts, and with it up to 1 - O(1/k) of k experts. The set-up (`data`, `model`) follows
the paper's from memory, unverified; the pre-trained weights, sizes and rates are ours.

Why the change falls in this set-up. The batch size B grows in proportion to d; steps T, rates, tokens n,
chosen tokens l, experts and the norms of the initial weights are the same for all d. The gradient of
router s is, per sample with y f < 1,

    -y a_s sum_{j in J_s} G_js (h_j - mean_G h) x_j,   h_j what the expert's neurons answer to token j.

With H a bound on |h_j - mean_G h| its components sum to at most H in absolute value, for any input.

* Relevant expert: o_i stands in half of all inputs and y a_s is then always +1, at any d. The component
  of w_s on o_i drifts by order 1 over T steps; a little less at small d, where the scores of other tokens,
  of order 1 / sqrt(d), take some of the gate.
* Other expert, mean gradient: it does not choose o_1 or o_2, and one irrelevant pattern stands in an input
  with probability at most p = (n - 1) / (d - 2). So no component of the mean gradient is above p H; with
  their sum at most H, its norm is at most sqrt(p) H = O(1 / sqrt(d)). (It would be 0 if every sample
  counted: y is independent of the chosen tokens. Near the end of training the share of samples with
  y f < 1 differs between labels and tokens, and the mean is not 0.)
* Other expert, sampling noise: a batch's gradient differs from its mean by at most H / sqrt(B) in root mean
  square. With B in proportion to d this is O(1 / sqrt(d)) too; with B fixed it would not fall.

Thus ||w_s after - w_s before|| <= eta T H (sqrt(p) + 1 / sqrt(B)) in mean, O(1 / sqrt(d)), and |Delta_s| is
no larger: an upper bound. Delta_s itself falls faster here. The movement m_s is spread over about d
components of either sign and has no common direction with w_s, whose norm is 1, so that
Delta_s = <w_s, m_s> + ||m_s||^2 / 2 + .. is nearer to 1/d. So the experiment gives ||m_s|| beside Delta_s: it
is what the bound is about. (H is the largest of d Gaussian sums and grows like sqrt(log d), which is left
out above.)
"""

from qrt_tn.models.moe.theory.data import TheorySetting
from qrt_tn.models.moe.theory.experiment import (
    ORDERS,
    Outcome,
    accuracy_after_pruning,
    fine_tune,
    fit_exponent,
    predicted_limits,
    pruned_signs,
    pruning,
    scaling,
)

__all__ = [
    "ORDERS",
    "Outcome",
    "TheorySetting",
    "accuracy_after_pruning",
    "fine_tune",
    "fit_exponent",
    "predicted_limits",
    "pruned_signs",
    "pruning",
    "scaling",
]
