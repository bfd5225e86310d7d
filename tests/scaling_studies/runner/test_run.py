import json
import os
from pathlib import Path
from typing import Any

import pytest

from qrt_tn.studies.config import Study
from qrt_tn.studies.config.points import order
from qrt_tn.studies.experiments.catalogue import Context
from qrt_tn.studies.experiments.rehearsal.run import rehearse
from qrt_tn.studies.experiments.rehearsal.settings import Rehearsal
from qrt_tn.studies.runner import Room, run_point
from qrt_tn.studies.runner import run as run_room
from qrt_tn.studies.runner import run_study as run_here
from qrt_tn.studies.runner.process import launcher_missing
from qrt_tn.studies.runner.watching import State
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_results
from qrt_tn.studies.store.work import open_work
from tests.scaling_studies.runner.runs import Watch, attempts, numbers, records, run_study, study


def row(record: dict[str, Any]) -> dict[str, Any]:
    """The one row of a record."""
    (found,) = record["tables"]["points"]
    return dict(found)


def values(found: dict[int, dict[str, Any]]) -> dict[int, str]:
    """What does not depend on the moment, bit by bit."""
    return {n: json.dumps([row(record)[name] for name in ("value", "ranks")]) for n, record in found.items()}


def test_every_point_is_done_once(place: Path) -> None:
    asked = study(numbers(1, 2, 3), head="seeds = 2\n")
    summary = run_study(asked, place)
    assert (summary.finished, summary.failed, summary.left, summary.stopped) == (6, 0, 0, None)
    store = StudyStore(place)
    assert store.done(asked) == asked.by_id.keys()
    assert attempts(place, asked) == 6 * [1]
    again = run_study(asked, place)
    assert (again.finished, again.left) == (0, 0)
    assert attempts(place, asked) == 6 * [1]
    # nothing is left but results
    for folder in ("work", "locks"):
        assert list((place / folder).iterdir()) == []


def test_a_record_tells_all_of_its_point(place: Path) -> None:
    asked = study(numbers(4), head="seeds = [9]\n")
    run_study(asked, place)
    (point,) = asked.points
    record = StudyStore(place).results.read(point.id)
    assert record is not None
    expected = rehearse(Rehearsal(number=4, seconds=0.0), 9, Context(Path("/nonexistent")))
    found = row(record)
    assert (found["value"], found["ranks"]) == (expected["value"], expected["ranks"])
    assert found.keys() == expected.keys()
    assert record["parameters"] == dict(point.parameters)
    assert {
        name: record[name] for name in ("format", "version", "id", "study", "experiment", "revision")
    } == {
        "format": "qrt-tn.point",
        "version": 2,
        "id": point.id,
        "study": "s",
        "experiment": "rehearsal",
        "revision": 1,
    }
    assert (record["seed"], record["attempt"], record["ranks"], record["job"]) == (9, 1, 1, None)
    assert record["started"] <= record["finished"]
    assert record["wall_seconds"] > 0
    assert record["peak_bytes"] >= record["baseline_bytes"] > 0
    assert record["device"]["gpu"] is None
    assert record["commit"] == "abc+"
    assert {"python", "numpy"} <= record["versions"].keys()
    log = (place / record["log"]).read_text(encoding="utf-8")
    assert log.startswith("=== attempt 1, ")
    assert "number=4" in log
    # records go round the world
    assert os.uname().nodename not in json.dumps(record)
    assert str(place) not in json.dumps(record)


def test_values_added_to_an_axis_run_alone(place: Path) -> None:
    run_study(study(numbers(1, 2)), place)
    before = {number: record["finished"] for number, record in records(place).items()}
    wider = study('[axes]\nnumber = [3, 2, 1]\nlabel = [""]\n', head="seeds = 1\n")
    assert run_study(wider, place).finished == 1
    after = records(place)
    assert after.keys() == {1, 2, 3}
    assert {number: after[number]["finished"] for number in before} == before
    assert run_study(study(numbers(2)), place).finished == 0
    assert run_study(study(numbers(1, 2), head="seeds = 2\n"), place).finished == 2


