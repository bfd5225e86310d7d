"""The contents of a store's results in one file, for speed: found again from the results at any time."""

import gc
from typing import Any

from qrt_tn.engine.files import atomic_path
from qrt_tn.studies.store.records import Stamp, parsed
from qrt_tn.studies.store.study import StudyStore

NAME = "index.parquet"
FAILURES = ("error", "unavailable", "timeout", "killed", "metrics")  # the kinds of failures
MANY = 1000  # records that are quicker to read all at once
WORTH_KEEPING = 64  # new records from which on the index is written anew


def read_results(store: StudyStore) -> tuple[list[dict[str, Any]], list[str]]:
    """All finished points of a store, and the ids of files that are not whole.

    Files that are as the index knows them are not opened. The index is a cache: any may be lost, out of date,
    or written by two at once.
    """
    stamps = store.results.stamps()
    kept: dict[str, bytes] = dict(_indexed(store, stamps, "record"))
    known = len(kept)
    collecting = gc.isenabled()
    gc.disable()  # looking through all these records for garbage takes longer than reading them
    try:
        return _sorted_out(store, stamps, kept, known)
    finally:
        if collecting:
            gc.enable()


def _sorted_out(
    store: StudyStore, stamps: dict[str, Stamp], kept: dict[str, bytes], known: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read what the index does not hold, tell records from damaged files, and write the index anew."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for point in stamps.keys() - kept.keys():
        try:
            kept[point] = store.results.path(point).read_bytes()
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:
            kept[point] = b""  # a folder of that name, say
    found, damaged = [], []
    for point in sorted(kept):
        record = parsed(kept[point], point)
        if record is None:
            damaged.append(point)
        else:
            found.append(record)
    if len(kept) - known >= WORTH_KEEPING:
        points = sorted(kept.keys() - set(damaged))
        rows = {
            "id": points,
            "written": [stamps[point][0] for point in points],
            "size": [stamps[point][1] for point in points],
            "record": [kept[point] for point in points],
        }
        try:
            with atomic_path(store.folder / NAME) as partial:
                pq.write_table(pa.table(rows), partial, compression="zstd")
        except OSError:
            pass  # a store that may only be read, or a full disk: the next call reads the files again
    return found, damaged


def _indexed(store: StudyStore, stamps: dict[str, Stamp], *columns: str) -> list[tuple[Any, ...]]:
    """Ids in the index whose files are still as it knows them, each with what these columns hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = ["id", "written", "size", *columns]
    try:
        table = pq.ParquetFile(store.folder / NAME).read(columns=wanted)  # read_table imports pandas
        rows = zip(*(table[name].to_pylist() for name in wanted), strict=True)
    except (OSError, KeyError, pa.ArrowException):
        return []  # none yet, or not whole
    return [(point, *held) for point, written, size, *held in rows if stamps.get(point) == (written, size)]


def damaged_results(store: StudyStore) -> set[str]:
    """Ids of results that are not whole. Few are all read; of many, those that the index knows are not.

    Where the index knows little of many, it is made.
    """
    stamps = store.results.stamps()
    if len(stamps) >= MANY:  # else importing Arrow takes longer
        for (point,) in _indexed(store, stamps):
            del stamps[point]
    if len(stamps) >= MANY:
        return set(read_results(store)[1])
    return {point for point in stamps if store.results.read(point) is None and point in store.results}


def read_failures(store: StudyStore, points: set[str]) -> list[dict[str, Any]]:
    """The failures of points, in the order of their ids."""
    found = (store.failed.read(point) for point in sorted(points))
    return [record for record in found if record is not None]
