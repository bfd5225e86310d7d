"""Masks: a pytree beside the parameters that says which weights are left."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = Any  # nested dicts of arrays
Masks = Any  # nested dicts of the same keys: a boolean array for a layer that may be pruned, None for others
Prunable = Callable[[str, Any], bool]


def is_kernel(name: str, leaf: Any) -> bool:
    """Whether a parameter is a layer's kernel: what is pruned, unlike biases and normalisation."""
    last = name.rsplit("/", 1)[-1]
    return (last == "kernel" or last.endswith("_kernel")) and np.ndim(leaf) >= 2


def full_masks(params: Params, prunable: Prunable = is_kernel) -> Masks:
    """Masks that keep every weight.

    Args:
        params: nested dicts of arrays, as nnx.to_pure_dict gives them.
        prunable: tells by a parameter's name ("dense1/kernel") and value whether it may be pruned.

    Returns:
        True for each weight of a prunable layer, None for other parameters (as in jaxpruner).

    Raises:
        ValueError: nothing may be pruned.
    """
    masks = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.ones(np.shape(leaf), dtype=bool) if prunable(_name(path), leaf) else None,
        params,
    )
    if not jax.tree.leaves(masks):
        raise ValueError("none of the parameters may be pruned; give prunable= a rule that fits their names")
    return masks


def layers(masks: Masks) -> dict[str, np.ndarray]:
    """The masks of the layers that may be pruned, by name, in the order of the parameters."""
    flat = jax.tree_util.tree_flatten_with_path(masks)[0]
    return {_name(path): np.asarray(mask) for path, mask in flat}


def with_layers(masks: Masks, new: Mapping[str, np.ndarray | None]) -> Masks:
    """The masks with those of some layers, by name, replaced; None for a layer that is not to be pruned."""
    return jax.tree_util.tree_map_with_path(lambda path, mask: new.get(_name(path), mask), masks)


def layer_values(masks: Masks, params: Params) -> dict[str, np.ndarray]:
    """The parameters of the layers that may be pruned, by name.

    Raises:
        ValueError: the masks do not fit the parameters.
    """
    check_masks(masks, params)
    values = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
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

    return jax.tree.map(applied, masks, params, is_leaf=lambda node: node is None)


def check_masks(masks: Masks, params: Params) -> None:
    """See that masks fit parameters and leave something of each layer.

    Raises:
        ValueError: other names or shapes, values that are not booleans, or a layer pruned to nothing.
    """
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
    known = _names(masks)
    if set(known) != set(leaves):
        odd = sorted(set(known) ^ set(leaves))[0]
        where = "the masks name" if odd in known else "the masks lack"
        raise ValueError(
            f"{where} {odd!r}; masks have an entry for each parameter, None where none is pruned"
        )
    for name, mask in layers(masks).items():
        if mask.shape != np.shape(leaves[name]):
            raise ValueError(
                f"the mask of {name!r} has shape {mask.shape}, its weights {np.shape(leaves[name])}"
            )
        if mask.dtype != np.bool_:
            raise ValueError(f"the mask of {name!r} has dtype {mask.dtype}; give booleans, True where kept")
        if not mask.any():
            raise ValueError(f"layer {name!r} is pruned to nothing; leave at least one of its weights")


def counts(masks: Masks) -> tuple[int, int]:
    """How many weights are kept, and how many there are in the layers that may be pruned."""
    held = layers(masks).values()
    return sum(int(mask.sum()) for mask in held), sum(mask.size for mask in held)


def remaining(masks: Masks) -> float:
    """The share P_m of prunable weights that is kept, in 0..1."""
    kept, size = counts(masks)
    return kept / size


def is_within(masks: Masks, others: Masks) -> bool:
    """Whether all that `masks` keeps is kept by `others`: a later round lies within an earlier one."""
    theirs = layers(others)
    return all(not (mask & ~theirs[name]).any() for name, mask in layers(masks).items())


def _names(masks: Masks) -> list[str]:
    flat = jax.tree_util.tree_flatten_with_path(masks, is_leaf=lambda node: node is None)[0]
    return [_name(path) for path, _ in flat]


def _name(path: tuple[Any, ...]) -> str:
    """The name of a leaf: its keys, by slashes; without the "value" that ends it in an nnx.State."""
    keys = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return "/".join(keys[:-1] if len(keys) > 1 and keys[-1] == "value" else keys)
