import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.config import Study, parse_study
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_failures
from qrt_tn.studies.store.runners import Registration, this_runner


def study(numbers: str = "1, 2, 3", name: str = "s", extra: str = "") -> Study:
    text = f'name = "{name}"\nexperiment = "rehearsal"\n[axes]\nnumber = [{numbers}]\n{extra}'
    return parse_study(text, f"{name}.toml")


def record(point: str) -> dict[str, Any]:
    return {"format": "qrt-tn.point", "id": point, "metrics": {"value": 0.5}}


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


def test_done_and_failed_are_told_of_the_studys_own_points_only(store: StudyStore) -> None:
    store.publish(record(study().points[0].id))
    store.publish_failure(failure(study().points[1].id))
    other = study("3, 4")
    assert store.done(other) == set()
    assert store.failures(other) == set()


def test_a_point_killed_between_its_result_and_the_end_of_its_failure_is_done(store: StudyStore) -> None:
    point = study().points[0].id
    store.publish_failure(failure(point))
    store.results.write(point, record(point))  # killed here
    assert store.done(study()) == {point}
    assert store.failures(study()) == set()


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
    with pytest.raises(ValueError, match=r"is no store of a study \(it has no store\.json\)"):
        StudyStore(tmp_path)
    with pytest.raises(ValueError, match="is no store of a study"):
        StudyStore(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="--store"):
        StudyStore.make(tmp_path / "file" / "store", study())


def test_a_store_of_a_newer_program_is_refused_and_left_alone(store: StudyStore) -> None:
    head = store.folder / "store.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"version": 3}), encoding="utf-8")
    before = head.read_bytes()
    for attempt in (lambda: StudyStore(store.folder), lambda: StudyStore.make(store.folder, study())):
        with pytest.raises(ValueError, match=r"another version .*store version 3.* reads 2"):
            attempt()
    assert head.read_bytes() == before


def test_the_store_of_another_study_is_refused(store: StudyStore) -> None:
    with pytest.raises(ValueError, match="holds the study 's', not 'other'; give another folder"):
        StudyStore.make(store.folder, study(name="other"))
    head = store.folder / "store.json"
    head.write_text(head.read_text(encoding="utf-8").replace("rehearsal", "risk"), encoding="utf-8")
    with pytest.raises(ValueError, match="holds the experiment 'risk', not 'rehearsal'"):
        StudyStore.make(store.folder, study())


MAKERS = """
import os, sys
from multiprocessing import get_context
from pathlib import Path
from qrt_tn.studies.config import parse_study
from qrt_tn.studies.store import StudyStore
text = 'name = "s"\\nexperiment = "rehearsal"\\n'
def make(folders, gate):
    gate.wait()
    for folder in folders:
        study = parse_study(text, "s.toml")
        StudyStore.make(folder, study).keep(study)
        (folder / "runners").mkdir(exist_ok=True)
if __name__ == "__main__":
    context = get_context("fork")
    gate = context.Barrier(8)
    folders = [Path(sys.argv[1]) / str(number) for number in range(40)]
    made = [context.Process(target=make, args=(folders, gate)) for _ in range(8)]
    [one.start() for one in made]
    [one.join() for one in made]
    sys.exit(max(abs(one.exitcode) for one in made))
"""


def test_eight_runners_may_make_one_store_at_once(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", MAKERS, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert {StudyStore(folder).study().digest for folder in tmp_path.iterdir()} == {
        parse_study('name = "s"\nexperiment = "rehearsal"\n', "s.toml").digest
    }


# the study in its store


def test_a_store_knows_its_study_and_every_earlier_one(store: StudyStore) -> None:
    later = study("1, 2, 3, 4")
    store.keep(later)
    assert store.study().by_id.keys() == later.by_id.keys()
    assert (store.study().source, store.study().quick) == ("s.toml", False)
    assert {path.stem for path in (store.folder / "history").iterdir()} == {study().digest, later.digest}
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


def test_a_store_without_a_study_says_so(tmp_path: Path) -> None:
    made = StudyStore.make(tmp_path / "store", study())
    with pytest.raises(ValueError, match="holds no study yet; give the study's file"):
        made.study()
    (made.folder / "study.json").write_text('{"dig', encoding="utf-8")
    with pytest.raises(ValueError, match="holds no study yet"):
        made.study()


def test_beside_a_running_study_only_one_with_all_its_points_may_run(store: StudyStore) -> None:
    running = this_runner(study().digest)
    with Registration(store.runners, running):
        for well in (study(), study("1, 2, 3, 4"), study("3, 2, 1, 7", extra="[resources]\nminutes = 3\n")):
            store.check_beside(well)
        with pytest.raises(ValueError, match="2 of its points are not in the file any more") as error:
            store.check_beside(study("1, 4"))
        assert f"process {os.getpid()} on {running.host}" in str(error.value)
        with pytest.raises(ValueError, match="adding points is fine"):
            store.check_beside(study(extra="[fixed]\nsteps = 2\n"))
    store.check_beside(study("1, 4"))


def test_a_dead_runners_study_is_in_nobodys_way(store: StudyStore) -> None:
    dead = this_runner(study().digest)
    with Registration(store.runners, dead):
        path = store.runners.path(dead.token)
        facts = json.loads(path.read_text(encoding="utf-8")) | {"born": "1"}
        path.write_text(json.dumps(facts), encoding="utf-8")
        store.check_beside(study("4"))


def test_a_copy_of_a_store_is_a_store(store: StudyStore, tmp_path: Path) -> None:
    point = study().points[0].id
    store.publish(record(point))
    shutil.copytree(store.folder, tmp_path / "copy", symlinks=True)
    assert StudyStore(tmp_path / "copy").done(study()) == {point}
    assert StudyStore(tmp_path / "copy").study().digest == study().digest
