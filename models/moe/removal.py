"""Taking experts out of a model, in three modes that differ in what becomes of their tokens.

- "keep-router": the expert is dropped, its column of the router stays. A token that goes there gets zero, so
  that only the residual connection passes it on. This is what the code of Chowdhury et al. (ICML 2024, arXiv
  2405.16646) does for token choice, reordered columns included.
- "drop-router": the expert and its column are dropped. The softmax and the choice are over the experts that
  are left, so that a token goes to others instead. Chowdhury et al. do this for expert choice.
- "renormalize": as "drop-router", and the gates of the experts that a token goes to are divided by their sum,
  as language models with masked softmax and top-k renormalisation do (NAEE: model/wrapper.py of
  Lucky-Lance/Expert_Sparsity).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.experts import (
    Maps,
    Tree,
    copied,
    expert_columns,
    expert_weights,
    group_count,
    map_of,
    moe_layers,
    replaced,
    router,
    router_kernel,
)
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap, kept_first

MODES = ("keep-router", "drop-router", "renormalize")


def remove(
    tree: Tree,
    kept: Mapping[int, Sequence[int]],
    mode: str,
    *,
    maps: Maps | None = None,
    selected: int = 1,
    groups: int = 1,
) -> tuple[dict[str, Any], dict[int, ExpertMap]]:
    """Keep some experts of each layer, and drop the others.

    Args:
        tree: the parameters; they stay as they are.
        kept: by number of the block, the places of the experts that stay, in the order they are to have.
            Layers that are not named stay as they are.
        mode: one of MODES. In a layer that has lost experts already, "drop-router" and "renormalize" drop
            the columns of these as well. "renormalize" leaves the gates of a layer that has lost none alone.
        maps: what became of experts before; layers that are not named are whole.
        selected: K, the experts of a token; 1 for expert choice.
        groups: ensemble members, where the router's kernel does not tell (see `group_count`). Each keeps the
            columns of its own experts, and experts are put in the order of the groups.

    Returns:
        The new tree, whose sliced arrays are new and whose others are shared with the old one; and the map
        of each MoE layer: `source_ids` count as before anything was removed, `capacity_experts` stays.

    Raises:
        ValueError: an unknown mode or layer, no or unknown places, maps that do not fit, merged experts,
            fewer experts left for a token than `selected`, or ensemble members that keep different numbers
            of experts in a mode that drops columns.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}")
    check_whole("selected", selected, 1)
    present = moe_layers(tree)
    unknown = sorted(set(kept) - set(present)) + sorted(set(maps or {}) - set(present))
    if unknown:
        raise ValueError(f"layer {unknown[0]} has no experts; choose among {', '.join(map(str, present))}")
    found = {layer: map_of(tree, layer, maps) for layer in present}
    plans = {
        layer: _plan(tree, layer, found[layer], places, mode, selected, groups)
        for layer, places in kept.items()
    }
    new = copied(tree)
    for layer, (places, columns, expert_map) in plans.items():
        kernel = router_kernel(tree, layer)
        flat = router(tree, layer)[:, list(columns)]
        shape = flat.shape if kernel.ndim == 2 else (len(flat), kernel.shape[1], -1)
        new = replaced(new, layer, flat.reshape(shape), expert_weights(tree, layer).take(places))
        found[layer] = expert_map
    return new, found


def _plan(
    tree: Tree,
    layer: int,
    expert_map: ExpertMap,
    kept: Sequence[int],
    mode: str,
    selected: int,
    groups: int,
) -> tuple[list[int], list[int], ExpertMap]:
    """The places of experts and the columns to take, in their new order, and the map that results."""
    groups = group_count(tree, layer, groups)
    places = _checked(layer, expert_map, kept)
    column_of = expert_columns(expert_map, layer)
    width = expert_map.columns // groups
    places.sort(key=lambda place: column_of[place] // width)  # stable: the order within a group stays
    members = [[p for p in places if column_of[p] // width == group] for group in range(groups)]
    source_ids = tuple(expert_map.source_ids[place] for place in places)
    if mode == "keep-router":
        columns: list[int] = []
        for group, held in enumerate(members):
            first = [column_of[place] - group * width for place in held]
            columns += [group * width + column for column in kept_first(first, width)]
        new_place = {column_of[place]: index for index, place in enumerate(places)}
        column_to_expert = tuple(new_place.get(column, NO_EXPERT) for column in columns)
        return places, columns, replace(expert_map, column_to_expert=column_to_expert, source_ids=source_ids)
    counts = [len(held) for held in members]
    if len(set(counts)) > 1:
        raise ValueError(
            f"the ensemble members of layer {layer} would keep {counts} experts; keep as many of each,"
            " or take the mode 'keep-router'"
        )
    if counts[0] < selected:
        of_member = "" if groups == 1 else " for each ensemble member"
        raise ValueError(
            f"layer {layer} would keep {counts[0]} experts{of_member}, but a token goes to {selected};"
            f" keep at least {selected}, or take the mode 'keep-router'"
        )
    lost = len(places) < expert_map.capacity_experts
    return (
        places,
        [column_of[place] for place in places],
        ExpertMap(
            column_to_expert=tuple(range(len(places))),
            source_ids=source_ids,
            capacity_experts=expert_map.capacity_experts,
            renormalized=expert_map.renormalized or (mode == "renormalize" and lost),
        ),
    )


def _checked(layer: int, expert_map: ExpertMap, kept: Sequence[int]) -> list[int]:
    places = list(kept)
    if not places:
        raise ValueError(f"nothing is kept of layer {layer}; keep at least one expert")
    for place in places:
        whole = isinstance(place, int | np.integer) and not isinstance(place, bool)
        if not whole or not 0 <= place < expert_map.experts:
            raise ValueError(
                f"layer {layer} has no expert {place!r} to keep;"
                f" its places go from 0 to {expert_map.experts - 1}"
            )
    if len(set(places)) != len(places):
        raise ValueError(f"the kept experts of layer {layer} are {places}; name each once")
    return [int(place) for place in places]
