"""Pruning a network's experts in one call: score, choose, take out, and a smaller network to go on with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import Seed
from qrt_tn.models.moe.calibration import calibrate
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.criteria import Criterion, find_criterion
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.merging import merge
from qrt_tn.models.moe.removal import remove
from qrt_tn.models.moe.selection import Selection, select
from qrt_tn.models.moe.statistics import LayerStatistics
from qrt_tn.models.moe.trees import from_tree, to_tree
from qrt_tn.models.moe.vit import VisionMoe, expert_layers

Calibration = np.ndarray | Iterable[np.ndarray] | Mapping[int, LayerStatistics]


@dataclass(frozen=True, eq=False)
class Pruned:
    """What pruning left.

    Attributes:
        network: with fewer experts; it saves, loads and trains as any other.
        selection: which experts stayed, and the scores they had.
    """

    network: VisionMoe
    selection: Selection


def prune_experts(
    network: VisionMoe,
    criterion: str | Criterion,
    *,
    n_prune: int | None = None,
    scope: str = "layer",
    budget_bytes: int | None = None,
    mode: str = "keep-router",
    pretrained: VisionMoe | Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    layers: Sequence[int] | None = None,
    min_experts: int = 1,
    seed: Seed = 0,
) -> Pruned:
    """A network without the experts that a criterion scores lowest.

    Args:
        network: fine-tuned; it stays as it is.
        criterion: a name of qrt_tn.models.moe.CRITERIA, or a criterion of one's own.
        n_prune: how many experts go: of each layer, or of all together in the scope "global".
        scope: "layer" or "global".
        budget_bytes: instead of `n_prune`: experts go until all parameters take no more bytes.
        mode: "keep-router", where tokens sent to a pruned expert get zero; "drop-router", where its column
            goes too; or "renormalize", where besides a token's gates are divided by their sum.
        pretrained: the network before fine-tuning, or its tree, for criteria that compare the two.
        calibration: images, or what `calibrate` made of them, for criteria that look at activations.
        layers: blocks to prune; all that have experts if None.
        min_experts: experts that each layer keeps.
        seed: of a criterion that draws random numbers.

    Raises:
        ValueError: as of qrt_tn.models.moe.select and qrt_tn.models.moe.remove.
    """
    chosen = find_criterion(criterion)
    if not isinstance(network, VisionMoe):
        raise ValueError(
            f"network is a {type(network).__name__}; give a VisionMoe, or use qrt_tn.models.moe.select"
        )
    tree, config = to_tree(network), network.config
    statistics = None
    if "statistics" in chosen.needs and calibration is not None:
        statistics = _statistics(network, calibration)
    selection = select(
        tree,
        chosen,
        pretrained=to_tree(pretrained) if isinstance(pretrained, VisionMoe) else pretrained,
        statistics=statistics,
        maps=config.all_maps,
        n_prune=n_prune,
        scope=scope,
        budget_bytes=budget_bytes,
        layers=layers,
        min_experts=min_experts,
        selected=choices(config),
        seed=seed,
    )
    smaller, maps = remove(tree, selection.kept, mode, maps=config.all_maps, selected=choices(config))
    return Pruned(rebuilt(network, smaller, maps), selection)


def merge_experts(
    network: VisionMoe, n_kept: int, calibration: Calibration, *, layers: Sequence[int] | None = None
) -> VisionMoe:
    """A network whose experts are merged into fewer, after MC-SMoE (see qrt_tn.models.moe.merging).

    Args:
        network: it stays as it is.
        n_kept: experts that each layer keeps.
        calibration: images, or what `calibrate` made of them.
        layers: blocks to merge in; all that have experts if None.

    Raises:
        ValueError: as of qrt_tn.models.moe.merge.
    """
    statistics = _statistics(network, calibration)
    maps = network.config.all_maps
    return rebuilt(network, *merge(to_tree(network), statistics, n_kept, maps=maps, layers=layers))


def choices(config: VisionMoeConfig) -> int:
    """K, the experts that a token needs; 1 where experts choose."""
    return config.router.selected if config.router.kind == "token-choice" else 1


def rebuilt(network: VisionMoe, tree: Mapping[str, Any], maps: Mapping[int, ExpertMap]) -> VisionMoe:
    """A network like another, with other weights and other maps of its experts."""
    dispatch = next((layer.dispatch for layer in expert_layers(network).values()), "auto")
    return from_tree(tree, replace(network.config, maps=maps), dispatch=dispatch)


def _statistics(network: VisionMoe, calibration: Calibration) -> Mapping[int, LayerStatistics]:
    if calibration is None:
        raise ValueError("calibration is None; give images, or what calibrate made of them")
    return calibration if isinstance(calibration, Mapping) else calibrate(network, calibration)