def test_results_are_the_same_bits_in_every_run(place: Path, tmp_path: Path) -> None:
    asked = study(numbers(1, 2, 3))
    run_study(asked, place)
    run_study(asked, tmp_path / "other", room=Room(cores=(0,), gpus=[], memory=2**36))
    one, other = records(place), records(tmp_path / "other")
    assert values(one) == values(other)


# failures


def test_every_way_to_end_badly_is_told_with_its_kind(place: Path) -> None:
    endings = ("well", "error", "exit", "kill", "nan", "unavailable")
    asked = study(f"[axes]\nending = {list(endings)}\n")
    watch = Watch()
    summary = run_study(asked, place, watch=watch)
    assert (summary.finished, summary.failed, summary.unavailable, summary.left) == (1, 4, 1, 0)
    store = StudyStore(place)
    found = {}
    for point in asked.points:
        failure = store.failed.read(point.id)
        if failure is not None:
            found[point.parameters["ending"]] = (failure["kind"], failure["reason"])
            assert failure["format"] == "qrt-tn.failure"
            # what vanished may have been the victim of something larger, so it is tried again
            tries = 3 if failure["kind"] == "killed" else 1
            assert (failure["attempt"], failure["parameters"]) == (tries, dict(point.parameters))
            assert ("RuntimeError" in str(failure["traceback"])) == (failure["kind"] == "error")
            assert (place / failure["log"]).is_file()
    assert found == {
        "error": ("error", "RuntimeError: this point was asked to fail"),
        "exit": ("killed", "the process ended with exit code 3 before it had a result, 3 times"),
        "kill": ("killed", "the process was ended by SIGKILL; out of memory, perhaps, 3 times"),
        "nan": ("metrics", "the metric value is nan"),
        "unavailable": ("unavailable", "this point needs what no machine has; leave it out"),
    }
    assert any(
        "failed (metrics): ending=nan, seed=0: the metric value is nan" in line for line in watch.lines
    )
    # they stay failed until somebody asks
    later = run_study(asked, place)
    assert (later.failed, later.failed_before) == (0, 4)
    assert attempts(place, asked) == [1, 1, 3, 3, 1, 1]
    error = asked.points[1].id
    assert run_study(asked, place, retry={error}).failed == 1
    assert attempts(place, asked) == [1, 2, 3, 3, 1, 1]
    again = run_study(asked, place, retry=True)
    assert (again.finished, again.failed, again.unavailable) == (0, 4, 1)
    assert attempts(place, asked) == [1, 3, 6, 6, 2, 2]
    third = store.failed.read(error)
    assert third is not None
    assert third["attempt"] == 3


def test_a_point_that_succeeds_when_it_is_tried_again_is_done(place: Path) -> None:
    asked = study(numbers(1, 2))
    point = asked.points[0].id
    failure = {"id": point, "kind": "killed", "reason": "the node was lost", "attempt": 3}
    StudyStore.make(place, asked).publish_failure(failure)
    assert run_study(asked, place).finished == 1
    assert StudyStore(place).failures(asked) == {point}
    assert run_study(asked, place, retry=True).finished == 1
    assert records(place)[1]["attempt"] == 4
    assert StudyStore(place).failed.ids() == set()


def test_a_point_that_takes_too_long_is_ended_and_told(place: Path) -> None:
    asked = study("[axes]\nseconds = [60.0]\n[resources]\nminutes = 0.01\n", fixed="")
    summary = run_study(asked, place)
    assert (summary.finished, summary.failed) == (0, 1)
    failure = StudyStore(place).failed.read(asked.points[0].id)
    assert failure is not None
    assert (failure["kind"], failure["traceback"]) == ("timeout", None)
    assert failure["reason"] == "it took more than 0.01 minutes; raise resources.minutes"
    assert failure["wall_seconds"] >= 0.6


