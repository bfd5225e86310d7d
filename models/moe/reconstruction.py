"""Which experts to keep so that a layer's outputs change least, by trying all sets of them (NAEE).

The method is that of Lucky-Lance/Expert_Sparsity, model/wrapper.py: over all sets S of experts of the wanted
size, minimise ||y - y_S||_F over calibration tokens, where y_S has the logits of experts outside S at minus
infinity, takes the softmax, the top K, and divides their gates by their sum; y is the unpruned layer by the
same rule, whether or not the model normalises its gates or limits an expert's tokens. There the norms of
batches are added up; here all tokens make one norm.
"""

import itertools
import math
from typing import Any

import numpy as np

from qrt_tn.models.moe.records import ExpertWeights
from qrt_tn.models.moe.statistics import LayerStatistics

MOST_SUBSETS = 200_000

_BLOCK_TOKENS = 512
_BLOCK_NUMBERS = 2**21  # of one array of (subsets, tokens, experts)


def reconstruction(
    pretrained: Any,
    router: np.ndarray,
    experts: ExpertWeights,
    statistics: LayerStatistics,
    *,
    keep: int,
    selected: int,
) -> tuple[int, ...]:
    """The places of the experts to keep, ascending: those of least error on the statistics' sample.

    Of sets with equal errors the first stays, the removed ones in lexicographic order.

    Raises:
        ValueError: an empty sample, or as for `reconstruction_errors`.
    """
    if not len(statistics.sample):
        raise ValueError("the statistics hold no sample of inputs; gather them with a sample_cap above 0")
    sets, errors = reconstruction_errors(router, experts, statistics.sample, keep=keep, selected=selected)
    return tuple(int(place) for place in sets[int(np.argmin(errors))])


def reconstruction_errors(
    router: np.ndarray, experts: ExpertWeights, inputs: np.ndarray, *, keep: int, selected: int
) -> tuple[np.ndarray, np.ndarray]:
    """The sets (S, keep) of `keep` of E experts, and the error ||y - y_S||_F of each, shape (S,), float64.

    With d the difference of a token's gates and G the Gram matrix of what the experts make of it, its squared
    error is d' G d; so the experts run once, not once for each set. `router` has shape (h, E), `inputs` (T,
    h); `selected` is K.

    Raises:
        ValueError: fewer than K experts kept, more than MOST_SUBSETS sets, or outputs that are not finite.
    """
    total = experts.experts
    if selected > keep:
        raise ValueError(
            f"{keep} of {total} experts would be left, but a token goes to {selected};"
            f" keep at least {selected}"
        )
    count = math.comb(total, keep)
    if count > MOST_SUBSETS:
        raise ValueError(
            f"there are {count:,} sets of {keep} of {total} experts, more than the {MOST_SUBSETS:,} that are"
            " tried; prune in several smaller steps, or by a criterion that gives scores"
        )
    every = frozenset(range(total))
    gone = itertools.combinations(range(total), total - keep)
    sets = np.array([sorted(every.difference(some)) for some in gone], dtype=np.int64)
    member = np.zeros((count, total), dtype=bool)
    np.put_along_axis(member, sets, True, axis=1)
    kernel = np.asarray(router, dtype=np.float64)
    squares = np.zeros(count)
    for start in range(0, len(inputs), _BLOCK_TOKENS):
        x = np.asarray(inputs[start : start + _BLOCK_TOKENS])
        squares += _squared_errors(x @ kernel, experts.apply(x).astype(np.float64), member, selected)
    if not np.isfinite(squares).all():
        raise ValueError("the outputs on the sample are not finite; see that the weights and the sample are")
    return sets, np.sqrt(np.maximum(squares, 0.0))  # rounding may leave it just below 0


def _squared_errors(logits: np.ndarray, outputs: np.ndarray, member: np.ndarray, selected: int) -> np.ndarray:
    """The squared error of each set: logits (T, E), outputs (E, T, h), member (S, E)."""
    # Each token's experts in falling order of logit, the first of equal ones first, as in jax.lax.top_k: then
    # those it goes to are simply the first K of them that are in the set.
    order = np.argsort(-logits, axis=1, kind="stable")
    ranked = np.take_along_axis(logits, order, axis=1)
    by_token = np.take_along_axis(outputs.transpose(1, 0, 2), order[:, :, None], axis=1)
    gram = by_token @ by_token.transpose(0, 2, 1)
    whole = _gates(ranked, np.ones((1, *order.shape), dtype=bool), selected)
    step = max(1, _BLOCK_NUMBERS // order.size)
    errors = []
    for start in range(0, len(member), step):
        change = whole - _gates(ranked, member[start : start + step][:, order], selected)  # (sets, T, E)
        turned = change.transpose(1, 0, 2)
        errors.append(((turned @ gram) * turned).sum(axis=(0, 2)))
    return np.concatenate(errors)


def _gates(ranked: np.ndarray, inside: np.ndarray, selected: int) -> np.ndarray:
    """Gates of the first K experts in the set: softmax and division by the sum make a softmax over them."""
    chosen = inside & (inside.cumsum(axis=-1) <= selected)
    logits = np.where(chosen, ranked, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
