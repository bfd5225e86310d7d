import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.config import Study, parse_study
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_failures


def study(numbers: str = "1, 2, 3", name: str = "s", extra: str = "") -> Study:
    text = f'name = "{name}"\nexperiment = "rehearsal"\n[axes]\nnumber = [{numbers}]\n{extra}'
    return parse_study(text, f"{name}.toml")


def record(point: str) -> dict[str, Any]:
    return {"format": "qrt-tn.point", "id": point, "tables": {"points": [{"value": 0.5}]}}


def failure(point: str, reason: str = "RuntimeError: no") -> dict[str, Any]:
    return {"format": "qrt-tn.failure", "id": point, "kind": "error", "reason": reason, "attempt": 1}


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    made = StudyStore.make(tmp_path / "store", study())
    made.keep(study())
    return made


def test_a_store_is_made_once_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "deep" / "store"
    StudyStore.make(folder, study())
    head = (folder / "store.json").read_bytes()
    assert json.loads(head)["version"] == 2
    StudyStore.make(folder, study("1, 2, 3, 4"))
    assert StudyStore(folder).folder == folder
    assert (folder / "store.json").read_bytes() == head


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    # what a kill left of making one does not stand in the way
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".store.json.x.json").write_text("{", encoding="utf-8")
    StudyStore.make(tmp_path / "store", study())
    assert StudyStore(tmp_path / "store").results.ids() == set()


def test_what_is_published_is_done(store: StudyStore) -> None:
    first, second, third = (point.id for point in study().points)
    (store.work(first) / "kept").mkdir(parents=True)
    store.publish_failure(failure(first))
    store.publish_failure(failure(second))
    assert store.failures(study()) == {first, second}
    store.publish(record(first))
    assert store.done(study()) == {first}
    assert store.failures(study()) == {second}
    assert first not in store.failed
    assert not store.work(first).exists()
    assert store.results.read(first) == record(first)
    assert read_failures(store, {first, second, third}) == [failure(second)]
    assert third not in store.results
    store.results.write(second, record(second))  # killed before its failure is gone
    assert (store.done(study()), store.failures(study())) == ({first, second}, set())


def test_done_and_failed_are_told_of_the_studys_own_points_only(store: StudyStore) -> None:
    store.publish(record(study().points[0].id))
    store.publish_failure(failure(study().points[1].id))
    other = study("3, 4")
    assert store.done(other) == set()
    assert store.failures(other) == set()


# what is no store, or another's


@pytest.mark.parametrize("head", ["", "{", "[]", "{}", '{"format": "something", "version": 1}'])
def test_a_folder_whose_head_is_none_is_refused(tmp_path: Path, head: str) -> None:
    (tmp_path / "store.json").write_text(head, encoding="utf-8")
    for attempt in (lambda: StudyStore(tmp_path), lambda: StudyStore.make(tmp_path, study())):
        with pytest.raises(ValueError, match="is not the head of a store") as error:
            attempt()
        assert str(tmp_path) in str(error.value)
    assert (tmp_path / "store.json").read_text(encoding="utf-8") == head


