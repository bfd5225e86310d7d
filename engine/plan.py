"""Contraction plans: a path and its slices, with the cost known before anything is computed."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cotengra as ctg
import numpy as np
import opt_einsum as oe

from engine.arguments import Seed, generator
from engine.atomic import atomic_path
from engine.backends import namespace, resolve
from engine.execute import contract_path
from engine.paths import find_path
from engine.scaled import Scaled

Index = Hashable
Term = tuple[Index, ...]
FORMAT = "qrt-tn.plan"


@dataclass(frozen=True)
class Plan:
    """How to contract one network shape, as often as you like.

    Attributes:
        inputs: the indices of every tensor, one per axis.
        output: the indices of the result, in order.
        sizes: the extent of every index.
        path: positions per step, in opt_einsum's linear format.
        slices: indices that are fixed and looped over to save memory; each runs over its whole extent.
        itemsize: bytes per element that `peak_bytes` assumes; 16 is complex128.
        flops: scalar operations over all slices, counted as opt_einsum counts them (a multiply and an
            add are two, real or complex alike).
        largest: elements of the largest intermediate of one slice.
        peak_bytes: bytes of all tensors alive at the worst step of one slice, its operands included.
    """

    inputs: tuple[Term, ...]
    output: Term
    sizes: Mapping[Index, int]
    path: tuple[tuple[int, ...], ...]
    slices: Term = ()
    itemsize: int = 16
    flops: int = field(init=False)
    largest: int = field(init=False)
    peak_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        for index in self.slices:
            if index not in self.sizes or self.slices.count(index) > 1:
                raise ValueError(
                    f"slices {self.slices} name {index!r} twice, or no tensor of the network does"
                )
        sliced = {index: 1 if index in self.slices else size for index, size in self.sizes.items()}
        flops, largest, peak = _cost(self.inputs, self.output, sliced, self.path)
        object.__setattr__(self, "flops", flops * self.slice_count)
        object.__setattr__(self, "largest", largest)
        object.__setattr__(self, "peak_bytes", peak * self.itemsize)

    @property
    def slice_count(self) -> int:
        """How many slices there are to contract; 1 without slicing."""
        return math.prod(self.sizes[index] for index in self.slices)

    def execute(self, arrays: Sequence[Any], backend: str = "auto") -> Scaled:
        """Contract these arrays.

        Args:
            arrays: one per tensor, with the plan's extents; NumPy or the backend's own.
            backend: "numpy", "cupy", "cuquantum", or "auto".

        Returns:
            The result with axes `output`; its log-scale is one number for the whole result.

        Raises:
            ValueError: a wrong number of arrays or a wrong shape, or a backend missing here. Values are not
                looked at: a NaN in an array is a NaN in the result.
        """
        name = resolve(backend)
        xp = namespace(name)
        if len(arrays) != len(self.inputs):
            raise ValueError(f"got {len(arrays)} arrays for a plan of {len(self.inputs)} tensors")
        arrays = [array if hasattr(array, "dtype") else np.asarray(array) for array in arrays]
        for number, (array, term) in enumerate(zip(arrays, self.inputs, strict=True)):
            wanted = tuple(self.sizes[index] for index in term)
            if np.shape(array) != wanted:
                raise ValueError(f"array {number} has shape {np.shape(array)}; the plan wants {wanted}")
        dtype = np.result_type(*(array.dtype for array in arrays))
        dtype = np.result_type(dtype, np.float32) if dtype.kind in "fc" else np.dtype(np.float64)
        operands = [xp.asarray(array, dtype=dtype) for array in arrays]
        if name == "cuquantum":
            from engine.cutensornet import contract_network

            return contract_network(operands, self.inputs, self.output, self.path, self.slices)
        # Slices of a summed index add up; slices of an output index each fill a place of the result.
        parts: dict[tuple[int | None, ...], Scaled] = {}
        for fixed in self._assignments():
            part = Scaled(*contract_path(*self._slice(operands, fixed), self.path))
            place = tuple(fixed.get(index) for index in self.output)
            parts[place] = parts[place] + part if place in parts else part
        return _assembled(parts, tuple(self.sizes[index] for index in self.output), xp)

    def _assignments(self) -> Iterator[dict[Index, int]]:
        extents = (range(self.sizes[index]) for index in self.slices)
        for values in itertools.product(*extents):
            yield dict(zip(self.slices, values, strict=True))

    def _slice(self, operands: list[Any], fixed: dict[Index, int]) -> tuple[list[Any], list[Term], Term]:
        if not fixed:
            return operands, list(self.inputs), self.output
        arrays = [
            array[tuple(fixed.get(index, slice(None)) for index in term)]
            for array, term in zip(operands, self.inputs, strict=True)
        ]
        terms = [tuple(index for index in term if index not in fixed) for term in self.inputs]
        return arrays, terms, tuple(index for index in self.output if index not in fixed)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all; indices must be strings or ints.

        Raises:
            ValueError: an index that JSON cannot hold.
        """
        strange = [index for index in self.sizes if not isinstance(index, str | int)]
        if strange:
            raise ValueError(f"index {strange[0]!r} is neither a string nor an int; rename it before saving")
        body = {
            "format": FORMAT,
            "inputs": self.inputs,
            "output": self.output,
            "sizes": list(self.sizes.items()),
            "path": self.path,
            "slices": self.slices,
            "itemsize": self.itemsize,
        }
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(body))

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan that `save` wrote.

        Raises:
            ValueError: no such file, or not a whole plan.
        """
        source = Path(path)
        if not source.is_file():
            raise ValueError(f"no file {source}; give the path of a saved plan")
        try:
            body = json.loads(source.read_text())
            if body["format"] != FORMAT:
                raise KeyError("format")
            inputs, output, sizes = _structure((body["inputs"], body["output"], dict(body["sizes"])), None)
            steps = tuple(find_path(inputs, output, sizes, body["path"]))
            return cls(inputs, output, sizes, steps, tuple(body["slices"]), int(body["itemsize"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{source} does not hold a whole plan ({str(error)[:80]!r}); save it again"
            ) from error

    def __str__(self) -> str:
        return (
            f"{len(self.inputs)} tensors, {self.flops:.3g} flops, {self.slice_count} slices, "
            f"largest intermediate {self.largest:.3g} elements, peak {self.peak_bytes / 2**20:.3g} MiB"
        )


def plan(
    network: Any,
    *,
    output_inds: Collection[Index] | None = None,
    optimizer: str | Sequence[Sequence[int]] | Callable[..., Any] = "auto",
    memory_limit: int | None = None,
    seed: Seed = 0,
    dtype: Any = None,
) -> Plan:
    """Plan the contraction of a network.

    Args:
        network: a quimb TensorNetwork, or a tuple (inputs, output, sizes).
        output_inds: the indices to keep, in order. Left out, a quimb network keeps its outer indices;
            a hyperindex (one on three or more tensors) is kept only if named here.
        optimizer: a name ("auto", "greedy", "optimal", "dp", "random-greedy", "cotengra-greedy", ...),
            a path of your own, or an opt_einsum or cotengra optimiser object.
        memory_limit: bytes that one slice may take, operands included; indices are sliced until it fits.
        seed: makes random searches and slicing repeatable.
        dtype: what the arrays will be, for the bytes. Left out, what a quimb network holds, and
            complex128 for a tuple.

    Raises:
        ValueError: an unknown index or optimizer, clashing sizes, or a limit that no slicing meets; the
            message says the least that would do.
    """
    inputs, output, sizes = _structure(network, output_inds)
    if memory_limit is not None and not isinstance(memory_limit, int | float | np.number):
        raise ValueError(f"memory_limit is {memory_limit!r}; give a number of bytes, such as 2**30")
    if dtype is None:
        dtype = "complex128" if isinstance(network, tuple) else _dtype(network)
    # the searches take plain ints
    seed = int(seed) if isinstance(seed, int | np.integer) else int(generator(seed).integers(2**31))
    path = tuple(find_path(inputs, output, sizes, optimizer, seed))
    found = Plan(inputs, output, sizes, path, (), np.dtype(dtype).itemsize)
    return found if memory_limit is None else _sliced(found, memory_limit, seed)


def contract(
    network: Any,
    *,
    output_inds: Collection[Index] = (),
    backend: str = "auto",
    memory_limit: int | None = None,
    optimizer: str | Sequence[Sequence[int]] | Callable[..., Any] = "auto",
    seed: Seed = 0,
) -> Scaled:
    """Contract a quimb network to a scaled array with axes `output_inds` (a scalar by default).

    Args:
        network: a quimb TensorNetwork; every index not in `output_inds` is summed over.
        output_inds: the indices to keep, in order.
        backend: "numpy", "cupy", "cuquantum", or "auto".
        memory_limit: bytes; the contraction is sliced to fit.
        optimizer: see `plan`.
        seed: see `plan`.

    Raises:
        ValueError: as `plan`, or a backend that is missing here. Values are not looked at: a NaN in a tensor
            is a NaN in the result.
    """
    made = plan(
        network, output_inds=tuple(output_inds), optimizer=optimizer, memory_limit=memory_limit, seed=seed
    )
    return made.execute([tensor.data for tensor in network], backend)


def _dtype(network: Any) -> np.dtype:
    found = np.result_type(*(tensor.data.dtype for tensor in network))
    return found if found.kind in "fc" else np.dtype(np.float64)


def _structure(
    network: Any, output_inds: Collection[Index] | None
) -> tuple[tuple[Term, ...], Term, dict[Index, int]]:
    if isinstance(network, tuple):
        if len(network) != 3:
            raise ValueError(f"got a tuple of {len(network)}; give (inputs, output, sizes)")
        inputs, output, given = network
        inputs = tuple(tuple(term) for term in inputs)
        sizes = {}
        for index in dict.fromkeys(itertools.chain(*inputs)):
            if index not in given:
                raise ValueError(f"index {index!r} is on a tensor but has no size; add it to sizes")
            sizes[index] = int(given[index])
        output = tuple(output if output_inds is None else output_inds)
    elif not hasattr(network, "outer_inds"):
        raise ValueError(
            f"got a {type(network).__name__}; give a quimb TensorNetwork or (inputs, output, sizes)"
        )
    else:
        inputs = tuple(tuple(tensor.inds) for tensor in network)
        sizes = {}
        for tensor in network:
            for index, size in zip(tensor.inds, tensor.shape, strict=True):
                if sizes.setdefault(index, int(size)) != size:
                    raise ValueError(
                        f"index {index!r} has size {sizes[index]} on one tensor and {size} on another"
                    )
        output = tuple(network.outer_inds() if output_inds is None else output_inds)
    _check_structure(inputs, output, sizes)
    return inputs, output, sizes


def _check_structure(inputs: tuple[Term, ...], output: Term, sizes: Mapping[Index, int]) -> None:
    if not inputs:
        raise ValueError("the network has no tensors; there is nothing to contract")
    for index, size in sizes.items():
        if size < 1:
            raise ValueError(f"index {index!r} has size {size}; every size must be at least 1")
    for index in output:
        if index not in sizes:
            raise ValueError(f"output index {index!r} is on no tensor of the network")
    if len(set(output)) < len(output):
        raise ValueError(f"output {output} names an index twice")


def _sliced(whole: Plan, memory_limit: int, seed: int) -> Plan:
    """The plan with as few indices sliced as bring it under the limit."""
    if whole.peak_bytes <= memory_limit:
        return whole
    tree = ctg.ContractionTree.from_path(whole.inputs, whole.output, dict(whole.sizes), path=whole.path)
    target, best = whole.largest, whole
    while target > 1:
        target = max(1, target // 2)
        # summed indices first; output indices only help to assemble the result in parts
        chosen = tree.slice(target_size=target, allow_outer=True, seed=seed).sliced_inds
        found = Plan(whole.inputs, whole.output, whole.sizes, whole.path, tuple(chosen), whole.itemsize)
        if found.peak_bytes < best.peak_bytes:
            best = found
        if best.peak_bytes <= memory_limit:
            return best
    raise ValueError(
        f"memory_limit of {memory_limit} bytes cannot be met on this path; the least that slicing reaches "
        f"is {best.peak_bytes} bytes"
    )


def _cost(
    inputs: Sequence[Term], output: Term, sizes: Mapping[Index, int], path: Sequence[Sequence[int]]
) -> Any:
    """(flops, elements of the largest intermediate, elements alive at the worst step)."""
    uses = Counter(index for term in inputs for index in set(term))
    uses.update(output)
    live = [frozenset(term) for term in inputs]
    alive = sum(math.prod(sizes[index] for index in term) for term in inputs)
    flops, largest, peak = 0, 0, alive
    for step in path:
        terms = [live[position] for position in step]
        for position in sorted(step, reverse=True):
            del live[position]
        joined = terms[0]
        for position, term in enumerate(terms):
            held = joined | term
            inside = Counter(itertools.chain(joined, term) if position else term)
            kept = frozenset(index for index in held if uses[index] > inside[index])
            for index in held:
                uses[index] -= inside[index] - (index in kept)
            if position or len(kept) < len(held):
                flops += oe.helpers.flop_count(held, len(kept) < len(held), 2 if position else 1, sizes)
                size = oe.helpers.compute_size_by_dict(kept, sizes)
                largest = max(largest, size)
                peak = max(peak, alive + size)
                freed = [joined, term] if position else [term]
                alive += size - sum(oe.helpers.compute_size_by_dict(gone, sizes) for gone in freed)
            joined = kept
        live.append(joined)
    return flops, largest, peak


def _assembled(parts: dict[tuple[int | None, ...], Scaled], shape: tuple[int, ...], xp: Any) -> Scaled:
    if not any(value is not None for value in next(iter(parts))):
        return next(iter(parts.values()))
    mantissa = xp.zeros(shape, dtype=next(iter(parts.values())).dtype)
    log_scale = xp.zeros(shape)
    for place, part in parts.items():
        at = tuple(slice(None) if value is None else value for value in place)
        mantissa[at] = part.mantissa
        log_scale[at] = part.log_scale
    return Scaled(mantissa, log_scale)