def test_a_damaged_record_is_reported_and_its_point_runs_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_room, "GLANCE_AT_FILES", 0.0)
    asked = study(numbers(1, 2, 3), fixed="[fixed]\nseconds = 0.4\n")
    run_study(asked, place)
    whole = records(place)
    store, point = StudyStore(place), asked.points[1].id
    path = store.results.path(point)
    path.write_bytes(path.read_bytes()[:50])
    assert read_results(store)[1] == [point]
    assert run_study(asked, place).finished == 1
    assert attempts(place, asked) == [1, 2, 1]
    assert values(records(place)) == values(whole)


# what runs beside what


def test_points_run_beside_each_other_as_memory_allows(place: Path) -> None:
    asked = study(
        "[axes]\nnumber = [1, 2, 3, 4]\n[resources]\nmemory = 1\n", fixed="[fixed]\nseconds = 0.3\n"
    )
    watch = Watch()
    run_study(asked, place, room=Room(cores=(0, 1, 2, 3), gpus=[], memory=2 * 2**30), watch=watch)
    assert watch.most == 2
    assert len(records(place)) == 4
    last = watch.states[-1]
    assert (last.total, last.done, last.failed, last.left, last.ended_now) == (4, 4, 0, 0, 4)


def test_every_point_sees_its_own_gpu_and_two_run_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    text = "[resources]\ngpus = 1\nmemory = 0.1\n"
    asked = study(numbers(1, 2, 3, 4) + text, fixed="[fixed]\nseconds = 0.3\n")
    watch = Watch()
    run_here(asked, place, room=Room(cores=(0, 1, 2, 3), memory=2**36), watch=watch)
    assert watch.most == 2
    assert {row(record)["gpus_seen"] for record in records(place).values()} == {1}
    wide = study(numbers(7) + "[resources]\ngpus = 2\n")
    run_here(wide, place, room=Room(cores=(0,), memory=2**36))
    assert row(records(place)[7])["gpus_seen"] == 2
    without = study(numbers(8))
    run_here(without, place, room=Room(cores=(0,), memory=2**36))
    assert row(records(place)[8])["gpus_seen"] == 0


def test_needs_that_no_point_can_have_here_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no point that is left can run here: 2 need 3 GPUs"):
        run_study(study(numbers(1, 2) + "[resources]\ngpus = 3\n"), place)
    monkeypatch.setenv("QRT_TN_MPIEXEC", "no-such-launcher -n {ranks}")
    with pytest.raises(ValueError, match=r"1 need 2 MPI ranks, and there is no no-such-launcher"):
        run_study(study("[resources]\nranks = 2\n"), place)
    assert list((place / "locks").iterdir()) == []


def test_points_for_another_machine_are_left_and_told(place: Path) -> None:
    asked = study(numbers(0, 1, 2) + '[resources]\ngpus = "number"\n')
    watch = Watch()
    summary = run_study(asked, place, watch=watch)
    assert (summary.finished, summary.left, sum(summary.refused.values())) == (1, 2, 2)
    assert any("1 points are left for another machine: they need 2 GPUs" in line for line in watch.lines)
    with pytest.raises(ValueError, match="no point that is left can run here"):
        run_study(asked, place)


def test_a_group_is_the_points_of_one_need(place: Path) -> None:
    asked = study(numbers(1, 2) + '[resources]\ncores = "number"\n')
    assert run_study(asked, place, group=1).finished == 1
    assert records(place).keys() == {2}
    with pytest.raises(ValueError, match="group is 2; this study has groups 0 to 1"):
        run_study(asked, place, group=2)
    assert run_study(asked, place, group=0).finished == 1


