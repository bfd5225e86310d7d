"""Sums of slices over all ranks; every rank prints a JSON object of digests, one for each case."""

import hashlib
import itertools
import json
import sys
import time
from types import SimpleNamespace

import numpy as np

import qrt_tn.engine.mpi as module
from qrt_tn import engine
from qrt_tn.engine.exponents import add
from qrt_tn.engine.mpi import choose_device, reduce_slices, slice_groups, spread_items, world

PRIME = 1_000_003

# six tensors, each bound to each other one, and a batch index on two of them
BONDS = dict(zip(itertools.combinations(range(6), 2), "abcdefghijklmno", strict=True))
INPUTS = tuple(
    (*"z"[number // 2 :], *(index for pair, index in BONDS.items() if number in pair)) for number in range(6)
)


def plan_arrays():
    rng = np.random.default_rng(3)
    return [rng.normal(size=[3] * len(term)) for term in INPUTS]


def plan_result(comm):
    """A plan of 81 slices, more than there are groups: (mantissa, log_scale)."""
    sizes = dict.fromkeys(itertools.chain(*INPUTS), 3)
    plan = engine.Plan(INPUTS, ("z",), sizes, ((0, 1),) * 5, ("a", "f", "k", "o"), "float64")
    scaled = plan.execute(plan_arrays(), "numpy", comm=comm)
    return scaled.mantissa, scaled.log_scale


def numbered(count, shape, comm, *, order="C"):
    """Parts that hold the number of their group's first slice, from ranks of unequal speed.

    The sum knows the order of its terms; exponents are those of three batch elements, far apart.
    """
    rng = np.random.default_rng(0 if comm is None else comm.Get_rank())

    def contract_range(group):
        time.sleep(rng.uniform(0, 0.002))
        return np.full(shape, group.start, dtype=np.int64, order=order), np.array(len(group))

    def in_order(left, right):
        return (left[0] * 31 + right[0]) % PRIME, left[1] + right[1]

    return reduce_slices(count, contract_range, in_order, comm)


def scaled_sum(count, dtype, comm):
    """Numbers whose exponents are far apart, one for each of three elements."""

    def contract_range(group):
        total = None
        for number in group:
            rng = np.random.default_rng(number)
            mantissa = rng.normal(size=3) + 1j * rng.normal(size=3)
            part = mantissa.astype(dtype), np.array([0, 900, -900]) * (number % 3 - 1)
            total = part if total is None else add(total, part)
        return total

    return reduce_slices(count, contract_range, add, comm)


def digests(comm):
    """A digest of dtypes, shapes and bits for every case."""
    found = {"plan": plan_result(comm)}
    for count, dtype in ((4, "complex128"), (9, "complex64"), (100, "complex128"), (144, "complex64")):
        found[f"sum {count} {dtype}"] = scaled_sum(count, dtype, comm)
    for count in (1, 2, 3, 63, 64, 65, 1000):
        found[f"order {count}"] = numbered(count, (), comm)
    found["no elements"] = numbered(5, (0, 3), comm)
    found["large"] = numbered(70, (300, 1000), comm, order="F")
    whole, module._CHUNK = module._CHUNK, 1000
    found["in pieces"] = numbered(70, (3, 777), comm)
    module._CHUNK = whole
    return {
        name: hashlib.sha256(
            b"".join(f"{array.dtype} {array.shape}".encode() + array.tobytes() for array in part)
        ).hexdigest()
        for name, part in found.items()
    }


def main():
    comm = world()
    rank, size = comm.Get_rank(), comm.Get_size()
    shown = []
    one = (np.ones(()), np.array(0))
    reduce_slices(100, lambda group: one, add, comm, progress=lambda *done: shown.append(done))
    assert shown == ([(group.stop, 100) for group in slice_groups(100)] if rank == 0 else [])
    for items in (0, 1, 2, 11):
        done = spread_items(items, lambda item: item * item, comm)
        assert done == {item: item * item for item in range(rank, items, size)}
    # three GPUs that every rank sees; then one that its launcher shows it alone
    real = module.namespace
    for count in (3, 1):
        used = []
        cuda = SimpleNamespace(
            Device=lambda number, used=used: SimpleNamespace(use=lambda: used.append(number)),
            runtime=SimpleNamespace(getDeviceCount=lambda count=count: count),
        )
        module.namespace = lambda name, cuda=cuda: SimpleNamespace(cuda=cuda)
        assert [choose_device(comm)] == used == [rank % count]
    module.namespace = real
    # one write a rank, so that lines do not mix
    sys.stdout.write(json.dumps({"rank": rank, "digests": digests(comm)}) + "\n")


if __name__ == "__main__":
    main()
