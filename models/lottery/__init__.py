"""Lottery tickets: masks, pruning, rewinding, controls, training many trials, and what pruning saves."""

from qrt_tn.models.lottery.checks import Trial
from qrt_tn.models.lottery.controls import keep_signs, random_masks
from qrt_tn.models.lottery.forms import measure
from qrt_tn.models.lottery.initial import snip_scores, synflow_masks
from qrt_tn.models.lottery.masked import masked
from qrt_tn.models.lottery.masks import (
    apply_masks,
    check_masks,
    counts,
    full_masks,
    is_within,
    layers,
    remaining,
    unpruned,
)
from qrt_tn.models.lottery.presets import PRESETS, Preset, Recipe, preset
from qrt_tn.models.lottery.program import Program, Weights, merge, split
from qrt_tn.models.lottery.pruning import (
    kept_counts,
    layer_rates,
    magnitude_scores,
    prune_by_magnitude,
    prune_by_scores,
)
from qrt_tn.models.lottery.savings import flops, load_ticket, save_ticket, storage, weight_uses
from qrt_tn.models.lottery.study import CONTROLS, REWINDINGS, LotteryStudy, Run
from qrt_tn.models.lottery.trials import TrialResult, train_trials

__all__ = [
    "CONTROLS",
    "PRESETS",
    "REWINDINGS",
    "LotteryStudy",
    "Preset",
    "Program",
    "Recipe",
    "Run",
    "Trial",
    "TrialResult",
    "Weights",
    "apply_masks",
    "check_masks",
    "counts",
    "flops",
    "full_masks",
    "is_within",
    "keep_signs",
    "kept_counts",
    "layer_rates",
    "layers",
    "load_ticket",
    "magnitude_scores",
    "masked",
    "measure",
    "merge",
    "preset",
    "prune_by_magnitude",
    "prune_by_scores",
    "random_masks",
    "remaining",
    "save_ticket",
    "snip_scores",
    "split",
    "storage",
    "synflow_masks",
    "train_trials",
    "unpruned",
    "weight_uses",
]
