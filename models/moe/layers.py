"""A layer of experts: MLPs with a leading expert axis behind a router."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from qrt_tn.models.moe.config import DISPATCHES, RouterConfig
from qrt_tn.models.moe.dispatch import by_einsum, by_gather, by_ragged, choose_form, combine, expert_outputs
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.routers import Router


class Mlp(nnx.Module):
    """gelu(x W_0 + b_0) W_1 + b_1, with the tanh approximation of gelu, as in vision transformers.

    Kernels, shapes (h, m) and (m, h), begin Glorot uniform and biases, (m,) and (h,), at deviation 1e-6, as
    in vit_jax, which vmoe uses.
    """

    kernel_in: nnx.Param
    bias_in: nnx.Param
    kernel_out: nnx.Param
    bias_out: nnx.Param

    def __init__(self, hidden: int, mlp: int, *, rngs: nnx.Rngs) -> None:
        for name, weights in _mlp_weights(hidden, mlp, 1, rngs):
            setattr(self, name, nnx.Param(weights[0]))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens (..., h) to tokens (..., h)."""
        inside = jax.nn.gelu(x @ self.kernel_in[...] + self.bias_in[...])
        return inside @ self.kernel_out[...] + self.bias_out[...]


class Experts(nnx.Module):
    """E MLPs as `Mlp`, whose weights have a leading axis of experts; equal ones to begin with if `same`."""

    kernel_in: nnx.Param
    bias_in: nnx.Param
    kernel_out: nnx.Param
    bias_out: nnx.Param

    def __init__(self, hidden: int, mlp: int, experts: int, *, same: bool, rngs: nnx.Rngs) -> None:
        for name, weights in _mlp_weights(hidden, mlp, 1 if same else experts, rngs):
            setattr(self, name, nnx.Param(jnp.repeat(weights, experts, axis=0) if same else weights))

    def __call__(self, x: jax.Array, owners: tuple[int, ...] | None = None) -> jax.Array:
        """Outputs for tokens of each expert's own, shape (E, N, h), or one entry for each of `owners`."""

        def of(weights: nnx.Param) -> jax.Array:
            return weights[...] if owners is None else weights[...][jnp.asarray(owners)]

        inside = jax.nn.gelu(x @ of(self.kernel_in) + of(self.bias_in)[:, None])
        return inside @ of(self.kernel_out) + of(self.bias_out)[:, None]

    def ragged(self, x: jax.Array, expert: jax.Array, rows: jax.Array) -> jax.Array:
        """The same for tokens (N, h) sorted by expert, given the expert of each row and the rows of each."""
        inside = jax.nn.gelu(jax.lax.ragged_dot(x, self.kernel_in[...], rows) + self.bias_in[...][expert])
        return jax.lax.ragged_dot(inside, self.kernel_out[...], rows) + self.bias_out[...][expert]


class Observation(NamedTuple):
    """What one layer did with a batch: N tokens and A assignments in all groups together.

    Attributes:
        inputs: the tokens, shape (N, h).
        logits: of the router, without noise, shape (N, C).
        column: of each assignment, shape (A,).
        token: of each assignment, 0 .. N - 1.
        gate: likewise, the weight in the sum.
        valid: likewise, False where the token found no slot or no expert.
        outputs: of the expert, before the gate, shape (A, h).
    """

    inputs: jax.Array
    logits: jax.Array
    column: jax.Array
    token: jax.Array
    gate: jax.Array
    valid: jax.Array
    outputs: jax.Array


class MoeLayer(nnx.Module):
    """Experts behind a router, for tokens (B, T, h).

    Args:
        hidden: extent h of a token.
        mlp: hidden units of each expert.
        router: kind of choice, capacity, noise and losses.
        expert_map: the experts there are, and the router columns that lead to them.
        group: tokens that are routed together, None for the T of each image.
        dispatch: one of qrt_tn.models.moe.config.DISPATCHES.
        same: whether all experts begin with equal weights.
    """

    def __init__(
        self,
        hidden: int,
        mlp: int,
        router: RouterConfig,
        expert_map: ExpertMap,
        *,
        rngs: nnx.Rngs,
        group: int | None = None,
        dispatch: str = "auto",
        same: bool = True,
    ) -> None:
        if dispatch not in DISPATCHES:
            raise ValueError(f"dispatch is {dispatch!r}; choose one of {', '.join(DISPATCHES)}")
        self.router = Router(hidden, router, expert_map, rngs=rngs)
        self.experts = Experts(hidden, mlp, expert_map.experts, same=same, rngs=rngs)
        self.expert_map, self.group, self.dispatch = expert_map, group, dispatch

    def __call__(
        self, x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Tokens (B, T, h) to tokens of the same shape, and the router's losses; `key` is of its noise.

        Raises:
            ValueError: groups that do not divide the B * T tokens.
        """
        grouped = self._grouped(x)
        routing, losses = self.router(grouped, key=key)
        slots = self.router.capacity(grouped.shape[1])
        form = choose_form(self.dispatch, limited=slots < grouped.shape[1])
        if form == "ragged":
            made = by_ragged(grouped, routing, self.expert_map, self.experts.ragged)
        else:
            by_form = by_einsum if form == "einsum" else by_gather
            made = by_form(grouped, routing, slots, self.expert_map, self.experts)
        return made.reshape(x.shape), losses

    def observe(self, x: jax.Array) -> tuple[jax.Array, Observation]:
        """The same without noise, and what the layer did with each token."""
        grouped = self._grouped(x)
        groups, tokens, hidden = grouped.shape
        routing, _ = self.router(grouped)
        outputs = expert_outputs(
            grouped, routing, self.router.capacity(tokens), self.expert_map, self.experts
        )
        made = combine(outputs, routing, tokens).reshape(x.shape)
        own = routing.token + tokens * jnp.arange(groups)[:, None]
        return made, Observation(
            inputs=grouped.reshape(-1, hidden),
            logits=routing.logits.reshape(-1, self.expert_map.columns),
            column=routing.column.reshape(-1),
            token=own.reshape(-1),
            gate=routing.gate.reshape(-1),
            valid=routing.valid.reshape(-1),
            outputs=outputs.reshape(-1, hidden),
        )

    def _grouped(self, x: jax.Array) -> jax.Array:
        if self.group is None:
            return x
        if x.shape[0] * x.shape[1] % self.group:
            raise ValueError(
                f"{x.shape[0]} images of {x.shape[1]} tokens do not split into groups of {self.group};"
                f" give batches of a multiple of {self.group // x.shape[1] or 1} images, or group=None"
            )
        return x.reshape(-1, self.group, x.shape[2])


def _mlp_weights(hidden: int, mlp: int, drawn: int, rngs: nnx.Rngs) -> Iterator[tuple[str, jax.Array]]:
    """Kernels and biases by name, with a leading axis of so many draws."""
    glorot, small = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.normal(1e-6)
    for name, init, shape in (
        ("kernel_in", glorot, (hidden, mlp)),
        ("bias_in", small, (mlp,)),
        ("kernel_out", glorot, (mlp, hidden)),
        ("bias_out", small, (hidden,)),
    ):
        keys = jax.random.split(rngs.params(), drawn)
        yield name, jnp.stack([init(key, shape) for key in keys])
