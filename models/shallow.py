"""Networks with one hidden layer: a linear readout of features, fitted in closed form or trained."""

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.readout import fit_output_weights
from qrt_tn.models.training import full_precision

# Points are evaluated in batches of one fixed shape, so that each network compiles once.
BATCH = 256
# Of every matrix product of a network, where a GPU would otherwise round the factors to 10 bits (TF32).
PRECISION = jax.lax.Precision.HIGHEST


class Constant(nnx.Variable):
    """An array of a network that training leaves as it is."""


class ShallowNetwork(nnx.Module):
    """x -> kernel^T phi(x) + bias, where phi are the N features of the hidden nodes.

    A subclass gives `features`, its matrix products by `product`, and makes the readout with `_make_readout`.
    One whose hidden nodes have thresholds names them in `THRESHOLDS` and gives `shift_inputs`, so that
    training can centre its inputs.

    Attributes:
        kernel: output weights, shape (N, outputs).
        bias: shape (outputs,).
    """

    THRESHOLDS: ClassVar[str] = ""
    kernel: nnx.Param
    bias: nnx.Param

    def _make_readout(self, nodes: int, outputs: int, rngs: nnx.Rngs) -> None:
        """Output weights of variance 1 / N, so that the outputs have that of a feature, and bias 0."""
        check_whole("outputs", outputs)
        self.kernel = nnx.Param(normal_weights(rngs, (nodes, int(outputs)), nodes**-0.5))
        self.bias = nnx.Param(jnp.zeros(int(outputs)))

    @property
    def dim(self) -> int:
        """The dimension D of the inputs."""
        raise NotImplementedError

    @property
    def nodes(self) -> int:
        """The number N of hidden nodes."""
        return int(self.kernel.shape[0])

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return int(self.kernel.shape[1])

    def fixed(self, x: jax.Array) -> Any:
        """What of the features at x never changes in training, arrays (batch, ...), for `features`."""
        del x
        return ()

    def shift_inputs(self, c: Any) -> None:
        """Move the thresholds so that the network at x - c, c (D,), is what it was at x; -c undoes it."""
        raise NotImplementedError

    def _output_weights(self) -> jax.Array:
        """The kernel as it enters the outputs."""
        return self.kernel[...]

    def _move_thresholds(self, c: Any, weights: jax.Array, period: float = np.inf) -> None:
        """Add c @ weights, weights (D, N), to the thresholds; then take them within half a period of 0."""
        thresholds = getattr(self, self.THRESHOLDS)
        moved = np.asarray(c, dtype=np.float64) @ np.asarray(weights, dtype=np.float64)
        moved += np.asarray(thresholds[...])
        if np.isfinite(period):
            moved -= period * np.round(moved / period)
        thresholds[...] = jnp.asarray(moved, dtype=jnp.float32)

    def centred_inputs(self, x: jax.Array, c: jax.Array) -> tuple[jax.Array, Any]:
        """What a call takes for x (M, D) once the thresholds are shifted by c (D,), 0 if they are not."""
        return x - c, self.fixed(x)

    def features(self, x: jax.Array, fixed: Any = None) -> jax.Array:
        """The values of the hidden nodes at x (batch, D), shape (batch, N); `fixed` is `fixed(x)`."""
        raise NotImplementedError

    def step_scales(self, x: jax.Array) -> dict[str, float | jax.Array]:
        """How far each parameter, by name, moves in a training step at learning rate 1.

        Output weights move by N^{-1/2}, the size at which N features of variance 1 give an output of variance
        1; a subclass adds the scales of its hidden parameters at points x (M, D).
        """
        del x
        scale = self.nodes**-0.5
        return {"kernel": scale, "bias": scale}

    def __call__(self, x: jax.Array, fixed: Any = None) -> jax.Array:
        """The outputs at x (batch, D), shape (batch, outputs)."""
        return product(self.features(x, fixed), self._output_weights()) + self.bias[...]

    def check_points(self, x: Any) -> np.ndarray:
        """Points as float32 (M, D); ValueError if they are empty, not real, not finite, or of other shape."""
        points = np.asarray(x)
        if points.ndim != 2 or points.shape[1] != self.dim or len(points) == 0:
            raise ValueError(f"x has shape {points.shape}; it must be (points, {self.dim}), not empty")
        if points.dtype.kind not in "biuf":
            raise ValueError(f"x has dtype {points.dtype}; give real numbers")
        if not np.isfinite(points).all():
            raise ValueError(f"x holds {points[~np.isfinite(points)][0]}; every value must be finite")
        return points.astype(np.float32)

    def compute_features(self, x: Any) -> np.ndarray:
        """Features of any points x (M, D), float32 (M, N), batch by batch; ValueError as `check_points`."""
        points = self.check_points(x)
        parts = []
        for start in range(0, len(points), BATCH):
            part = points[start : start + BATCH]
            padded = np.zeros((BATCH, points.shape[1]), dtype=np.float32)
            padded[: len(part)] = part
            parts.append(np.asarray(_jitted_features(self, jnp.asarray(padded)))[: len(part)])
        return np.concatenate(parts)

    def predict(self, x: Any) -> np.ndarray:
        """The outputs at any number of points x (M, D), shape (M, outputs), float32."""
        return self.compute_features(x) @ np.asarray(self._output_weights()) + np.asarray(self.bias[...])

    def fit(self, x: Any, y: Any, ridge: float) -> Self:
        """Set kernel and bias by `fit_output_weights` at x (M, D), y (M, outputs) or (M,); returns self."""
        self.set_output_weights(*fit_output_weights(self.compute_features(x), y, ridge))
        return self

    def set_output_weights(self, kernel: Any, bias: Any) -> None:
        """Replace kernel (N, outputs) and bias (outputs,); ValueError if not of these, or not finite."""
        for name, values in (("kernel", kernel), ("bias", bias)):
            parameter = getattr(self, name)
            array = np.asarray(values)
            if array.shape != parameter.shape:
                raise ValueError(f"the {name} has shape {array.shape}; it must be {parameter.shape}")
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise ValueError(f"the {name} holds {array[~np.isfinite(array)][0]}; give finite weights")
            parameter[...] = jnp.asarray(array)

    def parameter_count(self) -> int:
        """How many numbers training can change."""
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))


