"""The ridge network: hidden nodes of Z_P^D that can be fitted, read off the transform, or trained."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.field import centred
from qrt_tn.models.shallow import Constant, ShallowNetwork, mean_size
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet

if TYPE_CHECKING:
    from qrt_tn.engine import Scaled

# float32 holds every integer up to here exactly.
EXACT = 2**24
LARGEST_MODULUS = 8191


class RidgeNetwork(ShallowNetwork):
    """x -> sum_k kernel_k phi((a_k.x - b_k) mod P) + bias.

    phi is the activation g shifted to mean 0 and scaled to variance 1 over Z_P, and interpolated
    linearly on the circle R/P between the P points of its table. A node is drawn at integers (a_k, b_k),
    which stay as they are; training moves real offsets added to them, which start at 0. So before
    training phi is exactly the table at integer x, and after it the pre-activation is

        (a_k.x mod P) + a_offset_k.x - b_k - b_offset_k   (mod P),

    where the first term is exact in float32 at any D: a_k and x are taken at their centred
    representatives, which changes a_k.x by a multiple of P, and the sum is split into blocks below 2^24.

    Args:
        nodes: the N hidden nodes.
        ridgelet: gives the activation g, which must be real.
        outputs: the number of outputs.
        rngs: its `params` stream draws the first kernel.

    Attributes:
        kernel: output weights, shape (N, outputs).
        bias: shape (outputs,).
        a_offset: shape (N, D).
        b_offset: shape (N,).
        modulus: the prime P.

    Raises:
        ValueError: nodes and ridgelet of different moduli, a complex activation, no outputs, or a
            modulus above 8191, where float32 holds no exact products.
    """

    FORMAT: ClassVar[str] = "qrt-tn.ridge-network"

    def __init__(self, nodes: RidgeNodes, ridgelet: Ridgelet, outputs: int, *, rngs: nnx.Rngs) -> None:
        for given, kind in ((nodes, RidgeNodes), (ridgelet, Ridgelet)):
            if not isinstance(given, kind):
                raise ValueError(
                    f"got a {type(given).__name__} for a {kind.__name__}; give nodes and ridgelet"
                )
        if nodes.modulus != ridgelet.modulus:
            raise ValueError(f"the nodes live on Z_{nodes.modulus} but the ridgelet on Z_{ridgelet.modulus}")
        if nodes.modulus > LARGEST_MODULUS:
            raise ValueError(
                f"modulus is {nodes.modulus}; a network in float32 needs one up to {LARGEST_MODULUS}"
            )
        self.modulus = nodes.modulus
        # all P points of an activation count alike: this is the variance for uniform b
        mean, scale = _standardisation(ridgelet)
        self._make_readout(len(nodes), outputs, rngs)
        self.a_offset = nnx.Param(jnp.zeros((len(nodes), nodes.dim)))
        self.b_offset = nnx.Param(jnp.zeros(len(nodes)))
        self.a = Constant(jnp.asarray(centred(nodes.a, self.modulus), dtype=jnp.float32))
        self.b = Constant(jnp.asarray(centred(nodes.b, self.modulus), dtype=jnp.float32))
        self.table = Constant(jnp.asarray((ridgelet.activation - mean) / scale, dtype=jnp.float32))

    @property
    def dim(self) -> int:
        """The dimension D of the inputs."""
        return int(self.a.shape[1])

    def fixed(self, x: jax.Array) -> jax.Array:
        """(a_k.x - b_k) mod P for the nodes as drawn, exact at integer x; shape (batch, N)."""
        P, (nodes, dim) = self.modulus, self.a.shape
        x = x - P * jnp.round(x / P)
        block = min(dim, max(1, (EXACT - 1) // max(1, P // 2) ** 2))
        blocks = -(-dim // block)
        padding = ((0, 0), (0, blocks * block - dim))
        x = jnp.pad(x, padding).reshape(-1, blocks, block)
        a = jnp.pad(self.a[...], padding).reshape(nodes, blocks, block)
        # a GPU may otherwise round the factors to fewer bits (TF32)
        sums = jnp.einsum("mkd,nkd->kmn", x, a, precision=jax.lax.Precision.HIGHEST)
        return _wrap(_wrap(sums, P).sum(axis=0) - self.b[...], P)

    def features(self, x: jax.Array, fixed: Any = None) -> jax.Array:
        """The values phi of the N nodes at x (batch, D), shape (batch, N)."""
        x = jnp.asarray(x, dtype=jnp.float32)
        drawn = self.fixed(x) if fixed is None else fixed
        t = _wrap(drawn + x @ self.a_offset[...].T - self.b_offset[...], self.modulus)
        left = jnp.clip(t.astype(jnp.int32), 0, self.modulus - 1)
        table = self.table[...]
        slopes = jnp.roll(table, -1) - table
        return table[left] + slopes[left] * (t - left)

    def step_scales(self, x: jax.Array) -> dict[str, float | jax.Array]:
        """Hidden steps at learning rate 1 take the pre-activation about once round the circle R/P."""
        turn = float(self.modulus)
        return {**super().step_scales(x), "a_offset": turn / mean_size(x), "b_offset": turn}

    def set_from_amplitudes(
        self,
        amplitudes: "Scaled",
        nodes: RidgeNodes,
        ridgelet: Ridgelet,
        *,
        norm: float = 1.0,
        mean: Any = 0.0,
    ) -> Self:
        """Take the output weights straight from the transform, with no training.

        The network becomes norm sum_k w_k (g((a_k.x - b_k) mod P) - mean g) + mean, with w the
        `importance_weights`: an unbiased estimate of f at every grid point, for nodes drawn at
        `nodes.log_probability`. Taking g at mean zero leaves what it estimates as it is, since r has
        mean zero, and only takes away variance.

        Args:
            amplitudes: R[f](a_k, b_k), shape (N,) or (N, outputs).
            nodes: the nodes of this network.
            ridgelet: the ridgelet of the amplitudes, with the activation of this network.
            norm: the norm of f before its state was normalised (a state's `.norm`).
            mean: what was subtracted from the targets, shape (outputs,) or a number.

        Returns:
            The network itself.

        Raises:
            ValueError: amplitudes of other shapes, or other nodes than the network's.
        """
        drawn = np.asarray(self.a[...]), np.asarray(self.b[...])
        given = centred(nodes.a, nodes.modulus), centred(nodes.b, nodes.modulus)
        if nodes.modulus != self.modulus or not all(map(np.array_equal, drawn, given)):
            raise ValueError("these are not the nodes of this network; give the nodes it was made from")
        weights = importance_weights(amplitudes, nodes, ridgelet)
        kernel = weights.reshape(len(nodes), -1) * (norm * _standardisation(ridgelet)[1])
        if kernel.shape[1] != self.outputs:
            raise ValueError(f"the amplitudes have {kernel.shape[1]} outputs, the network has {self.outputs}")
        self.set_output_weights(kernel, np.broadcast_to(np.asarray(mean, dtype=np.float64), self.outputs))
        return self

    @classmethod
    def from_amplitudes(
        cls,
        amplitudes: "Scaled",
        nodes: RidgeNodes,
        ridgelet: Ridgelet,
        *,
        norm: float = 1.0,
        mean: Any = 0.0,
    ) -> Self:
        """The network that `set_from_amplitudes` makes, from its nodes and their amplitudes."""
        shape = np.shape(amplitudes.mantissa)
        network = cls(nodes, ridgelet, shape[1] if len(shape) == 2 else 1, rngs=nnx.Rngs(0))
        return network.set_from_amplitudes(amplitudes, nodes, ridgelet, norm=norm, mean=mean)

    @classmethod
    def _like(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        table = tensors["table"]
        modulus = len(table)
        a, b = (tensors[name].astype(np.int64) % modulus for name in ("a", "b"))
        nodes = RidgeNodes(a, b, np.zeros(len(a)), modulus)
        return cls(nodes, Ridgelet(table, modulus), tensors["kernel"].shape[1], rngs=nnx.Rngs(0))


def importance_weights(amplitudes: "Scaled", nodes: RidgeNodes, ridgelet: Ridgelet) -> np.ndarray:
    """Output weights straight from the transform: w_k = Re[C^{-1} P^{-D/2} R[f](a_k, b_k) / (N p(a_k, b_k))].

    With S[R[f]] = C f, the sum over all nodes of P^{-D/2} C^{-1} R[f](a, b) g((a.x - b) mod P) is f(x),
    so sum_k w_k g((a_k.x - b_k) mod P) over N nodes drawn from p is an unbiased estimate of f(x), for
    real f. It is computed in logarithms, as p and R underflow at large D.

    Args:
        amplitudes: R[f](a_k, b_k), mantissa * exp(log_scale), of shape (N,) or (N, outputs).
        nodes: the nodes, with the probability p that each was drawn at.
        ridgelet: gives C = <r, g>.

    Returns:
        w, shape (N,) or (N, outputs), float64.

    Raises:
        ValueError: mismatched shapes, a node of probability 0, or weights beyond float64 (nodes drawn
            from a distribution far from the transform).
    """
    mantissa = np.asarray(amplitudes.mantissa)
    log_scale = np.asarray(amplitudes.log_scale, dtype=np.float64)
    shape = np.broadcast_shapes(mantissa.shape, log_scale.shape)
    if len(shape) not in (1, 2) or shape[0] != len(nodes):
        raise ValueError(f"amplitudes have shape {shape}; give ({len(nodes)},) or ({len(nodes)}, outputs)")
    column = (slice(None),) + (None,) * (len(shape) - 1)
    log_probability = nodes.log_probability[column]
    if np.isneginf(log_probability).any():
        raise ValueError(
            "a node has probability 0, so it cannot have been drawn; give nodes with their own p"
        )
    constant = complex(ridgelet.admissibility)
    phase = mantissa.astype(np.complex128) / (constant / abs(constant))
    with np.errstate(divide="ignore", over="ignore"):
        real = phase.real
        log_weight = (
            np.log(np.abs(real))
            + log_scale
            - log_probability
            - nodes.dim / 2 * np.log(nodes.modulus)
            - np.log(len(nodes) * abs(constant))
        )
        weights = np.sign(real) * np.exp(log_weight)
    if not np.isfinite(weights).all():
        raise ValueError(
            f"a weight is exp({np.max(log_weight):.6g}), beyond float64; draw the nodes nearer to |R[f]|^2"
        )
    return weights


def _standardisation(ridgelet: Ridgelet) -> tuple[float, float]:
    """Mean and standard deviation of the activation over Z_P."""
    if np.iscomplexobj(ridgelet.activation):
        raise ValueError("the activation is complex; a network that trains needs a real table")
    return float(ridgelet.activation.mean()), float(ridgelet.activation.std())


def _wrap(t: jax.Array, P: int) -> jax.Array:
    """The point of the circle [0, P] that t stands for; exact for whole t below 2^24, where it may be -1."""
    return t - P * jnp.floor(t / P)
