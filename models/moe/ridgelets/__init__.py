"""Mixtures of experts whose hidden nodes come from the Quantum Ridgelet Transform, and their mass."""

from qrt_tn.models.moe.ridgelets.experts import RidgeExperts
from qrt_tn.models.moe.ridgelets.initial import class_nodes, cluster_nodes, expert_nodes
from qrt_tn.models.moe.ridgelets.mass import log_mean_mass, mean_log_mass
from qrt_tn.models.moe.ridgelets.rank import rank_correlation

__all__ = [
    "RidgeExperts",
    "class_nodes",
    "cluster_nodes",
    "expert_nodes",
    "log_mean_mass",
    "mean_log_mass",
    "rank_correlation",
]
