"""Lottery tickets: masks, pruning, rewinding, controls, training many trials, and what pruning saves."""

from qrt_tn.models.lottery.compaction import Compacted, DenseStack, compact, dense_stack, sparse_stack
from qrt_tn.models.lottery.controls import constant_signs, keep_signs, shuffle_masks, shuffle_weights
from qrt_tn.models.lottery.initial import random_masks, snip_scores, synflow_masks
from qrt_tn.models.lottery.masked import masked
from qrt_tn.models.lottery.masks import (
    apply_masks,
    check_masks,
    counts,
    full_masks,
    is_prunable,
    is_within,
    layers,
    remaining,
    unpruned,
)
from qrt_tn.models.lottery.presets import PRESETS, Preset, Recipe, preset
from qrt_tn.models.lottery.pruning import (
    kept_counts,
    layer_rates,
    magnitude_scores,
    prune_by_magnitude,
    prune_by_scores,
)
from qrt_tn.models.lottery.savings import flops, load_ticket, measure, save_ticket, storage, weight_uses
from qrt_tn.models.lottery.steps import Program
from qrt_tn.models.lottery.study import CONTROLS, REWINDINGS, LotteryStudy, Run
from qrt_tn.models.lottery.trial import Trained, Trial, Weights, put_together, take_apart
from qrt_tn.models.lottery.trials import train_trials

__all__ = [
    "CONTROLS",
    "PRESETS",
    "REWINDINGS",
    "Compacted",
    "DenseStack",
    "LotteryStudy",
    "Preset",
    "Program",
    "Recipe",
    "Run",
    "Trained",
    "Trial",
    "Weights",
    "apply_masks",
    "check_masks",
    "compact",
    "constant_signs",
    "counts",
    "dense_stack",
    "flops",
    "full_masks",
    "is_prunable",
    "is_within",
    "keep_signs",
    "kept_counts",
    "layer_rates",
    "layers",
    "load_ticket",
    "magnitude_scores",
    "masked",
    "measure",
    "preset",
    "prune_by_magnitude",
    "prune_by_scores",
    "put_together",
    "random_masks",
    "remaining",
    "save_ticket",
    "shuffle_masks",
    "shuffle_weights",
    "snip_scores",
    "sparse_stack",
    "storage",
    "synflow_masks",
    "take_apart",
    "train_trials",
    "unpruned",
    "weight_uses",
]
