"""Submissions: whole or not at all, not twice, and remembered; how they fare, and how they are taken back."""

import io
import json
import sys

import pytest
from rich.console import Console

from qrt_tn.studies import cli
from qrt_tn.studies.cli import study_status
from qrt_tn.studies.cluster import Request, cancel, pending, preview, submissions, submit, tasks_of
from qrt_tn.studies.config import load_study
from qrt_tn.studies.store import StudyStore


def line(job, task, state, restarts=0, reason="None"):
    """A line of squeue in the columns that are asked for."""
    return f"{job:>24}{task:>24}{state:>24}{restarts:>12}{reason:>64}\n"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "a store"


@pytest.fixture
def send(slurm, study_file, store):
    """A function that sends a study of these numbers."""

    def send(numbers=(1, 2, 3), request=None, ranks=1, **options):
        study = load_study(study_file(numbers=numbers, ranks=ranks))
        return submit(study, store, request or Request(), command="the command", **options)

    return send


def test_scripts_study_orders_and_record(slurm, send, store, tmp_path):
    made, folder = send((1, 2, 4), Request(partition="gpu"), ranks="number")
    assert made.jobs == ["101", "102", "103"]
    assert folder.parent == store / "slurm"
    assert (folder / "study.toml").read_text() == (tmp_path / "tried.toml").read_text()
    study = load_study(folder / "study.toml")
    names = [f"group-{group}.sbatch" for group in range(3)]
    assert slurm.calls("sbatch") == [["--parsable", name] for name in names]
    for group, name in enumerate(names):
        text = (folder / name).read_text()
        assert "#SBATCH --partition=gpu\n" in text
        assert f"order-{group}.txt'" in text
        assert (folder / f"order-{group}.txt").read_text() == f"{study.points[group].id}\n"
    facts = json.loads((folder / "submission.json").read_text())
    assert (facts["format"], facts["version"]) == ("qrt-tn.submission", 1)
    assert [sent["job"] for sent in facts["sent"]] == ["101", "102", "103"]
    assert (facts["command"], facts["options"]["partition"]) == ("the command", "gpu")
    assert [one.jobs for one in submissions(store)] == [made.jobs]
    assert StudyStore(store).study().digest == study.digest == made.digest


def test_an_order_does_not_depend_on_what_else_is_left(send, store):
    _, first = send(range(30))
    ids = (first / "order-0.txt").read_text().split()
    study = StudyStore(store).study()
    assert sorted(ids) == sorted(study.by_id)
    assert ids != [point.id for point in study.points]
    StudyStore(store).publish({"id": ids[7]})
    _, second = send(range(30))
    assert (second / "order-0.txt").read_text().split() == ids[:7] + ids[8:]


def test_only_what_is_pending(send, store, study_file, monkeypatch):
    study = load_study(study_file())
    kept = StudyStore.make(store, study)
    first, second, third = (point.id for point in study.points)
    kept.publish({"id": first})
    kept.publish_failure({"id": second})
    assert pending(study, kept) == [third]
    assert pending(study, kept, failed=True) == [second, third]
    made, folder = send()
    assert [(sent.tasks, sent.points) for sent in made.sent] == [(1, 1)]
    assert "--failed-before" not in (folder / "group-0.sbatch").read_text()
    date = "2026-01-02T03:04:05.678+00:00"
    monkeypatch.setattr(sys.modules["qrt_tn.studies.cluster.submit"], "_now", lambda: date)
    made, folder = send(failed=True)
    assert [(sent.tasks, sent.points) for sent in made.sent] == [(2, 2)]
    assert made.date == date
    assert f" --failed-before {date} " in (folder / "group-0.sbatch").read_text()
    kept.publish({"id": third})
    for again in (send, lambda: preview(study, store, Request(), [])):
        with pytest.raises(ValueError, match="left to run but 1 failed: submit them again with --failed"):
            again()
    kept.publish({"id": second})
    with pytest.raises(ValueError, match="no points of tried are left to run, as all are done"):
        send(failed=True)


