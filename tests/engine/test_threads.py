import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from qrt_tn.engine.threads import threads_for, workers


@pytest.mark.parametrize("count", [1, 3])
def test_work_comes_back_in_order(count):
    gate = threading.Barrier(count, timeout=20)

    def work(item):
        if item < count:
            gate.wait()  # passes only where as many work at once
        return item**2

    with workers(count) as run:
        assert list(run(work, range(20))) == [item**2 for item in range(20)]
        with pytest.raises(ZeroDivisionError):
            list(run(lambda item: 1 // item, [2, 1, 0]))


def test_each_of_several_has_one_thread_of_blas():
    def blas():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = blas()
    with workers(2) as run:
        assert set(next(iter(run(lambda item: blas(), [0])))) == {1}
    assert blas() == before


@pytest.mark.parametrize("limit", [1, 2])
def test_as_many_threads_as_blas_has_where_there_is_work(device, limit):
    host = np.zeros(2)
    with threadpool_limits(limit, user_api="blas"):
        assert threads_for(host) == threads_for(host, 1e9) == limit
        assert threads_for(host, 10) == threads_for(device.asarray(host)) == 1


def test_callers_that_overlap_leave_blas_as_it_was():
    with threadpool_limits(2, user_api="blas"):
        first, second = workers(2), workers(2)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads_for(np.zeros(2)) == 1
        second.__exit__(None, None, None)
        assert threads_for(np.zeros(2)) == 2
