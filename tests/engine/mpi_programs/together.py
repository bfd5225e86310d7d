"""What ranks do together has the bits of one process, and a failure of one is met and outlived by all."""

import itertools
import sys
import time
import traceback
from types import SimpleNamespace

import numpy as np

import qrt_tn.engine.mpi as module
from qrt_tn import engine
from qrt_tn.engine.exponents import add
from qrt_tn.engine.mpi import GROUPS, choose_device, reduce_slices, slice_groups, spread_items, world

CHUNK = module._CHUNK
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
    """A plan of 81 slices, more than there are groups."""
    sizes = dict.fromkeys(itertools.chain(*INPUTS), 3)
    plan = engine.Plan(INPUTS, ("z",), sizes, ((0, 1),) * 5, ("a", "f", "k", "o"), "float64")
    return plan.execute(plan_arrays(), "numpy", comm=comm)


def numbered(count, shape, comm, *, order="C"):
    """Parts that hold the number of their group's first slice, from ranks of unequal speed.

    Their sum knows the order of its terms.
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


def elements(comm, checkpoint=None, *, bad=False):
    """23 elements in batches of 3."""
    rng = np.random.default_rng(4)
    plan = engine.plan(([("i", "j"), ("j", "k"), ("k",)], ("i",), {"i": 3, "j": 4, "k": 5}))
    arrays = [rng.normal(size=(3, 4)), rng.normal(size=(23, 4, 5)), rng.normal(size=(23, 5))]
    if bad:
        arrays[2][20] = np.nan  # the last batch but one
    return plan.execute_many(arrays, "numpy", batch=3, comm=comm, checkpoint=checkpoint)


def results(comm, checkpoint):
    """The results of all cases, as pairs of arrays."""
    scaled = plan_result(comm), elements(comm), elements(comm, checkpoint)
    yield from ((each.mantissa, each.log_scale) for each in scaled)
    for count, dtype in ((4, "complex128"), (9, "complex64"), (100, "complex128"), (144, "complex64")):
        yield scaled_sum(count, dtype, comm)
    for count in (1, 2, 3, 63, 64, 65, 1000):
        yield numbered(count, (), comm)
    yield numbered(5, (0, 3), comm)
    yield numbered(70, (300, 1000), comm, order="F")
    module._CHUNK = 1000
    in_pieces = numbered(70, (3, 777), comm)
    module._CHUNK = CHUNK
    yield in_pieces


def same_bits(comm, checkpoint):
    for one, other in zip(results(None, None), results(comm, checkpoint), strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, theirs, strict=True)


def shares(comm):
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


def failures(comm):
    rank, size = comm.Get_rank(), comm.Get_size()
    slices = 2 * GROUPS

    def meets(call, message, place="", culprit=0):
        """All ranks raise: with a place, what the failed rank met and where, else the same ValueError."""
        try:
            call()
        except BaseException as error:
            met = error
        if place:
            message = f"rank {culprit} of {size} failed at {place}; all ranks stop: {message}"
        if place and rank == culprit and "KeyboardInterrupt" in message:
            assert isinstance(met, KeyboardInterrupt), met
        else:
            assert (type(met), str(met)) == (RuntimeError if place else ValueError, message), met
        if place and rank != culprit:
            assert f"On rank {culprit}:" in "".join(traceback.format_exception(met))
        # nothing of it is left between the ranks: the next sum is right
        total, exponent = reduce_slices(
            slices, lambda group: (np.array(float(sum(group))), np.array(0)), add, comm
        )
        assert total * 2.0**exponent == slices * (slices - 1) // 2

    def sum_with(error, at="any", *, shape=(), count=slices, **options):
        def contract_range(group):
            if error is not None and at in (group.start, "any"):
                raise type(error)(*error.args)
            return np.ones(shape), np.array(0)

        add_up = options.pop("add", add)
        return lambda: reduce_slices(count, contract_range, add_up, comm, **options)

    def refuse(*arguments):
        raise TypeError("no sum")

    broken, bad = KeyError("broken"), ValueError("limit is 3; give 4")
    for culprit in range(size):
        for shape in ((), (300, 1000)):
            for start in (2 * culprit, 2 * range(culprit, GROUPS, size)[-1]):
                place = f"slices {start} to {start + 1} of {slices}"
                meets(sum_with(broken, start, shape=shape), "KeyError: 'broken'", place, culprit)

        def fail(item, culprit=culprit):
            if item == 3 * size + culprit:
                raise OSError("disk full")

        place = f"item {3 * size + culprit} of {5 * size}"
        meets(lambda fail=fail: spread_items(5 * size, fail, comm), "OSError: disk full", place, culprit)
    meets(sum_with(None, add=refuse), "TypeError: no sum", "the sum of the slices")
    meets(sum_with(None, progress=refuse), "TypeError: no sum", "the display of progress")
    second = f"slices 2 to 3 of {slices}"
    meets(sum_with(bad, 2), "limit is 3; give 4", second, 1)
    meets(sum_with(KeyboardInterrupt(), 2), "KeyboardInterrupt: ", second, 1)
    for count in (slices, 1):
        meets(sum_with(bad, count=count), "limit is 3; give 4")
    meets(sum_with(bad, count=0), "count is 0; there must be at least one slice to add up")
    first = f"slices 0 to 1 of {slices}"
    meets(sum_with(ValueError(f"limit is {rank}")), "limit is 0", first)
    meets(sum_with(broken), "KeyError: 'broken'", first)
    try:
        elements(None, bad=True)
    except ValueError as error:
        meets(lambda: elements(comm, bad=True), str(error), "item 6 of 8", 6 % size)


def main():
    comm = world()
    same_bits(comm, sys.argv[1])
    shares(comm)
    failures(comm)
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
