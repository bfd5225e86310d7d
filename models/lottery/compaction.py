"""Fully connected ReLU networks under a mask: dense, with dead units taken out, or as sparse matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qrt_tn.models.lottery.masks import Masks, Params, is_kernel, layers

SPARSE_KINDS = ("bcoo", "bcsr")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DenseStack:
    """Fully connected layers with ReLU between them: h -> relu(h kernel + bias), the last without ReLU.

    Attributes:
        kernels: of each layer, shape (units in, units out).
        biases: of each layer, shape (units out,).
        inputs: the input features that the first kernel takes, in order; None where it takes them all.
    """

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]
    inputs: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SparseStack:
    """A DenseStack whose kernels are sparse matrices.

    Attributes:
        kernels: BCOO or BCSR matrices of jax.experimental.sparse, shape (units out, units in): BCSR
            multiplies from the left only.
        biases: as in DenseStack.
        inputs: as in DenseStack.
    """

    kernels: tuple[Any, ...]
    biases: tuple[jax.Array, ...]
    inputs: jax.Array | None = None


class Compacted(NamedTuple):
    """A stack without its dead units, and what was taken out.

    Attributes:
        stack: computes what the masked stack computed, to rounding.
        masks: the masks of its kernels.
        constant: units that no weight enters, by hidden layer, as indices of the stack as it was. Their
            output, relu(bias), went into the next bias.
        unused: units that no weight leaves, likewise. Those of both kinds are among the constant ones.
        inputs: input features that no weight takes, as indices of the features the stack was given.
    """

    stack: DenseStack
    masks: tuple[np.ndarray, ...]
    constant: tuple[np.ndarray, ...]
    unused: tuple[np.ndarray, ...]
    inputs: np.ndarray


def dense_stack(params: Params, kernels: Sequence[str]) -> DenseStack:
    """The layers of a fully connected network, from its parameters.

    Args:
        params: nested dicts of arrays, as nnx.to_pure_dict gives them, of nothing but the layers named.
        kernels: the names of the kernels from input to output, as masks.layers names them: for example
            ("hidden/0/kernel", "hidden/1/kernel", "output/kernel") of a Lenet, or
            ("hidden_kernel", "kernel") of a models.DenseNetwork. The bias is found by its
            name; a layer without one gets zeros.

    Raises:
        ValueError: unknown names, kernels that do not follow one another or are those of convolutions,
            or parameters left over, so that the network is not such a stack.
    """
    held = layers(params)
    used, biases = [], []
    for name in kernels:
        if name not in held or not is_kernel(name, held[name]):
            raise ValueError(
                f"{name!r} is no kernel of the parameters; name some of {sorted(held)}, in order"
            )
        bias = name.removesuffix("kernel") + "bias"
        biases.append(held.get(bias, np.zeros(held[name].shape[-1:], held[name].dtype)))
        used += [name, bias]
    left = sorted(set(held) - set(used))
    if left:
        raise ValueError(f"{left[0]!r} is of none of the layers named; a stack is all of a network")
    stack = DenseStack(
        tuple(jnp.asarray(held[name]) for name in kernels), tuple(jnp.asarray(bias) for bias in biases)
    )
    _check_stack(stack)
    return stack


def stack_masks(masks: Masks, kernels: Sequence[str]) -> tuple[np.ndarray | None, ...]:
    """The masks of a stack's kernels, by their names; None for a layer that may not be pruned."""
    held = layers(masks)
    return tuple(held.get(name) for name in kernels)


def apply_stack_masks(stack: DenseStack, masks: Sequence[np.ndarray | None]) -> DenseStack:
    """The stack with pruned weights exactly 0, whatever they were.

    Raises:
        ValueError: masks that do not fit.
    """
    kept = _fitting(stack, masks)
    pairs = zip(stack.kernels, kept, strict=True)
    return DenseStack(
        tuple(jnp.where(mask, kernel, jnp.zeros_like(kernel)) for kernel, mask in pairs),
        stack.biases,
        stack.inputs,
    )


def dense_forward(stack: DenseStack, x: jax.Array) -> jax.Array:
    """The outputs of a stack at x (batch, D), shape (batch, outputs). Compile it with jax.jit."""
    h = x if stack.inputs is None else x[:, stack.inputs]
    for kernel, bias in zip(stack.kernels[:-1], stack.biases[:-1], strict=True):
        h = jax.nn.relu(h @ kernel + bias)
    return h @ stack.kernels[-1] + stack.biases[-1]


