"""One plan over very many elements: batches that fit in memory, loaded ahead, resumable, over many ranks."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.backends import device_memory, resolve
from qrt_tn.engine.checkpoints import identity
from qrt_tn.engine.cost import repeated_flops
from qrt_tn.engine.exponents import Part, on_host, scaled
from qrt_tn.engine.expression import Expression
from qrt_tn.engine.limit import within
from qrt_tn.engine.loading import Batch, Loader
from qrt_tn.engine.mpi import choose_device, place, spread_items
from qrt_tn.engine.network import common_dtype
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.progress import Progress, shown, silent
from qrt_tn.engine.resume import Checkpoint
from qrt_tn.engine.scaled import Scaled

HOST_BYTES = 2**26  # batches that leave a CPU's caches do not run faster
# operations of a whole run; below, a better path saves less than its search takes
WORTH_A_SEARCH = 10**11
SHARE = 0.5  # of a GPU's free memory, where no limit is given
BESIDE = 3  # batches of operands held beside the one at work: the next, its cast, its page-locked copy


class _Element:
    """The index that numbers the elements; equal to no index of a user's."""

    def __repr__(self) -> str:
        return "element"


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

    def fitted(item: int) -> tuple[Plan, list[int], int]:
        varying, count = _varying(plan, arrays)
        dtype = common_dtype([getattr(array, "dtype", np.dtype(float)) for array in arrays])
        if batch is not None and batch < 1:
            raise ValueError(f"batch is {batch}; give at least 1")
        key = (tuple(varying), dtype, count, resolve(backend), memory_limit, batch)
        held = plan.__dict__.get("_batches")
        if held is None or held[0] != key:
            held = (key, _equal(_batched(plan, *key), count))
            plan.__dict__["_batches"] = held
        return held[1], varying, count

    # each rank does this for itself, as one item of its own: what one rank refuses all refuse
    batched, varying, count = spread_items(ranks, fitted, comm)[rank]
    # ranks may have found different room, on GPUs of different load
    if comm is not None:
        batched = _equal(_resized(batched, min(comm.allgather(batched.sizes[ELEMENT]))), count)
    size = batched.sizes[ELEMENT]
    number = math.ceil(count / size)

    def opened(item: int) -> _Run:
        return _Run(batched, arrays, varying, resolve(backend), checkpoint, compute, memory_limit)

    run = spread_items(ranks, opened, comm)[rank]
    with run.expression, shown(progress if rank == 0 else silent, count, "elements") as tell:
        loaded = run.loader.ahead(range(rank, number, ranks), run.needed)

        def work(item: int) -> Part:
            part = run.part(next(loaded))
            tell(min((item + ranks) * size, count), count)
            return part

        parts = spread_items(number, work, comm)
    if ranks > 1:
        parts = {item: comm.bcast(parts.get(item), root=item % ranks) for item in range(number)}
    mantissa, exponent = (np.concatenate([parts[item][half] for item in range(number)]) for half in (0, 1))
    return scaled((mantissa, exponent))


class _Run:
    """What a rank needs to contract batches: the expression, the loader and the checkpoint."""

    def __init__(
        self,
        plan: Plan,
        arrays: Sequence[Any],
        varying: Sequence[int],
        backend: str,
        checkpoint: str | Path | None,
        compute: str | None,
        memory_limit: int | None,
    ) -> None:
        constants = {place: array for place, array in enumerate(arrays) if place not in varying}
        columns = [arrays[place] for place in varying]
        self.store = None
        if checkpoint is not None:
            settings = {
                name: getattr(plan, name)
                for name in ("inputs", "output", "path", "slices", "dtype", "sizes")
            }
            settings |= {"count": columns[0].shape[0], "backend": backend, "compute": compute}
            self.store = Checkpoint(Path(checkpoint), identity(settings, constants))
        self.loader = Loader(
            columns,
            plan.sizes[ELEMENT],
            plan.dtype,
            on_gpu=backend in ("cupy", "cuquantum"),
            hashed=self.store is not None,
        )
        self.expression = Expression(
            plan, backend, constants=constants, compute=compute, memory_limit=memory_limit
        )

    def needed(self, batch: Batch) -> bool:
        """Whether a batch is still to be contracted."""
        return self.store is None or self.store.read(batch) is None

    def part(self, batch: Batch) -> Part:
        """The results of a batch's elements, on the host, with an exponent for each."""
        found = self.store.read(batch) if self.store is not None else None
        if found is None:
            mantissa, exponent = on_host(self.expression.part(batch.arrays))
            every = (len(mantissa), *(1,) * (mantissa.ndim - 1))
            found = mantissa, np.broadcast_to(exponent, np.broadcast_shapes(exponent.shape, every))
            if self.store is not None:
                self.store.write(batch, found)
        return found[0][: batch.count], found[1][: batch.count]


