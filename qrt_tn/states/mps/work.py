"""What drawing nodes from a matrix product state takes, told from its bonds."""

import numpy as np

from qrt_tn.engine import mps
from qrt_tn.engine.backends import array_module
from qrt_tn.engine.threads import threads_for
from qrt_tn.states.mps.harmonics import BLOCK, DEVICE_BLOCK, FEWEST, SMALL


def drawing_work(
    cores: mps.Cores, kept: np.ndarray, count: int, harmonics: int
) -> tuple[float, float, float]:
    """Real multiply-adds, bytes that element-wise passes move, and bytes held, of nodes and their profiles.

    Args:
        cores: (left, kept frequencies, right).
        kept: the share of all frequencies that each coordinate keeps, shape (D,).
        count: the number of nodes.
        harmonics: how many harmonics a profile asks for.
    """
    device = array_module(cores[0]) is not np
    products = elements = steps = tables = 0.0
    for core in cores:
        left, extent, right = core.shape
        if device or mps.best_method(left, extent, right, count) == "sweep":
            products += 4 * left * extent * right
            elements += extent * right
        else:
            own = left**2 * (np.log2(extent) + 1) + 4 * left * right
            products += own + 4 * extent * left**2 * right / count
            # beside a matrix product's rate, and what a pick takes, in bytes (fitted to measured times)
            steps += own / 4 + 600 + 100 * extent * left**2 / count
            # the core twice over and its Gram matrices while they are made, and one site's tables at least
            tables = max(tables, extent * left * (1.5 * left + 3.0 * right))
    # the harmonic that a node was drawn with lives; of the others, those that no coordinate drops
    alive = min(float(harmonics), 1 + harmonics * float(np.exp(np.log(kept).sum())))
    products += alive * 4.0 * sum(core.shape[0] * core.shape[2] for core in cores)
    bond = max(core.shape[0] for core in cores)
    compiled = bond <= SMALL and not device
    elements += alive * (2.0 if compiled else 4.0) * sum(core.shape[0] for core in cores)
    # picks, orders, places and log-scales, which do not grow with the bond (fitted to measured times)
    steps += len(cores) * (300.0 + (30.0 if compiled else 140.0) * alive)
    itemsize = cores[0].dtype.itemsize
    # uniforms, picks and nodes; a few arrays of a block of vectors
    block = max(DEVICE_BLOCK if device else BLOCK, FEWEST * bond)
    held = 20.0 * count * len(kept) + 4.0 * itemsize * min(block, count * alive * bond)
    held = max(held, 20.0 * count * len(kept) + itemsize * tables * threads_for(cores[0]))
    return count * products, count * (elements * itemsize + steps), held
