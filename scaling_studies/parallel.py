"""Independent tasks side by side on the cores of this machine."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Result = TypeVar("Result")


def side_by_side(tasks: Sequence[Callable[[], Result]], done: Callable[[], None]) -> list[Result]:
    """Run tasks in threads, as many at once as there are cores, and return their results in order.

    NumPy, SciPy and JAX leave the interpreter while they compute. Each task's linear algebra keeps to
    one thread meanwhile: on the small matrices of these tasks, more threads wait for each other.

    Args:
        tasks: callables without arguments; none may depend on another.
        done: called after each task, from the calling thread, in order.

    Raises:
        Whatever the first failing task raised; tasks not yet begun are dropped.
    """
    results = []
    with threadpool_limits(1), ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in futures:
                results.append(future.result())
                done()
        finally:
            pool.shutdown(cancel_futures=True)
    return results
