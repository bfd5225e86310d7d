"""Masks: a pytree beside the parameters that says which weights are left.

Parameters are nested dicts of arrays, as nnx.to_pure_dict gives them, or an nnx.State. Masks have the same
keys: a boolean array for a layer that may be pruned, True where a weight is left, and None for others (as
in jaxpruner). Layers are named by their keys: "hidden/0/kernel".
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Params = Any
Masks = Any
Prunable = Callable[[str, Any], bool]

# words in the names of parameters that are commonly left whole, although some have two axes or more
_LEFT_WHOLE = {"bias", "scale", "embedding", "position", "pos", "token", "cls", "mean", "var", "offset"}


def is_kernel(name: str, leaf: Any) -> bool:
    """Whether a parameter has two axes or more and the word "kernel" in the last part of its name.

    These are the matrices of dense layers and the stacks of matrices of convolutions, attention and experts.
    """
    return "kernel" in _words(name) and np.ndim(leaf) >= 2


def is_prunable(name: str, leaf: Any) -> bool:
    """The rule of `full_masks`: kernels, but not those of routers.

    A weight that goes from a router changes which experts a token is sent to; pruning of experts is what
    makes it smaller (`qrt_tn.models.moe.prune_experts`).
    """
    return is_kernel(name, leaf) and "router" not in name.lower().split("/")


def full_masks(params: Params, prunable: Prunable | None = None) -> Masks:
    """Masks that keep every weight.

    `prunable` tells by a parameter's name and value whether it may be pruned; by default `is_prunable`.

    Without it, a UserWarning names parameters of two axes or more that are neither kernels nor of a kind that
    is commonly left whole, such as biases of experts and positions.

    Raises:
        ValueError: nothing may be pruned.

    >>> masks = full_masks({"hidden": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}})
    >>> list(layers(masks)), counts(masks)
    (['hidden/kernel'], (6, 6))
    """
    rule = is_prunable if prunable is None else prunable
    masks = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.ones(np.shape(leaf), dtype=bool) if rule(_name(path), leaf) else None, params
    )
    if not layers(masks):
        raise ValueError("none of the parameters may be pruned; give prunable= a rule that fits their names")
    if prunable is None:
        left = [
            f"{name} {shape}"
            for name, shape in unpruned(masks, params).items()
            if "kernel" not in _words(name) and not _LEFT_WHOLE & _words(name)
        ]
        if left:
            warnings.warn(
                f"not to be pruned: {', '.join(left)}; kernels are found by their names, so give prunable= a"
                " rule for others",
                stacklevel=2,
            )
    return masks


def unpruned(masks: Masks, params: Params) -> dict[str, tuple[int, ...]]:
    """The shapes, by name, of the parameters of two axes or more that masks leave whole."""
    entries = _leaves(masks)
    return {
        name: np.shape(leaf)
        for name, leaf in _leaves(params).items()
        if np.ndim(leaf) >= 2 and entries.get(name) is None
    }


def layers(masks: Masks) -> dict[str, np.ndarray]:
    """The masks of the layers that may be pruned, by name, in the order of the parameters."""
    return {name: np.asarray(mask) for name, mask in _leaves(masks).items() if mask is not None}


def with_layers(masks: Masks, new: Mapping[str, np.ndarray | None]) -> Masks:
    """The masks with those of some layers, by name, replaced; None for a layer that is not to be pruned."""
    return jax.tree_util.tree_map_with_path(lambda path, mask: new.get(_name(path), mask), masks)


def layer_values(masks: Masks, params: Params) -> dict[str, np.ndarray]:
    """The parameters of the layers that may be pruned, by name; refuses what `check_masks` does."""
    check_masks(masks, params)
    values = _leaves(params)
    return {name: np.asarray(values[name]) for name in layers(masks)}


def apply_masks(masks: Masks, params: Params) -> Params:
    """The parameters with pruned weights exactly 0 and all others as they are, bit for bit.

    A weight that is infinite or NaN is pruned to 0 too: it is chosen, not multiplied.

    Raises:
        ValueError: a mask of another shape than its weights.
    """

    def applied(mask: Any, leaf: Any) -> Any:
        if mask is None:
            return leaf
        if np.shape(mask) != np.shape(leaf):
            raise ValueError(f"a mask has shape {np.shape(mask)}, its weights {np.shape(leaf)}")
        return jnp.where(mask, leaf, jnp.zeros_like(leaf))

    return jax.tree.map(applied, aligned(masks, params), params, is_leaf=lambda node: node is None)


def aligned(tree: Any, params: Params) -> Any:
    """Masks or parameters held as others are: nested dicts for nested dicts, an nnx.State for an nnx.State.

    Raises:
        ValueError: a tree of the other kind that lacks a parameter.
    """
    if isinstance(tree, nnx.State) == isinstance(params, nnx.State):
        return tree
    entries = _leaves(tree)
    lacking = [name for name in _leaves(params) if name not in entries]
    if lacking:
        raise ValueError(f"the masks lack {lacking[0]!r}; make them of these parameters")
    return jax.tree_util.tree_map_with_path(lambda path, _: entries[_name(path)], params)


def check_masks(masks: Masks, params: Params) -> None:
    """Check that masks fit parameters and leave something of each layer.

    Raises:
        ValueError: other names or shapes, values that are not booleans, or a layer pruned to nothing.
    """
    leaves, known = _leaves(params), _leaves(masks)
    if set(known) != set(leaves):
        odd = min(set(known) ^ set(leaves))
        where = "the masks name" if odd in known else "the masks lack"
        raise ValueError(
            f"{where} {odd!r}; masks have an entry for each parameter, None where none is pruned"
        )
    for name, mask in layers(masks).items():
        shape = np.shape(leaves[name])
        if mask.shape != shape:
            raise ValueError(f"the mask of {name!r} has shape {mask.shape}, its weights {shape}")
        if mask.dtype != np.bool_:
            raise ValueError(f"the mask of {name!r} has dtype {mask.dtype}; give booleans, True where kept")
        if not mask.any():
            raise ValueError(f"layer {name!r} is pruned to nothing; leave at least one of its weights")


def counts(masks: Masks) -> tuple[int, int]:
    """How many weights are kept, and how many there are in the layers that may be pruned."""
    every = layers(masks).values()
    return sum(int(mask.sum()) for mask in every), sum(mask.size for mask in every)


def remaining(masks: Masks) -> float:
    """The share P_m of prunable weights that is kept, in 0..1."""
    kept, size = counts(masks)
    return kept / size


def is_within(masks: Masks, others: Masks) -> bool:
    """Whether all that `masks` keeps is kept by `others`: a later round lies within an earlier one."""
    theirs = layers(others)
    return all(not (mask & ~theirs[name]).any() for name, mask in layers(masks).items())


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name, None among them."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is None)
    return {_name(path): leaf for path, leaf in found}


def _name(path: tuple[Any, ...]) -> str:
    """The name of a leaf: its keys, by slashes; without the "value" that ends it in an nnx.State."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def _words(name: str) -> set[str]:
    return set(name.rsplit("/", 1)[-1].lower().split("_"))