def product(x: jax.Array, weights: jax.Array) -> jax.Array:
    """The matrix product x @ weights at `PRECISION`; its gradients' products are at it, too."""
    return jnp.matmul(x, weights, precision=PRECISION)


def check_rngs(rngs: Any) -> None:
    """ValueError unless `rngs` is `flax.nnx.Rngs` with the stream `params`."""
    if not isinstance(rngs, nnx.Rngs):
        raise ValueError(f"rngs is {rngs!r}; give flax.nnx.Rngs(seed)")
    if not {"params", "default"} & set(rngs):
        raise ValueError(f"rngs has the streams {', '.join(rngs)}, and no `params`; give flax.nnx.Rngs(seed)")


def normal_weights(rngs: nnx.Rngs, shape: tuple[int, ...], deviation: float) -> jax.Array:
    """Normal weights from the `params` stream.

    They are drawn on the host: JAX would compile its sampler anew for every shape, which for small networks
    takes longer than all their training.
    """
    check_rngs(rngs)
    seed = np.asarray(jax.random.key_data(rngs.params()))
    return jnp.asarray(deviation * np.random.default_rng(seed).standard_normal(shape), dtype=jnp.float32)


def mean_size(x: jax.Array) -> jax.Array:
    """Mean of |x|_1 over the points x (M, D), and not 0: what a step of 1 in every weight adds to w.x."""
    return jnp.abs(x).sum(axis=1).mean() + 1e-6


def mean_deviation(x: jax.Array) -> jax.Array:
    """The `mean_size` of x - mean x, which is what trained weights see."""
    return mean_size(x - x.mean(axis=0))


@nnx.jit
def _jitted_features(network: ShallowNetwork, x: jax.Array) -> jax.Array:
    with full_precision():
        return network.features(x)
