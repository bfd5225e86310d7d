"""What a network looks like without its numbers: which tensor holds which index, and how long each is."""

import itertools
import math
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

Index = Hashable
Term = tuple[Index, ...]
MOST = 2**63 - 1  # elements along one axis of an array
DTYPES = ("float32", "float64", "complex64", "complex128")


def read_structure(
    network: Any, output_inds: Collection[Index] | None = None
) -> tuple[tuple[Term, ...], Term, dict[Index, int]]:
    """(inputs, output, sizes) of a quimb network, or of a tuple that already is one.

    Args:
        network: a quimb TensorNetwork, or a tuple (inputs, output, sizes).
        output_inds: the indices to keep, in order. Left out, a quimb network keeps its outer indices, and a
            tuple its own output.

    Raises:
        ValueError: no tensors, an index without a size, a size that differs between two tensors or is below
            1, or an output index that is unknown or named twice.
        TypeError: inputs or an output that are no lists of indices, or sizes that are no dict.
    """
    sizes: dict[Index, int] = {}
    if isinstance(network, tuple):
        if len(network) != 3:
            raise ValueError(f"got a tuple of {len(network)}; give (inputs, output, sizes)")
        terms, output, given = network
        if not isinstance(given, Mapping):
            raise TypeError(f"sizes is a {type(given).__name__}; give a dict from index to extent")
        inputs = tuple(_term(f"inputs[{number}]", term) for number, term in enumerate(_term("inputs", terms)))
        for number, term in enumerate(inputs):
            for index in term:
                if index not in given:
                    raise ValueError(
                        f"index {index!r} is on tensor {number} but has no size; add it to sizes"
                    )
                sizes[index] = _extent(index, given[index])
    elif not hasattr(network, "outer_inds"):
        raise ValueError(
            f"got a {type(network).__name__}; give a quimb TensorNetwork or (inputs, output, sizes)"
        )
    else:
        inputs = tuple(tuple(tensor.inds) for tensor in network)
        output = network.outer_inds()
        for number, tensor in enumerate(network):
            for index, size in zip(tensor.inds, tensor.shape, strict=True):
                if sizes.setdefault(index, int(size)) != size:
                    first = next(number for number, term in enumerate(inputs) if index in term)
                    raise ValueError(
                        f"index {index!r} has size {sizes[index]} on tensor {first} and {size} on tensor "
                        f"{number}; an index has one size"
                    )
    name, chosen = ("output", output) if output_inds is None else ("output_inds", output_inds)
    if isinstance(chosen, str) and not sizes.keys() >= set(chosen):
        raise ValueError(f"{name} is {chosen!r}, and not each of its characters is an index; give a list")
    output = _term(name, chosen)
    _check(inputs, output, sizes)
    return inputs, output, sizes


def _term(name: str, term: Any) -> Term:
    try:
        found = tuple(term)
        hash(found) if name != "inputs" else None
    except TypeError:
        raise TypeError(f"{name} is {str(term)[:80]}; give a list of indices") from None
    return found


def exponent_of(network: Any) -> float:
    """Log of the number that multiplies a quimb network beside its tensors (its `exponent`, base 10).

    Raises:
        ValueError: it is NaN or infinite.
    """
    exponent = float(getattr(network, "exponent", 0.0))
    if not math.isfinite(exponent):
        raise ValueError(f"the network's exponent is {exponent}; give it a finite one")
    return exponent * math.log(10)


def batch_indices(inputs: Sequence[Term], output: Term) -> Term:
    """The indices that number the elements of a batch: kept, and on at least two tensors."""
    holders = Counter(index for term in inputs for index in set(term))
    return tuple(index for index in output if holders[index] > 1)


def network_dtype(network: Any) -> str:
    """The one dtype that holds every tensor of a quimb network; complex128 for a tuple.

    Raises:
        ValueError: tensors of single and of double precision, or a dtype that no backend contracts.
    """
    if isinstance(network, tuple):
        return "complex128"
    return common_dtype([getattr(tensor.data, "dtype", np.dtype(float)) for tensor in network])


def common_dtype(dtypes: Sequence[Any]) -> str:
    """The one dtype that holds tensors of these.

    Real and complex tensors may meet, at one precision; integers and bools go along with the others, and
    are double precision among themselves.

    Raises:
        ValueError: single precision beside double, or a dtype that no backend contracts.
    """
    places: dict[np.dtype, int] = {}
    for number, dtype in enumerate(dtypes):
        places.setdefault(np.dtype(dtype), number)
    first: dict[int, int] = {}
    for dtype, number in places.items():
        if dtype.kind in "iub":
            continue
        if dtype.name not in DTYPES:
            raise ValueError(f"tensor {number} has dtype {dtype.name}; give one of {', '.join(DTYPES)}")
        first.setdefault(4 if dtype.name in ("float32", "complex64") else 8, number)
    if len(first) > 1:
        single, double = first[4], first[8]
        raise ValueError(
            f"mixed dtypes: tensor {single} is {np.dtype(dtypes[single]).name} and tensor {double} is "
            f"{np.dtype(dtypes[double]).name}; cast all tensors to one precision"
        )
    is_single = next(iter(first), 8) == 4
    if any(dtype.kind == "c" for dtype in places):
        return "complex64" if is_single else "complex128"
    return "float32" if is_single else "float64"


def dtype_name(dtype: Any) -> str:
    """The name of one of `DTYPES`, however it is given.

    Raises:
        ValueError: another dtype, or none at all.
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    if name not in DTYPES:
        raise ValueError(f"dtype is {name}; choose one of {', '.join(DTYPES)}")
    return name


def _extent(index: Index, size: Any) -> int:
    try:
        whole = int(size)
        known = whole == size and whole <= MOST
    except (TypeError, ValueError, OverflowError):
        known = False
    if not known:
        # Python refuses to print integers of thousands of digits
        text = f"of {size.bit_length()} bits" if isinstance(size, int) else repr(size)
        raise ValueError(f"index {index!r} has size {text}; sizes are whole numbers up to 2**63 - 1")
    return whole


def _check(inputs: tuple[Term, ...], output: Term, sizes: Mapping[Index, int]) -> None:
    if not inputs:
        raise ValueError("the network has no tensors; there is nothing to contract")
    for index, size in sizes.items():
        if size < 1:
            raise ValueError(f"index {index!r} has size {size}; every size must be at least 1")
    for index in output:
        if index not in sizes:
            raise ValueError(f"output index {index!r} is on no tensor of the network")
    if len(set(output)) < len(output):
        twice = next(index for index in output if output.count(index) > 1)
        raise ValueError(f"output index {twice!r} is named twice; the output names an index once")


def by_position(terms: Sequence[Term], names: Mapping[Index, int]) -> list[list[int]]:
    """Terms with every index replaced by its number."""
    return [[names[index] for index in term] for term in terms]


def numbered(inputs: Sequence[Term]) -> dict[Index, int]:
    """A number for every index, in order of first appearance."""
    return {index: number for number, index in enumerate(dict.fromkeys(itertools.chain(*inputs)))}
