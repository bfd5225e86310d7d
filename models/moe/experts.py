"""The MoE layers of a model's tree of parameters: their routers and the weights of their experts.

The tree is that of google-research/vmoe: nested dicts of arrays, where a block "Encoder/encoderblock_i" with
experts has "Moe/Router/dense/kernel" and "Moe/Mlp/Dense_{0,1}/{kernel,bias}".
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.models.moe.maps import ExpertMap

Tree = Mapping[str, Any]  # nested dicts of arrays
Maps = Mapping[int, ExpertMap]  # by number of the block; layers that are not named are whole

_BLOCK = re.compile(r"encoderblock_(0|[1-9][0-9]*)")
_DENSE = ("Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias")


@dataclass(frozen=True, eq=False)
class ExpertWeights:
    """The experts of one layer, each an MLP with two matrices.

    f_e(x) = gelu(x kernel_in[e] + bias_in[e]) kernel_out[e] + bias_out[e].

    Attributes:
        kernel_in: shape (E, h, m).
        bias_in: shape (E, m).
        kernel_out: shape (E, m, h).
        bias_out: shape (E, h).

    Raises:
        ValueError: shapes that do not fit each other, or no experts.
    """

    kernel_in: np.ndarray
    bias_in: np.ndarray
    kernel_out: np.ndarray
    bias_out: np.ndarray

    def __post_init__(self) -> None:
        _check_shapes(self.arrays, ("kernel_in", "bias_in", "kernel_out", "bias_out"))

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The four arrays, in the order of the attributes."""
        return self.kernel_in, self.bias_in, self.kernel_out, self.bias_out

    @property
    def experts(self) -> int:
        """E."""
        return len(self.kernel_in)

    @property
    def nbytes(self) -> int:
        """Bytes of all experts together."""
        return sum(array.nbytes for array in self.arrays)

    def take(self, indices: Sequence[int]) -> "ExpertWeights":
        """The experts of these numbers, in this order, as new arrays.

        Raises:
            ValueError: a number outside 0 .. E - 1, or none.
        """
        chosen = [int(index) for index in indices]
        wrong = [index for index in chosen if not 0 <= index < self.experts]
        if wrong or not chosen:
            raise ValueError(f"experts {chosen} of {self.experts}; name at least one, from 0 on")
        return ExpertWeights(*(array[chosen] for array in self.arrays))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """What every expert makes of every token.

        gelu is the approximation by tanh, as in flax: z/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))).

        Args:
            x: tokens, shape (T, h).

        Returns:
            Shape (E, T, h); float64 if tokens or weights are, else float32.

        Raises:
            ValueError: tokens of another shape.
        """
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.kernel_in.shape[1]:
            raise ValueError(f"tokens have shape {x.shape}; give (T, {self.kernel_in.shape[1]})")
        double = any(array.dtype == np.float64 for array in (x, *self.arrays))
        dtype = np.dtype(np.float64 if double else np.float32)
        outputs = np.empty((self.experts, *x.shape), dtype)
        for expert in range(
            self.experts
        ):  # one at a time: the hidden units take much more room than the outputs
            kernel_in, bias_in, kernel_out, bias_out = (array[expert].astype(dtype) for array in self.arrays)
            outputs[expert] = _gelu(x.astype(dtype) @ kernel_in + bias_in) @ kernel_out + bias_out
        return outputs


def moe_layers(tree: Tree) -> tuple[int, ...]:
    """The numbers of the blocks that have experts, ascending.

    Raises:
        ValueError: there is none.
    """
    encoder = tree.get("Encoder") if isinstance(tree, Mapping) else None
    if not isinstance(encoder, Mapping):
        raise ValueError("the tree has no 'Encoder'; give the parameters of a V-MoE, as vmoe names them")
    found = []
    for name, block in encoder.items():
        match = _BLOCK.fullmatch(str(name))
        if match and isinstance(block, Mapping) and "Moe" in block:
            found.append(int(match.group(1)))
    if not found:
        raise ValueError("no Encoder/encoderblock_i has a 'Moe'; give a model with mixture-of-experts layers")
    return tuple(sorted(found))


def router(tree: Tree, layer: int) -> np.ndarray:
    """The kernel of a layer's router, shape (h, C): one column for each expert there was.

    The kernel of an E3 ensemble, (h, M, C/M) with the columns of each of its M members, is flattened to
    (h, C), member after member.

    Raises:
        ValueError: there is no such layer, or a kernel of another shape.
    """
    kernel = router_kernel(tree, layer)
    return kernel.reshape(len(kernel), -1)


