"""Python threads that share a batch: element-wise passes of NumPy run on one core each."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module

_SHARED = 2**21  # real multiply-adds of a step from which on threads are worth their meeting
Map = Callable[..., Iterator[Any]]


def threads_for(array: Any, work: float = np.inf) -> int:
    """How many threads to use: as many as the caller lets matrix products have, if there is work for them.

    Args:
        array: one that is worked on; a device wants one thread.
        work: real multiply-adds between two meetings.
    """
    if array_module(array) is not np or work < _SHARED:
        return 1
    return max((pool["num_threads"] for pool in _libraries().info() if pool["user_api"] == "blas"), default=1)


@contextmanager
def workers(threads: int) -> Iterator[Map]:
    """A `map` over so many threads, its results in order.

    Each of several threads multiplies with one of BLAS's, or they would wait for each other.
    """
    if threads == 1:
        yield map
        return
    with _single_threaded, ThreadPoolExecutor(threads) as pool:
        yield pool.map


def limited(threads: int | None) -> Any:
    """A context in which linear algebra takes so many threads; None leaves them as they are."""
    return _libraries().limit(limits=threads, user_api="blas")


class _SingleThreaded:
    """Holds BLAS at one thread while anybody is inside; its limits are the process's, not a thread's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = _libraries().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_single_threaded = _SingleThreaded()


@cache
def _libraries() -> Any:
    import scipy.linalg  # noqa: F401  its BLAS is a library of its own, to be found with NumPy's
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # finding them takes longer than many a step
