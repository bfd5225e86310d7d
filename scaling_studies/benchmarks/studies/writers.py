"""Tasks that share the points of one store, all at once: no record may be torn or lost."""

import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from qrt_tn.studies.config import load_study
from qrt_tn.studies.config.points import order, shares
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_results


def write_at_once(file: Path, place: Path, writers: int) -> dict[str, Any]:
    """Have several processes publish all points of a study as tasks do, and read the store meanwhile.

    Args:
        file: the study.
        place: its store, which all of them make.
        writers: processes.

    Returns:
        Counts `points`, `writers`, `finished`; what must be 0: `lost` (at any moment), `torn` (not whole);
        `seconds`; records a second.
    """
    study = load_study(file)
    context = get_context("forkserver")
    start = context.Barrier(writers + 1)
    processes = [
        context.Process(target=_write, args=(file, place, start, number, writers))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    store = StudyStore.make(place, study)
    torn, lost, seen = 0, 0, set[str]()
    while any(process.is_alive() for process in processes):
        records, damaged = read_results(store)
        now = {record["id"] for record in records}
        torn, lost, seen = torn + len(damaged), lost + len(seen - now), now
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a writer ended with code {process.exitcode}")
    records, damaged = read_results(store)
    return {
        "points": len(study.points),
        "writers": writers,
        "finished": len(records),
        "lost": lost + len(study.points) - len(records),
        "torn": torn + len(damaged),
        "seconds": seconds,
        "records_per_second": len(records) / seconds,
    }


def _write(file: Path, place: Path, start: Any, number: int, writers: int) -> None:
    """One task: publishes its share, and what it then finds undone of the others'."""
    study = load_study(file)
    own, others = shares(order(study.by_id), number, writers)
    start.wait()
    store = StudyStore.make(place, study)
    store.keep(study)
    for point in (*own, *others):
        if store.results.read(point) is None:
            store.publish(
                {
                    "id": point,
                    "parameters": dict(study.by_id[point].parameters),
                    "tables": {},
                    "text": "x" * 2000,
                }
            )
