"""Fully connected ReLU networks under a mask: dense, with dead units taken out, or as sparse matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qrt_tn.models.lottery.masks import Params, is_kernel, layers

StackMasks = Sequence[np.ndarray | None]  # by kernel, True where a weight survives; None keeps all of it


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DenseStack:
    """Fully connected layers with ReLU between them: h -> relu(h kernel + bias), the last without ReLU.

    Attributes:
        kernels: of each layer: an array of shape (units in, units out), or a BCOO or BCSR matrix of
            jax.experimental.sparse of shape (units out, units in), since BCSR multiplies from the left only.
        biases: of each layer, shape (units out,).
        inputs: the input features that the first kernel takes, in order; None where it takes them all.
    """

    kernels: tuple[Any, ...]
    biases: tuple[jax.Array, ...]
    inputs: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """The outputs at x (batch, D), shape (batch, outputs); to compile, jax.jit(DenseStack.__call__)."""
        h = x if self.inputs is None else x[:, self.inputs]
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            h = jax.nn.relu(h) if layer else h
            h = (h @ kernel if isinstance(kernel, jax.Array | np.ndarray) else (kernel @ h.T).T) + bias
        return h


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
            ("hidden/0/kernel", "hidden/1/kernel", "output/kernel") of a Lenet. The bias is found by its
            name; a layer without one gets zeros.

    Raises:
        ValueError: unknown names, kernels that do not follow one another or are those of convolutions,
            or parameters left over, so that the network is not such a stack.
    """
    arrays = layers(params)
    unknown = [name for name in kernels if name not in arrays or not is_kernel(name, arrays[name])]
    if unknown or not kernels:
        raise ValueError(
            f"{unknown[0] if unknown else ()!r} is no kernel; name some of {sorted(arrays)}, in order"
        )
    units = None
    for name in kernels:
        shape = arrays[name].shape
        if len(shape) != 2 or units not in (None, shape[0]):
            raise ValueError(
                f"{name!r} has shape {shape} and follows {units} units; a stack takes fully connected layers"
                " (units in, units out), from input to output"
            )
        units = shape[1]
    biases = [name.removesuffix("kernel") + "bias" for name in kernels]
    left = sorted(set(arrays) - {*kernels, *biases})
    if left:
        raise ValueError(f"{left[0]!r} is of none of the layers named; a stack is all of a network")
    zeros = [np.zeros(arrays[name].shape[1], arrays[name].dtype) for name in kernels]
    return DenseStack(
        tuple(jnp.asarray(arrays[name]) for name in kernels),
        tuple(jnp.asarray(arrays.get(name, zero)) for name, zero in zip(biases, zeros, strict=True)),
    )


def sparse_stack(stack: DenseStack, masks: StackMasks, kind: str = "bcoo") -> DenseStack:
    """The surviving weights of a stack as sparse matrices.

    A surviving weight that is 0 is stored too: the mask decides what survives.

    Args:
        stack: of dense kernels.
        masks: by kernel, True where a weight survives; None keeps the layer whole.
        kind: "bcoo", two int32 indices a weight, or "bcsr", one, and a pointer a row.

    Raises:
        ValueError: masks that do not fit, or an unknown kind.
    """
    from jax.experimental import sparse

    if kind not in ("bcoo", "bcsr"):
        raise ValueError(f"kind is {kind!r}; give bcoo or bcsr")

    def matrix(kernel: np.ndarray, mask: np.ndarray) -> Any:
        data, rows, columns, pointers = survivors(kernel, mask)
        options: Any = {"shape": kernel.shape[::-1], "indices_sorted": True, "unique_indices": True}
        if kind == "bcoo":
            return sparse.BCOO((jnp.asarray(data), jnp.asarray(np.stack([rows, columns], axis=1))), **options)
        return sparse.BCSR((jnp.asarray(data), jnp.asarray(columns), jnp.asarray(pointers)), **options)

    pairs = zip(stack.kernels, _fitting(stack, masks), strict=True)
    return replace(stack, kernels=tuple(matrix(np.asarray(k), mask) for k, mask in pairs))


