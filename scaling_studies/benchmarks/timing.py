"""Paired timings: all contenders in turn, again and again, in one process, and medians of their ratios."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

LEAST = 0.004  # seconds; faster calls are repeated within a run, for the clock


def paired(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    wait: Callable[[], Any] = lambda: None,
    least: float = LEAST,
) -> dict[str, list[float]]:
    """Seconds per call of every contender, one figure a round.

    All are called twice before the clock counts. Each round starts with another one, so that none always
    follows the same neighbour.

    Args:
        calls: what to time, by name.
        rounds: how often.
        wait: waits for the device; the clock stops after it.
        least: seconds that a run of repeated calls lasts at least.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        wait()
        started = time.perf_counter()
        call()
        wait()
        repeats[name] = max(1, math.ceil(least / max(time.perf_counter() - started, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                call, count = calls[name], repeats[name]
                started = time.perf_counter()
                for _ in range(count):
                    call()
                wait()
                seconds[name].append((time.perf_counter() - started) / count)
    finally:
        if collecting:
            gc.enable()
    return seconds


def ratios(theirs: Sequence[float], ours: Sequence[float], scale: float = 1.0) -> dict[str, Any]:
    """Median, least and greatest of `theirs` over `ours`, round by round; and those of all rounds.

    Args:
        theirs: seconds of each round.
        ours: likewise.
        scale: multiplies every ratio, where theirs did only a part of the work.
    """
    found = [scale * their / our for their, our in zip(theirs, ours, strict=True)]
    return {"median": statistics.median(found), "min": min(found), "max": max(found), "rounds": found}


def threads() -> dict[str, int]:
    """Threads of every pool that linear algebra may use."""
    pools = threadpool_info()
    return {f"{pool['user_api']}, {Path(pool['filepath']).name}": pool["num_threads"] for pool in pools}
