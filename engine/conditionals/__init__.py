"""Exact draws of named indices of a closed network: a walk down its contraction tree."""

from engine.conditionals.rooted import hung_by, restricted
from engine.conditionals.sampler import Needs, Sampler

__all__ = ["Needs", "Sampler", "hung_by", "restricted"]
