"""What a small contraction step costs beside a bare call of NumPy on the same matrices."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from qrt_tn import engine
from qrt_tn.engine import Device
from qrt_tn.studies.benchmarks.engine.networks import matrix_chain
from qrt_tn.studies.benchmarks.engine.speed import work_of
from qrt_tn.studies.benchmarks.timing import paired, ratios


def compare(extent: int, device: Device, *, rounds: int, count: int = 200) -> dict[str, Any]:
    """Seconds per step of a chain of small matrices, over bare products of the same shapes.

    Args:
        extent: rows and columns of the matrices.
        device: the calibration of NumPy.
        rounds: how often each is timed.
        count: how many matrices.

    Raises:
        RuntimeError: the chain's product is wrong.
    """
    found = matrix_chain(count, extent)
    path = [(0, 1), *((0, count - step) for step in range(2, count))]  # from the left
    plan = engine.plan(found.structure, optimizer=path, dtype=found.dtype)
    expression = plan.expression("numpy")
    wanted = np.linalg.multi_dot(found.arrays)
    error = np.abs(expression(found.arrays).value() - wanted).max()
    if not error <= 1e-10:
        raise RuntimeError(f"a chain of {count} matrices of {extent} is wrong by {error:.3g}")
    pairs = [
        (np.ones((rows, inner)), np.ones((inner, columns)))
        for _, rows, inner, columns in (step.dims for step in plan.program.steps)
    ]

    def loop(product: Callable[..., Any]) -> Callable[[], None]:
        def run() -> None:
            for left, right in pairs:
                product(left, right)

        return run

    calls: dict[str, Callable[[], Any]] = {
        "qrt-tn": lambda: expression(found.arrays),
        "tensordot": loop(lambda left, right: np.tensordot(left, right, 1)),
        "matmul": loop(np.matmul),
    }
    seconds = paired(calls, rounds)
    every = {name: [value / len(pairs) for value in values] for name, values in seconds.items()}
    per_step = {name: statistics.median(values) for name, values in every.items()}
    work = work_of(plan, device)
    bound, share = work.bound(device, found.dtype, per_step["qrt-tn"] * len(pairs))
    return {
        "network": found.name,
        "steps": len(pairs),
        "seconds": per_step["qrt-tn"],
        "samples": {"seconds": every["qrt-tn"]},
        "bound": bound,
        "share": share,
        "predicted_over_measured": work.predicted / per_step["qrt-tn"] / len(pairs),
        "over": {
            name: {
                "seconds": per_step[name],
                "samples": {"seconds": every[name]},
                "ratio": ratios(seconds["qrt-tn"], seconds[name]),
            }
            for name in ("tensordot", "matmul")
        },
    }