def test_two_ranks_give_the_value_of_one(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    if launcher_missing():
        pytest.skip(f"{launcher_missing()}")
    axes = numbers(6)
    run_study(study(axes + "[resources]\nranks = 2\n", fixed="[fixed]\nseconds = 0.0\nsteps = 2\n"), place)
    run_study(study(axes, fixed="[fixed]\nseconds = 0.0\nsteps = 2\n"), tmp_path / "alone")
    together, alone = records(place)[6], records(tmp_path / "alone")[6]
    assert (together["ranks"], row(together)["ranks"], row(alone)["ranks"]) == (2, 2, 1)
    assert row(together)["value"] == row(alone)["value"]
    assert together["id"] == alone["id"]


# beside other runs


def host() -> str:
    return os.uname().nodename


def begin_elsewhere(place: Path, point: str, owner: str, step: int) -> Path:
    """What another task has kept of a point."""
    kept = StudyStore(place).work(point) / owner / "kept"
    kept.mkdir(parents=True)
    (kept / "step").write_text(str(step), encoding="utf-8")
    (kept / ".step.x7").write_text("half", encoding="utf-8")
    return kept / "step"


def test_tasks_share_the_points_and_the_last_one_does_what_is_left(place: Path) -> None:
    asked = study(numbers(*range(1, 10)))
    ids = order(asked.by_id)
    assert run_study(asked, place, order=[ids[4]]).finished == 1
    watch = Watch()
    one = Room(cores=(0,), gpus=[], memory=2**36)
    summary = run_study(asked, place, task=(0, 3), watch=watch, room=one)
    assert (summary.finished, summary.left) == (8, 0)
    started = sorted((record["started"], record["id"]) for record in records(place).values())
    assert [name for _, name in started] == [
        ids[4],
        ids[0],
        ids[3],
        ids[6],
        ids[8],
        ids[7],
        ids[5],
        ids[2],
        ids[1],
    ]
    # of its own share first, then of all
    assert watch.states[0].left == 3
    assert watch.states[-1].left == 0
    assert attempts(place, asked) == 9 * [1]


def test_points_that_others_have_begun_come_last_and_are_copied(place: Path) -> None:
    asked = study(numbers(1, 2, 3), fixed="[fixed]\nseconds = 0.0\nsteps = 9\n")
    StudyStore.make(place, asked)
    first, second, _ = (point.id for point in asked.points)
    older = begin_elsewhere(place, first, "7_1@far", 3)
    os.utime(older, (1, 1))
    os.utime(older.parent, (1, 1))
    begin_elsewhere(place, first, "7_2@further", 8)
    begin_elsewhere(place, second, f"run@{host()}", 5)  # this run's own: not put off
    assert run_study(asked, place, room=Room(cores=(0,), gpus=[], memory=2**36)).finished == 3
    found = records(place)
    assert [found[number]["tables"]["points"][0]["resumed"] for number in (1, 2, 3)] == [8, 5, 0]
    assert found[2]["started"] < found[3]["started"] < found[1]["started"]
    assert list((place / "work").iterdir()) == []


def test_of_points_that_are_the_others_only_those_are_run_that_few_have_begun(place: Path) -> None:
    asked = study(numbers(1, 2, 3))
    StudyStore.make(place, asked)
    mine, *others = order(asked.by_id)
    for point, count in ((mine, 3), (others[0], 1), (others[1], 2)):
        for number in range(count):
            begin_elsewhere(place, point, f"7_{number}@far", 0)
    summary = run_study(asked, place, task=(0, 3), order=[mine, *others])
    assert (summary.finished, summary.left) == (2, 1)
    assert StudyStore(place).done(asked) == {mine, others[0]}


def test_what_another_task_ends_meanwhile_is_left_as_it_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_room, "GLANCE_AT_FILES", 0.0)
    asked = study(
        '[[zipped]]\nnumber = [1, 2, 3]\nending = ["error", "well", "well"]\nseconds = [0.2, 0.2, 60.0]\n',
        fixed="",
    )
    store = StudyStore.make(place, asked)

    class Other(Watch):
        def show(self, state: State) -> None:
            for one in state.running:
                if one.point.id not in store.results:
                    store.publish(
                        {"id": one.point.id, "parameters": dict(one.point.parameters), "tables": {}}
                    )

    summary = run_study(asked, place, watch=Other())
    assert (summary.finished, summary.failed, summary.left) == (0, 0, 0)
    assert summary.seconds < 30
    assert all(record["tables"] == {} for record in records(place).values())
    assert store.failed.ids() == set()
    assert list((place / "work").iterdir()) == []


