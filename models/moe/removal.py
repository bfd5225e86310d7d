"""Take experts out of a layer, in three modes that differ in what becomes of their tokens.

- "keep-router": the expert is dropped, its column of the router stays. A token that goes there gets zero, so
  that only the residual connection passes it on. This is what the code of Chowdhury et al. (ICML 2024, arXiv
  2405.16646) does for token choice, reordered columns included.
- "drop-router": the expert and its column are dropped. The softmax and the choice are over the experts that
  are left, so that a token goes to others instead. Chowdhury et al. do this for expert choice.
- "renormalize": as "drop-router", and the gates of the experts that a token goes to are divided by their sum,
  as language models with masked softmax and top-k renormalisation do (NAEE: model/wrapper.py of
  Lucky-Lance/Expert_Sparsity).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.maps import NO_EXPERT, ExpertMap, kept_first
from qrt_tn.models.moe.records import ExpertLayer

MODES = ("keep-router", "drop-router", "renormalize")


def check_mode(mode: str) -> None:
    """Check that a mode is one of MODES."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}")


def keep_experts(layer: ExpertLayer, kept: Sequence[int], mode: str, *, selected: int = 1) -> ExpertLayer:
    """The layer with some of its experts; its statistics, of all columns, stay behind.

    Args:
        layer: stays as it is.
        kept: the places of the experts that stay, in the order they are to have; ensemble members are put
            one after the other.
        mode: one of MODES. In a layer that has lost experts already, "drop-router" and "renormalize" drop
            the columns of these as well. "renormalize" leaves the gates of a layer that has lost none alone.
        selected: K, the experts of a token; 1 for expert choice.

    Raises:
        ValueError: an unknown mode, no or unknown places, merged experts, fewer experts left for a token
            than `selected`, or ensemble members that keep different numbers of experts in a mode that drops
            columns.
    """
    check_mode(mode)
    check_whole("selected", selected, 1)
    _check_places(layer, kept)
    groups = [[int(place) for place in kept if place in group] for group in layer.groups]
    places = list(chain(*groups))
    column_of, known, width = layer.columns, layer.expert_map, layer.width
    if mode == "keep-router":
        columns = []
        for group, members in enumerate(groups):
            first = [column_of[place] - group * width for place in members]
            columns += [group * width + column for column in kept_first(first, width)]
        new_place = {column_of[place]: index for index, place in enumerate(places)}
        column_to_expert = tuple(new_place.get(column, NO_EXPERT) for column in columns)
        renormalized = known.renormalized
    else:
        _check_left(layer, [len(members) for members in groups], selected)
        columns = [column_of[place] for place in places]
        column_to_expert = tuple(range(len(places)))
        lost = len(places) < known.capacity_experts
        renormalized = known.renormalized or (mode == "renormalize" and lost)
    return replace(
        layer,
        router=layer.router[:, columns],
        experts=layer.experts.take(places),
        expert_map=ExpertMap(
            column_to_expert,
            tuple(known.source_ids[place] for place in places),
            known.capacity_experts,
            renormalized,
        ),
        statistics=None,
    )


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
