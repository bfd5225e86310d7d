"""Submissions: whole or not at all, not twice, and remembered."""

import json
import os
import pickle
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from qrt_tn.studies.cluster import Request, cancel, pending, preview, submissions, submit, tasks_of
from qrt_tn.studies.cluster.script import guarded
from qrt_tn.studies.config import load_study
from qrt_tn.studies.store import StudyStore


def line(job, task, state, restarts=0, reason="None"):
    """A line of squeue in the columns that are asked for."""
    return f"{job:>24}{task:>24}{state:>24}{restarts:>12}{reason:>64}\n"


def test_scripts_study_and_record(slurm, study_file, tmp_path):
    file = study_file(numbers=(1, 2, 4), ranks="number")
    study = load_study(file)
    store = tmp_path / "a store"
    made = submit(study, store, Request(partition="gpu"), command="qrt-tn study submit tried.toml")
    assert made.jobs == ("101", "102", "103")
    assert made.folder.parent == store / "slurm"
    assert (made.folder / "study.toml").read_text() == file.read_text()
    names = [f"group-{group}.sbatch" for group in range(3)]
    assert slurm.calls("sbatch") == [["--parsable", name] for name in names]
    for name in names:
        assert "#SBATCH --partition=gpu\n" in (made.folder / name).read_text()
    facts = json.loads((made.folder / "submission.json").read_text())
    assert (facts["format"], facts["version"], facts["complete"]) == ("qrt-tn.submission", 1, True)
    assert [sent["job"] for sent in facts["sent"]] == ["101", "102", "103"]
    assert facts["command"] == "qrt-tn study submit tried.toml"
    assert facts["options"]["partition"] == "gpu"
    assert facts["digest"] == study.digest
    assert [one.jobs for one in submissions(store)] == [made.jobs]
    assert StudyStore(store).study().digest == study.digest


def test_only_what_is_pending(slurm, study_file, tmp_path):
    study = load_study(study_file(numbers=(1, 2, 3)))
    store = StudyStore.make(tmp_path / "s", study)
    first, second, third = (point.id for point in study.points)
    store.publish({"id": first})
    store.publish_failure({"id": second})
    assert pending(study, store) == [third]
    made = submit(study, store.folder, Request(), command="")
    assert [(sent.tasks, sent.points) for sent in made.sent] == [(1, 1)]
    store.publish({"id": third})
    said = "no points are left to run but 1 failed: submit them again with --failed"
    with pytest.raises(ValueError, match=said):
        submit(study, store.folder, Request(), command="")
    with pytest.raises(ValueError, match=said):
        preview(study, store.folder, Request())
    store.publish({"id": second})
    for failed in (False, True):
        with pytest.raises(ValueError, match="no points of tried are left to run, as all are done"):
            submit(study, store.folder, Request(), command="", failed=failed)


def test_failed_points_go_again_if_asked(slurm, study_file, tmp_path):
    study = load_study(study_file(numbers=(1, 2, 3)))
    store = StudyStore.make(tmp_path / "s", study)
    first, second, third = (point.id for point in study.points)
    store.publish({"id": first})
    store.publish_failure({"id": second})
    assert pending(study, store, failed=True) == [second, third]
    ((array, script),) = preview(study, store.folder, Request(), failed=True)
    assert array.points == 2
    assert " --failed-before " in script
    before = datetime.now(UTC).replace(microsecond=0)
    made = submit(study, store.folder, Request(), command="", failed=True)
    assert [(sent.tasks, sent.points) for sent in made.sent] == [(2, 2)]
    script = (made.folder / "group-0.sbatch").read_text()
    (told,) = re.findall(r"^start .* --failed-before (\S+)$", script, re.MULTILINE)
    assert told == made.date
    assert before <= datetime.fromisoformat(told) <= datetime.now(UTC)
    # without it, what failed stays as it is
    made = submit(study, store.folder, Request(), command="")
    assert [sent.points for sent in made.sent] == [1]
    assert "--failed-before" not in (made.folder / "group-0.sbatch").read_text()