def batch_bytes(backend: str) -> int:
    """Bytes for one batch where nobody says: a share of what a GPU has free, or what suits a CPU's caches."""
    free = device_memory(backend)[1] if backend in ("cupy", "cuquantum") else None
    return HOST_BYTES if free is None else int(SHARE * free)


def _varying(plan: Plan, arrays: Sequence[Any]) -> tuple[list[int], int]:
    """(the tensors whose arrays vary, the number of elements)."""
    if len(arrays) != len(plan.inputs):
        raise ValueError(f"got {len(arrays)} arrays for a plan of {len(plan.inputs)} tensors")
    counts = {}
    for number, (array, term) in enumerate(zip(arrays, plan.inputs, strict=True)):
        wanted = tuple(plan.sizes[index] for index in term)
        shape = np.shape(array)
        if shape == wanted:
            continue
        if shape[1:] != wanted or len(shape) != len(wanted) + 1:
            raise ValueError(
                f"array {number} has shape {shape}; give {wanted} for all elements, or (N, {_listed(wanted)})"
            )
        counts[number] = shape[0]
    if not counts:
        raise ValueError("no array has an axis of elements in front; use execute for one element")
    first, count = next(iter(counts.items()))
    for number, other in counts.items():
        if other != count:
            raise ValueError(f"array {first} holds {count} elements and array {number} holds {other}")
    if count == 0:
        raise ValueError(f"array {first} holds no elements; give at least one")
    return list(counts), count


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


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
    most = min(count, batch or count)
    limit = memory_limit
    if limit is None and batch is None:
        limit = batch_bytes(backend)
    constants = set(range(len(plan.inputs))) - set(varying)
    first = _with_elements(plan, varying, dtype, most)
    candidates = [first]
    if not plan.slices and repeated_flops(first.program, constants) / most * count > WORTH_A_SEARCH:
        candidates.append(
            replace(first, path=tuple(find_path(first.inputs, first.output, first.sizes, "auto")))
        )
    found = []
    for candidate in candidates:
        fitted = candidate if limit is None else _shrunk(candidate, varying, limit)
        if fitted is not None:
            found.append(fitted)
    if found:
        return min(found, key=lambda made: repeated_flops(made.program, constants) / made.sizes[ELEMENT])
    single = _resized(first, 1)
    if memory_limit is None:
        return single
    beside = BESIDE * _operand_bytes(single, varying)
    return within(single, memory_limit, 0, may_change_path=True, beside=beside)


def _with_elements(plan: Plan, varying: Sequence[int], dtype: str, size: int) -> Plan:
    inputs = tuple((ELEMENT, *term) if number in varying else term for number, term in enumerate(plan.inputs))
    return replace(
        plan,
        inputs=inputs,
        output=(ELEMENT, *plan.output),
        sizes={**plan.sizes, ELEMENT: size},
        dtype=dtype,
        batch=(ELEMENT,),
    )


def _equal(plan: Plan, count: int) -> Plan:
    """As many batches, but equal ones: the last is then hardly short."""
    return _resized(plan, math.ceil(count / math.ceil(count / plan.sizes[ELEMENT])))


def _resized(plan: Plan, size: int) -> Plan:
    if plan.sizes[ELEMENT] == size:
        return plan
    return replace(plan, sizes={**plan.sizes, ELEMENT: size})


def _operand_bytes(plan: Plan, varying: Sequence[int]) -> int:
    elements = sum(math.prod(plan.sizes[index] for index in plan.inputs[number]) for number in varying)
    return elements * np.dtype(plan.dtype).itemsize


def _shrunk(plan: Plan, varying: Sequence[int], limit: int) -> Plan | None:
    """The plan with the largest batch that fits, about; None if not even one element does."""

    def need(made: Plan) -> int:
        return made.peak_bytes + BESIDE * _operand_bytes(made, varying)

    if need(plan) <= limit:
        return plan
    one = need(_resized(plan, 1))
    if one > limit:
        return None
    # memory grows about linearly with the batch
    most = plan.sizes[ELEMENT]
    size = max(1, int((limit - one) / max(1, need(plan) - one) * (most - 1)))
    made = _resized(plan, size)
    while need(made) > limit:
        size = max(1, size * 3 // 4)
        made = _resized(plan, size)
    return made