def router_kernel(tree: Tree, layer: int) -> np.ndarray:
    """The kernel of a layer's router as the tree holds it, shape (h, C) or (h, M, C/M).

    Raises:
        ValueError: there is no such layer, or a kernel of another shape.
    """
    path = f"{_moe(layer)}/Router/dense/kernel"
    kernel = _leaf(tree, path)
    if kernel.ndim not in (2, 3) or not kernel.size:
        raise ValueError(f"{path} has shape {kernel.shape}; give (h, C), or (h, M, C/M) for an ensemble")
    return kernel


def expert_weights(tree: Tree, layer: int) -> ExpertWeights:
    """The experts of a layer.

    Raises:
        ValueError: there is no such layer, or shapes do not fit each other or the router.
    """
    paths = [f"{_moe(layer)}/Mlp/{name}" for name in _DENSE]
    arrays = [_leaf(tree, path) for path in paths]
    _check_shapes(arrays, paths)
    hidden = len(router_kernel(tree, layer))
    if arrays[0].shape[1] != hidden:
        raise ValueError(
            f"{paths[0]} has shape {arrays[0].shape}, but the router takes tokens of {hidden} numbers;"
            " take both from one model"
        )
    return ExpertWeights(*arrays)


def map_of(tree: Tree, layer: int, maps: Maps | None = None) -> ExpertMap:
    """What became of a layer's experts, seen to fit its arrays.

    Args:
        tree: the parameters.
        layer: number of the block.
        maps: those known; a layer that is not among them counts as whole.

    Raises:
        ValueError: the map does not fit the router's columns or the number of experts.
    """
    columns, experts = router(tree, layer).shape[1], expert_weights(tree, layer).experts
    expert_map = (maps or {}).get(layer)
    if expert_map is None:
        if columns != experts:
            raise ValueError(
                f"layer {layer} has {columns} router columns but {experts} experts;"
                " give maps= that say which column leads to which expert"
            )
        return ExpertMap.whole(experts)
    if (expert_map.columns, expert_map.experts) != (columns, experts):
        raise ValueError(
            f"the map of layer {layer} has {expert_map.columns} columns and {expert_map.experts} experts,"
            f" the tree {columns} and {experts}; give the maps of this tree"
        )
    return expert_map


def expert_columns(expert_map: ExpertMap, layer: int) -> tuple[int, ...]:
    """For each expert that is left, the one column of the router that leads to it.

    Raises:
        ValueError: experts were merged, so that several columns lead to one.
    """
    columns = [
        [column for column, expert in enumerate(expert_map.column_to_expert) if expert == place]
        for place in range(expert_map.experts)
    ]
    shared = next((found for found in columns if len(found) > 1), None)
    if shared:
        raise ValueError(
            f"the columns {shared} of layer {layer} lead to one merged expert;"
            " prune before merging, not after"
        )
    return tuple(found[0] for found in columns)


def group_count(tree: Tree, layer: int, groups: int = 1) -> int:
    """The ensemble members that divide a layer's experts among them: each has a contiguous group of columns.

    Args:
        tree: the parameters.
        layer: number of the block.
        groups: their number where the router's kernel has two axes; one of three axes tells it itself.

    Raises:
        ValueError: a number that is at odds with the kernel, or does not divide the columns.
    """
    check_whole("groups", groups, 1)
    kernel = router_kernel(tree, layer)
    if kernel.ndim == 3:
        if groups not in (1, kernel.shape[1]):
            raise ValueError(
                f"groups is {groups}, but the router of layer {layer} has {kernel.shape[1]} members;"
                f" give {kernel.shape[1]}"
            )
        return kernel.shape[1]
    if kernel.shape[1] % groups:
        raise ValueError(
            f"{groups} groups do not divide the {kernel.shape[1]} router columns of layer {layer};"
            " give a number that does"
        )
    return groups


def replaced(tree: Tree, layer: int, kernel: np.ndarray, experts: ExpertWeights) -> dict[str, Any]:
    """The tree with other experts, and another router, in one layer.

    Args:
        tree: stays as it is; its other arrays are shared with the result, its dicts are not.
        layer: number of the block.
        kernel: of the router, shape (h, C) or (h, M, C/M).
        experts: their weights.
    """
    new = copied(tree)
    moe = new["Encoder"][f"encoderblock_{layer}"]["Moe"]
    moe["Router"]["dense"]["kernel"] = kernel
    for name, array in zip(_DENSE, experts.arrays, strict=True):
        dense, part = name.split("/")
        moe["Mlp"][dense][part] = array
    return new


