"""What pruning saves: bytes on disk and in memory, operations, and measured time."""

import gzip
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save as safetensors_bytes

from qrt_tn.engine.arguments import check_whole
from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.lottery.compaction import DenseStack, compact, dense_stack, sparse_stack, survivors
from qrt_tn.models.lottery.masks import Masks, Params, apply_masks, check_masks, is_kernel, layers

TICKET_FORMAT = "qrt-tn.lottery-ticket"


class Storage(NamedTuple):
    """Sizes in bytes of whole files of one network, biases and all else included.

    Attributes:
        dense: a safetensors file of the parameters, zeros where pruned.
        compressed: that file under gzip, at its highest level.
        ticket: what `save_ticket` writes.
        ticket_compressed: that file under gzip.
        csr: a safetensors file of surviving weights, with an int32 column each and an int32 pointer a row.
        coo: likewise with two int32 indices a weight, as jax.experimental.sparse.BCOO holds them.
        kept: surviving weights of the layers that may be pruned.
        weights: all weights of those layers.
    """

    dense: int
    compressed: int
    ticket: int
    ticket_compressed: int
    csr: int
    coo: int
    kept: int
    weights: int


class Flops(NamedTuple):
    """Operations of one example, two (a product and a sum) for each use of a weight of a kernel.

    Attributes:
        dense: of all weights.
        surviving: of those that the masks keep, which only a form that skips the others saves.
    """

    dense: int
    surviving: int


def storage(params: Params, masks: Masks) -> Storage:
    """The sizes of a pruned network's files, read off the bytes of each.

    A mask costs a bit a weight and an int32 index 32 a surviving one, so CSR is smaller than the ticket
    only where less than about one weight in 32 survives. Where few survive a mask is mostly zeros, so that
    gzip makes the dense file smaller than the ticket, and the ticket smaller still.

    Args:
        params: nested dicts of arrays, as nnx.to_pure_dict gives them; convolutions too.
        masks: as `full_masks` makes them.

    Raises:
        ValueError: masks that do not fit, or parameters that are not nested dicts.
    """
    ticket = _file(*_ticket(params, masks))
    kept, arrays = layers(masks), layers(params)
    dense, csr, coo = dict(arrays), dict(arrays), dict(arrays)
    for name, mask in kept.items():
        dense[name] = np.where(mask, arrays[name], np.zeros_like(arrays[name]))
        data, rows, columns, pointers = survivors(arrays[name], mask)
        del csr[name], coo[name]
        csr |= {f"{name}:data": data, f"{name}:columns": columns, f"{name}:rows": pointers}
        coo |= {f"{name}:data": data, f"{name}:indices": np.stack([rows, columns], axis=1)}
    written = _file(dense)
    return Storage(
        dense=len(written),
        compressed=len(gzip.compress(written, 9, mtime=0)),
        ticket=len(ticket),
        ticket_compressed=len(gzip.compress(ticket, 9, mtime=0)),
        csr=len(_file(csr)),
        coo=len(_file(coo)),
        kept=sum(int(mask.sum()) for mask in kept.values()),
        weights=sum(mask.size for mask in kept.values()),
    )


def save_ticket(path: str | Path, params: Params, masks: Masks) -> None:
    """Write a pruned network to a safetensors file, whole or not at all: a bit a weight, and the survivors.

    Args:
        path: the file; one that exists is replaced.
        params: nested dicts of arrays, as nnx.to_pure_dict gives them.
        masks: as `full_masks` makes them.

    Raises:
        ValueError: masks that do not fit, parameters that are not nested dicts with str or int keys, a
            dtype that safetensors files do not hold, or a path that cannot be written.
    """
    save_tensors(path, *_ticket(params, masks))


