"""Sums of slices over all ranks; every rank prints a JSON object of digests, one for each case."""

import hashlib
import json
import sys
import time
from types import SimpleNamespace

import numpy as np

import qrt_tn.engine.agreement
from qrt_tn.engine.distribute import reduce_slices, slice_groups, spread_items
from qrt_tn.engine.exponents import add

PRIME = 1_000_003


def ring(size, seed):
    """Four matrices around a ring, two of its bonds sliced."""
    rng = np.random.default_rng(seed)
    shapes = (5, size, 3), (size, 4, 3), (4, size, 3), (size, 5, 3)
    return [rng.normal(size=shape) + 1j * rng.normal(size=shape) for shape in shapes]


def ring_slices(arrays, dtype):
    """A worker for `reduce_slices`: slice s fixes both sliced bonds, and the letter z is a batch."""
    a, b, c, d = (array.astype(dtype) for array in arrays)
    size = len(b)

    def contract_range(group):
        total = None
        for number in group:
            s, t = divmod(number, size)
            mantissa = np.einsum("az,bz,bz,az->z", a[:, s], b[s], c[:, t], d[t])
            # exponents far apart, one for each element of the batch
            part = mantissa, np.array([0, 900, -900]) * (number % 3 - 1)
            total = part if total is None else add(total, part)
        return total

    return size * size, contract_range


def in_order(left, right):
    """A sum that knows the order of its terms."""
    return (left[0] * 31 + right[0]) % PRIME, left[1] + right[1]


def numbered(count, shape, comm, *, order="C"):
    """Parts that hold the number of their group's first slice, from ranks of unequal speed."""
    rng = np.random.default_rng(0 if comm is None else comm.Get_rank())

    def contract_range(group):
        time.sleep(rng.uniform(0, 0.002))
        return np.full(shape, group.start, dtype=np.int64, order=order), np.array(len(group))

    return reduce_slices(count, contract_range, in_order, comm)


def results(comm):
    """The parts of all cases."""
    found = {}
    for count_root, dtype in ((2, "complex128"), (3, "complex64"), (10, "complex128"), (12, "complex64")):
        count, contract_range = ring_slices(ring(count_root, count_root), dtype)
        found[f"ring {count} {dtype}"] = reduce_slices(count, contract_range, add, comm)
    for count in (1, 2, 3, 63, 64, 65, 1000):
        found[f"order {count}"] = numbered(count, (), comm)
    found["no elements"] = numbered(5, (0, 3), comm)
    found["large"] = numbered(70, (300, 1000), comm, order="F")
    whole, qrt_tn.engine.agreement._CHUNK = qrt_tn.engine.agreement._CHUNK, 1000
    found["in pieces"] = numbered(70, (3, 777), comm)
    qrt_tn.engine.agreement._CHUNK = whole
    return found


def digests(comm):
    """A digest of dtypes, shapes and bits for every case."""
    return {
        name: hashlib.sha256(
            b"".join(f"{array.dtype} {array.shape}".encode() + array.tobytes() for array in part)
        ).hexdigest()
        for name, part in results(comm).items()
    }


def main():
    from qrt_tn.engine.distribute import choose_device, world

    comm = world()
    rank, size = comm.Get_rank(), comm.Get_size()
    shown = []
    count, contract_range = ring_slices(ring(10, 0), "complex128")
    reduce_slices(count, contract_range, add, comm, progress=lambda *done: shown.append(done))
    assert shown == ([(group.stop, count) for group in slice_groups(count)] if rank == 0 else [])
    for items in (0, 1, 2, 11):
        done = spread_items(items, lambda item: item * item, comm)
        assert done == {item: item * item for item in range(rank, items, size)}

    # three GPUs that every rank sees; then one that its launcher shows it alone
    room = sys.modules["qrt_tn.engine.distribute"]
    real = room.namespace
    for count in (3, 1):
        used = []
        cuda = SimpleNamespace(
            Device=lambda number, used=used: SimpleNamespace(use=lambda: used.append(number)),
            runtime=SimpleNamespace(getDeviceCount=lambda count=count: count),
        )
        room.namespace = lambda name, cuda=cuda: SimpleNamespace(cuda=cuda)
        assert [choose_device(comm)] == used == [rank % count]
    room.namespace = real
    # one write a rank, so that lines do not mix
    sys.stdout.write(json.dumps({"rank": rank, "digests": digests(comm)}) + "\n")


if __name__ == "__main__":
    main()