@pytest.mark.parametrize("via", ["sbatch", "submitit"])
def test_a_place_that_slurm_takes_for_a_pattern(slurm, study_file, tmp_path, monkeypatch, via):
    monkeypatch.setattr("qrt_tn.studies.cluster.through_submitit.check_installed", lambda: None)
    study = load_study(study_file())
    store = tmp_path / "100%j" / "s"
    with pytest.raises(ValueError, match="100%j/s holds a %, which SLURM replaces"):
        submit(study, store, Request(via=via), command="")
    with pytest.raises(ValueError, match="100%j/s holds a %, which SLURM replaces"):
        preview(study, store, Request(via=via))
    assert not store.parent.exists()
    assert slurm.calls("sbatch") == []


def test_the_largest_array_of_the_cluster(slurm, study_file, tmp_path):
    study = load_study(study_file(numbers=range(30)))
    with pytest.raises(ValueError, match="tasks is 12; this cluster's arrays have at most 11"):
        submit(study, tmp_path / "s", Request(tasks=12), command="")
    assert not (tmp_path / "s" / "slurm").exists()
    made = submit(study, tmp_path / "s", Request(), command="")
    assert "#SBATCH --array=0-10\n" in (made.folder / "group-0.sbatch").read_text()


def test_a_second_array_that_is_refused_takes_the_first_back(slurm, study_file, tmp_path):
    slurm.tell(sbatch=[[0, "101\n"], [1, "sbatch: error: invalid account"]])
    study = load_study(study_file(numbers=(1, 2), ranks="number"))
    with pytest.raises(
        ValueError, match=r"invalid account; nothing was submitted \(the jobs 101, sent before"
    ):
        submit(study, tmp_path / "s", Request(), command="")
    assert slurm.calls("scancel") == [["101"]]
    assert list((tmp_path / "s" / "slurm").iterdir()) == []


def test_what_cannot_be_taken_back_is_remembered(slurm, study_file, tmp_path):
    slurm.tell(sbatch=[[0, "101\n"], [1, "no"]], scancel=[[1, "controller down"]])
    study = load_study(study_file(numbers=(1, 2), ranks="number"))
    with pytest.raises(
        ValueError, match=r"the jobs 101, sent before, could not be cancelled.*controller down"
    ):
        submit(study, tmp_path / "s", Request(), command="")
    (kept,) = submissions(tmp_path / "s")
    assert (kept.jobs, kept.complete) == (("101",), False)


def test_a_first_array_that_is_refused_leaves_nothing(slurm, study_file, tmp_path):
    slurm.tell(sbatch=[[1, "sbatch: error: invalid partition\n specified"]])
    with pytest.raises(ValueError, match=r"sbatch failed: sbatch: error: invalid partition specified$"):
        submit(load_study(study_file()), tmp_path / "s", Request(), command="")
    assert slurm.calls("scancel") == []
    assert list((tmp_path / "s" / "slurm").iterdir()) == []


def test_not_twice_unless_asked(slurm, study_file, tmp_path):
    study = load_study(study_file())
    submit(study, tmp_path / "s", Request(), command="")
    slurm.tell(squeue=[[0, line(101, 0, "RUNNING") + line(101, 1, "PENDING")]])
    with pytest.raises(ValueError, match=r"tasks in SLURM already \(1 running, 1 pending.*jobs 101.*--again"):
        submit(study, tmp_path / "s", Request(), command="")
    assert submit(study, tmp_path / "s", Request(), command="", again=True).jobs == ("102",)
    slurm.tell(squeue=[[0, line(101, 0, "COMPLETED") + line(555, 1, "RUNNING")]])
    assert submit(study, tmp_path / "s", Request(), command="").jobs == ("103",)


def test_tasks_of_another_version_of_the_study(slurm, study_file, tmp_path):
    submit(load_study(study_file(numbers=(1, 2))), tmp_path / "s", Request(), command="")
    slurm.tell(squeue=[[0, line(101, 0, "RUNNING")]])
    with pytest.raises(ValueError, match=r"jobs 101\); those tasks take all pending points; wait"):
        submit(load_study(study_file(numbers=(1, 2))), tmp_path / "s", Request(), command="")
    grown = load_study(study_file(numbers=(1, 2, 3)))
    with pytest.raises(ValueError, match="those tasks know only the points of the study as it was; wait"):
        submit(grown, tmp_path / "s", Request(), command="")


