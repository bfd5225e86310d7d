"""Routers: which tokens go to which experts, with which gates, and in which slots.

Both kinds follow google-research/vmoe (vmoe/nn/routing.py and vmoe/moe.py):

- logits are x W without bias; while training, Gaussian noise of deviation noise_std / E is added;
- gates are the softmax of the (noisy) logits over all columns, and not normalised over the chosen ones
  unless asked for;
- token choice: a token goes to its K columns of largest gate; all first choices take their slots before all
  second choices, and within these the tokens in their order, or by falling largest gate with
  `batch_priority`; a token that finds no slot left in a column is dropped there;
- expert choice: each column takes the tokens of largest gate, as many as it has slots.

Each group of tokens is routed by itself. Logits, gates and losses are float32 at least, whatever the tokens
are (Fedus et al., arXiv 2101.03961, section 2.4), and the logits' product is not rounded to TF32 on GPUs, so
that the choice is that of float32; gates are cast back to the type of the tokens.
"""

import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.stats import norm

from qrt_tn.models.moe.config import RouterConfig
from qrt_tn.models.moe.maps import ExpertMap


class Routing(NamedTuple):
    """Assignments of tokens to columns of the router, A of them in each of G groups.

    Attributes:
        logits: of all pairs, without noise, shape (G, S, C).
        token: which token, shape (G, A) as all that follow.
        column: to which column.
        gate: the weight of the expert's output.
        slot: the place among the tokens of the column.
        valid: False where the token found no slot, or the column has no expert.
    """

    logits: jax.Array
    token: jax.Array
    column: jax.Array
    gate: jax.Array
    slot: jax.Array
    valid: jax.Array


class Router(nnx.Module):
    """A linear map, `kernel` (h, C), to one logit for each column, and the choice that follows from it.

    Warns:
        UserWarning: one expert a token with softmax after the choice, which makes every gate 1.
    """

    def __init__(self, hidden: int, config: RouterConfig, expert_map: ExpertMap, *, rngs: nnx.Rngs) -> None:
        if (config.kind, config.selected, config.softmax) == ("token-choice", 1, "after"):
            warnings.warn(
                "selected=1 with softmax='after' makes every gate 1, so that the loss of the classes has no"
                " gradient for the router; train with softmax='before'",
                stacklevel=2,
            )
        init = jax.nn.initializers.lecun_normal()  # that of flax.linen.Dense, which vmoe leaves as it is
        self.kernel = nnx.Param(init(rngs.params(), (hidden, expert_map.columns)))
        self.config, self.expert_map = config, expert_map

    def capacity(self, tokens: int) -> int:
        """Slots of each column for a group of so many tokens."""
        return capacity(tokens, self.config, self.expert_map.capacity_experts)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> tuple[Routing, dict[str, jax.Array]]:
        """Route groups of tokens (G, S, h); `key` is of the noise on the logits.

        Returns:
            The assignments, and the losses by name, each the mean over the groups, no load loss without
            noise; "auxiliary" is their weighted sum, which training adds to its own loss (0 for expert
            choice).
        """
        config, tokens = self.config, x.shape[1]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        kernel = self.kernel[...].astype(wide)
        logits = noisy = jnp.matmul(x.astype(wide), kernel, precision=jax.lax.Precision.HIGHEST)
        deviation = config.noise_std / self.expert_map.columns
        if key is not None and deviation > 0:
            noisy = logits + deviation * jax.random.normal(key, logits.shape, logits.dtype)
        gates, slots = jax.nn.softmax(noisy), self.capacity(tokens)
        if config.kind == "expert-choice":
            chosen = jax.vmap(lambda g: choose_tokens(g, slots, self.expert_map))(gates)
            losses = {"auxiliary": jnp.zeros(())}
        else:
            chosen = jax.vmap(
                lambda g: choose_experts(g, config.selected, slots, batch_priority=config.batch_priority)
            )(gates)
            losses = self._losses(logits, noisy, deviation)
        token, column, gate, slot, valid = chosen
        if config.softmax == "after" or self.expert_map.renormalized:
            total = jax.vmap(lambda g, t: jax.ops.segment_sum(g, t, num_segments=tokens)[t])(gate, token)
            # an expert may choose a token whose gates are all 0; the inner where keeps gradients finite
            gate = jnp.where(total > 0, gate / jnp.where(total > 0, total, 1), 0)
        live = self.expert_map.live_columns
        if len(live) < self.expert_map.columns:
            valid = valid & jnp.isin(column, jnp.asarray(live))
        return Routing(logits, token, column, gate.astype(x.dtype), slot, valid), losses

    def _losses(self, logits: jax.Array, noisy: jax.Array, deviation: float) -> dict[str, jax.Array]:
        config = self.config
        losses = {
            "importance": jax.vmap(importance_loss)(jax.nn.softmax(logits)).mean(),
            "gshard": jax.vmap(gshard_loss)(jax.nn.softmax(noisy)).mean(),
        }
        if noisy is not logits:
            load = jax.vmap(lambda a, b: load_loss(a, b, deviation, config.selected))(logits, noisy)
            losses["load"] = load.mean()
        # a loss of weight 0 stays out of the sum: its gradient may be infinite
        weights = {name: getattr(config, f"{name}_weight") for name in losses}
        total = sum((weights[name] * losses[name] for name in losses if weights[name] > 0), jnp.zeros(()))
        return {"auxiliary": total, **losses}


