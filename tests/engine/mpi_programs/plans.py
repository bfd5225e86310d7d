"""A sliced plan executed by all ranks; every rank prints a JSON object with the result."""

import itertools
import json
import sys

import numpy as np

from qrt_tn import engine
from qrt_tn.engine.distribute import world

# six tensors, each bound to each other one, and a batch index on two of them
BONDS = dict(zip(itertools.combinations(range(6), 2), "abcdefghijklmno", strict=True))
INPUTS = tuple(
    (*"z"[number // 2 :], *(index for pair, index in BONDS.items() if number in pair)) for number in range(6)
)
SIZES = dict.fromkeys(itertools.chain(*INPUTS), 3)
SLICES = ("a", "f", "k", "o")  # 81 slices: more than groups


def arrays():
    rng = np.random.default_rng(3)
    return [rng.normal(size=[SIZES[index] for index in term]) for term in INPUTS]


def result(comm):
    """Mantissa and log-scale, as lists."""
    plan = engine.Plan(INPUTS, ("z",), SIZES, ((0, 1),) * 5, SLICES, "float64")
    scaled = plan.execute(arrays(), "numpy", comm=comm)
    return [scaled.mantissa.tolist(), scaled.log_scale.tolist()]


def main():
    comm = world()
    sys.stdout.write(json.dumps({"rank": comm.Get_rank(), "result": result(comm)}) + "\n")


if __name__ == "__main__":
    main()