def sparse_stack(stack: DenseStack, masks: Sequence[np.ndarray | None], kind: str = "bcoo") -> SparseStack:
    """The surviving weights of a stack as sparse matrices.

    A surviving weight that is 0 is stored too: what survives is for the mask to say.

    Args:
        stack: any stack.
        masks: by kernel, True where a weight survives; None keeps the layer whole.
        kind: "bcoo", two int32 indices a weight, or "bcsr", one, and a pointer a row.

    Raises:
        ValueError: masks that do not fit, or an unknown kind.
    """
    if kind not in SPARSE_KINDS:
        raise ValueError(f"kind is {kind!r}; give one of {', '.join(SPARSE_KINDS)}")
    kept = _fitting(stack, masks)
    matrices = [_sparse(np.asarray(k), mask, kind) for k, mask in zip(stack.kernels, kept, strict=True)]
    return SparseStack(tuple(matrices), stack.biases, stack.inputs)


def sparse_forward(stack: SparseStack, x: jax.Array) -> jax.Array:
    """The outputs of a sparse stack at x (batch, D), shape (batch, outputs). Compile it with jax.jit."""
    # the matrices multiply from the left, so the batch is the last axis on the way through
    h = (x if stack.inputs is None else x[:, stack.inputs]).T
    for kernel, bias in zip(stack.kernels[:-1], stack.biases[:-1], strict=True):
        h = jax.nn.relu(kernel @ h + bias[:, None])
    return (stack.kernels[-1] @ h + stack.biases[-1][:, None]).T


def compact(stack: DenseStack, masks: Sequence[np.ndarray | None]) -> Compacted:
    """Take out the hidden units that a mask leaves dead, and the inputs nobody reads; outputs stay.

    A unit that no surviving weight enters has the constant output relu(bias), which goes into the bias
    of the next layer; a unit that no surviving weight leaves is dropped. Each removal takes weights with
    it and may kill other units. But a constant unit takes only weights that leave it, so it can only make
    units of later layers constant, and an unused one only weights that enter it, so it can only make
    units of earlier layers unused: one sweep forward and then one backward find all there are.

    Args:
        stack: any stack.
        masks: by kernel, True where a weight survives; None keeps the layer whole.

    Returns:
        The smaller stack, its masks, and what was taken out. A layer may be left with no units at all.

    Raises:
        ValueError: masks that do not fit, or surviving weights or biases that are not finite.
    """
    kept = [mask.copy() for mask in _fitting(stack, masks)]
    types = [kernel.dtype for kernel in stack.kernels]
    # sums into a bias are rounded once, at the end
    kernels = [
        np.where(mask, np.asarray(kernel, dtype=np.float64), 0.0)
        for kernel, mask in zip(stack.kernels, kept, strict=True)
    ]
    biases = [np.asarray(bias, dtype=np.float64) for bias in stack.biases]
    if not all(np.isfinite(values).all() for values in (*kernels, *biases)):
        raise ValueError("surviving weights or biases are not finite; training diverged, lower its rate")

    hidden = range(1, len(kernels))
    constant: list[np.ndarray] = []
    unused: list[np.ndarray] = []
    for layer in hidden:
        dead = _without(kept[layer - 1], axis=0)
        constant.append(dead)
        biases[layer] = biases[layer] + np.maximum(biases[layer - 1][dead], 0) @ kernels[layer][dead]
        kept[layer][dead] = False
    for layer in reversed(hidden):
        dead = _without(kept[layer], axis=1) & ~constant[layer - 1]
        unused.insert(0, dead)
        kept[layer - 1][:, dead] = False

    features = ~_without(kept[0], axis=1)
    alive = [~(no_input | no_output) for no_input, no_output in zip(constant, unused, strict=True)]
    rows = [features, *alive]
    columns = [*alive, np.ones(kernels[-1].shape[1], dtype=bool)]
    inputs = stack.inputs
    given = np.arange(len(kept[0])) if inputs is None else np.asarray(inputs)
    if not features.all():
        inputs = jnp.asarray(given[features].astype(np.int32))
    smaller = DenseStack(
        tuple(
            jnp.asarray(kernel[row][:, column].astype(dtype))
            for kernel, row, column, dtype in zip(kernels, rows, columns, types, strict=True)
        ),
        tuple(
            jnp.asarray(bias[column].astype(held.dtype))
            for bias, column, held in zip(biases, columns, stack.biases, strict=True)
        ),
        inputs,
    )
    return Compacted(
        smaller,
        tuple(mask[row][:, column] for mask, row, column in zip(kept, rows, columns, strict=True)),
        tuple(np.flatnonzero(dead) for dead in constant),
        tuple(np.flatnonzero(dead) for dead in unused),
        given[~features],
    )


