"""Failures that all ranks hear of and outlive: every rank prints a JSON object of what it met in each."""

import json
import sys
import traceback

import numpy as np

from qrt_tn.engine.exponents import add
from qrt_tn.engine.mpi import GROUPS, reduce_slices, spread_items, world

COUNT = 2 * GROUPS


def main():
    comm = world()
    rank, size = comm.Get_rank(), comm.Get_size()
    met = {}

    def met_in(name, call):
        try:
            call()
            met[name] = None
        except BaseException as error:
            causes = repr(error.__cause__) if error.__cause__ else ""
            met[name] = [type(error).__name__, str(error), causes, "".join(traceback.format_exception(error))]
        # nothing of it is left between the ranks: the next sum is right
        total, exponent = reduce_slices(
            COUNT, lambda group: (np.array(float(sum(group))), np.array(0)), add, comm
        )
        assert total * 2.0**exponent == COUNT * (COUNT - 1) // 2, (name, total, exponent)

    def sum_with(fail, *, shape=(), count=COUNT, add=add, progress=None):
        def contract_range(group):
            fail(group)
            return np.ones(shape), np.array(0)

        return lambda: reduce_slices(count, contract_range, add, comm, progress=progress)

    def fails_at(slices, error=None):
        def fail(group):
            if slices in (group.start, "any"):
                raise error or KeyError("broken")

        return fail

    for culprit in range(size):
        for shape in ((), (300, 1000)):
            met_in(f"early {culprit} {shape}", sum_with(fails_at(2 * culprit), shape=shape))
            last = 2 * range(culprit, GROUPS, size)[-1]
            met_in(f"late {culprit} {shape}", sum_with(fails_at(last), shape=shape))

        def fail(item, culprit=culprit):
            if item == 3 * size + culprit:
                raise OSError("disk full")

        met_in(f"item {culprit}", lambda fail=fail: spread_items(5 * size, fail, comm))

    def refuse(*arguments):
        raise TypeError("no sum")

    met_in("add", sum_with(lambda group: None, add=refuse))
    met_in("progress", sum_with(lambda group: None, progress=refuse))
    bad = ValueError("limit is 3; give 4")
    met_in("bad input", sum_with(fails_at("any", bad)))
    met_in("bad input, one slice", sum_with(fails_at("any", bad), count=1))
    met_in("bad input on one rank", sum_with(fails_at(2, bad)))
    met_in("bad input that differs", sum_with(fails_at("any", ValueError(f"limit is {rank}"))))
    met_in("bad input in items", lambda: spread_items(1, lambda item: int("x"), comm))
    met_in("not slices", sum_with(fails_at("any"), count=0))
    met_in("all ranks", sum_with(fails_at("any")))
    met_in("interrupt", sum_with(fails_at(2, KeyboardInterrupt())))
    sys.stdout.write(json.dumps({"rank": rank, "met": met}) + "\n")


if __name__ == "__main__":
    main()
