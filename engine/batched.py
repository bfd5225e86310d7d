"""Contract one plan for very many elements: in batches that fit in memory, resumable, over many ranks."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.engine.backends import device_memory, resolve
from qrt_tn.engine.checkpoints import claim, identity
from qrt_tn.engine.cost import repeated_flops
from qrt_tn.engine.exponents import Part, on_host, scaled
from qrt_tn.engine.expression import Expression, as_operands
from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.engine.mpi import choose_device, place, spread_items
from qrt_tn.engine.network import by_position, common_dtype, numbered
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.prefetch import Batch, prefetched
from qrt_tn.engine.progress import Progress, shown, silent
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.slicing import within

HOST_BYTES = 2**26  # batches that leave a CPU's caches do not run faster
DEVICE_BYTES = 2**30  # likewise for those that fill a GPU
SHARE = 0.5  # of a GPU's free memory, at most
# operations of a whole run; below, a better path saves less than its search takes
WORTH_A_SEARCH = 10**11
BESIDE = 3  # batches of operands held beside the one at work: the next, its cast, its page-locked copy
KIND = "qrt-tn.batch 2"
MANIFEST = "batches.json"

T = TypeVar("T")


class _Element:
    """The index that numbers the elements; equal to no index of a user's."""

    def __repr__(self) -> str:
        return "element"

    def __reduce__(self) -> str:
        return "ELEMENT"  # one object in every process


ELEMENT = _Element()


def execute_many(
    plan: Plan,
    arrays: Sequence[Any],
    backend: str = "auto",
    *,
    batch: int | None = None,
    memory_limit: int | None = None,
    checkpoint: str | Path | None = None,
    compute: str | None = None,
    comm: Any = None,
    progress: Progress | None = None,
) -> Scaled:
    """Contract a plan for many elements; see `qrt_tn.engine.plan.Plan.execute_many`."""
    rank, ranks = place(comm)
    choose_device(comm)

    def everywhere(work: Callable[[], T]) -> T:
        """Each rank does it as one item of its own: what one rank refuses all refuse."""
        return spread_items(ranks, lambda item: work(), comm)[rank]

    def fit() -> tuple[Plan, str, list[Any], tuple[int, ...], int]:
        for name, value in (("batch", batch), ("memory_limit", memory_limit)):
            if value is not None:
                check_whole(name, value)
        found = as_operands(arrays)
        varying, count = _varying(plan, found)
        dtype = common_dtype([array.dtype for array in found])
        key = (varying, dtype, count, resolve(backend), memory_limit, batch)
        kept = plan.__dict__.get("_batched")
        if kept is None or kept[0] != key:
            kept = plan.__dict__["_batched"] = (key, _batched(plan, *key))
        return kept[1], resolve(backend), found, varying, count

    batched, backend, arrays, varying, count = everywhere(fit)
    if ranks > 1:  # on GPUs of different load they differ
        least = min(comm.allgather(_choices(batched)), key=lambda choices: choices["batch"])
        batched = _chosen(batched, least)
    constants = {number: array for number, array in enumerate(arrays) if number not in varying}
    columns = [arrays[number] for number in varying]

    def open_run() -> tuple[Checkpoint | None, Expression]:
        made, store = batched, None
        if checkpoint is not None:
            store = Checkpoint(Path(checkpoint), made, constants, [count, backend, compute])
            made, most = store.plan, _most_bytes(backend, memory_limit)
            if made is not batched and most is not None and _needed_bytes(made, BESIDE) > most:
                raise ValueError(
                    f"checkpoint {checkpoint} goes on with batches of {made.sizes[ELEMENT]} elements, which "
                    f"take {_needed_bytes(made, BESIDE)} bytes of {most}; give it more memory, or name "
                    "another folder"
                )
        return store, Expression(
            made, backend, constants=constants, compute=compute, memory_limit=memory_limit
        )

    store, expression = everywhere(open_run)
    size = expression.plan.sizes[ELEMENT]
    number = math.ceil(count / size)
    batches = prefetched(
        range(rank, number, ranks),
        columns,
        size,
        expression.dtype,
        on_gpu=expression.backend != "numpy",
        hashed=store is not None,
        needed=lambda batch: store is None or store.read(batch) is None,
    )
    with expression, shown(progress if rank == 0 else silent, count, "elements") as tell:

        def work(item: int) -> Part:
            batch = next(batches)
            part = None if store is None else store.read(batch)
            if part is None:
                part = contracted(expression, batch.arrays, batch.count)
                if store is not None:
                    store.write(batch, part)
            tell(min((item + ranks) * size, count), count)
            return part

        parts = spread_items(number, work, comm)
    if ranks > 1:
        parts = {item: comm.bcast(parts.get(item), root=item % ranks) for item in range(number)}
    return joined([parts[item] for item in range(number)])


