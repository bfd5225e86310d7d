"""Exact draws of named indices of a closed network: a walk down its contraction tree."""

from qrt_tn.engine.conditionals.rooted import hung_by, restricted
from qrt_tn.engine.conditionals.sampler import Needs, Sampler

__all__ = ["Needs", "Sampler", "hung_by", "restricted"]