def load_ticket(path: str | Path) -> tuple[Params, Masks]:
    """The parameters, zeros where pruned and otherwise bit for bit as saved, and the masks.

    Returns:
        Nested dicts of NumPy arrays, and masks for them.

    Raises:
        ValueError: no such file, a torn one, one of another kind, or one whose parts do not fit.
    """
    tensors, metadata = load_tensors(path, TICKET_FORMAT)
    params: dict[Any, Any] = {}
    masks: dict[Any, Any] = {}
    try:
        for entry in json.loads(metadata["layout"]):
            name, shape = "/".join(map(str, entry["path"])), tuple(entry["shape"])
            mask = None
            if entry["pruned"]:
                bits, values = tensors[f"{name}:mask"], tensors[f"{name}:values"]
                size = int(np.prod(shape))
                flat = np.unpackbits(bits).astype(bool)
                if len(bits) != -(-size // 8) or flat[size:].any() or flat.sum() != len(values):
                    raise ValueError(f"the mask and the values of {name!r} do not fit")
                mask = flat[:size].reshape(shape)
                value = np.zeros(shape, values.dtype)
                value[mask] = values
            else:
                value = tensors[name].reshape(shape)
            *folders, last = entry["path"]
            for tree, leaf in ((params, value), (masks, mask)):
                reduce(lambda node, key: node.setdefault(key, {}), folders, tree)[last] = leaf
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole ticket ({error}); save it again") from error
    return params, masks


def flops(params: Params, masks: Masks, uses: Mapping[str, int] | None = None) -> Flops:
    """Operations of the layers' kernels for one example; biases and normalisation are left out.

    Args:
        params: nested dicts of arrays.
        masks: as `full_masks` makes them; kernels that may not be pruned count in full.
        uses: how often an example uses each weight of a layer, by name, as `weight_uses` finds it; 1 for
            layers not named. A convolution uses a weight once for each pixel of its output, padded
            borders included.

    Raises:
        ValueError: masks that do not fit, uses of unknown layers or below 1, or none of a convolution.
    """
    check_masks(masks, params)
    kernels = {name: value for name, value in layers(params).items() if is_kernel(name, value)}
    uses, kept = uses or {}, layers(masks)
    for name, count in uses.items():
        if name not in kernels:
            raise ValueError(f"uses names {name!r}, which is no kernel; name some of {sorted(kernels)}")
        check_whole(f"uses of {name!r}", count)
    dense = surviving = 0
    for name, kernel in kernels.items():
        if kernel.ndim > 2 and name not in uses:
            raise ValueError(
                f"kernel {name!r} has shape {kernel.shape} and uses lacks it; give the pixels of its output"
            )
        each = 2 * int(uses.get(name, 1))
        dense += each * kernel.size
        surviving += each * (int(kept[name].sum()) if name in kept else kernel.size)
    return Flops(dense, surviving)


def weight_uses(network: nnx.Module, x: Any) -> dict[str, int]:
    """How often an example uses each weight of a network's convolutions: the pixels of their outputs.

    The network is traced with abstract arrays; nothing is computed, and the network stays as it is.

    Args:
        network: its convolutions are nnx.Conv.
        x: a batch that the network takes, or a jax.ShapeDtypeStruct of one.

    Returns:
        By the name of the kernel, as in `layers`, for `flops`. Networks with no convolution give {}.
    """
    copy = nnx.clone(network)
    found: dict[str, int] = {}

    def record(name: str, convolve: Callable[..., jax.Array], *args: Any, **options: Any) -> jax.Array:
        result = convolve(*args, **options)
        found[name] = found.get(name, 0) + int(np.prod(result.shape[1:-1]))
        return result

    for path, module in nnx.iter_modules(copy):
        if isinstance(module, nnx.Conv):
            name = "/".join(map(str, (*path, "kernel")))
            module.conv_general_dilated = partial(record, name, module.conv_general_dilated)
    nnx.eval_shape(lambda traced, batch: traced(batch), copy, x)
    return found


def measure(
    params: Params, masks: Masks, kernels: Sequence[str], x: Any, rounds: int = 20
) -> list[dict[str, Any]]:
    """Run a pruned fully connected ReLU network in each of its forms, side by side on this machine.

    The forms: "dense" (zeros where pruned), "dense with mask" (the mask multiplied in at every call, and
    held in the weights' type, as torch.nn.utils.prune does), "compacted" (`compact`: dead units gone,
    the rest dense), "BCOO" and "BCSR" (jax.experimental.sparse). Convolutions run in none of them;
    `storage` and `flops` take those.

    A time is that of one compiled call until its result is there, so at batch 1 it is mostly that of the
    call itself. Each round times all forms one after another, so that a disturbance meets them all.

    Args:
        params: nested dicts of arrays of that network alone, as nnx.to_pure_dict gives them.
        masks: as `full_masks` makes them.
        kernels: the names of the kernels from input to output, as of `dense_stack`.
        x: points, shape (batch, D); images must be flattened.
        rounds: how many times each form is timed.

    Returns:
        A row for each form, at a batch of 1 and then at that of x: form; batch; disk_bytes, of a
        safetensors file of what the form holds (its header differs from that of `storage`);
        memory_bytes, of the arrays it holds; flops, of one example as in `flops`; seconds, the median of
        a batch; seconds_min; max_difference, the largest absolute one to the dense outputs (a GPU may
        round the factors of dense products to fewer bits, TF32).

    Raises:
        ValueError: masks that do not fit, a network that is not such a stack, x of another shape, or
            rounds below 1.
    """
    check_whole("rounds", rounds)
    work = flops(params, masks)
    dense = dense_stack(apply_masks(masks, params), kernels)
    points = jnp.asarray(x, dense.kernels[0].dtype)
    if points.ndim != 2 or points.shape[1] != len(dense.kernels[0]) or len(points) == 0:
        raise ValueError(
            f"x has shape {points.shape}; give (batch, {len(dense.kernels[0])}), images flattened"
        )
    shapes = zip(kernels, dense.kernels, strict=True)
    kept = [layers(masks).get(name, np.ones(kernel.shape, bool)) for name, kernel in shapes]
    factors = [jnp.asarray(mask, points.dtype) for mask in kept]
    smaller = compact(dense, kept).stack
    run = DenseStack.__call__
    forms: dict[str, tuple[Callable[..., jax.Array], Any, int]] = {
        "dense": (run, dense, work.dense),
        "dense with mask": (_masked_forward, (dense, factors), work.dense),
        "compacted": (run, smaller, 2 * sum(kernel.size for kernel in smaller.kernels)),
        "BCOO": (run, sparse_stack(dense, kept, "bcoo"), work.surviving),
        "BCSR": (run, sparse_stack(dense, kept, "bcsr"), work.surviving),
    }
    rows = []
    for size in sorted({1, len(points)}):
        batch = points[:size]
        # what a form holds is an argument, or XLA would multiply the mask in once, when it compiles
        calls = {name: partial(jax.jit(form), held, batch) for name, (form, held, _) in forms.items()}
        outputs = {name: np.asarray(call()) for name, call in calls.items()}
        times = _interleaved(calls, int(rounds))
        for name, (_, held, operations) in forms.items():
            arrays = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(held)}
            rows.append(
                {
                    "form": name,
                    "batch": size,
                    "disk_bytes": len(_file(arrays)),
                    "memory_bytes": sum(array.nbytes for array in arrays.values()),
                    "flops": operations,
                    "seconds": float(np.median(times[name])),
                    "seconds_min": min(times[name]),
                    "max_difference": float(np.abs(outputs[name] - outputs["dense"]).max(initial=0.0)),
                }
            )
    return rows


