"""Merging experts instead of dropping them, after MC-SMoE (Li et al., UNITES-Lab/MC-SMoE).

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
from qrt_tn.models.moe.experts import (
    ExpertWeights,
    Maps,
    Tree,
    copied,
    expert_columns,
    expert_weights,
    group_count,
    map_of,
    moe_layers,
    replaced,
    router_kernel,
)
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap
from qrt_tn.models.moe.statistics import LayerStatistics


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
    """Merge the experts of each layer into fewer.

    Args:
        tree: the parameters; they stay as they are.
        statistics: by number of the block, of all columns of its router.
        n_kept: experts that are left in each layer.
        maps: what became of experts before; layers that are not named are whole.
        align: whether hidden units are matched before averaging, at a cost that grows like m^3.
        layers: numbers of the blocks; all that have experts if None.
        groups: ensemble members, where the router's kernel does not tell; an expert joins one of its own
            member, and each has n_kept / groups.

    Returns:
        The new tree, which shares the arrays that did not change; and the map of each MoE layer, whose
        `column_to_expert` leads several columns to one expert and whose `source_ids` names the dominant ones.

    Raises:
        ValueError: more experts left than there are, a number that the members cannot share, unknown layers,
            statistics that are missing or do not fit, or experts that were merged before.
    """
    check_whole("n_kept", n_kept, 1)
    present = moe_layers(tree)
    numbers = present if layers is None else tuple(sorted(set(layers)))
    unknown = sorted(set(numbers) - set(present)) + sorted(set(maps or {}) - set(present))
    if unknown:
        raise ValueError(f"layer {unknown[0]} has no experts; choose among {', '.join(map(str, present))}")
    found = {number: map_of(tree, number, maps) for number in present}
    owners = {
        number: _owners(tree, number, found[number], statistics.get(number), n_kept, groups)
        for number in numbers
    }
    new = copied(tree)
    for number, (owner, usage) in owners.items():
        if n_kept == found[number].experts:
            continue
        experts = _merged(expert_weights(tree, number), owner, usage, align)
        dominant = sorted(set(owner))
        expert_map = found[number]
        new = replaced(new, number, router_kernel(tree, number), experts)
        found[number] = replace(
            expert_map,
            column_to_expert=tuple(
                place if place == NO_EXPERT else dominant.index(owner[place])
                for place in expert_map.column_to_expert
            ),
            source_ids=tuple(expert_map.source_ids[place] for place in dominant),
        )
    return new, found


def logit_similarity(gram: np.ndarray) -> np.ndarray:
    """The cosine of the router's logits of each pair of columns, over the calibration tokens.

    Args:
        gram: `LayerStatistics.logit_gram`, shape (C, C). Logits are not centred, as in MC-SMoE's code.

    Returns:
        Shape (C, C); 0 for a column whose logits are all zero.
    """
    norms = np.sqrt(np.diag(gram))
    scale = np.outer(norms, norms)
    return np.divide(gram, scale, out=np.zeros_like(scale), where=scale > 0)


def matching_units(experts: ExpertWeights, reference: int, other: int) -> np.ndarray:
    """The order of one expert's hidden units that fits those of another best.

    It maximises the sum over units of the inner products of their weights in, biases and weights out, which
    minimises the distance of the two experts: the assignment of MC-SMoE's weight matching, with biases.

    Args:
        experts: of one layer.
        reference: the expert that stays as it is.
        other: the expert to permute.

    Returns:
        Shape (m,): unit i of `reference` goes with unit order[i] of `other`.
    """
    a, b = (_units(experts, index) for index in (reference, other))
    return linear_sum_assignment(a @ b.T, maximize=True)[1]


def _owners(
    tree: Tree,
    number: int,
    expert_map: ExpertMap,
    statistics: LayerStatistics | None,
    n_kept: int,
    groups: int,
) -> tuple[list[int], np.ndarray]:
    """For each expert the dominant one of its group, itself or another; and how often each was used."""
    if n_kept > expert_map.experts:
        raise ValueError(
            f"layer {number} has {expert_map.experts} experts, of which {n_kept} cannot be left;"
            f" give at most {expert_map.experts}"
        )
    groups = group_count(tree, number, groups)
    if n_kept % groups:
        raise ValueError(
            f"n_kept is {n_kept}, but layer {number} has {groups} ensemble members, which keep the same"
            " number each; give a multiple of that"
        )
    if statistics is None:
        raise ValueError(f"there are no statistics of layer {number}; gather them in a calibration pass")
    statistics.check_map(expert_map, number)
    columns = expert_columns(expert_map, number)
    held = statistics.take(columns)
    similarity = logit_similarity(held.logit_gram)
    width = expert_map.columns // groups
    owner = list(range(expert_map.experts))
    for group in range(groups):
        places = [place for place, column in enumerate(columns) if column // width == group]
        if len(places) < n_kept // groups:
            raise ValueError(
                f"an ensemble member of layer {number} has {len(places)} experts, of which {n_kept // groups}"
                " cannot be left; give a lower number"
            )
        by_usage = [places[i] for i in np.argsort(-held.count[places], kind="stable")]
        dominant, others = by_usage[: n_kept // groups], by_usage[n_kept // groups :]
        for place in others:
            owner[place] = dominant[int(np.argmax(similarity[place, dominant]))]
    return owner, held.count


def _merged(experts: ExpertWeights, owner: list[int], usage: np.ndarray, align: bool) -> ExpertWeights:
    means = []
    for dominant in sorted(set(owner)):
        group = [place for place, own in enumerate(owner) if own == dominant]
        if len(group) == 1:
            means.append([array[dominant] for array in experts.arrays])
            continue
        used = usage[group].astype(np.float64)
        shares = used / used.sum() if used.sum() > 0 else np.full(len(group), 1 / len(group))
        parts = [
            [share * part for part in _aligned(experts, dominant, place, align)]
            for place, share in zip(group, shares, strict=True)
        ]
        means.append(
            [
                sum(column).astype(array.dtype)
                for column, array in zip(zip(*parts, strict=True), experts.arrays, strict=True)
            ]
        )
    return ExpertWeights(*(np.stack(parts) for parts in zip(*means, strict=True)))


def _aligned(experts: ExpertWeights, dominant: int, place: int, align: bool) -> list[np.ndarray]:
    """The weights of one expert in float64, its hidden units in the order of the dominant one's."""
    kernel_in, bias_in, kernel_out, bias_out = (array[place].astype(np.float64) for array in experts.arrays)
    if align and place != dominant:
        order = matching_units(experts, dominant, place)
        kernel_in, bias_in, kernel_out = kernel_in[:, order], bias_in[order], kernel_out[order]
    return [kernel_in, bias_in, kernel_out, bias_out]


def _units(experts: ExpertWeights, expert: int) -> np.ndarray:
    """The weights of each hidden unit of an expert as a row, shape (m, h + 1 + h), float64."""
    parts = (experts.kernel_in[expert].T, experts.bias_in[expert][:, None], experts.kernel_out[expert])
    return np.concatenate([part.astype(np.float64) for part in parts], axis=1)
