"""Fully connected ReLU networks under a mask, in the forms that could save time, run side by side."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.lottery.masks import Masks, Params, apply_masks, check_masks, layers

Layers = list[tuple[Any, Any]]  # from input to output: kernels (units in, units out) and biases


class Form(NamedTuple):
    """One way to run a network: `run(held, x)` gives the outputs; `flops` are those of one example."""

    run: Callable[..., jax.Array]
    held: Any
    flops: int


def forms(params: Params, masks: Masks, kernels: Sequence[str]) -> dict[str, Form]:
    """A pruned fully connected ReLU network, h -> relu(h kernel + bias), in each of its forms.

    "dense" has zeros where pruned. In "dense with mask" the mask is multiplied in at every call, and held in
    the weights' type, as torch.nn.utils.prune does. "compacted" is dense without dead units (`compact`).
    "BCOO" and "BCSR" (jax.experimental.sparse) hold the surviving weights alone, with two int32 indices each,
    or one and a pointer a row; a surviving weight that is 0 is stored too.

    Args:
        params: nested dicts of arrays of that network alone; a layer without a bias gets zeros.
        masks: as `full_masks` makes them.
        kernels: names from input to output, such as ("hidden/0/kernel", "hidden/1/kernel", "output/kernel").

    Raises:
        ValueError: masks that do not fit, kernels that are none or do not follow one another, or parameters
            left over.
    """
    check_masks(masks, params)
    dense = _stack(apply_masks(masks, params), kernels)
    kept = [layers(masks).get(n, np.ones(k.shape, bool)) for n, (k, _) in zip(kernels, dense, strict=True)]
    factors = [jnp.asarray(mask.astype(kernel.dtype)) for mask, (kernel, _) in zip(kept, dense, strict=True)]
    size, surviving = sum(mask.size for mask in kept), sum(int(mask.sum()) for mask in kept)
    smaller = compact(dense, kept)

    def masked(held: Any, x: jax.Array) -> jax.Array:
        pairs = zip(*held, strict=True)
        return forward([(kernel * factor, bias) for (kernel, bias), factor in pairs], x)

    def chosen(held: Any, x: jax.Array) -> jax.Array:
        stack, inputs = held
        return forward(stack, x if inputs is None else x[:, inputs])

    return {
        "dense": Form(forward, dense, 2 * size),
        "dense with mask": Form(masked, (dense, factors), 2 * size),
        "compacted": Form(chosen, smaller, 2 * sum(kernel.size for kernel, _ in smaller[0])),
        "BCOO": Form(forward, _sparse(dense, kept, "BCOO"), 2 * surviving),
        "BCSR": Form(forward, _sparse(dense, kept, "BCSR"), 2 * surviving),
    }


def measure(
    params: Params, masks: Masks, kernels: Sequence[str], x: Any, rounds: int = 20
) -> list[dict[str, Any]]:
    """Run a network in each of its `forms`, side by side on this machine.

    A time is that of one compiled call until its result is there, so at batch 1 it is mostly that of the
    call itself. Each round times all forms one after another, so that a disturbance meets them all.

    Returns:
        A row for each form, at a batch of 1 and then at that of x (batch, D): form; batch; disk_bytes, of a
        safetensors file of the arrays that it holds; memory_bytes, of these; flops, of one example; seconds,
        the median of a batch over the rounds.

    Raises:
        ValueError: as `forms`; x of another shape, or rounds below 1.
    """
    check_whole("rounds", rounds)
    found = forms(params, masks, kernels)
    first = found["dense"].held[0][0]
    points = jnp.asarray(np.asarray(x).astype(first.dtype))
    if points.ndim != 2 or points.shape[1] != len(first) or len(points) == 0:
        raise ValueError(f"x has shape {points.shape}; give (batch, {len(first)}), images flattened")
    rows = []
    for size in sorted({1, len(points)}):
        # what a form holds is an argument, or XLA would multiply the mask in once, when it compiles
        calls = {name: partial(jax.jit(form.run), form.held, points[:size]) for name, form in found.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(-1, rounds):
            names = list(calls)[number % len(calls) :] + list(calls)[: number % len(calls)]
            for name in names:
                begin = time.perf_counter()
                jax.block_until_ready(calls[name]())
                times[name].append(time.perf_counter() - begin)
        for name, form in found.items():
            arrays = {str(place): np.asarray(leaf) for place, leaf in enumerate(jax.tree.leaves(form.held))}
            rows.append(
                {
                    "form": name,
                    "batch": size,
                    "disk_bytes": len(save(arrays)),
                    "memory_bytes": sum(array.nbytes for array in arrays.values()),
                    "flops": form.flops,
                    "seconds": float(np.median(times[name][1:])),  # the first compiles
                }
            )
    return rows


def forward(stack: Layers, x: jax.Array) -> jax.Array:
    """The outputs at x (batch, D); a sparse kernel is held as (units out, units in)."""
    for place, (kernel, bias) in enumerate(stack):
        x = jax.nn.relu(x) if place else x
        x = (x @ kernel if isinstance(kernel, jax.Array) else (kernel @ x.T).T) + bias
    return x


def compact(stack: Layers, masks: Sequence[np.ndarray]) -> tuple[Layers, jax.Array | None]:
    """Take out the hidden units that masks leave dead, and the inputs that nothing reads; outputs stay.

    A unit that no surviving weight enters has the constant output relu(bias), which goes into the bias
    of the next layer; a unit that no surviving weight leaves is dropped. Each removal takes weights with
    it and may kill other units. But a constant unit takes only weights that leave it, so it can only make
    units of later layers constant, and an unused one only weights that enter it, so it can only make
    units of earlier layers unused: one sweep forward and then one backward find all there are.

    Returns:
        The smaller stack, of which a layer may have no units, and the inputs that it takes, None for all.
    """
    kept = [mask.copy() for mask in masks]
    # sums into a bias are rounded once, at the end
    kernels = [
        np.where(mask, np.asarray(k, np.float64), 0) for mask, (k, _) in zip(masks, stack, strict=True)
    ]
    biases = [np.asarray(bias, np.float64) for _, bias in stack]
    for layer in range(1, len(kept)):
        dead = ~kept[layer - 1].any(axis=0)
        biases[layer] = biases[layer] + np.maximum(biases[layer - 1][dead], 0) @ kernels[layer][dead]
        kept[layer][dead] = False
    for layer in reversed(range(1, len(kept))):
        kept[layer - 1][:, ~kept[layer].any(axis=1)] = False
    alive = [*(mask.any(axis=1) for mask in kept), np.ones(len(biases[-1]), bool)]
    inputs = None if alive[0].all() else jnp.asarray(np.flatnonzero(alive[0]).astype(np.int32))
    smaller = []
    for place, (kernel, bias) in enumerate(stack):
        left = kernels[place][np.ix_(alive[place], alive[place + 1])], biases[place][alive[place + 1]]
        smaller.append((jnp.asarray(left[0].astype(kernel.dtype)), jnp.asarray(left[1].astype(bias.dtype))))
    return smaller, inputs


def survivors(kernel: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """The surviving weights of a kernel (..., units out), and their places in its transpose.

    Returns:
        Weights, rows (units out) and columns (units in, or all leading axes of a convolution as one), by rows
        and then by columns; and where each row begins, and the last ends. All but the weights are int32.
    """
    across = mask.reshape(-1, mask.shape[-1]).T
    rows, columns = np.nonzero(across)
    pointers = np.searchsorted(rows, np.arange(len(across) + 1))
    places = (array.astype(np.int32) for array in (rows, columns, pointers))
    return (kernel.reshape(-1, kernel.shape[-1])[columns, rows], *places)


def _sparse(stack: Layers, masks: Sequence[np.ndarray], kind: str) -> Layers:
    """The stack with its surviving weights as BCOO or BCSR matrices, which multiply from the left only."""
    from jax.experimental import sparse

    found = []
    for (kernel, bias), mask in zip(stack, masks, strict=True):
        data, rows, columns, pointers = survivors(np.asarray(kernel), mask)
        options: Any = {"shape": kernel.shape[::-1], "indices_sorted": True, "unique_indices": True}
        places = (np.stack([rows, columns], axis=1),) if kind == "BCOO" else (columns, pointers)
        found.append((getattr(sparse, kind)(tuple(map(jnp.asarray, (data, *places))), **options), bias))
    return found


def _stack(params: Params, kernels: Sequence[str]) -> Layers:
    left, stack, units = layers(params), [], None
    for name in kernels:
        kernel = left.pop(name, None)
        if kernel is None or kernel.ndim != 2 or units not in (None, len(kernel)):
            raise ValueError(
                f"{name!r} is no fully connected layer's kernel that takes {units or 'the inputs'};"
                f" name those of {', '.join(layers(params))}, from input to output"
            )
        units = kernel.shape[1]
        bias = left.pop(name.removesuffix("kernel") + "bias", np.zeros(units, kernel.dtype))
        stack.append((jnp.asarray(kernel), jnp.asarray(bias)))
    if left or not stack:
        raise ValueError(f"{', '.join(left)} is of none of the layers named; name all of a network")
    return stack
