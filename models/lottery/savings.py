"""What pruning saves of any network: bytes of files, and operations; and the file of a ticket."""

import gzip
import json
from collections.abc import Callable, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import save

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.lottery.forms import survivors
from qrt_tn.models.lottery.masks import Masks, Params, check_masks, is_kernel, layers

TICKET_FORMAT = "qrt-tn.lottery-ticket"


class Flops(NamedTuple):
    """Operations of one example, two for each use of a weight: of all weights, and of those that survive."""

    dense: int
    surviving: int


def storage(params: Params, masks: Masks) -> dict[str, int]:
    """Bytes of whole safetensors files of a pruned network, biases and all else included, by their kind.

    "dense" has zeros where pruned, "mask and values" is what `save_ticket` writes, "gzip" each of these at
    its highest level. "CSR" has the surviving weights, with an int32 column each and an int32 pointer a row,
    "COO" two int32 indices a weight. A mask costs a bit a weight and an index 32 a surviving one, so CSR is
    smaller than the ticket only where less than about one weight in 32 survives. Where few survive a mask is
    mostly zeros, so that gzip makes the dense file smaller than the ticket, and the ticket smaller still.

    Raises:
        ValueError: what `save_ticket` refuses.
    """
    ticket, metadata = _ticket(params, masks)
    arrays = layers(params)
    dense, csr, coo = dict(arrays), dict(arrays), dict(arrays)
    for name, mask in layers(masks).items():
        dense[name] = np.where(mask, arrays[name], np.zeros_like(arrays[name]))
        data, rows, columns, pointers = survivors(arrays[name], mask)
        del csr[name], coo[name]
        csr |= {f"{name}:data": data, f"{name}:columns": columns, f"{name}:rows": pointers}
        coo |= {f"{name}:data": data, f"{name}:indices": np.stack([rows, columns], axis=1)}
    written, values = save(_contiguous(dense)), save(_contiguous(ticket), metadata=metadata)
    return {
        "dense": len(written),
        "dense, gzip": len(gzip.compress(written, 9, mtime=0)),
        "mask and values": len(values),
        "mask and values, gzip": len(gzip.compress(values, 9, mtime=0)),
        "CSR": len(save(_contiguous(csr))),
        "COO": len(save(_contiguous(coo))),
    }


def save_ticket(path: str | Path, params: Params, masks: Masks) -> None:
    """Write a pruned network to a safetensors file, whole or not at all: a bit a weight, and the survivors.

    Raises:
        ValueError: masks that do not fit, parameters that are not nested dicts with str or int keys, a
            dtype that safetensors files do not hold, or a path that cannot be written.
    """
    save_tensors(path, *_ticket(params, masks))


def load_ticket(path: str | Path) -> tuple[Params, Masks]:
    """The parameters, as nested dicts, zeros where pruned and otherwise bit for bit as saved; and the masks.

    Raises:
        ValueError: no such file, a damaged one, or one of another kind.
    """
    tensors, metadata = load_tensors(path, TICKET_FORMAT)
    params: dict[Any, Any] = {}
    masks: dict[Any, Any] = {}
    try:
        for entry in json.loads(metadata["layout"]):
            name, shape = "/".join(map(str, entry["path"])), tuple(entry["shape"])
            mask = None
            if entry["pruned"]:
                values, count = tensors[f"{name}:values"], int(np.prod(shape))
                mask = np.unpackbits(tensors[f"{name}:mask"], count=count).astype(bool).reshape(shape)
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

    Kernels that may not be pruned count in full. `uses` says how often an example uses each weight of a
    layer, by name, as `weight_uses` finds it; 1 for layers not named.

    Raises:
        ValueError: masks that do not fit, or no uses of a convolution.
    """
    check_masks(masks, params)
    uses, kept = uses or {}, layers(masks)
    dense = surviving = 0
    for name, kernel in layers(params).items():
        if not is_kernel(name, kernel):
            continue
        if kernel.ndim > 2 and name not in uses:
            raise ValueError(
                f"kernel {name!r} has shape {kernel.shape} and uses lacks it; give the pixels of its output"
            )
        each = 2 * int(uses.get(name, 1))
        dense += each * kernel.size
        surviving += each * (int(kept[name].sum()) if name in kept else kernel.size)
    return Flops(dense, surviving)


def weight_uses(network: nnx.Module, x: Any) -> dict[str, int]:
    """How often an example uses each weight of a network's convolutions (nnx.Conv), by the kernel's name.

    These are the pixels of their outputs, padded borders included. The network is traced on a batch, of which
    the shape is enough (a jax.ShapeDtypeStruct), and stays as it is.
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


def _ticket(params: Params, masks: Masks) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a ticket's file."""
    check_masks(masks, params)
    kept = layers(masks)
    tensors: dict[str, np.ndarray] = {}
    layout = []
    for path, leaf in jax.tree.leaves_with_path(params):
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


def _contiguous(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}
