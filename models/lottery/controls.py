"""Controls: what of a ticket is kept and what is redrawn, to see which of it matters.

The plain control is a new draw of all weights under the ticket's masks, `apply_masks(masks, fresh)`; here
are those between it and the ticket. They come from Frankle and Carbin (arXiv 1803.03635) and Zhou et al.,
Deconstructing lottery tickets (arXiv 1905.01067). All refuse masks that do not fit the parameters
(ValueError), and leave parameters that may not be pruned as they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.models.lottery.masks import Masks, Params, aligned, check_masks


def keep_signs(fresh: Params, initial: Params, masks: Masks) -> Params:
    """Redrawn weights with the signs of the initial ones: are signs all that a ticket needs?

    Zhou et al. call it "reinit" with the initial signs.

    Args:
        fresh: parameters of another draw.
        initial: the ticket's initial parameters.
        masks: the ticket's.

    Returns:
        |fresh| with the signs of `initial` where a weight is kept, 0 where it is pruned. Where the initial
        weight is 0 the fresh one stays.
    """
    check_masks(masks, initial)

    def signed(mask: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return np.where(mask, np.where(old == 0, new, np.where(old < 0, -np.abs(new), np.abs(new))), 0)

    return _map_layers(signed, masks, fresh, initial)


def constant_signs(initial: Params, masks: Masks) -> Params:
    """Each kept weight replaced by its sign times one constant a layer: does any magnitude matter?

    Zhou et al. call it "constant", and take the standard deviation of the layer's initialisation; here it is
    that of its initial weights.

    Args:
        initial: the initial parameters, not yet masked: zeros would lower the deviation.
        masks: the ticket's.

    Returns:
        Sign times standard deviation where a weight is kept, 0 where it is pruned; a weight of 0 stays 0.
    """

    def constant(mask: np.ndarray, old: np.ndarray) -> np.ndarray:
        return np.where(mask, np.sign(old) * np.std(old, dtype=np.float64), 0)

    return _map_layers(constant, masks, initial)


def shuffle_weights(params: Params, masks: Masks, seed: Seed) -> Params:
    """The kept weights of each layer permuted among themselves: do their places matter?

    Their distribution stays exactly as it is. Zhou et al. call it "reshuffle".

    Args:
        params: the ticket's initial parameters.
        masks: the ticket's.
        seed: draws the permutations.

    Returns:
        Permuted weights where a weight is kept, 0 where it is pruned.
    """
    rng = generator(seed)

    def shuffled(mask: np.ndarray, old: np.ndarray) -> np.ndarray:
        new = np.zeros_like(old)
        new[mask] = rng.permutation(old[mask])
        return new

    return _map_layers(shuffled, masks, params)


def shuffle_masks(masks: Masks, seed: Seed) -> Masks:
    """Each layer's mask permuted within the layer: does the structure matter, or sparsity alone?

    It is a random mask of the same sparsity layer by layer, uniform over all such masks.

    Args:
        masks: the ticket's.
        seed: draws the permutations.
    """
    rng = generator(seed)
    return jax.tree.map(lambda mask: rng.permutation(np.ravel(mask)).reshape(mask.shape), masks)


def _map_layers(change: Callable[..., np.ndarray], masks: Masks, params: Params, *others: Params) -> Params:
    """The parameters with `change(mask, weights, ...)` in place of what may be pruned, of the same dtype."""
    check_masks(masks, params)

    def changed(mask: Any, leaf: Any, *beside: Any) -> Any:
        if mask is None:
            return leaf
        new = change(*map(np.asarray, (mask, leaf, *beside))).astype(leaf.dtype)
        return jnp.asarray(new) if isinstance(leaf, jax.Array) else new

    trees = (aligned(masks, params), params, *(aligned(other, params) for other in others))
    return jax.tree.map(changed, *trees, is_leaf=lambda node: node is None)
