"""From a network to a plan: simplify, search, slice, and remember what was found."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from qrt_tn.engine import cache
from qrt_tn.engine.arguments import Seed, generator, is_real, refuse_partial
from qrt_tn.engine.network import Index, dtype_name, exponent_of, network_dtype, numbered, read_structure
from qrt_tn.engine.paths import Optimizer, find_path
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.slicing import within

WORTH_KEEPING = 24  # tensors; a smaller network is searched as fast as a file is read


def plan(
    network: Any,
    *,
    output_inds: Collection[Index] | None = None,
    optimizer: Optimizer = "auto",
    memory_limit: int | None = None,
    seed: Seed = 0,
    dtype: Any = None,
    batch_inds: Collection[Index] | None = None,
    use_cache: bool = True,
) -> Plan:
    """Plan the contraction of a network.

    Found plans are kept on disk under a hash of the structure and the settings (`engine.cache`), unless the
    optimizer is an object of your own.

    Args:
        network: a quimb TensorNetwork, or a tuple (inputs, output, sizes).
        output_inds: the indices to keep, in order. Left out, a quimb network keeps its outer indices;
            a hyperindex (one on three or more tensors) is kept only if named here.
        optimizer: a name ("auto", "greedy", "optimal", "dp", "random-greedy", "cotengra-greedy",
            ...), a path of your own, or an opt_einsum or cotengra optimiser object.
        memory_limit: bytes that contracting may take, operands included; indices are sliced until it fits.
        seed: makes random searches and slicing repeatable.
        dtype: what the arrays will be, for the bytes. Left out, what a quimb network holds, and
            complex128 for a tuple.
        batch_inds: output indices whose elements get a log-scale each, so that small elements are not lost
            beside large ones. Left out: the output indices on two or more tensors.
        use_cache: read and write the cache on disk.

    Raises:
        ValueError: an unknown index or optimizer, clashing sizes, tensors of single beside double precision,
            a path that does not fit, or a limit that no slicing meets; the message says the least that would
            do.
    """
    inputs, output, sizes = read_structure(network, output_inds)
    name = network_dtype(network) if dtype is None else dtype_name(dtype)
    if memory_limit is not None:
        if not is_real(memory_limit) or memory_limit <= 0:
            raise ValueError(f"memory_limit is {memory_limit!r}; give a number of bytes, such as 2**30")
        memory_limit = int(memory_limit)
    drawn = generator(seed)  # refuses what is no seed
    # the searches take plain ints
    seed = int(drawn.integers(2**31)) if drawn is seed else int(seed) % 2**31  # type: ignore[arg-type]
    if not isinstance(batch_inds, Collection | None):
        raise TypeError(f"batch_inds is {batch_inds!r}; give indices of the output")
    batch = None if batch_inds is None else tuple(batch_inds)
    # all in one step: a path to start from, replaced by the one that is found
    bare = Plan(inputs, output, sizes, (tuple(range(len(inputs))),), (), name, batch)  # type: ignore[arg-type]
    if not isinstance(optimizer, str):
        return _searched(bare, optimizer, memory_limit, seed)
    key = None
    if use_cache and len(inputs) >= WORTH_KEEPING:
        key = cache.structure_key(
            bare.inputs,
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
        places = numbered(bare.inputs)
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
        backend: "numpy", "cupy", "cuquantum", or "auto".
        memory_limit: bytes; the contraction is sliced to fit.
        optimizer: see `plan`.
        seed: see `plan`.
        comm: an mpi4py communicator over whose ranks slices are spread.

    Returns:
        The result; an output index on two or more tensors numbers a batch, whose elements have a log-scale
        each.

    Raises:
        ValueError: as `plan`; NaN or infinity in a tensor on the host, or as exponent; or a backend missing
            here.
        TypeError: a masked or a sparse tensor.
    """
    if isinstance(network, tuple):
        raise ValueError("a tuple holds no arrays; give a quimb TensorNetwork, or plan() and execute()")
    kept = tuple(output_inds)
    # what is wrong is refused before anything is looked at
    read_structure(network, kept)
    exponent_of(network)
    for number, tensor in enumerate(network):
        refuse_partial(tensor.data, f"tensor {number}")
    network_dtype(network)
    network = _simplified(network, kept)
    made = plan(network, output_inds=kept, optimizer=optimizer, memory_limit=memory_limit, seed=seed)
    found = made.execute([tensor.data for tensor in network], backend, comm=comm)
    return Scaled(found.mantissa, found.log_scale + exponent_of(network))


def _simplified(network: Any, output: tuple[Index, ...]) -> Any:
    """The network with what the zeros of its tensors allow: diagonals as one index, lone columns cut.

    quimb's steps "A", "D" and "C" change no number; "R", which multiplies, is left to the plan. Its default
    tolerance of 1e-12 would take small entries for zeros. Tensors on a device are left alone: each look at
    their values would wait for it; and so are others than plain arrays, which quimb's kernels do not take.
    """
    for tensor in network:
        if type(tensor.data) is not np.ndarray or not tensor.data.dtype.isnative:
            return network
        if not np.isfinite(tensor.data).all():
            return network  # executing refuses what is not finite by its number
    return network.full_simplify("ADC", output_inds=output, atol=0.0)


def _searched(bare: Plan, optimizer: Optimizer, memory_limit: int | None, seed: int) -> Plan:
    found = find_path(bare.inputs, bare.output, bare.sizes, optimizer, seed)
    whole = replace(bare, path=tuple(found))
    if memory_limit is None:
        return whole
    return within(whole, memory_limit, seed, may_change_path=isinstance(optimizer, str))


def _from_cache(bare: Plan, key: str) -> Plan | None:
    kept = cache.read("plan", key)
    if kept is None:
        return None
    names = list(numbered(bare.inputs))
    try:
        return replace(
            bare,
            path=tuple(tuple(step) for step in kept["path"]),
            slices=tuple(names[place] for place in kept["slices"]),
        )
    except (KeyError, TypeError, ValueError, IndexError):
        return None  # not what this version writes
