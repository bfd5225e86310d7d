"""The ridge network: hidden nodes of Z_P^D that can be fitted, read off the transform, or trained."""

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.field import centred, check_grid, check_prime
from qrt_tn.models.shallow import PRECISION, Constant, ShallowNetwork, mean_deviation, product
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.tempered import TemperedNodes

if TYPE_CHECKING:
    from qrt_tn.engine import Scaled

# float32 holds every integer up to here exactly.
EXACT = 2**24
LARGEST_MODULUS = 8191
Nodes = RidgeNodes | TemperedNodes
# A table in float32 this near to sqrt(2) cos(2 pi t / P) is that cosine.
ROUNDING = 1e-6


class RidgeNetwork(ShallowNetwork):
    """x -> sum_k kernel_k phi((a_k.x - b_k) mod P) + bias.

    phi is the activation g shifted to mean 0 and scaled to variance 1 over Z_P, and interpolated linearly on
    the circle R/P between the P points of its table; but of the cosine, phi is sqrt(2) cos(2 pi t / P) itself
    at every real t. A node is drawn at a whole a_k and at a b_k, whole or real, which stay as they are;
    training moves real offsets added to them, which start at 0:

        t = (a_k.x mod P) + a_offset_k.x - b_k - b_offset_k   (mod P).

    The first term is exact in float32 at integer x and any D: a_k and x are centred, and the sum is split
    into blocks below 2^24. What is not whole of a real x has a sum of its own.

    Args:
        nodes: the N hidden nodes; any object with their a (N, D), b (N,) and modulus will do.
        ridgelet: gives the activation g, which must be real.
        outputs: the number of outputs.
        rngs: its `params` stream draws the first kernel.

    Attributes:
        a_offset: shape (N, D).
        b_offset: shape (N,).
        modulus: the prime P.

    Raises:
        ValueError: what are not nodes, nodes and ridgelet of different moduli, a complex activation, no
            outputs, `rngs` without generators, or a modulus above 8191, where float32 holds no exact
            products.

    Example:
        >>> from flax import nnx
        >>> from qrt_tn import Ridgelet, RidgeNodes
        >>> nodes = RidgeNodes([[1, 0], [2, 3]], [4, 0], [-1.5, -2.5], modulus=5)
        >>> network = RidgeNetwork(nodes, Ridgelet("triangle", 5), outputs=1, rngs=nnx.Rngs(0))
        >>> network.compute_features([[4, 0]]).round(2)
        array([[-1.6 ,  1.07]], dtype=float32)
    """

    THRESHOLDS: ClassVar[str] = "b_offset"

    def __init__(self, nodes: Nodes, ridgelet: Ridgelet, outputs: int, *, rngs: nnx.Rngs) -> None:
        if not isinstance(ridgelet, Ridgelet):
            raise ValueError(f"got a {type(ridgelet).__name__} for a Ridgelet; give nodes and ridgelet")
        a, b, modulus = _check_nodes(nodes)
        if modulus != ridgelet.modulus:
            raise ValueError(f"the nodes live on Z_{modulus} but the ridgelet on Z_{ridgelet.modulus}")
        if modulus > LARGEST_MODULUS:
            raise ValueError(f"modulus is {modulus}; a network in float32 needs one up to {LARGEST_MODULUS}")
        self.modulus = modulus
        # all P points of an activation count alike: this is the variance for uniform b
        mean, scale = _standardisation(ridgelet)
        self._make_readout(len(a), outputs, rngs)
        self.a_offset = nnx.Param(jnp.zeros(a.shape))
        self.b_offset = nnx.Param(jnp.zeros(len(a)))
        self.a, self.b = Constant(jnp.asarray(a)), Constant(jnp.asarray(b))
        self.table = Constant(jnp.asarray((ridgelet.activation - mean) / scale, dtype=jnp.float32))

    @property
    def dim(self) -> int:
        """The dimension D of the inputs."""
        return int(self.a.shape[1])

    def fixed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a_k.x - b_k) mod P for the nodes as drawn, shape (batch, N); and x, which the offsets see."""
        P, (nodes, dim) = self.modulus, self.a.shape
        small = x - P * jnp.round(x / P)
        whole = jnp.round(small)
        inner = partial(jnp.einsum, precision=PRECISION)
        block = min(dim, max(1, (EXACT - 1) // max(1, P // 2) ** 2))
        blocks = -(-dim // block)
        padding = ((0, 0), (0, blocks * block - dim))
        parts = jnp.pad(whole, padding).reshape(-1, blocks, block)
        a = jnp.pad(self.a[...], padding).reshape(nodes, blocks, block)
        sums = _wrap(inner("mkd,nkd->kmn", parts, a), P).sum(axis=0)
        # beside the large sum of the whole parts, the digits of this one would be lost
        rest = jax.lax.cond(
            jnp.any(small != whole),
            lambda rest, a: inner("md,nd->mn", rest, a),
            lambda rest, a: jnp.zeros((len(rest), len(a))),
            small - whole,
            self.a[...],
        )
        return _wrap(_wrap(sums, P) - self.b[...] + _wrap(rest, P), P), x

    def centred_inputs(self, x: jax.Array, c: jax.Array) -> tuple[jax.Array, Any]:
        """The points x themselves: only the offsets see x - c, as a_k.(x - c) would not be exact."""
        drawn, _ = self.fixed(x)
        return x, (drawn, x - c)

    def shift_inputs(self, c: Any) -> None:
        """Take a_offset.c from b_offset, which is then taken in -P/2 .. P/2."""
        self._move_thresholds(c, -self.a_offset[...].T, period=self.modulus)

    def features(self, x: jax.Array, fixed: Any = None) -> jax.Array:
        """The values phi of the N nodes at x (batch, D), shape (batch, N)."""
        drawn, seen = self.fixed(jnp.asarray(x, dtype=jnp.float32)) if fixed is None else fixed
        t = _wrap(drawn + product(seen, self.a_offset[...].T) - self.b_offset[...], self.modulus)
        table = self.table[...]
        cosine = _cosine(jnp.arange(self.modulus), self.modulus)
        # a question to the array, so that networks of the cosine and of others share a compilation
        is_cosine = jnp.abs(table - cosine).max() < ROUNDING
        return jax.lax.cond(is_cosine, lambda t, table: _cosine(t, self.modulus), _interpolated, t, table)

    def step_scales(self, x: jax.Array) -> dict[str, float | jax.Array]:
        """Hidden steps at learning rate 1 take the pre-activation about once round the circle R/P."""
        turn = float(self.modulus)
        return {**super().step_scales(x), "a_offset": turn / mean_deviation(x), "b_offset": turn}

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
        """The network whose output weights come straight from the transform, with no training.

        It is norm sum_k w_k (g((a_k.x - b_k) mod P) - mean g) + mean, with w the `importance_weights`: an
        unbiased estimate of f at every grid point, for nodes drawn at `nodes.log_probability`. Taking g at
        mean zero leaves the expectation as it is, since r has mean zero, and takes away variance.

        Args:
            amplitudes: R[f](a_k, b_k) at the nodes, shape (N,) or (N, outputs).
            nodes: drawn from the transform.
            ridgelet: of the amplitudes; the network has its activation.
            norm: the norm of f before its state was normalised (a state's `.norm`).
            mean: what was subtracted from the targets, shape (outputs,) or a number.

        Raises:
            ValueError: as the class and `importance_weights`.
        """
        weights = importance_weights(amplitudes, nodes, ridgelet).reshape(len(nodes), -1)
        network = cls(nodes, ridgelet, weights.shape[1], rngs=nnx.Rngs(0))
        kernel = weights * (norm * _standardisation(ridgelet)[1])
        network.set_output_weights(kernel, np.broadcast_to(np.asarray(mean, np.float64), network.outputs))
        return network


def importance_weights(amplitudes: "Scaled", nodes: RidgeNodes, ridgelet: Ridgelet) -> np.ndarray:
    """Output weights straight from the transform: w_k = Re[C^{-1} P^{-D/2} R[f](a_k, b_k) / (N p(a_k, b_k))].

    With S[R[f]] = C f, C = <r, g>, the sum over all nodes of P^{-D/2} C^{-1} R[f](a, b) g((a.x - b) mod P) is
    f(x), so sum_k w_k g((a_k.x - b_k) mod P) over N nodes drawn from p is an unbiased estimate of f(x), for
    real f. It is computed in logarithms, as p and R underflow at large D.

    Args:
        amplitudes: R[f](a_k, b_k), mantissa * exp(log_scale), of shape (N,) or (N, outputs).
        nodes: with the probability p that each was drawn at.
        ridgelet: of the amplitudes.

    Returns:
        w, of the amplitudes' shape, float64.

    Raises:
        ValueError: mismatched shapes, nodes without a probability, a node of probability 0, or weights beyond
            float64 (nodes drawn from a distribution far from the transform).

    Example:
        >>> from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
        >>> ridgelet = Ridgelet("triangle", 5)
        >>> qrt = QuantumRidgeletTransform(states.from_dense(np.eye(5)[2]), ridgelet)
        >>> nodes = qrt.sample(100, seed=0)
        >>> importance_weights(qrt.amplitudes(nodes.a, nodes.b), nodes, ridgelet).shape
        (100,)
    """
    if not hasattr(nodes, "log_probability"):
        raise ValueError(f"{type(nodes).__name__} has no log_probability; give nodes drawn from a transform")
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


def _check_nodes(nodes: Nodes) -> tuple[np.ndarray, np.ndarray, int]:
    """Both a (N, D) and b (N,) at their centred representatives, in float32, and P."""
    missing = [name for name in ("a", "b", "modulus") if not hasattr(nodes, name)]
    if missing:
        raise ValueError(
            f"a {type(nodes).__name__} has no {' and no '.join(missing)}; give nodes, such as RidgeNodes"
        )
    modulus = check_prime(nodes.modulus)
    a, b = check_grid(nodes.a, modulus, "a", (None, None)), np.asarray(nodes.b)
    if b.shape != (len(a),) or b.dtype.kind not in "iuf":
        raise ValueError(f"b has shape {b.shape}, {b.dtype}; give {len(a)} real numbers, one a node")
    outside = ~((b >= 0) & (b < modulus))  # NaN is outside, too
    if outside.any():
        raise ValueError(f"b holds {b[outside][0]}; its values must lie from 0 to below {modulus}")
    return centred(a, modulus).astype(np.float32), centred(b, modulus).astype(np.float32), modulus


def _interpolated(t: jax.Array, table: jax.Array) -> jax.Array:
    """The table at t in 0..P, linear between its points."""
    left = jnp.clip(t.astype(jnp.int32), 0, len(table) - 1)
    slopes = jnp.roll(table, -1) - table
    return table[left] + slopes[left] * (t - left)


def _cosine(t: jax.Array, P: int) -> jax.Array:
    """sqrt(2) cos(2 pi t / P) at t in 0..P, taken centred for the sake of digits."""
    t = jnp.where(t > P / 2, t - P, t)
    return jnp.sqrt(2.0) * jnp.cos(2 * jnp.pi / P * t)


def _wrap(t: jax.Array, P: int) -> jax.Array:
    """The point of the circle [0, P] that t stands for; exact for whole t below 2^24, where it may be -1."""
    return t - P * jnp.floor(t / P)