def test_not_blindly_unless_asked(slurm, study_file, tmp_path):
    study = load_study(study_file())
    submit(study, tmp_path / "s", Request(), command="")
    slurm.tell(squeue=[[1, "Socket timed out"]])
    with pytest.raises(
        ValueError, match=r"cannot tell whether .*: squeue failed: Socket timed out; .*--again"
    ):
        submit(study, tmp_path / "s", Request(), command="")
    assert len(slurm.calls("sbatch")) == 1
    assert submit(study, tmp_path / "s", Request(), command="", again=True).jobs == ("102",)


def test_preview_writes_nothing_and_needs_no_cluster(no_slurm, study_file, tmp_path):
    ((array, script),) = preview(load_study(study_file()), tmp_path / "s", Request())
    assert array.tasks == 3
    assert "#SBATCH --array=0-2\n" in script
    assert not (tmp_path / "s").exists()


def test_without_slurm(no_slurm, study_file, tmp_path):
    with pytest.raises(ValueError, match="scontrol is not installed here; call this on a login node"):
        submit(load_study(study_file()), tmp_path / "s", Request(), command="")
    assert not (tmp_path / "s").exists()


def test_submitit_is_told_the_same(slurm, study_file, tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install 'qrt-tn[slurm]'")
    slurm.tell(sbatch=[[0, "Submitted batch job 101\n"]], srun=[[0, ""]])
    study = load_study(study_file(numbers=(1, 2)))
    request = Request(via="submitit", gpus=2, setup=("module load cuda",))
    made = submit(study, tmp_path / "s", request, command="", failed=True)
    assert made.jobs == ("101",)
    folder = made.folder / "group-0"
    script, *_ = folder.glob("*.sh")  # a copy for each of its tasks
    assert "\n".join(guarded(request.setup)) in script.read_text()
    assert "#SBATCH --gpus-per-task=2\n" in script.read_text()
    for path in folder.glob("*_submitted.pkl"):
        command = pickle.loads(path.read_bytes()).function.command
        assert command[-4:] == ["--gpus", "2", "--failed-before", made.date]
    assert len(list(folder.glob("*_submitted.pkl"))) == 2


def test_without_submitit(slurm, study_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package submitit; pip install 'qrt-tn\[slurm\]'"):
        submit(load_study(study_file()), tmp_path / "s", Request(via="submitit"), command="")


# states


def sent(slurm, study_file, tmp_path):
    store = tmp_path / "s"
    submit(load_study(study_file(numbers=range(8))), store, Request(), command="")
    return store


def states(store):
    return tasks_of(submissions(store)).counts


def test_states(slurm, study_file, tmp_path):
    store = sent(slurm, study_file, tmp_path)
    lines = [line(101, 0, "RUNNING"), line(101, 1, "PENDING", reason="Priority")]
    lines += [line(101, 2, "PENDING", 2, "BeginTime"), line(101, 3, "COMPLETED"), line(101, 4, "FAILED")]
    slurm.tell(squeue=[[0, "".join([*lines, line(101, 5, "COMPLETING", 1), line(999, 0, "RUNNING")])]])
    found = {"running": 2, "pending": 1, "requeued": 1, "completed": 1, "failed": 1, "ended": 2}
    assert states(store) == found
    tasks = tasks_of(submissions(store))
    assert (tasks.live, tasks.jobs, tasks.reasons) == (4, ("101",), {"Priority": 1, "BeginTime": 1})
    # accounts tell of those that squeue has forgotten, and are not asked about those that it knows
    accounts = "101_3|FAILED\n101_6|COMPLETED\n101_7|CANCELLED by 0\n"
    slurm.tell(sacct=[[0, accounts]])
    del found["ended"]
    assert states(store) == found | {"completed": 2, "cancelled": 1}
    slurm.tell(squeue=[[0, "".join([line(101, task, "CANCELLED") for task in range(8)])]])
    assert states(store) == {"cancelled": 8}


def test_states_without_answers(slurm, study_file, tmp_path, monkeypatch):
    assert states(tmp_path) == {}
    store = sent(slurm, study_file, tmp_path)
    slurm.tell(squeue=[[1, "Unable to contact slurm controller"]])
    assert states(store) == {}
    assert "Unable to contact" in str(tasks_of(submissions(store)))
    (tmp_path / "fakes" / "bin" / "squeue").write_text("#!/bin/sh\nexec sleep 5\n")
    assert "no answer" in tasks_of(submissions(store), patience=0.2).note
    (tmp_path / "fakes" / "bin" / "squeue").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "fakes" / "bin"))
    assert states(store) == {}
    assert "not installed" in tasks_of(submissions(store)).note


