import threading
import time
from functools import partial

import pytest

from qrt_tn.studies.parallel import side_by_side


def test_results_come_in_order_and_each_is_counted() -> None:
    def task(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        return number * number

    seen: list[int] = []
    found = side_by_side([partial(task, n) for n in range(9)], lambda: seen.append(1))
    assert found == [n * n for n in range(9)]
    assert len(seen) == 9


def test_a_failure_is_raised_and_drops_what_has_not_begun() -> None:
    started = []
    gate = threading.Event()

    def task(number: int) -> None:
        started.append(number)
        if number == 0:
            gate.wait(5)
            raise ValueError("task 0 failed")
        gate.set()
        time.sleep(0.05)

    with pytest.raises(ValueError, match="task 0 failed"):
        # one task more than cores can hold before the first one fails
        side_by_side([partial(task, n) for n in range(200)], lambda: None)
    assert len(started) < 200
