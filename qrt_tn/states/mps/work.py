"""What drawing nodes from a matrix product state takes, told from its bonds."""

import numpy as np

from qrt_tn.engine import mps
from qrt_tn.engine.backends import array_module
from qrt_tn.engine.threads import threads_for
from qrt_tn.states.mps.harmonics import BLOCK, DEVICE_BLOCK, FEWEST, LEAST, SMALL, SPREAD


def drawing_work(
    cores: mps.Cores, kept: np.ndarray, count: int, harmonics: int, profiled: int
) -> tuple[float, float, float]:
    """Real multiply-adds, bytes that element-wise passes move, and bytes held, of nodes and their profiles.

    Args:
        cores: (left, kept frequencies, right).
        kept: the share of all frequencies that each coordinate keeps, shape (D,).
        count: the number of nodes.
        harmonics: how many harmonics a profile asks for.
        profiled: how many nodes have their profiles at once.
    """
    device = array_module(cores[0]) is not np
    real_size = cores[0].real.dtype.itemsize
    products = moved = swept = tables = largest = 0.0
    for core in cores:
        left, extent, right = core.shape
        if device or mps.best_method(left, extent, right, count) == "sweep":
            products += 4 * left * extent * right
            moved += 2 * extent * right * real_size
            swept = max(swept, extent * right)
        else:
            own, table = (
                left**2 * (np.log2(extent) + 1) + 4 * left * right,
                extent * left * (left + 2.0 * right),
            )
            products += own + 4 * extent * left**2 * right / count
            moved += own / 4 + 600 + 100 * extent * left**2 / count
            tables, largest = tables + table, max(largest, table)
    # the harmonic that a node was drawn with lives; of the others, those that no coordinate drops
    alive = min(float(harmonics), 1 + harmonics * float(np.exp(np.log(kept).sum())))
    products += alive * 4.0 * sum(core.shape[0] * core.shape[2] for core in cores)
    bond = max(core.shape[0] for core in cores)
    compiled = bond <= SMALL and not device
    # what goes along the chain beside matrix products (bytes fitted to measured times), and what calls take
    each, by_bond = (200.0, 40.0) if compiled else (140.0, 120.0)
    places = max(1.0, harmonics / 128) ** 0.25  # of a large P lie apart in memory
    moved += alive * places * sum(each + by_bond * core.shape[0] for core in cores)
    calls = 1.5e6 * len(cores)
    # drawing: uniforms, picks and nodes, with tables of searched sites or branches of swept ones; then a few
    # arrays of a block of vectors
    threads = threads_for(cores[0])
    drawn = 1.5 * real_size * (min(tables, 2.0**22) + 3 * largest)
    drawn = max(drawn, 5 * real_size * threads * swept * min(count, max(16, 2**19 // max(1, swept))))
    block = max(
        DEVICE_BLOCK if device else BLOCK,
        min(SPREAD, LEAST * harmonics * bond) if compiled else FEWEST * bond,
    )
    vectors = (8.0 if compiled else 14.0) * real_size * min(threads * block, profiled * alive * bond)
    return count * products, count * moved + calls, 48.0 * count * len(kept) + max(drawn, vectors)
