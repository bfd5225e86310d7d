"""Pruning at initialisation, by scores of untrained weights."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery.masks import (
    Masks,
    Params,
    apply_masks,
    check_masks,
    counts,
    layer_values,
    layers,
    with_layers,
)
from qrt_tn.models.lottery.program import Program, Weights, merge
from qrt_tn.models.lottery.pruning import prune_by_scores
from qrt_tn.models.tables import first_line
from qrt_tn.models.training import BatchOrder

SNIP_POINTS = 10  # of a class: the method's batch of 100 for sets of ten classes


def snip_scores(loss: Callable[[Params], Any], params: Params, masks: Masks) -> dict[str, np.ndarray]:
    """The score |w dL/dw| of each weight on one batch, by layer; of pruned weights 0.

    It is the connection sensitivity of Lee, Ajanthan and Torr, SNIP (arXiv 1810.02340), without the
    division by its sum, which changes no ranking. SNIP prunes once and globally: hand the scores to
    `prune_by_scores` with scope="global". JAX traces `loss`, of parameters on the batch.

    Raises:
        ValueError: the masks do not fit the parameters, or a score is not finite.
    """
    check_masks(masks, params)
    kept, scores = apply_masks(masks, params), {}
    gradients = layer_values(masks, jax.jit(jax.grad(loss))(kept))
    for name, value in layer_values(masks, kept).items():
        scores[name] = score = np.abs(value * gradients[name])
        if not np.isfinite(score).all():
            raise ValueError(
                f"layer {name!r} has a score of {score[~np.isfinite(score)][0]}; give finite parameters and a"
                " batch on which the loss has a finite gradient"
            )
    return scores


def synflow_masks(
    apply: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    masks: Masks,
    keep: float,
    *,
    shape: tuple[int, ...],
    rounds: int = 100,
) -> Masks:
    """Prune by synaptic flow, without data: SynFlow (Tanaka et al., arXiv 2006.05467).

    The flow R is the sum of the outputs at an input of ones under the absolute values of all parameters,
    biases too, as in the authors' code; for a plain network of ReLUs without biases R = 1^T prod |W| 1. A
    round scores each weight |w dR/dw|, and keeps the highest over all layers; after round k of n the share
    left is keep^(k/n). In a plain network the scores of each layer add up to R, so that as a layer thins
    out its scores rise, and rounds enough leave something of each.

    R is a product over the layers and leaves float32 in a deep network. Dividing each layer by a number
    would keep the ranking of a plain network, but not of one with shortcuts, where R is a sum over paths of
    different lengths. So the flow is computed in float64.

    Args:
        apply: gives the outputs of the network, before any softmax, from parameters and inputs
            (1, *shape), both float64; normalisation uses its stored averages. It is traced by JAX, and
            must compute in the precision of what it is given.
        params: initial parameters.
        masks: where to start.
        keep: the share to keep of the weights that `masks` keep, in (0, 1].
        shape: of one input.
        rounds: n.

    Raises:
        ValueError: masks that do not fit, settings out of range, a share that leaves fewer weights than
            there are layers, a layer pruned to nothing, a network that does not compute in float64, or a
            flow that is 0 or not finite.
    """
    if not is_real(keep) or not 0 < keep <= 1:
        raise ValueError(f"keep is {keep!r}; give a share above 0 and at most 1")
    check_whole("rounds", rounds)
    names, total = list(layer_values(masks, params)), counts(masks)[0]
    targets = [int(np.floor(total * keep ** (k / rounds) + 0.5)) for k in range(1, rounds + 1)]
    if targets[-1] < len(names):
        raise ValueError(
            f"keep is {keep}, which leaves {targets[-1]} of {total} weights for {len(names)} layers;"
            " keep at least one a layer"
        )
    with jax.enable_x64(True):
        absolute = jax.tree.map(lambda leaf: jnp.abs(jnp.asarray(leaf, dtype=jnp.float64)), params)
        ones = jnp.ones((1, *shape), dtype=jnp.float64)

        @jax.jit
        def score(masks: Masks, absolute: Params) -> tuple[jax.Array, Params]:
            kept = apply_masks(masks, absolute)
            flow, gradients = jax.value_and_grad(lambda params: apply(params, ones).sum())(kept)
            return flow, jax.tree.map(lambda weight, gradient: jnp.abs(weight * gradient), kept, gradients)

        left = total
        for k, target in enumerate(targets, start=1):
            if target == left:
                continue
            try:
                flow, scores = score(masks, absolute)
            except TypeError as error:  # a carry of a scan in float32, say
                raise ValueError(
                    f"apply cannot compute in float64 on inputs of shape {shape} ({first_line(error)}); give"
                    " one that computes in the precision of what it is given"
                ) from error
            if not np.isfinite(flow):
                raise ValueError(
                    f"the flow is {flow} in round {k}; give finite parameters, and an apply that computes in"
                    " the float64 it is given"
                )
            if flow == 0:
                raise ValueError(
                    f"the flow is 0 in round {k}: no path of kept weights leads from the inputs to the"
                    " outputs; keep more, take more rounds, or initialise no layer to 0"
                )
            # this rate of what is left takes exactly left - target
            rates = dict.fromkeys(names, 1 - target / left)
            try:
                masks = prune_by_scores(layer_values(masks, scores), masks, rates, scope="global")
            except ValueError as error:
                fault = str(error).partition(";")[0]
                raise ValueError(
                    f"{fault} in round {k} of {rounds}; take more rounds or keep more"
                ) from error
            left = target
    return masks


def masks_at_start(
    method: str,
    program: Program,
    weights: Weights,
    masks: Masks,
    names: Collection[str],
    share: float,
    fold: ImageFold,
    seed: int,
) -> Masks:
    """Masks of "snip" or "synflow" for a network of `split`: all layers named are compared, a share is kept.

    SNIP sees the first points in the order of the seed, ten a class.
    """
    if method == "snip":
        size = min(len(fold.x_train), SNIP_POINTS * (1 + int(fold.y_train.max())))
        batch = BatchOrder(seed, len(fold.x_train), size)(0, 1)[0]

        def loss(params: Params) -> jax.Array:
            outputs = nnx.merge(program.graph, params, weights.rest)(fold.x_train[batch])
            return optax.softmax_cross_entropy_with_integer_labels(outputs, fold.y_train[batch]).mean()

        scores = snip_scores(loss, weights.params, masks)
        return prune_by_scores(scores, masks, dict.fromkeys(names, 1 - share), scope="global")

    def apply(params: Params, x: jax.Array) -> Any:
        return merge(program, Weights(params, weights.rest))(x)

    compared = with_layers(masks, dict.fromkeys(set(layers(masks)) - set(names)))
    found = synflow_masks(apply, weights.params, compared, share, shape=fold.x_train.shape[1:])
    return with_layers(masks, layers(found))
