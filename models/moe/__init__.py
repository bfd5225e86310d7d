"""Mixtures of experts: layers, routers, vision transformers, and the pruning of their experts."""

from qrt_tn.models.moe.checkpoints import inspect_vmoe_checkpoint, load_vmoe_checkpoint, save_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints.native import (
    load_moe,
    load_moe_tree,
    save_moe,
    save_moe_tree,
)
from qrt_tn.models.moe.config import RouterConfig, VisionMoeConfig, vmoe_config
from qrt_tn.models.moe.criteria import CRITERIA, Criterion, criterion, score
from qrt_tn.models.moe.layers import Experts, MoeLayer
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.merging import merge, merge_experts
from qrt_tn.models.moe.pruning import MODES, Pruned, prune_experts, remove
from qrt_tn.models.moe.records import ExpertLayer, ExpertWeights
from qrt_tn.models.moe.routers import Router, Routing
from qrt_tn.models.moe.selection import Selection, choose_experts
from qrt_tn.models.moe.statistics import LayerStatistics, calibrate
from qrt_tn.models.moe.training import MoeRecipe, accuracy, predict, train_moe
from qrt_tn.models.moe.trees import from_tree, infer_config, read_layers, to_tree
from qrt_tn.models.moe.vit import VisionMoe

__all__ = [
    "CRITERIA",
    "MODES",
    "Criterion",
    "ExpertLayer",
    "ExpertMap",
    "ExpertWeights",
    "Experts",
    "LayerStatistics",
    "MoeLayer",
    "MoeRecipe",
    "Pruned",
    "Router",
    "RouterConfig",
    "Routing",
    "Selection",
    "VisionMoe",
    "VisionMoeConfig",
    "accuracy",
    "calibrate",
    "choose_experts",
    "criterion",
    "from_tree",
    "infer_config",
    "inspect_vmoe_checkpoint",
    "load_moe",
    "load_moe_tree",
    "load_vmoe_checkpoint",
    "merge",
    "merge_experts",
    "predict",
    "prune_experts",
    "read_layers",
    "remove",
    "save_moe",
    "save_moe_tree",
    "save_vmoe_checkpoint",
    "score",
    "to_tree",
    "train_moe",
    "vmoe_config",
]
