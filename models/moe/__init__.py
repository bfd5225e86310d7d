"""Mixtures of experts: layers, routers, vision transformers, and the pruning of their experts."""

from models.moe.calibration import calibrate
from models.moe.checkpoints import inspect_vmoe_checkpoint, load_vmoe_checkpoint, save_vmoe_checkpoint
from models.moe.checkpoints.native import (
    load_moe,
    load_moe_orbax,
    load_moe_tree,
    save_moe,
    save_moe_orbax,
    save_moe_tree,
)
from models.moe.config import RouterConfig, VisionMoeConfig, changed, vmoe_config
from models.moe.criteria import CRITERIA, Criterion, criterion, score
from models.moe.experts import ExpertWeights
from models.moe.layers import Experts, MoeLayer
from models.moe.layout import ExpertLayout
from models.moe.merging import merge
from models.moe.pruning import Pruned, merge_experts, prune_experts
from models.moe.removal import MODES, remove
from models.moe.routers import Router, Routing
from models.moe.selection import Selection, select
from models.moe.statistics import LayerStatistics
from models.moe.training import MoeRecipe, accuracy, predict, train_moe
from models.moe.trees import from_tree, infer_config, to_tree
from models.moe.vit import VisionMoe

__all__ = [
    "CRITERIA",
    "MODES",
    "Criterion",
    "ExpertLayout",
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
    "changed",
    "criterion",
    "from_tree",
    "infer_config",
    "inspect_vmoe_checkpoint",
    "load_moe",
    "load_moe_orbax",
    "load_moe_tree",
    "load_vmoe_checkpoint",
    "merge",
    "merge_experts",
    "predict",
    "prune_experts",
    "remove",
    "save_moe",
    "save_moe_orbax",
    "save_moe_tree",
    "save_vmoe_checkpoint",
    "score",
    "select",
    "to_tree",
    "train_moe",
    "vmoe_config",
]
