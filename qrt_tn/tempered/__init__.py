"""Tempered transforms: nodes from |z(u)|^(2 beta) tau(u)^2, with weights and diagnostics."""

from qrt_tn.tempered.nodes import TemperedNodes
from qrt_tn.tempered.points import PointConditionals
from qrt_tn.tempered.sampling import sample_tempered

__all__ = ["PointConditionals", "TemperedNodes", "sample_tempered"]
