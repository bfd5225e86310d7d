"""Tickets of shallow networks without the transform: leverage scores, pruning, and how tickets overlap."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from flax import nnx

from qrt_tn.engine.arguments import Seed, check_whole, generator, is_real
from qrt_tn.models.dense import DenseNetwork
from qrt_tn.models.lottery.masks import Masks, apply_masks, check_masks, layers
from qrt_tn.models.readout import finite_matrix
from qrt_tn.models.shallow import Constant
from qrt_tn.nodes import RidgeNodes

# A singular value below this share of the largest is rounding noise and spans nothing.
NEGLIGIBLE = 1e-10


def leverage_scores(features: Any, ridge: float) -> np.ndarray:
    """Ridge leverage scores l_k = phi_k^T (K + M ridge I)^{-1} phi_k, K = Phi Phi^T / pool.

    The density of optimised random features is proportional to them (Bach, JMLR 2017, arXiv 1502.06800; over
    a finite pool drawn from the prior, Li et al., arXiv 1806.09178). Their mean is the effective dimension tr
    K (K + M ridge I)^{-1}. Centre the features where the readout has a free bias.

    Args:
        features: Phi, the pool's features at M points, shape (M, pool).
        ridge: the penalty on a point, above 0.

    Returns:
        l, shape (pool,), float64, at least 0.

    Raises:
        ValueError: no matrix, empty, a value that is not finite, or a penalty that is not above 0.

    Example:
        >>> leverage_scores([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], ridge=0.1).round(2).tolist()
        [1.15, 1.15, 1.88]
    """
    phi = finite_matrix(features, "features")
    if not is_real(ridge) or ridge <= 0:
        raise ValueError(f"ridge is {ridge!r}; give a finite penalty above 0")
    points, pool = phi.shape
    kernel = phi @ phi.T / pool + points * ridge * np.eye(points)
    halves = scipy.linalg.solve_triangular(scipy.linalg.cholesky(kernel, lower=True), phi, lower=True)
    return np.asarray(np.square(halves).sum(axis=0))


def nodes_by_scores(pool: RidgeNodes, scores: Any, n: int, seed: Seed = 0) -> RidgeNodes:
    """N nodes drawn from a pool in proportion to scores l (pool,), with replacement.

    Their log-probability is log(p_k l_k pool / sum l), p_k that of the pool's draw. With it sum_k h(node_k) /
    (n p~_k) is an unbiased estimate of sum h over all of Z_P^{D+1}, over pools and draws together, and so are
    `importance_weights`. A node that scores 0 is never drawn, and the estimate misses it.

    Raises:
        ValueError: n below 1, scores of another shape, negative or not finite, scores that all vanish, or a
            prior so concentrated that p~ exceeds 1.

    Example:
        >>> from qrt_tn import uniform_nodes
        >>> pool = uniform_nodes(3, 2, 7)
        >>> nodes_by_scores(pool, [0.0, 0.0, 1.0], 2).b.tolist() == [int(pool.b[2])] * 2
        True
    """
    check_whole("n", n)
    rng = generator(seed)
    given = np.asarray(scores, dtype=np.float64)
    if given.shape != (len(pool),):
        raise ValueError(
            f"scores have shape {given.shape}; give one for each node of the pool, ({len(pool)},)"
        )
    wrong = given[~(np.isfinite(given) & (given >= 0))]
    if wrong.size:
        raise ValueError(f"scores hold {wrong[0]}; every one must be finite and at least 0")
    if not given.any():
        raise ValueError("every score is 0, so that nothing can be drawn; give scores above 0")
    shares = given / given.max()
    shares /= shares.sum()
    chosen = rng.choice(len(pool), size=int(n), p=shares)
    log_probability = pool.log_probability[chosen] + np.log(shares[chosen] * len(pool))
    return RidgeNodes(pool.a[chosen], pool.b[chosen], log_probability, pool.modulus)


def strongest_nodes(kernel: Any, count: int) -> np.ndarray:
    """The hidden nodes whose output weights, kernel (N, C), have the largest norm, rising, int64 (count,).

    This is what structured pruning keeps; of equal norms the later node, as in `prune_by_magnitude`.

    Raises:
        ValueError: no matrix, a weight that is not finite, or a count outside 1..N.
    """
    weights = finite_matrix(kernel, "kernel")
    check_whole("count", count)
    if count > len(weights):
        raise ValueError(f"count is {count!r}; give a whole number from 1 to {len(weights)}, all nodes")
    order = np.argsort(np.linalg.norm(weights, axis=1), kind="stable")
    return np.sort(order[len(weights) - count :])


class SparseNetwork(DenseNetwork):
    """A dense ReLU network of which only the weights that masks keep are there.

    Pruned weights start at exactly 0 and enter the function through their mask, so that their gradient is 0
    and an optimiser without weight decay, such as that of `train_many`, leaves them at exactly 0.

    Args:
        params: hidden_kernel (D, N), hidden_bias (N,), kernel (N, C) and bias (C,): to rewind, the initial
            ones of the over-wide network.
        masks: which of them are kept, as `qrt_tn.models.lottery.masks.full_masks` makes them.

    Raises:
        ValueError: parameters of another network, or masks that do not fit them.
    """

    hidden_mask: Constant
    kernel_mask: Constant

    def __init__(self, params: Mapping[str, Any], masks: Masks) -> None:
        if set(params) != {"hidden_kernel", "hidden_bias", "kernel", "bias"}:
            raise ValueError(f"the parameters are {sorted(params)}; give those of a DenseNetwork")
        check_masks(masks, dict(params))
        held = layers(masks)
        dim, nodes = np.shape(params["hidden_kernel"])
        super().__init__(dim, nodes, np.shape(params["kernel"])[1], rngs=nnx.Rngs(0))
        for name, value in apply_masks(masks, dict(params)).items():
            getattr(self, name)[...] = jnp.asarray(value, dtype=jnp.float32)
        for name, mask in (("hidden_kernel", "hidden_mask"), ("kernel", "kernel_mask")):
            kept = held.get(name, np.ones(np.shape(params[name])))
            setattr(self, mask, Constant(jnp.asarray(kept, dtype=jnp.float32)))

    def _hidden_weights(self) -> jax.Array:
        return self.hidden_kernel[...] * self.hidden_mask[...]

    def _output_weights(self) -> jax.Array:
        return self.kernel[...] * self.kernel_mask[...]

    def live_nodes(self) -> np.ndarray:
        """Which nodes have a weight kept on either side; bool, shape (N,).

        A node without outgoing weights does nothing; one without incoming weights is a constant, which the
        output bias can hold.
        """
        taking, giving = np.asarray(self.hidden_mask[...]), np.asarray(self.kernel_mask[...])
        return np.logical_and(taking.any(axis=0), giving.any(axis=1))

    def weight_count(self) -> int:
        """The weights kept of live nodes: the multiply-adds of one forward pass."""
        live = self.live_nodes()
        return int(self.hidden_mask[...][:, live].sum() + self.kernel_mask[...][live].sum())

    def parameter_count(self) -> int:
        """Weights and biases of live nodes, and output biases; not where the weights kept are to be found."""
        return self.weight_count() + int(self.live_nodes().sum()) + self.outputs


def direction_overlap(a: Any, b: Any) -> float:
    """How near the directions of one set lie to those of another: the mean over a of the largest |cosine|.

    It is 1 where every row of a is parallel to one of b. It grows with N2, so compare values against sets of
    one size only.

    Args:
        a: N1 directions as rows, shape (N1, D), real. Of ridge nodes take the frequency u = v a, centred, at
            the ridgelet's strongest harmonic v, whose sign does not matter.
        b: N2 directions, shape (N2, D).

    Raises:
        ValueError: other shapes, empty, a value that is not finite, or a row of zeros.
    """
    units = []
    for name, given in (("a", a), ("b", b)):
        rows = finite_matrix(given, name)
        peaks = np.abs(rows).max(axis=1, keepdims=True)
        if not peaks.all():
            raise ValueError(f"row {int(peaks[:, 0].argmin())} of {name} is zero; leave it out")
        rows = rows / peaks  # so that squares neither overflow nor vanish
        units.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    _check_same_length(*units)
    return float(np.minimum(np.abs(units[0] @ units[1].T).max(axis=1), 1.0).mean())


def subspace_overlap(a: Any, b: Any, rank: int) -> float:
    """||V1^T V2||_F^2 / rank, V the leading right singular vectors of directions a (N1, D) and b (N2, D).

    It is the mean squared cosine of the principal angles between the subspaces (Björck and Golub, Numerical
    methods for computing angles between linear subspaces, 1973): 1 where they agree, rank / D on average in
    random position. For left singular vectors give the transposes.

    Raises:
        ValueError: other shapes, empty, a value that is not finite, or a rank that one of the sets lacks.
    """
    matrices = [finite_matrix(given, name) for name, given in (("a", a), ("b", b))]
    _check_same_length(*matrices)
    check_whole("rank", rank)
    bases = []
    for name, matrix in zip("ab", matrices, strict=True):
        _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
        found = int((values > NEGLIGIBLE * values[0]).sum())
        if found < rank:
            raise ValueError(f"rank is {rank}, but {name} has rank {found}; give at most that")
        bases.append(vectors[:rank])
    return float(min(np.square(bases[0] @ bases[1].T).sum() / rank, 1.0))


def _check_same_length(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a has directions of length {a.shape[1]}, b of {b.shape[1]}; they must be equal")
