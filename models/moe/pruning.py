"""Prune or merge the experts of a tree of parameters, or of a network, in one call.

Trees are read into one record a layer (`ExpertLayer`), and records written back; all else works on these.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import Seed
from qrt_tn.models.moe.calibration import calibrate
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.criteria import Criterion, find_criterion
from qrt_tn.models.moe.experts import Maps, Tree, choose_layers, parameter_bytes, read_layers, write_layers
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.merging import merge_layer
from qrt_tn.models.moe.records import ExpertLayer
from qrt_tn.models.moe.removal import check_mode, keep_experts
from qrt_tn.models.moe.selection import Selection, choose_experts
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


def select(
    tree: Tree,
    criterion: str | Criterion,
    *,
    pretrained: Tree | None = None,
    statistics: Mapping[int, LayerStatistics] | None = None,
    maps: Maps | None = None,
    n_prune: int | None = None,
    scope: str = "layer",
    budget_bytes: int | None = None,
    layers: Sequence[int] | None = None,
    min_experts: int = 1,
    groups: int = 1,
    selected: int = 1,
    seed: Seed = 0,
) -> Selection:
    """Choose the experts of a tree to keep.

    Args:
        tree: the parameters, fine-tuned where the criterion compares two checkpoints.
        criterion: its name, or the criterion itself.
        pretrained: the parameters before fine-tuning (see `read_layers`).
        statistics: by number of the block, of all columns of its router.
        maps: what became of experts before; layers that are not named are whole.
        n_prune: how many experts go: of each layer in the scope "layer", of all together in "global". It must
            be a multiple of the number of ensemble members.
        scope: "layer" or "global"; a criterion that picks sets has only "layer".
        budget_bytes: instead of `n_prune`: experts of lowest score over all layers go until all parameters
            take no more bytes. Columns of routers are counted as kept, so that the budget holds in each mode
            of removal. `scope` plays no part.
        layers: numbers of the blocks; all that have experts if None.
        min_experts: experts that are left in each group of each layer, at the least.
        groups: ensemble members (E3), where the router's kernel does not tell.
        selected: K, the experts of a token; only for a criterion that picks sets.
        seed: for a criterion that draws random numbers; layers are drawn in ascending order.

    Raises:
        ValueError: as of `read_layers` and `choose_experts`, or unknown layers.

    Warns:
        UserWarning: of experts of equal score some stay and some go (`Selection.ties`).
    """
    looks = "statistics" in find_criterion(criterion).needs
    records = read_layers(
        tree, maps=maps, groups=groups, pretrained=pretrained, statistics=statistics if looks else None
    )
    return _choose(
        tree,
        records,
        criterion,
        layers,
        n_prune=n_prune,
        scope=scope,
        budget_bytes=budget_bytes,
        min_experts=min_experts,
        selected=selected,
        seed=seed,
    )


def remove(
    tree: Tree,
    kept: Mapping[int, Sequence[int]],
    mode: str,
    *,
    maps: Maps | None = None,
    selected: int = 1,
    groups: int = 1,
) -> tuple[dict[str, Any], dict[int, ExpertMap]]:
    """Keep some experts of each layer of a tree, and drop the others.

    Args:
        tree: the parameters; they stay as they are.
        kept: by number of the block, the places of the experts that stay, in the order they are to have.
            Layers that are not named stay as they are.
        mode: one of MODES (see `qrt_tn.models.moe.removal`).
        maps: what became of experts before; layers that are not named are whole.
        selected: K, the experts of a token; 1 for expert choice.
        groups: ensemble members (E3), where the router's kernel does not tell.

    Returns:
        The new tree, whose sliced arrays are new and whose others are shared with the old one; and the map of
        each layer. `source_ids` count as before anything was removed, `capacity_experts` stays.

    Raises:
        ValueError: as of `read_layers` and `keep_experts`, or unknown layers.
    """
    check_mode(mode)
    if not isinstance(kept, Mapping):
        raise ValueError(f"kept is {kept!r}; give the places that stay by number of the block")
    records = read_layers(tree, maps=maps, groups=groups)
    named = choose_layers(records, kept)
    smaller = {
        number: keep_experts(layer, kept[number], mode, selected=selected) for number, layer in named.items()
    }
    return _written(tree, records, smaller)


def merge(
    tree: Tree,
    statistics: Mapping[int, LayerStatistics],
    n_kept: int,
    *,
    maps: Maps | None = None,
    align: bool = True,
    layers: Sequence[int] | None = None,
    groups: int = 1,
) -> tuple[dict[str, Any], dict[int, ExpertMap]]:
    """Merge the experts of each layer of a tree into fewer, after MC-SMoE (`qrt_tn.models.moe.merging`).

    Args:
        tree: the parameters; they stay as they are.
        statistics: by number of the block, of all columns of its router.
        n_kept: experts that are left in each layer.
        maps: what became of experts before; layers that are not named are whole.
        align: whether hidden units are matched before averaging, at a cost that grows like m^3.
        layers: numbers of the blocks; all that have experts if None.
        groups: ensemble members (E3), where the router's kernel does not tell.

    Returns:
        The new tree, which shares the arrays that did not change; and the map of each layer.

    Raises:
        ValueError: as of `read_layers` and `merge_layer`, or unknown layers.
    """
    records = read_layers(tree, maps=maps, groups=groups, statistics=statistics)
    chosen = choose_layers(records, layers)
    merged = {number: merge_layer(layer, n_kept, align=align) for number, layer in chosen.items()}
    return _written(tree, records, merged)


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

    Warns:
        UserWarning: of experts of equal score some stay and some go (`Selection.ties`).
    """
    chosen = find_criterion(criterion)
    check_mode(mode)
    if not isinstance(network, VisionMoe):
        raise ValueError(
            f"network is a {type(network).__name__}; give a VisionMoe, or use qrt_tn.models.moe.select"
        )
    tree, config = to_tree(network), network.config
    statistics = None
    if "statistics" in chosen.needs and calibration is not None:
        statistics = _statistics(network, calibration)
    before = to_tree(pretrained) if isinstance(pretrained, VisionMoe) else pretrained
    records = read_layers(tree, maps=config.all_maps, pretrained=before, statistics=statistics)
    selection = _choose(
        tree,
        records,
        chosen,
        layers,
        n_prune=n_prune,
        scope=scope,
        budget_bytes=budget_bytes,
        min_experts=min_experts,
        selected=choices(config),
        seed=seed,
    )
    smaller = {
        number: keep_experts(records[number], kept, mode, selected=choices(config))
        for number, kept in selection.kept.items()
    }
    return Pruned(_rebuilt(network, *_written(tree, records, smaller)), selection)


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
    statistics, maps = _statistics(network, calibration), network.config.all_maps
    return _rebuilt(network, *merge(to_tree(network), statistics, n_kept, maps=maps, layers=layers))


