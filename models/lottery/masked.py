"""Training under a mask: any optax optimiser, with pruned weights exactly 0 after every step."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qrt_tn.models.lottery.masks import Masks, aligned, apply_masks


class MaskedState(NamedTuple):
    """What the wrapped optimiser keeps, and the masks."""

    masks: Masks
    inner: Any


def masked(optimizer: optax.GradientTransformation, masks: Masks) -> optax.GradientTransformation:
    """Wrap an optimiser so that pruned weights stay exactly 0, whatever it does.

    The optimiser sees gradients and parameters whose pruned entries are 0. So these take no part in moments
    or in a norm that gradients are clipped to, and parameters that it keeps in its state (schedule-free,
    lookahead, prodigy) are pruned too, also when training starts from weights that are not. The update of
    a pruned weight w is -w: momentum and weight decay leave it at 0, and one that was not 0 becomes so at
    the first step if it is finite; `apply_masks` prunes others. The masks are part of the state, as in
    jaxpruner (Lee et al., arXiv 2304.14082), so that one compiled step, or one under jax.vmap, serves many.

    Chain what must see masked gradients inside `optimizer`, any optax transformation.

    Raises:
        ValueError: `update` is called without the parameters.

    >>> params = {"kernel": jnp.ones((1, 2))}
    >>> optimizer = masked(optax.sgd(0.5), {"kernel": jnp.array([[True, False]])})
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["kernel"].tolist()
    [[0.5, 0.0]]
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> MaskedState:
        one = params.fast if isinstance(params, optax.LookaheadParams) else params
        return MaskedState(aligned(masks, one), inner.init(_each(partial(apply_masks, masks), params)))

    def update(updates: Any, state: MaskedState, params: Any = None, **extra: Any) -> tuple[Any, MaskedState]:
        if params is None:
            raise ValueError(
                "a masked optimiser was updated without parameters; call update(g, state, params)"
            )

        def pruned(changes: Any, params: Any) -> Any:
            return jax.tree.map(
                lambda mask, change, weight: change if mask is None else jnp.where(mask, change, -weight),
                state.masks,
                changes,
                params,
                is_leaf=lambda node: node is None,
            )

        mask = partial(apply_masks, state.masks)
        changes, held = inner.update(mask(updates), state.inner, _each(mask, params), **extra)
        return _each(pruned, changes, params), MaskedState(state.masks, held)

    return optax.GradientTransformationExtraArgs(init, update)


def _each(function: Callable[..., Any], *trees: Any) -> Any:
    """A function of parameters; of the fast and of the slow ones where optax.lookahead has both."""
    if isinstance(trees[0], optax.LookaheadParams):
        return optax.LookaheadParams(*(function(*pair) for pair in zip(*trees, strict=True)))
    return function(*trees)