def contracted(expression: Expression, arrays: Sequence[Any], count: int) -> Part:
    """The results of a batch's first elements, on the host, with an exponent for each, or for each entry."""
    mantissa, exponent = on_host(expression.part(arrays))
    # (numpy.broadcast_shapes ends at 32 axes, arrays at 64)
    exponent = exponent.reshape((1,) * (mantissa.ndim - exponent.ndim) + exponent.shape)
    exponent = np.broadcast_to(exponent, (len(mantissa), *exponent.shape[1:]))
    return mantissa[:count], exponent[:count]


def joined(parts: Sequence[Part]) -> Scaled:
    """The results of batches one after the other."""
    rest = tuple(map(max, zip(*(exponent.shape[1:] for _, exponent in parts), strict=True)))
    exponents = [np.broadcast_to(exponent, (len(exponent), *rest)) for _, exponent in parts]
    return scaled((np.concatenate([mantissa for mantissa, _ in parts]), np.concatenate(exponents)))


def batch_bytes(backend: str) -> int:
    """Bytes for one batch where nobody says: what suits a CPU's caches, or fills a GPU."""
    if backend not in ("cupy", "cuquantum"):
        return HOST_BYTES
    free = device_memory(backend)[1]
    return HOST_BYTES if free is None else min(DEVICE_BYTES, int(SHARE * free))


def fitted(
    plan: Plan,
    count: int,
    backend: str,
    memory_limit: int | None = None,
    *,
    batch: int | None = None,
    beside: int = 0,
) -> Plan:
    """The plan of a batch that fits, about, all batches being equal: the last is then hardly short.

    Args:
        plan: of a batch of any size.
        count: how many elements there are.
        backend: where batches are contracted.
        memory_limit: bytes for a batch; left out, `batch_bytes`, or what one element takes if that is more.
        batch: elements in a batch, at most; given without a limit, memory is not looked at.
        beside: sets of the varying operands that are held beside.

    Raises:
        ValueError: not even one element fits, sliced; the message says the least that would do.
    """
    size = min(count, batch or count)
    limit = math.inf if batch else batch_bytes(backend)
    if memory_limit is not None:
        limit = memory_limit
    single, need = _with_batch(plan, 1), _needed_bytes(_with_batch(plan, size), beside)
    if need > limit:
        one = _needed_bytes(single, beside)
        if one > limit:
            most = _most_bytes(backend, memory_limit)
            if most is None or one <= most:
                return single
            return within(single, most, 0, may_change_path=True, beside=beside * _operand_bytes(single))
        # memory grows about linearly with the batch
        size = max(1, int((limit - one) / max(1, need - one) * (size - 1)))
        while size > 1 and _needed_bytes(_with_batch(plan, size), beside) > limit:
            size = size * 3 // 4
    return _with_batch(plan, math.ceil(count / math.ceil(count / size)))


def _with_batch(plan: Plan, size: int) -> Plan:
    return plan if plan.sizes[ELEMENT] == size else replace(plan, sizes={**plan.sizes, ELEMENT: size})


def _most_bytes(backend: str, memory_limit: int | None) -> int | None:
    return device_memory(backend)[1] if memory_limit is None else memory_limit


def _needed_bytes(plan: Plan, beside: int) -> int:
    return plan.peak_bytes + beside * _operand_bytes(plan)


def _operand_bytes(plan: Plan) -> int:
    shapes = [[plan.sizes[index] for index in term] for term in plan.inputs if ELEMENT in term]
    return sum(map(math.prod, shapes)) * np.dtype(plan.dtype).itemsize


def _varying(plan: Plan, arrays: Sequence[Any]) -> tuple[tuple[int, ...], int]:
    """(the tensors whose arrays vary, the number of elements)."""
    if len(arrays) != len(plan.inputs):
        raise ValueError(f"got {len(arrays)} arrays for a plan of {len(plan.inputs)} tensors")
    counts = {}
    for number, (array, term) in enumerate(zip(arrays, plan.inputs, strict=True)):
        wanted = tuple(plan.sizes[index] for index in term)
        if array.shape == wanted:
            continue
        if array.shape[1:] != wanted or array.ndim != len(wanted) + 1:
            many = ", ".join(map(str, ("N", *wanted)))
            raise ValueError(
                f"array {number} has shape {array.shape}; give {wanted} for all elements, or ({many})"
            )
        counts[number] = array.shape[0]
    if not counts:
        raise ValueError("no array has an axis of elements in front; use execute for one element")
    first, count = next(iter(counts.items()))
    for number, other in counts.items():
        if other != count:
            raise ValueError(f"array {first} holds {count} elements and array {number} holds {other}")
    if count == 0:
        raise ValueError(f"array {first} holds no elements; give at least one")
    return tuple(counts), count