def capacity(tokens: int, config: RouterConfig, experts: int) -> int:
    """Slots of each expert for a group of S tokens, where a layer had E `experts` before pruning.

    ceil(S K f / E) for token choice and ceil(S f / E) for expert choice, rounded up to a multiple, and never
    more than S. Product and quotient are those of floating point, as in vmoe's `compute_capacity`, so that a
    checkpoint has the slots it was trained with: 100 tokens at a factor of 1.1 and 10 experts come to
    11.000000000000002 and have 12 slots, where exact arithmetic has 11.
    """
    if config.capacity_factor is None:
        return tokens
    choices = tokens * (config.selected if config.kind == "token-choice" else 1)
    slots = math.ceil(choices * config.capacity_factor / experts)
    return min(tokens, slots + -slots % config.multiple_of)


def choose_experts(
    gates: jax.Array, selected: int, slots: int, *, batch_priority: bool = False
) -> tuple[jax.Array, ...]:
    """Token choice in one group, gates (S, C), with so many slots a column.

    Returns:
        token, column, gate, slot, valid, each of shape (S * K,): the K choices of token 0, of token 1, ...
    """
    tokens, columns = gates.shape
    gate, column = jax.lax.top_k(gates, selected)
    order = jnp.argsort(-gate[:, 0]) if batch_priority else None
    # all first choices in the order of the tokens, then all second choices, ...
    queue = (column if order is None else column[order]).T.reshape(-1)
    before = jnp.cumsum(jax.nn.one_hot(queue, columns, dtype=jnp.int32), axis=0)
    place = jnp.take_along_axis(before, queue[:, None], axis=1)[:, 0] - 1
    slot = place.reshape(selected, tokens).T
    if order is not None:
        slot = slot[jnp.argsort(order)]
    token = jnp.repeat(jnp.arange(tokens), selected)
    return token, column.reshape(-1), gate.reshape(-1), slot.reshape(-1), slot.reshape(-1) < slots


def choose_tokens(gates: jax.Array, slots: int, expert_map: ExpertMap) -> tuple[jax.Array, ...]:
    """Expert choice in one group, gates (S, C): each column with an expert takes its largest gates.

    Returns:
        token, column, gate, slot, valid, each of shape (columns with experts * slots,).
    """
    live = jnp.asarray(expert_map.live_columns)
    gate, token = jax.lax.top_k(gates.T[live], slots)
    column = jnp.repeat(live, slots)
    slot = jnp.tile(jnp.arange(slots), len(live))
    return token.reshape(-1), column, gate.reshape(-1), slot, jnp.ones(column.shape, bool)


def importance_loss(gates: jax.Array) -> jax.Array:
    """The squared coefficient of variation of the summed gates (S, C) (arXiv 2106.05974, appendix A.2)."""
    return _variation(gates.sum(axis=0))


def load_loss(logits: jax.Array, noisy: jax.Array, deviation: float, selected: int) -> jax.Array:
    """The squared coefficient of variation of the columns' expected loads (arXiv 2106.05974, appendix A.2).

    The load of a column is the mean probability that a token would choose it if the noise, which made `noisy`
    of `logits` (S, C), were drawn anew.
    """
    threshold = jax.lax.top_k(noisy, selected)[0][:, -1:]
    load = (1 - norm.cdf((threshold - logits) / deviation)).mean(axis=0)
    return _variation(load)


def _variation(x: jax.Array) -> jax.Array:
    """The squared coefficient of variation; by the variance, since a deviation of 0 has no gradient."""
    return x.var() / x.mean() ** 2


def gshard_loss(gates: jax.Array) -> jax.Array:
    """GShard's auxiliary loss for gates (S, C) (arXiv 2006.16668, algorithm 1), times E^2 as in its code."""
    columns = gates.shape[1]
    first = jax.nn.one_hot(gates.argmax(axis=1), columns).mean(axis=0)
    return (first * gates.mean(axis=0)).mean() * columns**2
