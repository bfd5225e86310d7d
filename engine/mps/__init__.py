"""Matrix product states as lists of cores (left bond, site, right bond), for whole batches at once.

Stock samplers underflow at a few hundred sites; here every row of a batch is renormalised at every site and
keeps a log-scale of its own. Everything works on NumPy and CuPy arrays alike.
"""

from qrt_tn.engine.mps.arithmetic import add, filtered, inner, scaled
from qrt_tn.engine.mps.canonical import (
    Cores,
    balanced,
    canonical,
    check_cores,
    compress,
    left_canonical,
    right_canonical,
    schmidt_values,
    truncation,
)
from qrt_tn.engine.mps.evaluation import right_vectors, right_vectors_of
from qrt_tn.engine.mps.marginals import log_marginals, site_probabilities
from qrt_tn.engine.mps.sampling import METHODS, best_method, sample

__all__ = [
    "METHODS",
    "Cores",
    "add",
    "balanced",
    "best_method",
    "canonical",
    "check_cores",
    "compress",
    "filtered",
    "inner",
    "left_canonical",
    "log_marginals",
    "right_canonical",
    "right_vectors",
    "right_vectors_of",
    "sample",
    "scaled",
    "schmidt_values",
    "site_probabilities",
    "truncation",
]
