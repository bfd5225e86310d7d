"""Merge experts instead of dropping them, after MC-SMoE (Li et al., UNITES-Lab/MC-SMoE).

In each layer the most used experts dominate; every other one joins the dominant expert whose router logits
are most similar to its own over the calibration tokens. Its hidden units are put in the order that fits the
dominant expert's best, since an MLP does not change when they are permuted; then the experts of a group are
averaged, weighted by how often they were used. The router keeps all columns: those of a group lead to one
expert. MC-SMoE's further steps, a number of groups that differs between layers, distillation and a low-rank
compression, are not done here. It aligns all experts with the first one; here it is the group's dominant one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.pruning import Calibration, rebuilt, statistics_of
from qrt_tn.models.moe.records import ExpertLayer, ExpertWeights
from qrt_tn.models.moe.selection import choose_layers
from qrt_tn.models.moe.statistics import LayerStatistics
from qrt_tn.models.moe.trees import Maps, Tree, read_layers, to_tree, write_layers
from qrt_tn.models.moe.vit import VisionMoe


def merge_experts(
    network: VisionMoe, n_kept: int, calibration: Calibration, *, layers: Sequence[int] | None = None
) -> VisionMoe:
    """A network whose layers keep `n_kept` experts each, by images or what `calibrate` made of them."""
    if calibration is None:
        raise ValueError("calibration is None; give images, or what calibrate made of them")
    known, maps = statistics_of(network, calibration), network.config.all_maps
    return rebuilt(network, *merge(to_tree(network), known, n_kept, maps=maps, layers=layers))


def merge(
    tree: Tree,
    statistics: Mapping[int, LayerStatistics],
    n_kept: int,
    *,
    maps: Maps | None = None,
    layers: Sequence[int] | None = None,
    groups: int = 1,
) -> tuple[dict[str, Any], dict[int, ExpertMap]]:
    """Merge the experts of each layer of a tree into `n_kept`; `statistics` are of all columns of its router.

    Other arguments are those of `remove`; `layers` are all that have experts if None. Also the maps of all
    layers are returned; the new tree shares the arrays that did not change.

    Raises:
        ValueError: as of `read_layers` and `merge_layer`, or unknown layers.
    """
    records = read_layers(tree, maps=maps, groups=groups, statistics=statistics)
    chosen = choose_layers(records, layers)
    merged = {number: merge_layer(layer, n_kept) for number, layer in chosen.items()}
    return write_layers(tree, merged), {n: layer.expert_map for n, layer in (records | merged).items()}


def merge_layer(layer: ExpertLayer, n_kept: int) -> ExpertLayer:
    """The layer with its experts merged into `n_kept`; its statistics stay behind.

    Its map leads several columns to one expert, and `source_ids` names the dominant ones. An expert of an
    ensemble joins one of its own member, and each member has n_kept / members. Time grows like m^3.

    Raises:
        ValueError: more experts left than there are, a number that the members cannot share, no statistics,
            or experts that were merged before.
    """
    check_whole("n_kept", n_kept, 1)
    known, experts = layer.expert_map, layer.experts
    owner = _owners(layer, n_kept)
    if n_kept == experts.experts:
        return layer
    dominant = sorted(set(owner))
    assert layer.statistics is not None
    usage = layer.statistics.count[list(layer.columns)]
    groups = [[place for place, own in enumerate(owner) if own == one] for one in dominant]
    means = [_mean(experts, one, group, usage) for one, group in zip(dominant, groups, strict=True)]
    return replace(
        layer,
        experts=ExpertWeights(*(np.stack(parts) for parts in zip(*means, strict=True))),
        expert_map=replace(
            known,
            column_to_expert=tuple(
                place if place == NO_EXPERT else dominant.index(owner[place])
                for place in known.column_to_expert
            ),
            source_ids=tuple(known.source_ids[place] for place in dominant),
        ),
        statistics=None,
    )


def matching_units(experts: ExpertWeights, reference: int, other: int) -> np.ndarray:
    """The order of one expert's hidden units that fits those of another, the reference, best.

    It maximises the sum over units of the inner products of their weights in, biases and weights out, which
    minimises the distance of the two experts: the assignment of MC-SMoE's weight matching, with biases. Unit
    i of the reference goes with unit order[i] of the other.
    """
    a, b = (
        # the weights of each unit as a row, shape (m, h + 1 + h)
        np.concatenate([first.T, bias[:, None], second], axis=1, dtype=np.float64)
        for first, bias, second in (
            [array[expert] for array in experts.arrays[:3]] for expert in (reference, other)
        )
    )
    return linear_sum_assignment(a @ b.T, maximize=True)[1]


def _owners(layer: ExpertLayer, n_kept: int) -> list[int]:
    """For each expert the dominant one of its group, itself or another."""
    number, total = layer.number, layer.experts.experts
    if n_kept > total:
        raise ValueError(
            f"layer {number} has {total} experts, of which {n_kept} cannot be left; give at most {total}"
        )
    if n_kept % layer.members:
        raise ValueError(
            f"n_kept is {n_kept}, but layer {number} has {layer.members} ensemble members, which keep the"
            " same number each; give a multiple of that"
        )
    if layer.statistics is None:
        raise ValueError(f"there are no statistics of layer {number}; gather them in a calibration pass")
    statistics = layer.statistics.take(layer.columns)
    # cosines of logits that are not centred, as in MC-SMoE's code; 0 where all logits of a column are
    norms = np.sqrt(np.diag(statistics.logit_gram))
    scale = np.outer(norms, norms)
    similarity = np.divide(statistics.logit_gram, scale, out=np.zeros_like(scale), where=scale > 0)
    each = n_kept // layer.members
    owner = list(range(total))
    for places in layer.groups:
        if len(places) < each:
            raise ValueError(
                f"an ensemble member of layer {number} has {len(places)} experts, of which {each} cannot be"
                " left; give a lower number"
            )
        by_usage = [places[i] for i in np.argsort(-statistics.count[places], kind="stable")]
        for place in by_usage[each:]:
            owner[place] = by_usage[int(np.argmax(similarity[place, by_usage[:each]]))]
    return owner


def _mean(experts: ExpertWeights, dominant: int, group: list[int], usage: np.ndarray) -> list[np.ndarray]:
    """The four arrays of one merged expert."""
    if len(group) == 1:
        return [array[dominant] for array in experts.arrays]
    used = usage[group].astype(np.float64)
    shares = used / used.sum() if used.sum() > 0 else np.full(len(group), 1 / len(group))
    total = [np.zeros(array.shape[1:]) for array in experts.arrays]
    for place, share in zip(group, shares, strict=True):
        parts = [array[place].astype(np.float64) for array in experts.arrays]
        if place != dominant:
            order = matching_units(experts, dominant, place)
            parts[:3] = parts[0][:, order], parts[1][order], parts[2][order]
        total = [sum_ + share * part for sum_, part in zip(total, parts, strict=True)]
    return [sum_.astype(array.dtype) for sum_, array in zip(total, experts.arrays, strict=True)]
