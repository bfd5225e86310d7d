"""Threads that share the rows of a batch: element-wise passes of NumPy run on one core each."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from engine.backends import array_module
from engine.mps.canonical import Cores

_SHARED = 2**21  # real multiply-adds of a site from which on threads are worth their meeting


def threads_for(cores: Cores, work: float) -> int:
    """How many threads to use: as many as the caller lets BLAS have, if there is work for them.

    Args:
        cores: on a device one thread does.
        work: real multiply-adds of a site.
    """
    if array_module(cores[0]) is not np or work < _SHARED:
        return 1
    return max([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"], default=1)


@contextmanager
def workers(threads: int) -> Iterator[Any]:
    """A `map` over threads that returns a list, with BLAS kept to one thread in each."""
    if threads == 1:
        yield lambda work, *arguments: list(map(work, *arguments))
        return
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        yield lambda work, *arguments: list(pool.map(work, *arguments))
