import gc
import os
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.benchmarks.studies.kills import write_study
from qrt_tn.studies.benchmarks.studies.writers import write_at_once
from qrt_tn.studies.config import Study, parse_study
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store import index as room
from qrt_tn.studies.store.index import NAME, WORTH_KEEPING, damaged_results, read_results

STUDY = 'name = "s"\nexperiment = "rehearsal"\n[axes]\nnumber = { range = [1, 200], step = 1 }\n'


def record(point: str, value: float) -> dict[str, Any]:
    return {"format": "qrt-tn.point", "id": point, "tables": {"points": [{"value": value}]}, "text": "é"}


@pytest.fixture
def study() -> Study:
    return parse_study(STUDY, "s.toml")


@pytest.fixture
def store(tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> StudyStore:
    """A store with a hundred and twenty finished points."""
    made = StudyStore.make(tmp_path / "store", study)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # which takes longer than the tests
        for point in study.points[:120]:
            made.publish(record(point.id, point.parameters["number"]))
    return made


def cold(store: StudyStore) -> list[dict[str, Any]]:
    """All whole records, straight from their files."""
    read = (store.results.read(point) for point in sorted(store.results.ids()))
    return [found for found in read if found is not None]


def counted(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], int]:
    """What the index gives, and how many files it opened for that."""
    opened = []
    read = Path.read_bytes

    def counting(path: Path) -> bytes:
        opened.append(path)
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", counting)
        found, _ = read_results(store)
    return found, len(opened)


def test_the_index_saves_opening_files_and_tells_the_same(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert counted(store, monkeypatch) == (cold(store), 120)
    assert (store.folder / NAME).is_file()
    assert counted(store, monkeypatch) == (cold(store), 0)


def test_few_new_records_are_read_and_many_are_kept(
    store: StudyStore, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_results(store)
    for point in study.points[120:125]:
        store.publish(record(point.id, 0.0))
    assert counted(store, monkeypatch) == (cold(store), 5)
    assert counted(store, monkeypatch) == (cold(store), 5)  # not worth writing the index anew
    for point in study.points[125 : 120 + WORTH_KEEPING]:
        store.publish(record(point.id, 0.0))
    assert counted(store, monkeypatch)[1] == WORTH_KEEPING
    assert counted(store, monkeypatch) == (cold(store), 0)


def test_records_that_were_replaced_removed_or_added_are_told_as_they_are_now(
    store: StudyStore, study: Study
) -> None:
    read_results(store)
    ids = [point.id for point in study.points]
    store.results.write(ids[0], record(ids[0], 9999.0))  # longer
    store.results.write(ids[1], record(ids[1], 7))  # as long as before
    store.results.remove(ids[2])
    store.publish(record(ids[130], 1.0))
    found, damaged = read_results(store)
    assert found == cold(store)
    assert damaged == []
    values = {one["id"]: one["tables"]["points"][0]["value"] for one in found}
    assert (values[ids[0]], values[ids[1]], values[ids[130]]) == (9999.0, 7, 1.0)
    assert ids[2] not in values


def test_damaged_records_are_told_apart_and_never_kept_in_the_index(store: StudyStore, study: Study) -> None:
    ids = [point.id for point in study.points]
    whole = store.results.path(ids[3]).read_bytes()
    store.results.path(ids[3]).write_bytes(whole[: len(whole) // 2])
    store.results.path(ids[4]).write_bytes(b"")
    store.results.path(ids[5]).write_bytes(store.results.path(ids[6]).read_bytes())
    store.results.path(ids[7]).unlink()
    store.results.path(ids[7]).mkdir()
    for _ in range(2):
        found, damaged = read_results(store)
        assert damaged == sorted([ids[3], ids[4], ids[5], ids[7]])
        assert found == cold(store)
        assert len(found) == 116
        assert damaged_results(store) == set(damaged)
    store.results.path(ids[3]).write_bytes(whole)
    assert ids[3] in {one["id"] for one in read_results(store)[0]}


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other columns", "older"])
def test_an_index_that_is_damaged_or_out_of_date_costs_only_time(
    store: StudyStore, study: Study, damage: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_results(store)
    path = store.folder / NAME
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_bytes(b"PAR1 and nothing more of it PAR1")
    elif damage == "other columns":
        pq.write_table(pa.table({"id": ["a"], "size": [1]}), path)
    else:
        before = path.read_bytes()
        for point in study.points[:120]:
            store.publish(record(point.id, -1.5))
        read_results(store)
        path.write_bytes(before)
    assert read_results(store) == (cold(store), [])
    assert read_results(store) == (cold(store), [])


def test_a_store_that_may_only_be_read_is_read(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(room, "atomic_path", refuse)
    assert read_results(store) == (cold(store), [])
    assert not (store.folder / NAME).exists()


def test_an_empty_store_has_no_results(tmp_path: Path, study: Study) -> None:
    assert read_results(StudyStore.make(tmp_path / "store", study)) == ([], [])


def test_the_collector_is_left_as_it_was(store: StudyStore) -> None:
    assert gc.isenabled()
    read_results(store)
    assert gc.isenabled()
    gc.disable()
    try:
        read_results(store)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_eight_tasks_at_once_make_a_store_and_lose_and_tear_nothing(tmp_path: Path) -> None:
    found = write_at_once(write_study(tmp_path, "w", 200, 0.0), tmp_path / "store", 8)
    assert (found["finished"], found["lost"], found["torn"]) == (200, 0, 0)
    store = StudyStore(tmp_path / "store")
    assert store.done(store.study()) == store.study().by_id.keys()
    assert list(store.folder.rglob(".*")) == []  # nothing half-written is left