@pytest.mark.parametrize("name", ["100%j", "back\\slash"])
def test_a_place_that_slurm_takes_for_a_pattern(slurm, study_file, tmp_path, name):
    with pytest.raises(ValueError, match=r"give another folder with --store"):
        submit(load_study(study_file()), tmp_path / name / "s", Request(), command="")
    assert not (tmp_path / name).exists()
    assert slurm.calls("sbatch") == []


def test_the_largest_array_of_the_cluster(send, store):
    with pytest.raises(ValueError, match="tasks is 12"):
        send(range(30), Request(tasks=12))
    assert not (store / "slurm").exists()
    _, folder = send(range(30))
    assert "#SBATCH --array=0-10\n" in (folder / "group-0.sbatch").read_text()


def test_an_array_that_is_refused_takes_the_first_back(slurm, send, store):
    slurm.tell(sbatch=[[1, "sbatch: error: invalid\n account"], [0, "101\n"], [1, "no"]])
    for taken in ([], [["101"]]):
        with pytest.raises(ValueError, match=r"sbatch failed: (sbatch: error: invalid account|no)$"):
            send((1, 2), ranks="number")
        assert slurm.calls("scancel") == taken
        assert list((store / "slurm").iterdir()) == []


def test_what_cannot_be_taken_back_is_remembered(slurm, send, store):
    slurm.tell(sbatch=[[0, "101\n"], [0, "what?"]], scancel=[[1, "controller down"]])
    with pytest.raises(ValueError, match=r"jobs 101, sent before, could not be cancelled.*controller down"):
        send((1, 2), ranks="number")
    assert [one.jobs for one in submissions(store)] == [["101"]]


def test_not_twice_unless_asked(slurm, send):
    send()
    slurm.tell(squeue=[[0, line(101, 0, "RUNNING") + line(101, 1, "PENDING")]])
    said = r"\(1 running, 1 pending, 1 ended; jobs 101\); those tasks take all pending points; .*--again"
    with pytest.raises(ValueError, match=said):
        send()
    with pytest.raises(ValueError, match="those tasks know only the points of the study as it was"):
        send((1, 2, 3, 4))
    slurm.tell(squeue=[[1, "Socket timed out"]])
    with pytest.raises(ValueError, match=r"cannot tell .*: squeue failed: Socket timed out; .*--again"):
        send()
    assert len(slurm.calls("sbatch")) == 1
    assert send(again=True)[0].jobs == ["102"]
    slurm.tell(squeue=[[0, line(101, 0, "COMPLETED") + line(555, 1, "RUNNING")]])
    assert send()[0].jobs == ["103"]


def test_without_slurm(no_slurm, study_file, store):
    study = load_study(study_file())
    with pytest.raises(ValueError, match="scontrol is not installed here; call this on a login node"):
        submit(study, store, Request(), command="")
    ((array, script),) = preview(study, store, Request(), ["tried.toml"])
    assert array.tasks == 3
    assert "#SBATCH --array=0-2\n" in script
    assert not store.exists()


# states


def test_states(slurm, send, store):
    assert tasks_of(submissions(store)).counts == {}
    send(range(8))
    lines = [line(101, 0, "RUNNING"), line(101, 1, "PENDING", reason="Priority")]
    lines += [line(101, 2, "PENDING", 2, "BeginTime"), line(101, 3, "COMPLETED"), line(101, 4, "TIMEOUT")]
    slurm.tell(squeue=[[0, "".join([*lines, line(101, 5, "COMPLETING", 1), line(999, 0, "RUNNING"), "\n"])]])
    tasks = tasks_of(submissions(store))
    assert tasks.counts == {
        "running": 2,
        "pending": 1,
        "requeued": 1,
        "completed": 1,
        "failed": 1,
        "ended": 2,
    }
    assert (tasks.live, tasks.jobs, tasks.reasons) == (4, ("101",), {"Priority": 1, "BeginTime": 1})
    slurm.tell(squeue=[[0, "".join(line(101, task, "CANCELLED") for task in range(8))]])
    assert tasks_of(submissions(store)).counts == {"cancelled": 8}


