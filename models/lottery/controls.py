"""Controls of a ticket: what of it is kept and what is redrawn, to see which of it matters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.models.lottery.masks import Masks, Params, aligned, apply_masks, check_masks, layers, with_layers


def keep_signs(fresh: Params, initial: Params, masks: Masks) -> Params:
    """Redrawn weights with the signs of the initial ones: are signs all that a ticket needs?

    It is "reinit" with the initial signs in Zhou et al., Deconstructing lottery tickets (arXiv 1905.01067):
    |fresh| with the signs of `initial` where a weight is kept, 0 where it is pruned. Where the initial
    weight is 0 the fresh one stays, and so do parameters that may not be pruned. Refuses what `check_masks`
    does.
    """
    check_masks(masks, initial)
    check_masks(masks, fresh)

    def signed(mask: Any, new: Any, old: Any) -> Any:
        return new if mask is None else jnp.where(old == 0, new, jnp.copysign(new, old))

    trees = (aligned(masks, fresh), fresh, aligned(initial, fresh))
    return apply_masks(masks, jax.tree.map(signed, *trees, is_leaf=lambda node: node is None))


def random_masks(masks: Masks, kept: Mapping[str, int], seed: Seed) -> Masks:
    """Keep weights uniformly at random: of each layer `kept` names so many of those that `masks` keep.

    Raises:
        ValueError: an unknown layer, or a count that is not in 1..(number of weights the layer has left).
    """
    before = layers(masks)
    for name, count in kept.items():
        if name not in before:
            raise ValueError(f"no layer {name!r} to prune; give counts by layer, of {', '.join(before)}")
        alive = int(before[name].sum())
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= alive:
            raise ValueError(
                f"layer {name!r} is to keep {count!r} weights; give a whole number in 1..{alive}"
            )
    rng, drawn = generator(seed), {}
    for name, mask in before.items():  # in this order, so that the draw does not depend on that of `kept`
        if name in kept:
            drawn[name] = np.zeros(mask.shape, dtype=bool)
            drawn[name].flat[rng.choice(np.flatnonzero(mask), size=kept[name], replace=False)] = True
    return with_layers(masks, drawn)