def leaves(tree: Tree) -> Iterator[tuple[str, np.ndarray]]:
    """Each array of the tree with its path, the keys by slashes, in sorted order."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"the tree is a {type(tree).__name__}; give nested dicts of arrays")
    for key in sorted(tree, key=str):
        value = tree[key]
        if isinstance(value, Mapping):
            yield from ((f"{key}/{path}", array) for path, array in leaves(value))
        else:
            yield str(key), np.asarray(value)


def parameter_bytes(tree: Tree) -> int:
    """Bytes of all arrays of the tree."""
    return sum(array.nbytes for _, array in leaves(tree))


def _moe(layer: int) -> str:
    return f"Encoder/encoderblock_{layer}/Moe"


def _leaf(tree: Tree, path: str) -> np.ndarray:
    node: Any = tree
    for key in path.split("/"):
        if not isinstance(node, Mapping) or key not in node:
            raise ValueError(f"the tree has no {path!r}; give the parameters of a V-MoE, as vmoe names them")
        node = node[key]
    if isinstance(node, Mapping):
        raise ValueError(f"{path!r} is a dict; give an array")
    return np.asarray(node)


def check_pair(tree: Tree, pretrained: Tree) -> None:
    """See that two trees are of one model, before and after fine-tuning.

    The heads may differ, as may the number of position embeddings (another resolution) and, after pruning,
    the number of experts.

    Raises:
        ValueError: blocks with experts, parameters or shapes that differ, by name.
    """
    ours, theirs = moe_layers(tree), moe_layers(pretrained)
    if ours != theirs:
        raise ValueError(
            f"the blocks with experts are {ours}, in the pre-trained model {theirs};"
            " give checkpoints of one model"
        )
    mine, other = _shared(tree), _shared(pretrained)
    odd = sorted(set(mine) ^ set(other))
    if odd:
        where = "pre-trained" if odd[0] in mine else "fine-tuned"
        raise ValueError(f"the {where} model lacks {odd[0]!r}; give checkpoints of one model")
    for layer in ours:
        members, others = (router_kernel(held, layer).shape[1:-1] for held in (tree, pretrained))
        if members and others and members != others:
            raise ValueError(
                f"the router of layer {layer} has {members[0]} ensemble members in the fine-tuned and"
                f" {others[0]} in the pre-trained model; give checkpoints of one model"
            )
    for path, shape in mine.items():
        if shape != other[path]:
            raise ValueError(
                f"{path!r} has shape {shape} in the fine-tuned and {other[path]} in the pre-trained model"
                " (without axes that may differ); give checkpoints of one model"
            )


def copied(tree: Tree) -> dict[str, Any]:
    """The tree in new dicts, with the same arrays."""
    return {key: copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _check_shapes(arrays: Sequence[np.ndarray], names: Sequence[str]) -> None:
    first = np.shape(arrays[0])
    if len(first) != 3 or 0 in first:
        raise ValueError(f"{names[0]} has shape {first}; give (experts, h, m)")
    experts, hidden, units = first
    expected = (first, (experts, units), (experts, units, hidden), (experts, hidden))
    for name, array, shape in zip(names, arrays, expected, strict=True):
        if np.shape(array) != shape:
            raise ValueError(
                f"{name} has shape {np.shape(array)}; beside {names[0]} of {first} it must be {shape}"
            )


def _gelu(z: np.ndarray) -> np.ndarray:
    # flax.linen.gelu, the activation of vmoe's MLPs, is this approximation by default
    return 0.5 * z * (1.0 + np.tanh(np.sqrt(2.0 / np.pi).astype(z.dtype) * (z + 0.044715 * z**3)))


def _shared(tree: Tree) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that both models have, less the axes that may differ."""
    shapes = {}
    for path, array in leaves(tree):
        if path.split("/")[0] in ("head", "pre_logits"):
            continue
        shape = array.shape
        if path.endswith("/pos_embedding"):
            shape = shape[:1] + shape[2:]
        elif "/Moe/Router/" in path:
            # an ensemble's may be stored with two axes or three; the columns are seen to later
            shape = shape[:1]
        elif "/Moe/Mlp/" in path:
            shape = shape[1:]
        shapes[path] = shape
    return shapes
