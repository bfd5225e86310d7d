"""Bringing tokens to experts and their outputs back, in three forms that compute the same sum.

For token s the sum of gate * f_expert(x_s) over its assignments:

- "gather": the tokens of each column are gathered by their numbers, and one batched matrix product serves
  all experts. Fast everywhere, where the slots are limited.
- "einsum": one-hot arrays of tokens against columns and slots, as in vmoe's EinsumDispatcher. It costs as
  much again as the experts where groups are large, and is kept to compare with, and for meshes of
  accelerators, which divide it best.
- "ragged": assignments sorted by expert, and `jax.lax.ragged_dot` over runs of unequal length. Nothing is
  padded, so it suits accelerators without a limit on the slots; XLA on CPUs multiplies every token with
  every expert.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.routers import Routing

# Tokens of each expert, shape (experts, N, h), to their outputs, likewise.
Experts = Callable[[jax.Array, "tuple[int, ...] | None"], jax.Array]


def choose_form(form: str, *, limited: bool, platform: str | None = None) -> str:
    """The form that "auto" stands for; any other stands for itself.

    `limited` says whether columns have fewer slots than a group has tokens; `platform` is JAX's default if
    None.
    """
    if form != "auto":
        return form
    return "gather" if limited or (platform or jax.default_backend()) == "cpu" else "ragged"


def by_gather(
    x: jax.Array, routing: Routing, slots: int, expert_map: ExpertMap, experts: Experts
) -> jax.Array:
    """The experts' weighted outputs (G, S, h) for tokens (G, S, h), by gathering.

    `experts` is applied to (columns with experts, N, h), given the expert of each of these columns, or None
    where these are all experts in order.
    """
    return combine(expert_outputs(x, routing, slots, expert_map, experts), routing, x.shape[1])


def expert_outputs(
    x: jax.Array, routing: Routing, slots: int, expert_map: ExpertMap, experts: Experts
) -> jax.Array:
    """What the expert of each assignment makes of its token, before the gate, shape (G, A, h).

    Assignments that are not valid give the output of some other token, or of zero; they must not be used.
    """
    groups, tokens, hidden = x.shape
    live, place, owners = _with_expert(expert_map)
    row = place[routing.column] * slots + jnp.minimum(routing.slot, slots - 1)
    # which token fills each slot; `tokens` itself is a token of zeros, for those that stay empty
    empty = jnp.full((groups, live * slots), tokens, routing.token.dtype)
    aside = jnp.where(routing.valid, row, live * slots)  # out of range: left out
    filled = jax.vmap(lambda e, r, t: e.at[r].set(t, mode="drop"))(empty, aside, routing.token)
    padded = jnp.concatenate([x, jnp.zeros((groups, 1, hidden), x.dtype)], axis=1)
    sent = jnp.take_along_axis(padded, filled[..., None], axis=1)
    sent = sent.reshape(groups, live, slots, hidden).swapaxes(0, 1).reshape(live, -1, hidden)
    made = experts(sent, owners).reshape(live, groups, slots, hidden)
    made = made.swapaxes(0, 1).reshape(groups, live * slots, hidden)
    return jnp.take_along_axis(made, row[..., None], axis=1)


def combine(outputs: jax.Array, routing: Routing, tokens: int) -> jax.Array:
    """The sum of a token's outputs (G, A, h), weighed by the gates, shape (G, S, h)."""
    weighed = outputs * (routing.gate * routing.valid)[..., None]

    def group(weighed: jax.Array, token: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(weighed, token, num_segments=tokens)

    return jax.vmap(group)(weighed, routing.token)


def by_einsum(
    x: jax.Array, routing: Routing, slots: int, expert_map: ExpertMap, experts: Experts
) -> jax.Array:
    """The same as `by_gather`, with one-hot arrays of shape (G, S, columns with experts, slots)."""
    groups, tokens, hidden = x.shape
    live, place, owners = _with_expert(expert_map)

    def group(routing: Routing) -> tuple[jax.Array, jax.Array]:
        pair = (jnp.where(routing.valid, routing.token, tokens), place[routing.column])
        slot = jnp.full((tokens, live), -1, jnp.int32).at[pair].set(routing.slot, mode="drop")
        gate = jnp.zeros((tokens, live), x.dtype).at[pair].set(routing.gate, mode="drop")
        return slot, gate

    slot, gate = jax.vmap(group)(routing)
    sending = jax.nn.one_hot(slot, slots, dtype=x.dtype)
    sent = jnp.einsum("gsec,gsh->egch", sending, x).reshape(live, groups * slots, hidden)
    made = experts(sent, owners).reshape(live, groups, slots, hidden)
    return jnp.einsum("gsec,egch->gsh", sending * gate[..., None], made)


def by_ragged(
    x: jax.Array,
    routing: Routing,
    expert_map: ExpertMap,
    experts: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """The same as `by_gather`, for assignments sorted by expert.

    `experts` is applied to (N, h), given the expert of each row and the number of rows of each expert. Rows
    after the last expert's are not used.
    """
    groups, tokens, hidden = x.shape
    owner = jnp.asarray(expert_map.column_to_expert)
    expert = jnp.where(routing.valid, owner[routing.column], expert_map.experts).reshape(-1)
    source = (routing.token + tokens * jnp.arange(groups)[:, None]).reshape(-1)
    order = jnp.argsort(expert)
    rows = jnp.bincount(expert, length=expert_map.experts + 1)[:-1]
    made = experts(
        x.reshape(-1, hidden)[source[order]], jnp.minimum(expert[order], expert_map.experts - 1), rows
    )
    gate = (routing.gate * routing.valid).reshape(-1)[order]
    # before the product, for the sake of its gradient: ragged_dot leaves rows of no expert undefined
    made = jnp.where(expert[order][:, None] < expert_map.experts, made, 0)
    summed = jax.ops.segment_sum(made * gate[:, None], source[order], num_segments=groups * tokens)
    return summed.reshape(x.shape)


def _with_expert(expert_map: ExpertMap) -> tuple[int, jax.Array, tuple[int, ...] | None]:
    """How many columns have an expert, of each column its place among them, and the expert of each.

    The place is 0 for others, whose assignments are not valid; experts are None where these are all in order.
    """
    live = expert_map.live_columns
    owners = tuple(expert_map.column_to_expert[column] for column in live)
    places = [live.index(column) if column in live else 0 for column in range(expert_map.columns)]
    return len(live), jnp.asarray(places), None if owners == tuple(range(expert_map.experts)) else owners