@pytest.mark.parametrize(("code", "said"), [(1, "squeue failed: down"), (None, "no answer in 15 s")])
def test_states_without_answers(slurm, send, store, code, said):
    send()
    slurm.tell(squeue=[(code, "down")])
    assert said in tasks_of(submissions(store)).note


def test_damaged_and_newer_records_are_passed_over(send, store):
    _, folder = send()
    newer = json.loads((folder / "submission.json").read_text()) | {"version": 2}
    for name, text in (("a", "{"), ("b", '{"format": "other"}'), ("c", "[]"), ("d", json.dumps(newer))):
        (store / "slurm" / name).mkdir()
        (store / "slurm" / name / "submission.json").write_text(text)
    assert len(submissions(store)) == 1


def test_a_failed_squeue_neither_ends_the_watch_nor_sends_anybody_away(slurm, send, store, monkeypatch):
    monkeypatch.setattr(study_status, "EVERY", 0.0)
    send()
    queued = [0, line(101, 0, "PENDING")]
    slurm.tell(squeue=[queued, [1, "timed out"], queued, [0, ""]])
    said = io.StringIO()
    study_status.follow_status(StudyStore(store).study(), store, Console(file=said, width=500))
    shown = said.getvalue().split("tried: ")[1:]
    assert ["qrt-tn study resume" in one for one in shown] == [False, False, False, True]
    assert "not known whether any wait or run, as squeue failed: timed out" in shown[1]
    assert len(slurm.calls("squeue")) == 4


# cancelling


def test_cancel_waits(slurm, send, store, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    send()
    running = [0, line(101, 0, "RUNNING") + line(101, 1, "PENDING")]
    slurm.tell(squeue=[running, [1, "busy"], [0, ""]])
    said = []
    tasks = cancel(store, say=said.append)
    assert (tasks.jobs, tasks.live) == (("101",), 2)
    assert slurm.calls("scancel") == [["101"]]
    assert len(said) == 2
    assert cancel(store).live == 0
    assert len(slurm.calls("scancel")) == 1


def test_cancel_gives_up(slurm, send, store, study_file):
    StudyStore.make(store, load_study(study_file()))
    with pytest.raises(ValueError, match=r"nothing of .* was submitted"):
        cancel(store)
    send()
    slurm.tell(squeue=[[0, line(101, 0, "RUNNING")]])
    with pytest.raises(ValueError, match="tasks have not ended within 0 s"):
        cancel(store, patience=0)
    slurm.tell(squeue=[[1, "down"]])
    with pytest.raises(ValueError, match="cannot cancel: squeue failed: down"):
        cancel(store)


def test_command_line(slurm, study_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["qrt-tn", "study", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        shown = capsys.readouterr()
        return stopped.value.code, shown.out, shown.err

    file = study_file()
    options = (
        "--time",
        "2:00:00",
        "--gpus",
        "a100:2",
        "--sbatch=--reservation=x",
        "--sbatch",
        "--mail-type=END",
    )
    code, out, _ = call("submit", file, *options, "--setup", "module load cuda", "--failed", "--dry-run")
    assert code == 0
    for said in ("\nmodule load cuda\n", "#SBATCH --gpus-per-task=a100:2\n", "#SBATCH --reservation=x\n"):
        assert said in out
    assert f"study run {file} --store runs/tried --plain" in out
    assert " --gpus 2 --failed-before 2" in out
    assert not (tmp_path / "runs").exists()
    for refused in (("--time", "soon"), ("--tasks", "0"), ("--gpus", "many"), ("--sbatch", "-x\n")):
        code, _, err = call("submit", file, *refused)
        assert (code, len(err.splitlines())) == (2, 1)
    code, out, _ = call("submit", file, "--follow")
    assert "job 101: 3 tasks for 3 points (group 0)" in out
    assert "nothing is at work; go on: qrt-tn study resume runs/tried" in out
    assert f"or as before: qrt-tn study submit {file} --follow" in out
    # a store knows its study
    assert "study run runs/tried --plain" in call("submit", "runs/tried", "--dry-run")[1]
    assert call("cancel", "runs/tried")[1] == "cancelled 0 tasks; 3 points are left to run\n"
