"""Mixtures of experts whose hidden nodes come from the Quantum Ridgelet Transform, and their mass."""

from models.moe.ridgelets.experts import RidgeExperts
from models.moe.ridgelets.initial import class_nodes, cluster_nodes, expert_nodes
from models.moe.ridgelets.mass import log_mean_mass, mean_log_mass
from models.moe.ridgelets.rank import rank_correlation

__all__ = [
    "RidgeExperts",
    "class_nodes",
    "cluster_nodes",
    "expert_nodes",
    "log_mean_mass",
    "mean_log_mass",
    "rank_correlation",
]