def test_other_folders_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match="holds other files; give another folder with --store"):
        StudyStore.make(tmp_path, study())
    with pytest.raises(ValueError, match=r"is a file; give a folder with --store"):
        StudyStore.make(tmp_path / "thesis.tex", study())
    with pytest.raises(ValueError, match="--store"):
        StudyStore.make(tmp_path / "thesis.tex" / "store", study())
    with pytest.raises(ValueError, match=r"is no store of a study \(it has no store\.json\)"):
        StudyStore(tmp_path)
    with pytest.raises(ValueError, match="is no store of a study"):
        StudyStore(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("version", [1, 3, -5, "2", None])
def test_a_store_of_another_version_is_refused_and_left_alone(store: StudyStore, version: object) -> None:
    head = store.folder / "store.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"version": version}), encoding="utf-8")
    before = head.read_bytes()
    for attempt in (lambda: StudyStore(store.folder), lambda: StudyStore.make(store.folder, study())):
        with pytest.raises(ValueError, match="another version of this program") as error:
            attempt()
        assert repr(version) in str(error.value)
    assert head.read_bytes() == before


def test_the_store_of_another_study_is_refused(store: StudyStore) -> None:
    with pytest.raises(ValueError, match="holds the study 's', not 'other'; give another folder"):
        StudyStore.make(store.folder, study(name="other"))
    head = store.folder / "store.json"
    head.write_text(head.read_text(encoding="utf-8").replace("rehearsal", "risk"), encoding="utf-8")
    with pytest.raises(ValueError, match="holds the experiment 'risk', not 'rehearsal'"):
        StudyStore.make(store.folder, study())


# the study in its store


def test_a_store_knows_its_latest_study(store: StudyStore) -> None:
    later = study("1, 2, 3, 4")
    store.keep(later)
    assert store.study().by_id.keys() == later.by_id.keys()
    assert (store.study().source, store.study().quick) == ("s.toml", False)
    store.keep(study())
    assert store.study().digest == study().digest


def test_a_quick_study_is_kept_as_such(tmp_path: Path) -> None:
    text = 'name = "s"\nexperiment = "rehearsal"\nseeds = 3\n[quick]\nseeds = 1\n'
    quick = parse_study(text, "s.toml", quick=True)
    made = StudyStore.make(tmp_path / "store", quick)
    made.keep(quick)
    assert made.study().quick
    assert made.study().by_id.keys() == quick.by_id.keys()
    with pytest.raises(ValueError, match="holds the study 's-quick', not 's'"):
        StudyStore.make(tmp_path / "store", parse_study(text, "s.toml"))


@pytest.mark.parametrize(
    "facts", [None, '{"dig', "[]", 100_000 * "[", '{"source": "s.toml", "quick": false}', '{"text": 3}']
)
def test_a_store_without_a_study_says_so(tmp_path: Path, facts: str | None) -> None:
    made = StudyStore.make(tmp_path / "store", study())
    if facts is not None:
        (made.folder / "study.json").write_text(facts, encoding="utf-8")
    with pytest.raises(ValueError, match="holds no study yet; give the study's file"):
        made.study()


def test_a_lock_is_held_once_on_a_machine_and_never_by_the_dead(store: StudyStore) -> None:
    with store.lock("run") as owner:
        assert owner == f"run@{os.uname().nodename}"
        assert store.at_work_here() == ["run"]
        with pytest.raises(ValueError, match="is being run on this machine already"), store.lock("run"):
            pass
        with store.lock("7_1"):
            assert store.at_work_here() == ["7_1", "run"]
    left = store.folder / "locks" / owner
    left.touch()  # as a kill leaves it
    assert store.at_work_here() == []
    with store.lock("run"):
        pass
    assert not left.exists()


def test_what_kills_left_behind_is_tidied(store: StudyStore) -> None:
    first, second = (point.id for point in study().points[:2])
    store.publish(record(first))
    store.publish_failure(failure(second))
    for point in (first, second):
        (store.work(point) / "run@far" / "kept").mkdir(parents=True)
    old, new = (
        path.parent / f".{path.name}.x7.json"
        for path in (store.results.path(first), store.failed.path(second))
    )
    for path in (old, new):
        path.write_text("half", encoding="utf-8")
    os.utime(old, (1, 1))
    store.tidy({first})
    assert not old.exists()
    assert new.exists()  # somebody may be writing it
    assert [path.name for path in (store.folder / "work").iterdir()] == [second]


def test_a_copy_of_a_store_is_a_store(store: StudyStore, tmp_path: Path) -> None:
    point = study().points[0].id
    store.publish(record(point))
    shutil.copytree(store.folder, tmp_path / "copy", symlinks=True)
    assert StudyStore(tmp_path / "copy").done(study()) == {point}
    assert StudyStore(tmp_path / "copy").study().digest == study().digest