def test_what_another_run_did_meanwhile_is_not_done_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study(numbers(1, 2))
    StudyStore.make(place, asked)
    choose = run_room.choose

    def late(study: Study, store: StudyStore, *arguments: Any, **options: Any) -> Any:
        chosen = choose(study, store, *arguments, **options)
        for point, publish in zip(asked.points, (store.publish, store.publish_failure), strict=True):
            publish({"id": point.id, "tables": {}, "kind": "error", "reason": "no"})
        return chosen

    monkeypatch.setattr(run_room, "choose", late)
    summary = run_study(asked, place)
    assert (summary.finished, summary.failed, summary.left) == (0, 0, 0)
    assert attempts(place, asked) == [0, 0]


def test_a_point_that_is_ended_as_it_is_begun_here_is_left_as_it_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study(numbers(1, 2))
    store = StudyStore.make(place, asked)

    def ended(folder: Path, owner: str) -> Path:
        own = open_work(folder, owner)
        if folder.name == asked.points[0].id:
            store.publish({"id": folder.name, "tables": {}})
        return own

    monkeypatch.setattr(run_room, "open_work", ended)
    assert run_study(asked, place).finished == 1
    assert store.done(asked) == asked.by_id.keys()


def test_a_second_run_on_this_machine_is_refused_and_a_task_is_not(place: Path) -> None:
    asked = study(numbers(1, 2))
    with StudyStore.make(place, asked).lock("run"):
        with pytest.raises(ValueError, match=r"is being run on this machine already \(run\)"):
            run_study(asked, place)
        assert run_study(asked, place, task=(0, 1)).finished == 2
    assert run_study(asked, place).left == 0


def test_one_point_is_run_whatever_became_of_it(place: Path) -> None:
    asked = study('[axes]\nending = ["well", "error"]\n')
    well, bad = asked.points
    assert run_point(asked, place, well) is None
    assert run_point(asked, place, bad) == "error: RuntimeError: this point was asked to fail"
    assert run_point(asked, place, bad) is not None
    assert run_point(asked, place, well) is None
    assert attempts(place, asked) == [1, 2]
    wide = study(numbers(7) + "[resources]\ngpus = 9\n")
    with pytest.raises(ValueError, match="it needs 9 GPUs"):
        run_point(wide, place, wide.points[0])


def test_an_edited_file_is_noticed_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_room, "GLANCE_AT_FILES", 0.0)
    asked = study(numbers(1, 2, 3), fixed="[fixed]\nseconds = 0.3\n")
    file = tmp_path / "s.toml"
    file.write_text(asked.text, encoding="utf-8")
    quiet, watch = Watch(), Watch()
    run_study(asked, tmp_path / "quiet", watch=quiet, file=file)
    file.write_text(asked.text + "# more\n", encoding="utf-8")
    run_study(asked, place, watch=watch, file=file)
    assert [line for line in quiet.lines if "changed" in line] == []
    (line,) = [line for line in watch.lines if "changed" in line]
    assert "goes on with what it read" in line
    assert len(records(place)) == 3


def test_a_rank_that_fails_ends_its_point_at_once(place: Path) -> None:
    if launcher_missing():
        pytest.skip(f"{launcher_missing()}")
    text = '[resources]\nranks = 2\nminutes = 2\n[axes]\nending = ["error"]\n'
    assert run_study(study(text), place).failed == 1
    store = StudyStore(place)
    (failure,) = (store.failed.read(point) for point in store.failed.ids())
    assert failure is not None
    assert failure["kind"] == "error"
    assert "this point was asked to fail" in failure["reason"]
    assert failure["reason"].startswith("rank ")


def test_a_failure_that_is_not_whole_is_tried_again(place: Path) -> None:
    asked = study('[axes]\nending = ["error"]\n')
    assert run_study(asked, place).failed == 1
    store = StudyStore(place)
    (point,) = store.failed.ids()
    store.failed.path(point).write_bytes(b"")
    assert run_study(asked, place).failed == 1
    found = store.failed.read(point)
    assert found is not None
    assert found["kind"] == "error"
    assert run_study(asked, place, retry=True).failed == 1
