"""Training under a mask: any optax optimiser, with pruned weights exactly 0 after every step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qrt_tn.models.lottery.masks import Masks, apply_masks


class MaskedState(NamedTuple):
    """What the wrapped optimiser keeps, and the masks."""

    masks: Masks
    inner: Any


def masked(optimizer: optax.GradientTransformation, masks: Masks) -> optax.GradientTransformation:
    """Wrap an optimiser so that pruned weights stay exactly 0, whatever it does.

    Gradients of pruned weights are 0 before the optimiser sees them, so they take no part in moments or
    in a norm that gradients are clipped to; and the update of a pruned weight w is -w, so that momentum
    and weight decay leave it at 0 and a weight that was not 0 becomes so at the first step. The masks
    are part of the state, as in jaxpruner (Lee et al., arXiv 2304.14082), so that one compiled step, or
    one under jax.vmap, serves many masks. Start from masked parameters (`apply_masks`): an optimiser
    that looks at norms of weights would otherwise see the pruned ones once.

    Args:
        optimizer: any optax transformation; chain what must see masked gradients inside it.
        masks: as `full_masks` makes them.

    Returns:
        A transformation whose `update` needs the parameters.

    Raises:
        ValueError: `update` is called without the parameters.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> MaskedState:
        return MaskedState(masks, inner.init(params))

    def update(updates: Any, state: MaskedState, params: Any = None, **extra: Any) -> tuple[Any, MaskedState]:
        if params is None:
            raise ValueError(
                "a masked optimiser was updated without parameters; call update(g, state, params)"
            )
        changes, held = inner.update(apply_masks(state.masks, updates), state.inner, params, **extra)
        changes = jax.tree.map(
            lambda mask, change, weight: change if mask is None else jnp.where(mask, change, -weight),
            state.masks,
            changes,
            params,
            is_leaf=lambda node: node is None,
        )
        return changes, MaskedState(state.masks, held)

    return optax.GradientTransformationExtraArgs(init, update)
