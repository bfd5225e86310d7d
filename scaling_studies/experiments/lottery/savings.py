"""What the tickets of a study save: files and operations of any network, time of fully connected ones."""

from typing import Any

import numpy as np
from flax import nnx

from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import Run, flops, layers, measure, storage, weight_uses
from qrt_tn.models.lottery.masks import is_kernel

ROUNDS = 15
BATCH = 256
Row = dict[str, Any]


def savings_rows(run: Run, network: nnx.Module, parts: ImageFold) -> list[Row]:
    """Rows of savings.parquet for one trained network at its early stop.

    A fully connected network is run in each form, at a batch of 1 and of 256 test points. Of others only
    the operations are counted: nothing here runs a convolution of which single weights are gone.

    Args:
        run: with its trained weights.
        network: the network of these weights.
        parts: gives the points.
    """
    params = _params(run)
    about = {"level": run.level, "remaining": run.remaining}
    kernels = [name for name, leaf in layers(params).items() if is_kernel(name, leaf)]
    if all(layers(params)[name].ndim == 2 for name in kernels):
        points = parts.x_test[:BATCH].reshape(min(BATCH, len(parts.x_test)), -1)
        return [about | row for row in measure(params, run.masks, kernels, points, ROUNDS)]
    work = flops(params, run.masks, weight_uses(network, np.asarray(parts.x_test[:1])))
    unknown = {"batch": 1, "disk_bytes": None, "memory_bytes": None, "seconds": None}
    counted = (("dense", work.dense), ("surviving weights", work.surviving))
    return [{**about, **unknown, "form": form, "flops": operations} for form, operations in counted]


def file_rows(run: Run) -> list[Row]:
    """Rows of files.parquet: the bytes of each kind of file that holds a trained network."""
    about = {"level": run.level, "remaining": run.remaining}
    return [about | {"file": kind, "bytes": n} for kind, n in storage(_params(run), run.masks).items()]


def _params(run: Run) -> Any:
    assert run.trained.best is not None
    return run.trained.best.params
