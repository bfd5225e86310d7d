"""Many elements over all ranks; every rank prints a JSON object with the results, or how the call failed."""

import json
import sys

import numpy as np

from qrt_tn import engine
from qrt_tn.engine.mpi import world


def result(comm, checkpoint=None, *, bad=False):
    """Mantissas and log-scales of 23 elements in batches of 3, as lists."""
    rng = np.random.default_rng(4)
    plan = engine.plan(([("i", "j"), ("j", "k"), ("k",)], ("i",), {"i": 3, "j": 4, "k": 5}))
    arrays = [rng.normal(size=(3, 4)), rng.normal(size=(23, 4, 5)), rng.normal(size=(23, 5))]
    if bad:
        arrays[2][20] = np.nan  # the last batch but one
    scaled = plan.execute_many(arrays, "numpy", batch=3, comm=comm, checkpoint=checkpoint)
    return [scaled.mantissa.tolist(), scaled.log_scale.tolist()]


def main():
    comm = world()
    answer = {"rank": comm.Get_rank()}
    checkpoint = sys.argv[1] if sys.argv[1:] and sys.argv[1] != "bad" else None
    try:
        answer["result"] = result(comm, checkpoint, bad=sys.argv[1:] == ["bad"])
    except (RuntimeError, ValueError) as error:
        answer["error"] = str(error)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