def _batched(
    plan: Plan,
    varying: Sequence[int],
    dtype: str,
    count: int,
    backend: str,
    memory_limit: int | None,
    batch: int | None,
) -> Plan:
    """The plan of a batch, on the cheaper of two paths and as large as memory takes."""
    constants = set(range(len(plan.inputs))) - set(varying)
    inputs = tuple((ELEMENT, *term) if i in varying else term for i, term in enumerate(plan.inputs))
    output, sizes = (ELEMENT, *plan.output), {**plan.sizes, ELEMENT: min(count, batch or count)}
    first = replace(plan, inputs=inputs, output=output, sizes=sizes, dtype=dtype, batch=(ELEMENT,))

    def flops(made: Plan) -> float:
        return repeated_flops(made.program, constants) / made.sizes[ELEMENT]

    found = [fitted(first, count, backend, memory_limit, batch=batch, beside=BESIDE)]
    if not plan.slices and flops(first) * count > WORTH_A_SEARCH:
        other = replace(first, path=tuple(find_path(inputs, output, sizes, "auto")))
        with suppress(ValueError):  # it takes more memory
            found.append(fitted(other, count, backend, memory_limit, batch=batch, beside=BESIDE))
    return min(found, key=flops)


def _choices(plan: Plan) -> dict[str, Any]:
    """What memory and searches decide about a batch, without names of indices."""
    names = numbered(plan.inputs)
    slices = [names[index] for index in plan.slices]
    return {"batch": plan.sizes[ELEMENT], "path": [list(step) for step in plan.path], "slices": slices}


def _chosen(plan: Plan, choices: Mapping[str, Any]) -> Plan:
    """The plan with these choices."""
    if choices == _choices(plan):
        return plan
    names = list(numbered(plan.inputs))
    slices = tuple(names[number] for number in choices["slices"])
    path = tuple(map(tuple, choices["path"]))
    return replace(_with_batch(plan, choices["batch"]), path=path, slices=slices)


class Checkpoint:
    """The folder that keeps a run's finished batches; files are whole or absent.

    Args:
        folder: made if it is not there.
        plan: of a batch; a run that goes on keeps the size, path and slices of the one that began, which are
            in `self.plan`. So it gives the same bits.
        constants: the operands that do not vary, by number.
        settings: what else the results depend on.

    Raises:
        ValueError: the folder holds the results of another run, or other files, or is a file.
    """

    def __init__(
        self, folder: Path, plan: Plan, constants: Mapping[int, Any], settings: Sequence[Any]
    ) -> None:
        # quimb names indices at random, so they are numbered
        names = numbered(plan.inputs)
        sizes = [plan.sizes[index] for index in names if index is not ELEMENT]
        terms = by_position([*plan.inputs, plan.output], names)
        known = {"terms": terms, "sizes": sizes, "dtype": plan.dtype, "settings": list(settings)}
        manifest = claim(folder, identity(known, constants), KIND, MANIFEST, lambda: _choices(plan))
        try:
            check_whole("batch", manifest["batch"])
            self.plan = _chosen(plan, {name: manifest[name] for name in _choices(plan)})
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / MANIFEST} is not whole; delete the folder {folder}") from error
        self.folder = folder

    def read(self, batch: Batch) -> Part | None:
        """The results of a finished batch, or None.

        Raises:
            ValueError: they are the results of other operands.
        """
        path = self._path(batch.number)
        try:
            tensors, metadata = load_tensors(path, KIND)
        except ValueError:
            return None  # not there, or damaged: done again
        if metadata["digest"] != batch.digest:
            raise ValueError(
                f"{path} holds the results of other operands; name another checkpoint folder or delete it"
            )
        return tensors["mantissa"].view(metadata["dtype"])[..., 0], tensors["exponent"]

    def write(self, batch: Batch, part: Part) -> None:
        """Keep a batch's results."""
        # safetensors has no complex128: complex numbers are kept as pairs
        pairs = np.ascontiguousarray(part[0])[..., None].view(part[0].real.dtype)
        save_tensors(
            self._path(batch.number),
            {"mantissa": pairs, "exponent": part[1]},
            {"format": KIND, "digest": batch.digest, "dtype": part[0].dtype.name},
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"batch-{number:08d}.safetensors"
