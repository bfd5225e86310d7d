"""A mixture of experts, each a shallow ridge network on Z_P^D, so that its nodes can come from the QRT."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.models.ridge import RidgeNetwork
from qrt_tn.models.shallow import Constant, mean_size, normal_weights
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet

ROUTER_DEVIATION = 0.01  # so that at first all gates are about 1 / E, and a column's norm is next to nothing


class RidgeExperts(RidgeNetwork):
    """x -> sum_e gate_e(x) f_e(x) + bias, f_e(x) = sum_n kernel_en phi((a_en.x - b_en) mod P).

    The gates are the softmax of the logits z(x) W, z the standardised x, and 0 but for the K largest: token
    choice as in google-research/vmoe (vmoe/nn/routing.py), the softmax before the choice, where a whole
    point is one token and no expert is ever full. phi is `RidgeNetwork`'s; training leaves the nodes as they
    are. All experts are computed for all points and masked, which at these sizes costs less than sending
    points. So this is a shallow network of E m nodes, expert by expert, with features gate_e(x) phi_en(x),
    which is fitted and trained as the others are.

    Args:
        experts: the hidden nodes of each of the E experts, m for each.
        ridgelet: gives the activation g, which must be real.
        outputs: the number of outputs C.
        selected: K, the experts of a point.
        centre: what is subtracted from a point for the router, shape (D,).
        scale: what it is then divided by.
        rngs: its `params` stream draws the first kernel and router.

    Raises:
        ValueError: experts of different sizes, K above E, a bad centre or scale, or as `RidgeNetwork`.
    """

    def __init__(
        self,
        experts: Sequence[RidgeNodes],
        ridgelet: Ridgelet,
        outputs: int,
        *,
        selected: int,
        centre: Any,
        scale: float,
        rngs: nnx.Rngs,
    ) -> None:
        sizes = {len(nodes) for nodes in experts}
        if len(sizes) != 1:
            raise ValueError(f"the experts have {sorted(sizes)} nodes; give each of them equally many")
        check_whole("selected", selected)
        if selected > len(experts):
            raise ValueError(f"selected is {selected}, but there are {len(experts)} experts; select fewer")
        nodes = RidgeNodes.concatenate(experts)
        centre = np.asarray(centre, dtype=np.float32)
        if centre.shape != (nodes.dim,) or not np.isfinite(centre).all():
            raise ValueError(f"centre has shape {centre.shape}; give {nodes.dim} finite numbers")
        if not (is_real(scale) and scale > 0):
            raise ValueError(f"scale is {scale!r}; give a number above 0")
        super().__init__(nodes, ridgelet, outputs, rngs=rngs)
        self.router = nnx.Param(normal_weights(rngs, (nodes.dim, len(experts)), ROUTER_DEVIATION))
        self.centre, self.scale = Constant(jnp.asarray(centre)), Constant(jnp.full(1, scale, jnp.float32))
        self.selected = Constant(jnp.full(1, selected, jnp.int32))
        self.a_offset: Any = Constant(self.a_offset[...])
        self.b_offset: Any = Constant(self.b_offset[...])

    @property
    def experts(self) -> int:
        """The number E of experts."""
        return int(self.router.shape[1])

    def standardised(self, x: jax.Array) -> jax.Array:
        """What the router sees of points x (batch, D)."""
        return (jnp.asarray(x, dtype=jnp.float32) - self.centre[...]) / self.scale[...]

    def logits(self, x: jax.Array) -> jax.Array:
        """What the router makes of points x (batch, D), shape (batch, E)."""
        # full float32 on GPUs too (TF32 keeps 10 bits): it decides which experts are chosen
        return jnp.matmul(self.standardised(x), self.router[...], precision=jax.lax.Precision.HIGHEST)

    def gates(self, x: jax.Array) -> jax.Array:
        """The weight of each expert at points x (batch, D), shape (batch, E); 0 where it is not chosen."""
        return choose(self.logits(x), self.selected[...])

    def features(self, x: jax.Array, fixed: Any = None) -> jax.Array:
        """gate_e(x) phi_en(x) at points x (batch, D), shape (batch, E m)."""
        with jax.default_matmul_precision("highest"):
            phi = super().features(x, fixed)
        return phi * jnp.repeat(self.gates(x), self.nodes // self.experts, axis=1)

    def step_scales(self, x: jax.Array) -> dict[str, float | jax.Array]:
        """Router steps at learning rate 1 change a logit by about 1."""
        return {**super().step_scales(x), "router": 1 / mean_size(self.standardised(x))}

    def split(self, x: Any) -> "ExpertOutputs":
        """What each expert makes of any number of points x (M, D), and the logits."""
        values, logits = _jitted_outputs(self, jnp.asarray(self.check_points(x)))
        selected = int(self.selected[...][0])
        return ExpertOutputs(np.asarray(values), np.asarray(logits), np.asarray(self.bias[...]), selected)


class ExpertOutputs(NamedTuple):
    """A mixture at M points, before the gates: what it would give without some of its experts."""

    values: np.ndarray  # f_e(x), (M, E, C)
    logits: np.ndarray  # (M, E)
    bias: np.ndarray  # (C,)
    selected: int  # K

    def without(self, pruned: Any) -> np.ndarray:
        """The mixture's outputs, shape (M, C), after the experts of these numbers were taken out.

        A point still chooses among all columns of the router and gets 0 from an expert that is gone, as
        Chowdhury et al. (ICML 2024) released it for token choice.

        Raises:
            ValueError: numbers that are no experts, or all of them.
        """
        experts = self.logits.shape[1]
        numbers = np.unique(np.asarray(pruned))
        if numbers.size and (numbers.dtype.kind not in "iu" or not 0 <= numbers[0] <= numbers[-1] < experts):
            raise ValueError(
                f"pruned is {pruned!r}; give numbers of experts, 0 to {experts - 1}, and no mask"
            )
        if len(numbers) == experts:
            raise ValueError(f"pruned is {pruned!r}, all {experts} experts; prune fewer")
        gates = np.array(choose(jnp.asarray(self.logits), self.selected))
        gates[:, numbers.astype(np.int64)] = 0
        return np.asarray(np.einsum("me,mec->mc", gates, self.values) + self.bias)


def choose(logits: jax.Array, selected: Any) -> jax.Array:
    """The softmax of logits (batch, E), but for the `selected` largest of each point 0."""
    place = jnp.argsort(jnp.argsort(-logits, axis=1), axis=1)  # stable: of equal logits the first
    return jnp.where(place < selected, jax.nn.softmax(logits, axis=1), 0.0)


@nnx.jit
def _jitted_outputs(network: RidgeExperts, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    with jax.default_matmul_precision("highest"):
        phi = RidgeNetwork.features(network, x).reshape(len(x), network.experts, -1)
        kernel = network.kernel[...].reshape(network.experts, -1, network.outputs)
        return jnp.einsum("men,enc->mec", phi, kernel), network.logits(x)
