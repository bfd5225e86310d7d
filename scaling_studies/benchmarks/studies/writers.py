"""Many writers on one store at once: every point must be claimed by one, and every record be whole."""

import json
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from qrt_tn.studies.config import load_study
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_results
from qrt_tn.studies.store.runners import Registration, this_runner


def write_at_once(file: Path, place: Path, writers: int) -> dict[str, Any]:
    """Have several processes claim and publish all points of a study, and read the store meanwhile.

    Args:
        file: the study.
        place: its store, which is made.
        writers: processes.

    Returns:
        Counts `points`, `writers`, `finished`; what must be 0: `lost`, `torn` (not whole, at any moment),
        `twice` (points that two writers published); `seconds`; records a second.
    """
    study = load_study(file)
    store = StudyStore.make(place, study)
    store.keep(study)
    context = get_context("forkserver")
    start = context.Barrier(writers + 1)
    processes = [context.Process(target=_write, args=(file, place, start)) for _ in range(writers)]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    torn = 0
    while any(process.is_alive() for process in processes):
        torn += len(read_results(store)[1])
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a writer ended with code {process.exitcode}")
    records, damaged = read_results(store)
    published = [point for path in place.glob("written-*.json") for point in json.loads(path.read_text())]
    return {
        "points": len(study.points),
        "writers": writers,
        "finished": len(records),
        "lost": len(study.points) - len(records),
        "torn": torn + len(damaged),
        "twice": len(published) - len(set(published)),
        "seconds": seconds,
        "records_per_second": len(records) / seconds,
    }


def _write(file: Path, place: Path, start: Any) -> None:
    """One writer: takes whatever point is free, and publishes its record."""
    study = load_study(file)
    store = StudyStore(place)
    runner = this_runner(study.digest)
    published = []
    with Registration(store.runners, runner):
        start.wait()
        for point in study.points:
            if point.id in store.results or not store.claims.take(point.id, runner):
                continue
            if point.id not in store.results:
                record = {"id": point.id, "parameters": dict(point.parameters), "text": "x" * 2000}
                store.publish(record)
                published.append(point.id)
            store.claims.release(point.id, runner)
    (place / f"written-{runner.token}.json").write_text(json.dumps(published), encoding="utf-8")