def survivors(kernel: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """The surviving weights of a kernel, and their places in its transpose.

    Args:
        kernel: shape (..., units out); the leading axes of a convolution are taken as one.
        mask: of the same shape, True where a weight survives.

    Returns:
        Weights, rows (units out) and columns (units in), by rows and then by columns; and where each row
        begins and the last ends, shape (units out + 1,). All but the weights are int32.
    """
    # a kernel may be empty, for which -1 would not do
    flat = (math.prod(mask.shape[:-1]), mask.shape[-1])
    rows, columns = np.nonzero(mask.reshape(flat).T)
    pointers = np.searchsorted(rows, np.arange(flat[1] + 1))
    places = (array.astype(np.int32) for array in (rows, columns, pointers))
    return (kernel.reshape(flat)[columns, rows], *places)


def compact(stack: DenseStack, masks: StackMasks) -> Compacted:
    """Take out the hidden units that a mask leaves dead, and the inputs that nothing reads; outputs stay.

    A unit that no surviving weight enters has the constant output relu(bias), which goes into the bias
    of the next layer; a unit that no surviving weight leaves is dropped. Each removal takes weights with
    it and may kill other units. But a constant unit takes only weights that leave it, so it can only make
    units of later layers constant, and an unused one only weights that enter it, so it can only make
    units of earlier layers unused: one sweep forward and then one backward find all there are.

    Args:
        stack: of dense kernels.
        masks: by kernel, True where a weight survives; None keeps the layer whole.

    Returns:
        The smaller stack, its masks, and what was taken out. A layer may be left with no units at all.

    Raises:
        ValueError: masks that do not fit, or surviving weights or biases that are not finite.
    """
    kept = [mask.copy() for mask in _fitting(stack, masks)]
    # sums into a bias are rounded once, at the end
    pairs = zip(stack.kernels, kept, strict=True)
    kernels = [np.where(mask, np.asarray(kernel, np.float64), 0.0) for kernel, mask in pairs]
    biases = [np.asarray(bias, np.float64) for bias in stack.biases]
    if not all(np.isfinite(values).all() for values in (*kernels, *biases)):
        raise ValueError("surviving weights or biases are not finite; training diverged, lower its rate")

    hidden = range(1, len(kernels))
    constant: list[np.ndarray] = []
    unused: list[np.ndarray] = []
    for layer in hidden:
        dead = np.asarray(~kept[layer - 1].any(axis=0))
        constant.append(dead)
        biases[layer] = biases[layer] + np.maximum(biases[layer - 1][dead], 0) @ kernels[layer][dead]
        kept[layer][dead] = False
    for layer in reversed(hidden):
        dead = ~kept[layer].any(axis=1) & ~constant[layer - 1]
        unused.insert(0, dead)
        kept[layer - 1][:, dead] = False

    read = np.asarray(kept[0].any(axis=1))
    alive = [~(one | other) for one, other in zip(constant, unused, strict=True)]
    alive = [read, *alive, np.ones(kernels[-1].shape[1], bool)]  # of the inputs and of each layer
    given = np.arange(len(read)) if stack.inputs is None else np.asarray(stack.inputs)
    inputs = stack.inputs if read.all() else jnp.asarray(given[read].astype(np.int32))

    def smaller(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [array[np.ix_(alive[layer], alive[layer + 1])] for layer, array in enumerate(arrays)]

    new_kernels = zip(smaller(kernels), stack.kernels, strict=True)
    new_biases = zip(biases, alive[1:], stack.biases, strict=True)
    return Compacted(
        DenseStack(
            tuple(jnp.asarray(kernel.astype(old.dtype)) for kernel, old in new_kernels),
            tuple(jnp.asarray(bias[units].astype(old.dtype)) for bias, units, old in new_biases),
            inputs,
        ),
        tuple(smaller(kept)),
        tuple(np.flatnonzero(dead) for dead in constant),
        tuple(np.flatnonzero(dead) for dead in unused),
        given[~read],
    )


def _fitting(stack: DenseStack, masks: StackMasks) -> list[np.ndarray]:
    """One boolean array a kernel, all True for None."""
    shapes = [kernel.shape for kernel in stack.kernels]
    if len(masks) != len(shapes):
        raise ValueError(f"there are {len(masks)} masks for {len(shapes)} kernels; give one for each")
    arrays = [
        np.ones(shape, bool) if m is None else np.asarray(m) for shape, m in zip(shapes, masks, strict=True)
    ]
    for layer, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        if array.shape != shape or array.dtype != np.bool_:
            raise ValueError(
                f"the mask of kernel {layer} has shape {array.shape} and dtype {array.dtype};"
                f" give booleans of shape {shape}, True where kept"
            )
    return arrays