def _without(mask: np.ndarray, axis: int) -> np.ndarray:
    """The units for which nothing survives along an axis of their mask."""
    return np.asarray(~mask.any(axis=axis))


def _sparse(kernel: np.ndarray, mask: np.ndarray, kind: str) -> Any:
    """The surviving weights of a kernel (in, out) as a sparse matrix (out, in)."""
    from jax.experimental import sparse

    data, rows, columns = coordinates(kernel, mask)
    options: Any = {"shape": kernel.shape[::-1], "indices_sorted": True, "unique_indices": True}
    if kind == "bcoo":
        return sparse.BCOO((jnp.asarray(data), jnp.asarray(np.stack([rows, columns], axis=1))), **options)
    pointers = row_pointers(mask)
    return sparse.BCSR((jnp.asarray(data), jnp.asarray(columns), jnp.asarray(pointers)), **options)


def coordinates(kernel: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surviving weights of a kernel, and their places in its transpose.

    Args:
        kernel: shape (..., units out); the leading axes of a convolution are taken as one.
        mask: of the same shape, True where a weight survives.

    Returns:
        Weights, rows (units out) and columns (units in), int32, by rows and then by columns.
    """
    # a kernel may be empty, for which -1 would not do
    flat = (math.prod(mask.shape[:-1]), mask.shape[-1])
    rows, columns = np.nonzero(mask.reshape(flat).T)
    values = kernel.reshape(flat)[columns, rows]
    return values, rows.astype(np.int32), columns.astype(np.int32)


def row_pointers(mask: np.ndarray) -> np.ndarray:
    """Where each row of `coordinates` begins, and where the last ends; shape (units out + 1,), int32."""
    counts = mask.sum(axis=tuple(range(mask.ndim - 1)))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _fitting(stack: DenseStack, masks: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """One boolean array a kernel, all True for None."""
    _check_stack(stack)
    if len(masks) != len(stack.kernels):
        raise ValueError(f"there are {len(masks)} masks for {len(stack.kernels)} kernels; give one for each")
    fitting = []
    for layer, (kernel, mask) in enumerate(zip(stack.kernels, masks, strict=True)):
        given = np.ones(kernel.shape, dtype=bool) if mask is None else np.asarray(mask)
        if given.shape != kernel.shape:
            raise ValueError(
                f"the mask of kernel {layer} has shape {given.shape}; give the kernel's, {kernel.shape}"
            )
        if given.dtype != np.bool_:
            raise ValueError(
                f"the mask of kernel {layer} has dtype {given.dtype}; give booleans, True where kept"
            )
        fitting.append(given)
    return fitting


def _check_stack(stack: DenseStack) -> None:
    """See that the layers of a stack follow one another."""
    if not stack.kernels or len(stack.kernels) != len(stack.biases):
        raise ValueError(
            f"there are {len(stack.kernels)} kernels and {len(stack.biases)} biases; give one of each a layer"
        )
    for layer, (kernel, bias) in enumerate(zip(stack.kernels, stack.biases, strict=True)):
        if np.ndim(kernel) != 2:
            raise ValueError(
                f"kernel {layer} has shape {np.shape(kernel)}; a stack takes fully connected layers, "
                "of shape (units in, units out)"
            )
        if np.shape(bias) != np.shape(kernel)[1:]:
            raise ValueError(
                f"bias {layer} has shape {np.shape(bias)}, its kernel {np.shape(kernel)}; give one a unit"
            )
        if layer and np.shape(stack.kernels[layer - 1])[1] != np.shape(kernel)[0]:
            raise ValueError(
                f"kernel {layer} takes {np.shape(kernel)[0]} units but kernel {layer - 1} gives "
                f"{np.shape(stack.kernels[layer - 1])[1]}; name the layers from input to output"
            )
    if stack.inputs is not None and np.shape(stack.inputs) != np.shape(stack.kernels[0])[:1]:
        raise ValueError(
            f"inputs has shape {np.shape(stack.inputs)}; name one feature for each of the "
            f"{np.shape(stack.kernels[0])[0]} rows of the first kernel"
        )
