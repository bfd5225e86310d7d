"""Exact draws of named indices of a closed network: a walk down its contraction tree."""

from qrt_tn.engine.conditionals.reroot import reroot, restrict
from qrt_tn.engine.conditionals.sampler import Needs, Sampler

__all__ = ["Needs", "Sampler", "reroot", "restrict"]
