"""Pruning by magnitude: which weights a round takes away, layer by layer or over all layers."""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.models.lottery.masks import Masks, Params, layer_values, layers, with_layers

Scope = Literal["layer", "global"]
Rates = Mapping[str, float]


def layer_rates(masks: Masks, dense: float, conv: float, output: float) -> dict[str, float]:
    """The share of its remaining weights that a round takes from each layer, by name.

    A rate of 0 leaves layers whole. `conv` is that of kernels of four axes, patches' too; `output` that of
    the layer with a key "output" or "head", or of `kernel` itself in a network with one hidden layer (half of
    the others' in Frankle and Carbin, arXiv 1803.03635).

    Raises:
        ValueError: a rate outside [0, 1), or none above 0.
    """
    rates = {}
    for name, mask in layers(masks).items():
        is_output = name == "kernel" or not {"output", "head"}.isdisjoint(name.split("/"))
        rates[name] = output if is_output else conv if mask.ndim == 4 else dense
    _check_rates(rates, masks)
    return rates


def kept_counts(masks: Masks, rates: Rates, rounds: int, scope: Scope = "layer") -> dict[str, int]:
    """How many weights so many rounds leave of each layer; under "global", of all layers with a rate.

    Each round takes the nearest whole number to the rate times what is left. The arguments are those of
    `prune_by_magnitude`, refused alike; "global" counts under the name "" what is left of all layers.
    """
    _check_rates(rates, masks)
    if scope not in get_args(Scope):
        raise ValueError(f"scope is {scope!r}; choose one of {', '.join(get_args(Scope))}")
    check_whole("rounds", rounds, 0)
    sizes = {name: int(mask.sum()) for name, mask in layers(masks).items()}
    if scope == "layer":
        return {name: _left(size, rates.get(name, 0.0), rounds, name) for name, size in sizes.items()}
    found = sorted({rate for rate in rates.values() if rate > 0})
    if len(found) > 1:
        raise ValueError(f"scope 'global' has the rates {found}; give one, or 0 for layers left whole")
    size = sum(sizes[name] for name, rate in rates.items() if rate > 0)
    return {"": _left(size, found[0], rounds, "all layers")}


def prune_by_magnitude(
    params: Params, masks: Masks, rates: Rates, *, rounds: int = 1, scope: Scope = "layer"
) -> Masks:
    """Take away the remaining weights of smallest absolute value.

    Of weights of equal size those that come first go first, so exactly as many go as the rates say. A stack
    of experts is one layer: its smallest weights go, whichever expert has them.

    Args:
        params: trained parameters; what is masked already does not count.
        masks: those they were trained under; the new ones lie within.
        rates: the share of the remaining weights to take from each layer, by name, in [0, 1); layers
            not named, or at 0, stay as they are.
        rounds: take as many at once as this number of rounds would (one-shot pruning).
        scope: "layer": each layer by itself, at its rate; "global": the smallest over all layers that
            have a rate, which must be one and the same (Frankle and Carbin's for VGG-19 and ResNet).

    Raises:
        ValueError: masks that do not fit, rates out of range or of unknown layers, several rates under
            "global", weights that are not finite, or a layer pruned to nothing.

    >>> kept = {"kernel": np.ones((1, 4), dtype=bool)}
    >>> prune_by_magnitude({"kernel": np.array([[3.0, -1.0, 0.5, -2.0]])}, kept, {"kernel": 0.5})
    {'kernel': array([[ True, False, False,  True]])}
    """
    return prune_by_scores(magnitude_scores(params, masks), masks, rates, rounds=rounds, scope=scope)


def magnitude_scores(params: Params, masks: Masks) -> dict[str, np.ndarray]:
    """The score |w| of each weight, by layer; of initial weights, for pruning at iteration 0."""
    return {name: np.abs(value) for name, value in layer_values(masks, params).items()}


def prune_by_scores(
    scores: Mapping[str, np.ndarray], masks: Masks, rates: Rates, *, rounds: int = 1, scope: Scope = "layer"
) -> Masks:
    """Take away the remaining weights of lowest score, by layer, as `prune_by_magnitude` does with |w|."""
    kept, alive = kept_counts(masks, rates, rounds, scope), layers(masks)
    for name in rates:
        if name not in scores or np.shape(scores[name]) != alive[name].shape:
            raise ValueError(f"the scores of layer {name!r} do not have the shape of its weights")
        values = np.asarray(scores[name])[alive[name]]
        if not np.isfinite(values).all():
            raise ValueError(
                f"layer {name!r} has a weight or score of size {values[~np.isfinite(values)][0]};"
                " if training diverged, lower its rate"
            )
    ranked = [[name] for name in rates]  # what is compared with each other
    if scope == "global":
        ranked = [[name for name in alive if rates.get(name, 0.0) > 0]]
    new = {}
    for names in ranked:
        values, left = (np.concatenate([np.ravel(arrays[n]) for n in names]) for arrays in (scores, alive))
        left = _highest(values, left, kept["" if scope == "global" else names[0]])
        for name in names:
            new[name], left = left[: alive[name].size].reshape(alive[name].shape), left[alive[name].size :]
            if not new[name].any():
                raise ValueError(
                    f"layer {name!r} would be pruned to nothing; take a lower rate or scope='layer'"
                )
    return with_layers(masks, new)


def _highest(scores: np.ndarray, alive: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest scores among those alive; of equal ones the last."""
    left, gone = np.ravel(alive).copy(), int(alive.sum()) - count
    if gone:
        last = np.partition(scores[left], gone - 1)[gone - 1]
        tied = np.flatnonzero(left & (scores == last))
        left &= scores >= last
        left[tied[: gone - int(alive.sum()) + int(left.sum())]] = False
    return left


def _left(count: int, rate: float, rounds: int, name: str) -> int:
    for _ in range(rounds):
        count -= int(np.floor(rate * count + 0.5))
    if count < 1:
        raise ValueError(f"layer {name!r} would be pruned to nothing; take a lower rate or fewer rounds")
    return count


def _check_rates(rates: Rates, masks: Masks) -> None:
    known = layers(masks)
    for name, rate in rates.items():
        if name not in known:
            raise ValueError(f"no layer {name!r} to prune; there are {', '.join(known)}")
        if not is_real(rate) or not 0 <= rate < 1:
            raise ValueError(
                f"the rate of {name!r} is {rate!r}; give a share in (0, 1), or 0 to leave the layer whole"
            )
    if not any(rate > 0 for rate in rates.values()):
        raise ValueError("no layer has a rate above 0; give one a share in (0, 1)")