def _masked_forward(held: tuple[DenseStack, list[jax.Array]], x: jax.Array) -> jax.Array:
    stack, factors = held
    products = tuple(kernel * factor for kernel, factor in zip(stack.kernels, factors, strict=True))
    return replace(stack, kernels=products)(x)


def _interleaved(calls: Mapping[str, Callable[[], jax.Array]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; who goes first changes from round to round."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begin = time.perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(time.perf_counter() - begin)
    return times


def _ticket(params: Params, masks: Masks) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a ticket's file."""
    check_masks(masks, params)
    kept = layers(masks)
    tensors: dict[str, np.ndarray] = {}
    layout = []
    for path, leaf in _leaves(params):
        keys = [getattr(key, "key", None) for key in path]
        if not keys or not all(isinstance(key, str | int) for key in keys):
            raise ValueError(
                f"parameter {jax.tree_util.keystr(path)} is not in nested dicts with str or int keys"
            )
        name, value = "/".join(map(str, keys)), np.asarray(leaf)
        parts = {name: value}
        if name in kept:
            parts = {f"{name}:mask": np.packbits(kept[name]), f"{name}:values": value[kept[name]]}
        if set(parts) & set(tensors):
            raise ValueError(f"two parameters are named {name!r}; rename one")
        tensors |= parts
        # keys may be numbers, which names alone would not give back
        layout.append({"path": keys, "shape": value.shape, "pruned": name in kept})
    return tensors, {"format": TICKET_FORMAT, "layout": json.dumps(layout)}


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _file(arrays: Mapping[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file of these arrays."""
    tensors = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    return safetensors_bytes(tensors, metadata=metadata)
