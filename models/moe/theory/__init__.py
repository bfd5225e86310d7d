"""The theory of router-norm-change pruning, replicated on a small mixture of experts.

Chowdhury et al., A provably effective method for pruning experts in fine-tuned sparse mixture-of-experts
(ICML 2024, arXiv 2405.16646) state, for binary labels and a simplified model: (1) experts that learn the
patterns that tell the labels have a router change Delta_s = ||w_s after|| - ||w_s before|| of order 1, others
of O(1 / sqrt(d)); (2) accuracy is guaranteed without fine-tuning after pruning up to the ratio gamma, the
share of irrelevant experts, and with it up to 1 - O(1/k) of k experts. The set-up (orthonormal patterns,
expert choice, hinge loss, two learning rates) follows the paper's from memory, unverified; the pre-trained
weights, sizes and rates are ours.

Why the change falls here. The batch size B grows in proportion to d; steps T, rates and all else are the same
for all d. The gradient of router s is, per sample with y f < 1,

    -y a_s sum_{j in J_s} G_js (h_j - mean_G h) x_j,   h_j what the expert's neurons answer to token j,

and with H a bound on |h_j - mean_G h| its components sum to at most H in absolute value.

* Relevant expert: o_i stands in half of all inputs and y a_s is then always +1, so the component of w_s on
  o_i drifts by order 1 over T steps.
* Other expert, mean gradient: it chooses neither o_1 nor o_2, and one irrelevant pattern stands in an input
  with probability at most p = (n - 1) / (d - 2). So no component is above p H, the norm at most sqrt(p) H.
* Other expert, sampling noise: at most H / sqrt(B) in root mean square; with B fixed it would not fall.

Thus ||w_s after - w_s before|| <= eta T H (sqrt(p) + 1 / sqrt(B)) in mean, O(1 / sqrt(d)), and |Delta_s| is
no larger. It falls faster: the movement m_s has no common direction with w_s, whose norm is 1, so that
Delta_s = <w_s, m_s> + ||m_s||^2 / 2 + .. is nearer to 1/d. So the experiment gives ||m_s||, which the bound
is about, beside Delta_s. (H grows like sqrt(log d), which is left out above.)
"""

from qrt_tn.models.moe.theory.experiment import fit_exponent, predicted_limits, pruning, scaling
from qrt_tn.models.moe.theory.model import TheorySetting

__all__ = ["TheorySetting", "fit_exponent", "predicted_limits", "pruning", "scaling"]
