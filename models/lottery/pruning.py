"""Pruning by magnitude: which weights a round takes away, layer by layer or over all layers."""

from collections.abc import Mapping

import numpy as np

from qrt_tn.models.lottery.masks import Masks, Params, layer_values, layers, with_layers

SCOPES = ("layer", "global")
Rates = Mapping[str, float]


def layer_rates(masks: Masks, dense: float, conv: float, output: float) -> dict[str, float]:
    """The share of its remaining weights that a round takes from each layer.

    Args:
        masks: name the layers; the kernel of a convolution has four axes. The output layer is the one
            with a path component "output", or `kernel` itself in a network with one hidden layer.
        dense: the rate of fully connected layers, in 0..1; 0 leaves them whole.
        conv: likewise of convolutions.
        output: likewise of the output layer (half of `dense` in Frankle and Carbin, arXiv 1803.03635).

    Raises:
        ValueError: a rate outside [0, 1), or none above 0.
    """
    rates = {}
    for name, mask in layers(masks).items():
        is_output = "output" in name.split("/") or name == "kernel"
        rates[name] = output if is_output else conv if mask.ndim == 4 else dense
    _check_rates(rates, masks)
    return rates


def kept_counts(masks: Masks, rates: Rates, rounds: int, scope: str = "layer") -> dict[str, int]:
    """How many weights `rounds` rounds leave of each layer; under "global", of all layers with a rate.

    Each round takes the nearest whole number to the rate times what is left.

    Args:
        masks: where the rounds begin.
        rates: the rate of each layer, in [0, 1).
        rounds: how many, at least 0.
        scope: "layer" or "global"; the latter counts under the name "" what is left of all layers.

    Raises:
        ValueError: rates out of range or unknown layers, rounds below 0, an unknown scope, or a layer
            pruned to nothing.
    """
    _check_rates(rates, masks)
    _check_scope(scope)
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}; give 0 or more")
    held = {name: int(mask.sum()) for name, mask in layers(masks).items()}
    if scope == "global":
        taking = _global_rate(rates)
        return {"": _left(sum(held[name] for name in rates if rates[name] > 0), taking, rounds, "all layers")}
    return {name: _left(count, rates.get(name, 0.0), rounds, name) for name, count in held.items()}


def prune_by_magnitude(
    params: Params, masks: Masks, rates: Rates, *, rounds: int = 1, scope: str = "layer"
) -> Masks:
    """Take away the remaining weights of smallest absolute value.

    Of weights of equal size those that come first go first, so exactly as many go as the rates say.

    Args:
        params: trained parameters; what is masked already does not count.
        masks: the masks they were trained under.
        rates: the share of the remaining weights to take from each layer, by name, in [0, 1); layers
            not named, or at 0, stay as they are.
        rounds: take as many at once as this number of rounds would (one-shot pruning).
        scope: "layer": each layer by itself, at its rate; "global": the smallest over all layers that
            have a rate, which must be one and the same (Frankle and Carbin's for VGG-19 and ResNet).

    Returns:
        New masks, within the old ones.

    Raises:
        ValueError: masks that do not fit, rates out of range or of unknown layers, several rates under
            "global", weights that are not finite, or a layer pruned to nothing.
    """
    return prune_by_scores(
        {name: np.abs(value) for name, value in layer_values(masks, params).items()},
        masks,
        rates,
        rounds=rounds,
        scope=scope,
    )


def prune_by_scores(
    scores: Mapping[str, np.ndarray], masks: Masks, rates: Rates, *, rounds: int = 1, scope: str = "layer"
) -> Masks:
    """Take away the remaining weights of lowest score, as `prune_by_magnitude` does with |w|.

    Args:
        scores: by layer, of the shapes of its weights.
        masks: where to start.
        rates: as in `prune_by_magnitude`.
        rounds: as there.
        scope: as there.

    Raises:
        ValueError: as there.
    """
    kept = kept_counts(masks, rates, rounds, scope)
    held = layers(masks)
    for name in rates:
        if name not in scores or np.shape(scores[name]) != held[name].shape:
            raise ValueError(f"the scores of layer {name!r} do not have the shape of its weights")
        alive_scores = np.asarray(scores[name])[held[name]]
        if not np.isfinite(alive_scores).all():
            odd = alive_scores[~np.isfinite(alive_scores)][0]
            raise ValueError(
                f"layer {name!r} has a weight or score of size {odd}; if training diverged, lower its rate"
            )
    if scope == "layer":
        return with_layers(masks, {name: _highest(scores[name], held[name], kept[name]) for name in rates})
    names = [name for name in held if rates.get(name, 0.0) > 0]
    together = np.concatenate([scores[name].ravel() for name in names])
    alive = np.concatenate([held[name].ravel() for name in names])
    left = _highest(together, alive, kept[""])
    ends = np.cumsum([held[name].size for name in names])[:-1]
    parts = dict(zip(names, np.split(left, ends), strict=True))
    for name, part in parts.items():
        if not part.any():
            raise ValueError(f"layer {name!r} would be pruned to nothing; take a lower rate or scope='layer'")
    return with_layers(masks, {name: part.reshape(held[name].shape) for name, part in parts.items()})


def _highest(scores: np.ndarray, alive: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest scores among those alive; of equal ones the last."""
    places = np.flatnonzero(alive)
    order = np.argsort(scores.ravel()[places], kind="stable")
    left = np.zeros(alive.size, dtype=bool)
    left[places[order[len(places) - count :]]] = True
    return left.reshape(alive.shape)


def _left(count: int, rate: float, rounds: int, name: str) -> int:
    for _ in range(rounds):
        count -= int(np.floor(rate * count + 0.5))
    if count < 1:
        raise ValueError(f"layer {name!r} would be pruned to nothing; take a lower rate or fewer rounds")
    return count


def _global_rate(rates: Rates) -> float:
    found = {rate for rate in rates.values() if rate > 0}
    if len(found) > 1:
        raise ValueError(
            f"scope 'global' has the rates {sorted(found)}; give one, or 0 for layers left whole"
        )
    return found.pop()


def _check_scope(scope: str) -> None:
    if scope not in SCOPES:
        raise ValueError(f"scope is {scope!r}; choose one of {', '.join(SCOPES)}")


def _check_rates(rates: Rates, masks: Masks) -> None:
    known = layers(masks)
    for name, rate in rates.items():
        if name not in known:
            raise ValueError(f"no layer {name!r} to prune; there are {', '.join(known)}")
        if not 0 <= rate < 1:
            raise ValueError(
                f"the rate of {name!r} is {rate}; give a share in (0, 1), or 0 to leave the layer whole"
            )
    if not any(rate > 0 for rate in rates.values()):
        raise ValueError("no layer has a rate above 0; give one a share in (0, 1)")
