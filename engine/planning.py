"""From a network to a plan: simplify, search, slice, and remember what was found."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qrt_tn.engine import cache
from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.engine.limit import within
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.simplify import find_diagonals
from qrt_tn.engine.structure import Index, dtype_name, exponent_of, network_dtype, read_structure

WORTH_KEEPING = 24  # tensors; a smaller network is searched as fast as a file is read

Optimizer = str | Sequence[Sequence[int]] | Callable[..., Any]


def plan(
    network: Any,
    *,
    output_inds: Collection[Index] | None = None,
    optimizer: Optimizer = "auto",
    memory_limit: int | None = None,
    seed: Seed = 0,
    dtype: Any = None,
    batch_inds: Collection[Index] | None = None,
    diagonals: bool = False,
    use_cache: bool = True,
) -> Plan:
    """Plan the contraction of a network.

    Found plans are kept on disk under a hash of the structure and the settings (`engine.cache`), unless the
    optimizer is an object of your own.

    Args:
        network: a quimb TensorNetwork, or a tuple (inputs, output, sizes).
        output_inds: the indices to keep, in order. Left out, a quimb network keeps its outer indices;
            a hyperindex (one on three or more tensors) is kept only if named here.
        optimizer: a name ("auto", "hyper", "greedy", "optimal", "dp", "random-greedy", "cotengra-greedy",
            ...), a path of your own, or an opt_einsum or cotengra optimiser object.
        memory_limit: bytes that contracting may take, operands included; indices are sliced until it fits.
        seed: makes random searches and slicing repeatable.
        dtype: what the arrays will be, for the bytes. Left out, what a quimb network holds, and
            complex128 for a tuple.
        batch_inds: output indices whose elements get a log-scale each, so that small elements are not lost
            beside large ones. Left out: the output indices on two or more tensors.
        diagonals: look at the values of a quimb network, and let the two indices of a diagonal tensor (a
            phase, a COPY tensor) be one. Other arrays must then be diagonal too; executing checks that.
        use_cache: read and write the cache on disk.

    Raises:
        ValueError: an unknown index or optimizer, clashing sizes, tensors of single beside double precision,
            a path that does not fit, or a limit that no slicing meets; the message says the least that would
            do.
    """
    inputs, output, sizes = read_structure(network, output_inds)
    name = network_dtype(network) if dtype is None else dtype_name(dtype)
    if memory_limit is not None:
        if not isinstance(memory_limit, int | float | np.number) or not 0 < memory_limit < np.inf:
            raise ValueError(f"memory_limit is {memory_limit!r}; give a number of bytes, such as 2**30")
        memory_limit = int(memory_limit)
    drawn = generator(seed)  # refuses what is no seed
    # the searches take plain ints
    seed = int(drawn.integers(2**31)) if drawn is seed else int(seed)  # type: ignore[arg-type]
    merged: dict[Index, Index] = {}
    claims: tuple[tuple[int, Index, Index], ...] = ()
    if diagonals:
        if isinstance(network, tuple):
            raise ValueError("diagonals=True looks at values; give a quimb TensorNetwork")
        found = find_diagonals([tensor.data for tensor in network], inputs, output)
        merged, claims = found.renamed, tuple((tensor, one, two) for tensor, one, two in found.claims)
    batch = None if batch_inds is None else tuple(batch_inds)
    # all in one step: a path to start from, replaced by the one that is found
    bare = Plan(inputs, output, sizes, (tuple(range(len(inputs))),), (), name, merged, claims, batch)  # type: ignore[arg-type]
    if not isinstance(optimizer, str):
        return _searched(bare, optimizer, memory_limit, seed)
    key = None
    if use_cache and len(inputs) >= WORTH_KEEPING:
        key = cache.structure_key(
            bare.terms,
            output,
            sizes,
            optimizer=optimizer,
            limit=memory_limit,
            seed=seed,
            dtype=name,
            batch=[output.index(index) for index in bare.batch],
        )
        kept = _from_cache(bare, key)
        if kept is not None and (memory_limit is None or kept.peak_bytes <= memory_limit):
            return kept
    made = _searched(bare, optimizer, memory_limit, seed)
    if key is not None:
        places = {index: place for place, index in enumerate(dict.fromkeys(i for t in bare.terms for i in t))}
        body = {"path": made.path, "slices": [places[index] for index in made.slices]}
        cache.write("plan", key, body)
    return made


def contract(
    network: Any,
    *,
    output_inds: Collection[Index] = (),
    backend: str = "auto",
    memory_limit: int | None = None,
    optimizer: Optimizer = "auto",
    seed: Seed = 0,
    comm: Any = None,
) -> Scaled:
    """Contract a quimb network to a scaled array with axes `output_inds` (a scalar by default).

    Args:
        network: a quimb TensorNetwork, whose `exponent` counts; every index not in `output_inds` is summed
            over.
        output_inds: the indices to keep, in order.
        backend: "numpy", "cupy", "jax", "cuquantum", or "auto".
        memory_limit: bytes; the contraction is sliced to fit.
        optimizer: see `plan`.
        seed: see `plan`.
        comm: an mpi4py communicator over whose ranks slices are spread.

    Returns:
        The result; an output index on two or more tensors numbers a batch, whose elements have a log-scale
        each.

    Raises:
        ValueError: as `plan`; NaN or infinity in a tensor on the host; or a backend that is missing here.
    """
    if isinstance(network, tuple):
        raise ValueError("a tuple holds no arrays; give a quimb TensorNetwork, or plan() and execute()")
    made = plan(
        network,
        output_inds=tuple(output_inds),
        optimizer=optimizer,
        memory_limit=memory_limit,
        seed=seed,
        diagonals=True,
    )
    found = made.execute([tensor.data for tensor in network], backend, comm=comm)
    return Scaled(found.mantissa, found.log_scale + exponent_of(network))


def _searched(bare: Plan, optimizer: Optimizer, memory_limit: int | None, seed: int) -> Plan:
    path = tuple(find_path(bare.terms, bare.output, bare.sizes, optimizer, seed))
    whole = replace(bare, path=path)
    if memory_limit is None or whole.peak_bytes <= memory_limit:
        return whole
    return within(whole, memory_limit, seed, may_change_path=isinstance(optimizer, str))


def _from_cache(bare: Plan, key: str) -> Plan | None:
    kept = cache.read("plan", key)
    if kept is None:
        return None
    names = list(dict.fromkeys(index for term in bare.terms for index in term))
    try:
        return replace(
            bare,
            path=tuple(tuple(step) for step in kept["path"]),
            slices=tuple(names[place] for place in kept["slices"]),
        )
    except (KeyError, TypeError, ValueError, IndexError):
        return None  # not what this version writes
