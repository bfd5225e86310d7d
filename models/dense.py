"""The networks to compare with: a dense ReLU layer, and random Fourier features."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.shallow import ShallowNetwork, mean_deviation, normal_weights, product


class DenseNetwork(ShallowNetwork):
    """x -> kernel^T relu(x hidden_kernel + hidden_bias) + bias, at the usual initialisation.

    Hidden weights are drawn as by He et al. (arXiv 1502.01852), output weights as by LeCun, for inputs of
    unit variance; both biases start at 0.

    Args:
        dim: the dimension D of the inputs.
        nodes: the number N of hidden nodes.
        outputs: the number of outputs.
        rngs: its `params` stream draws the weights.

    Attributes:
        hidden_kernel: shape (D, N).
        hidden_bias: shape (N,).

    Raises:
        ValueError: an extent below 1, or `rngs` that hold no generators.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> network = DenseNetwork(3, 50, 1, rngs=nnx.Rngs(0)).fit(x, np.abs(x[:, 0]), ridge=1e-3)
        >>> bool(np.abs(network.predict(x)[:, 0] - np.abs(x[:, 0])).mean() < 0.1)
        True
    """

    THRESHOLDS: ClassVar[str] = "hidden_bias"

    def __init__(self, dim: int, nodes: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        for name, extent in (("dim", dim), ("nodes", nodes)):
            check_whole(name, extent)
        self.hidden_kernel = nnx.Param(normal_weights(rngs, (dim, nodes), (2 / dim) ** 0.5))
        self.hidden_bias = nnx.Param(jnp.zeros(nodes))
        self._make_readout(nodes, outputs, rngs)

    @property
    def dim(self) -> int:
        """The dimension D of the inputs."""
        return int(self.hidden_kernel.shape[0])

    def _hidden_weights(self) -> jax.Array:
        """The hidden kernel as it enters the features."""
        return self.hidden_kernel[...]

    def shift_inputs(self, c: Any) -> None:
        """Add c.hidden_kernel to hidden_bias."""
        self._move_thresholds(c, self._hidden_weights())

    def features(self, x: jax.Array, fixed: Any = None) -> jax.Array:
        """relu(x hidden_kernel + hidden_bias) at x (batch, D), shape (batch, N)."""
        del fixed
        return jax.nn.relu(product(x, self._hidden_weights()) + self.hidden_bias[...])

    def step_scales(self, x: jax.Array) -> dict[str, float | jax.Array]:
        """Hidden steps at learning rate 1 are of size 1, as usual for inputs of unit variance."""
        return {**super().step_scales(x), "hidden_kernel": 1.0, "hidden_bias": 1.0}


class CosineNetwork(ShallowNetwork):
    """x -> kernel^T sqrt(2) cos(x frequencies + phases) + bias: random Fourier features that can train.

    Rahimi and Recht, Random features for large-scale kernel machines (NIPS 2007); with frequencies of
    variance 2 gamma and uniform phases the features approximate the kernel exp(-gamma |x - y|^2).

    Args:
        frequencies: shape (D, N).
        phases: shape (N,).
        outputs: the number of outputs.
        rngs: its `params` stream draws the first kernel.

    Raises:
        ValueError: mismatched shapes, values that are not finite, no outputs, or `rngs` without generators.
    """

    THRESHOLDS: ClassVar[str] = "phases"

    def __init__(self, frequencies: Any, phases: Any, outputs: int, *, rngs: nnx.Rngs) -> None:
        w, c = np.asarray(frequencies, dtype=np.float32), np.asarray(phases, dtype=np.float32)
        if w.ndim != 2 or w.size == 0 or c.shape != w.shape[1:]:
            raise ValueError(
                f"frequencies have shape {w.shape} and phases {c.shape}; give (features, nodes) and (nodes,)"
            )
        if not (np.isfinite(w).all() and np.isfinite(c).all()):
            raise ValueError("frequencies or phases hold a value that is not finite; every one must be")
        self.frequencies = nnx.Param(jnp.asarray(w))
        self.phases = nnx.Param(jnp.asarray(c))
        self._make_readout(w.shape[1], outputs, rngs)

    @classmethod
    def from_sampler(cls, sampler: Any, outputs: int, *, rngs: nnx.Rngs) -> Self:
        """The network of a fitted sklearn.kernel_approximation.RBFSampler; ValueError if it is not fitted."""
        if not hasattr(sampler, "random_weights_"):
            raise ValueError(f"{type(sampler).__name__} is not fitted; call its fit(x) first")
        return cls(sampler.random_weights_, sampler.random_offset_, outputs, rngs=rngs)

    @property
    def dim(self) -> int:
        """The dimension D of the inputs."""
        return int(self.frequencies.shape[0])

    def shift_inputs(self, c: Any) -> None:
        """Add c.frequencies to the phases, which are then taken in -pi .. pi."""
        self._move_thresholds(c, self.frequencies[...], period=2 * np.pi)

    def features(self, x: jax.Array, fixed: Any = None) -> jax.Array:
        """sqrt(2) cos(x frequencies + phases) at x (batch, D), shape (batch, N)."""
        del fixed
        return jnp.sqrt(2.0) * jnp.cos(product(x, self.frequencies[...]) + self.phases[...])

    def step_scales(self, x: jax.Array) -> dict[str, float | jax.Array]:
        """Hidden steps at learning rate 1 take the angle about once round the circle."""
        turn = 2 * np.pi
        return {**super().step_scales(x), "frequencies": turn / mean_deviation(x), "phases": turn}

    @classmethod
    def _like(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        return cls(tensors["frequencies"], tensors["phases"], tensors["kernel"].shape[1], rngs=nnx.Rngs(0))