def choices(config: VisionMoeConfig) -> int:
    """K, the experts that a token needs; 1 where experts choose."""
    return config.router.selected if config.router.kind == "token-choice" else 1


def _choose(
    tree: Tree,
    records: Mapping[int, ExpertLayer],
    criterion: str | Criterion,
    layers: Sequence[int] | None,
    **options: Any,
) -> Selection:
    """What `choose_experts` selects, with a warning to the caller's caller where equal scores were cut."""
    named = choose_layers(records, layers)
    selection = choose_experts(named, criterion, total_bytes=parameter_bytes(tree), **options)
    if selection.ties:
        warnings.warn(
            f"criterion {selection.criterion!r} gives equal scores to experts of which only some go (those of"
            f" lower place): {', '.join(f'{ties} of layer {n}' for n, ties in selection.ties.items())}",
            stacklevel=3,
        )
    return selection


def _written(
    tree: Tree, records: Mapping[int, ExpertLayer], changed: Mapping[int, ExpertLayer]
) -> tuple[dict[str, Any], dict[int, ExpertMap]]:
    new, maps = write_layers(tree, changed)
    return new, {number: maps.get(number, layer.expert_map) for number, layer in records.items()}


def _rebuilt(network: VisionMoe, tree: Mapping[str, Any], maps: Mapping[int, ExpertMap]) -> VisionMoe:
    """A network like another, with other weights and other maps of its experts."""
    dispatch = next((layer.dispatch for layer in expert_layers(network).values()), "auto")
    return from_tree(tree, replace(network.config, maps=maps), dispatch=dispatch)


def _statistics(network: VisionMoe, calibration: Calibration) -> Mapping[int, LayerStatistics]:
    if calibration is None:
        raise ValueError("calibration is None; give images, or what calibrate made of them")
    return calibration if isinstance(calibration, Mapping) else calibrate(network, calibration)