def test_damaged_and_newer_records_are_passed_over(slurm, study_file, tmp_path):
    store = sent(slurm, study_file, tmp_path)
    for name, text in (("a", "{"), ("b", '{"format": "other"}'), ("c", "[]")):
        (store / "slurm" / name).mkdir()
        (store / "slurm" / name / "submission.json").write_text(text)
    assert len(submissions(store)) == 1


# cancelling


def test_cancel_waits_and_frees(slurm, study_file, tmp_path):
    store = sent(slurm, study_file, tmp_path)
    running = [0, line(101, 0, "RUNNING") + line(101, 1, "PENDING")]
    before = len(slurm.calls("squeue"))
    slurm.tell(squeue=[*[running] * (before + 1), [0, line(101, 0, "COMPLETING")], [0, ""]])
    said = []
    done = cancel(store, say=said.append)
    assert (done.jobs, done.tasks, done.left) == (("101",), 2, 8)
    assert slurm.calls("scancel") == [["101"]]
    assert len(said) == 2
    assert cancel(store).tasks == 0
    assert len(slurm.calls("scancel")) == 1


def test_cancel_gives_up(slurm, study_file, tmp_path):
    store = sent(slurm, study_file, tmp_path)
    slurm.tell(squeue=[[0, line(101, 0, "RUNNING")]])
    with pytest.raises(ValueError, match="tasks have not ended within 0 s"):
        cancel(store, patience=0)
    slurm.tell(squeue=[[1, "down"]])
    with pytest.raises(ValueError, match="cannot cancel: squeue failed: down"):
        cancel(store)


def test_cancel_of_what_was_not_submitted(slurm, study_file, tmp_path):
    with pytest.raises(ValueError, match="is no store of a study"):
        cancel(tmp_path / "s")
    StudyStore.make(tmp_path / "s", load_study(study_file()))
    with pytest.raises(ValueError, match=r"nothing of .* was submitted"):
        cancel(tmp_path / "s")


# the command line


def call(*arguments, cwd):
    command = [sys.executable, "-m", "qrt_tn.studies.cli", "study", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=dict(os.environ))


def test_command_line(slurm, study_file, tmp_path):
    file = study_file()
    done = call("submit", file, "--time", "2:00:00", "--module", "cuda", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "module load cuda" in done.stdout
    assert slurm.calls("sbatch") == []
    done = call("submit", file, "--dry-run", "--failed", "--gpus", 2, cwd=tmp_path)
    assert " --gpus 2 --failed-before 2" in done.stdout
    done = call("submit", file, "--dry-run", "--store", "a%j", cwd=tmp_path)
    assert done.returncode == 2
    assert "a%j holds a %, which SLURM replaces" in done.stderr
    done = call("submit", file, "--follow", cwd=tmp_path)
    assert "job 101: 3 tasks for 3 points (group 0)" in done.stdout
    assert "nothing is at work; go on: qrt-tn study resume runs/tried" in done.stdout
    assert len(submissions(tmp_path / "runs" / "tried")) == 1
    done = call("cancel", Path("runs") / "tried", cwd=tmp_path)
    assert done.stdout == "cancelled 0 tasks; 3 points are left to run\n"
    done = call("submit", file, "--time", "soon", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("qrt-tn: time is 'soon'; give minutes")
