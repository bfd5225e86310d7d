"""Prune experts, in three modes that differ in what becomes of their tokens.

- "keep-router": the expert is dropped, its column of the router stays. A token that goes there gets zero, so
  that only the residual connection passes it on. This is what the code of Chowdhury et al. (ICML 2024, arXiv
  2405.16646) does for token choice, its order of columns included: those of kept experts first.
- "drop-router": the expert and its column are dropped. The softmax and the choice are over the experts that
  are left, so that a token goes to others instead. Chowdhury et al. do this for expert choice.
- "renormalize": as "drop-router", and the gates of the experts that a token goes to are divided by their sum,
  as language models with masked softmax and top-k renormalisation do (NAEE: model/wrapper.py of
  Lucky-Lance/Expert_Sparsity).
"""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import Seed, check_whole
from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.criteria import Criterion, find_criterion
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.records import ExpertLayer
from qrt_tn.models.moe.selection import Selection, choose_experts, choose_layers
from qrt_tn.models.moe.statistics import LayerStatistics, calibrate
from qrt_tn.models.moe.trees import Maps, Tree, from_tree, parameter_bytes, read_layers, to_tree, write_layers
from qrt_tn.models.moe.vit import VisionMoe, expert_layers

MODES = ("keep-router", "drop-router", "renormalize")
Calibration = np.ndarray | Iterable[np.ndarray] | Mapping[int, LayerStatistics]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network with fewer experts, which saves, loads and trains as any other, and how it was chosen."""

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
    pretrained: VisionMoe | Tree | None = None,
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
        mode: one of MODES (see the module).
        pretrained: the network before fine-tuning, or its tree, for criteria that compare the two.
        calibration: images, or what `calibrate` made of them, for criteria that look at activations.
        layers: blocks to prune; all that have experts if None.
        min_experts: experts that each layer keeps.

    Raises:
        ValueError: as of `read_layers`, `choose_experts` and `remove`, or unknown layers.

    Warns:
        UserWarning: of experts of equal score some stay and some go (`Selection.ties`).
    """
    found = find_criterion(criterion)
    _check_mode(mode)
    if not isinstance(network, VisionMoe):
        raise ValueError(f"network is a {type(network).__name__}; give a VisionMoe")
    tree, config = to_tree(network), network.config
    known = None
    if "statistics" in found.needs and calibration is not None:
        known = statistics_of(network, calibration)
    before = to_tree(pretrained) if isinstance(pretrained, VisionMoe) else pretrained
    records = read_layers(tree, maps=config.all_maps, pretrained=before, statistics=known)
    selection = choose_experts(
        choose_layers(records, layers),
        found,
        n_prune=n_prune,
        scope=scope,
        budget_bytes=budget_bytes,
        total_bytes=parameter_bytes(tree),
        min_experts=min_experts,
        selected=choices(config),
        seed=seed,
    )
    if selection.ties:
        warnings.warn(
            f"criterion {selection.criterion!r} gives equal scores to experts of which only some go (those of"
            f" lower place): {', '.join(f'{ties} of layer {n}' for n, ties in selection.ties.items())}",
            stacklevel=2,
        )
    smaller = remove(tree, selection.kept, mode, maps=config.all_maps, selected=choices(config))
    return Pruned(rebuilt(network, *smaller), selection)


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
        mode: one of MODES.
        maps: what became of experts before; layers that are not named are whole.
        selected: K, the experts of a token; 1 for expert choice.
        groups: ensemble members (E3), where the router's kernel does not tell.

    Returns:
        The new tree, whose sliced arrays are new and whose others are shared with the old one; and the map of
        each layer. `source_ids` count as before anything was removed, `capacity_experts` stays.

    Raises:
        ValueError: as of `read_layers` and `keep_experts`, or unknown layers.
    """
    _check_mode(mode)
    if not isinstance(kept, Mapping):
        raise ValueError(f"kept is {kept!r}; give the places that stay by number of the block")
    records = read_layers(tree, maps=maps, groups=groups)
    smaller = {
        number: keep_experts(layer, kept[number], mode, selected=selected)
        for number, layer in choose_layers(records, kept).items()
    }
    return write_layers(tree, smaller), {n: layer.expert_map for n, layer in (records | smaller).items()}


def keep_experts(layer: ExpertLayer, kept: Sequence[int], mode: str, *, selected: int = 1) -> ExpertLayer:
    """The layer with some of its experts; its statistics, of all columns, stay behind.

    Ensemble members are put one after the other. In a layer that has lost experts already, "drop-router" and
    "renormalize" drop the columns of these as well. "renormalize" leaves the gates of a layer that has lost
    none alone.

    Raises:
        ValueError: an unknown mode, no or unknown places, merged experts, fewer experts left for a token
            than `selected`, or ensemble members that keep different numbers of experts in a mode that drops
            columns.
    """
    _check_mode(mode)
    check_whole("selected", selected, 1)
    _check_places(layer, kept)
    groups = [[int(place) for place in kept if place in group] for group in layer.groups]
    places = list(chain(*groups))
    column_of, known = layer.columns, layer.expert_map
    columns = [column_of[place] for place in places]
    column_to_expert = list(range(len(places)))
    renormalized = known.renormalized
    if mode == "keep-router":
        stay = set(columns)
        columns = []
        for number, group in enumerate(groups):
            every = range(number * layer.width, (number + 1) * layer.width)
            columns += [column_of[place] for place in group] + [one for one in every if one not in stay]
        owner = {column_of[place]: index for index, place in enumerate(places)}
        column_to_expert = [owner.get(column, NO_EXPERT) for column in columns]
    else:
        _check_left(layer, [len(group) for group in groups], selected)
        renormalized |= mode == "renormalize" and len(places) < known.capacity_experts
    return replace(
        layer,
        router=layer.router[:, columns],
        experts=layer.experts.take(places),
        expert_map=ExpertMap(
            tuple(column_to_expert),
            tuple(known.source_ids[place] for place in places),
            known.capacity_experts,
            renormalized,
        ),
        statistics=None,
    )


def choices(config: VisionMoeConfig) -> int:
    """K, the experts that a token needs; 1 where experts choose."""
    return config.router.selected if config.router.kind == "token-choice" else 1


def statistics_of(network: VisionMoe, calibration: Calibration) -> Mapping[int, LayerStatistics]:
    """The statistics themselves, or those of a pass of the images through the network."""
    return calibration if isinstance(calibration, Mapping) else calibrate(network, calibration)


def rebuilt(network: VisionMoe, tree: Tree, maps: Maps) -> VisionMoe:
    """A network like another, with other weights and other maps of its experts."""
    dispatch = next((layer.dispatch for layer in expert_layers(network).values()), "auto")
    return from_tree(tree, replace(network.config, maps=maps), dispatch=dispatch)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}")


def _check_places(layer: ExpertLayer, kept: Sequence[int]) -> None:
    if not isinstance(kept, Collection):
        raise ValueError(f"the kept experts of layer {layer.number} are {kept!r}; give a list of places")
    if not len(kept):
        raise ValueError(f"nothing is kept of layer {layer.number}; keep at least one expert")
    experts = layer.experts.experts
    for place in kept:
        whole = isinstance(place, int | np.integer) and not isinstance(place, bool)
        if not whole or not 0 <= place < experts:
            raise ValueError(
                f"layer {layer.number} has no expert {place!r} to keep; its places go from 0 to {experts - 1}"
            )
    if len(set(kept)) != len(kept):
        raise ValueError(f"the kept experts of layer {layer.number} are {list(kept)}; name each once")


def _check_left(layer: ExpertLayer, counts: list[int], selected: int) -> None:
    if len(set(counts)) > 1:
        raise ValueError(
            f"the ensemble members of layer {layer.number} would keep {counts} experts; keep as many of each,"
            " or take the mode 'keep-router'"
        )
    if counts[0] < selected:
        of_member = "" if layer.members == 1 else " for each ensemble member"
        raise ValueError(
            f"layer {layer.number} would keep {counts[0]} experts{of_member}, but a token goes to {selected};"
            f" keep at least {selected}, or take the mode 'keep-router'"
        )
