"""Sending a study's pending points to SLURM: all of its arrays, or none."""

import contextlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from qrt_tn.engine.files import atomic_path
from qrt_tn.studies.cluster.arrays import Array, arrays
from qrt_tn.studies.cluster.commands import call, largest_array
from qrt_tn.studies.cluster.request import Request
from qrt_tn.studies.cluster.script import batch_script
from qrt_tn.studies.cluster.submission import Sent, Submission, new_folder, submissions
from qrt_tn.studies.cluster.tasks import tasks_of
from qrt_tn.studies.config import Study
from qrt_tn.studies.store import StudyStore

DEFAULT_ARRAY = 1001  # SLURM's own limit, where a dry run finds no cluster to ask


def pending(study: Study, store: StudyStore, *, failed: bool = False) -> list[str]:
    """Ids of the points that are neither done nor failed, in the study's order; with `failed`, those too."""
    standing = store.standing(study)
    over = standing.done if failed else standing.done | standing.failed
    return [point.id for point in study.points if point.id not in over]


def preview(study: Study, store: Path, request: Request, *, failed: bool = False) -> list[tuple[Array, str]]:
    """The arrays and the scripts that `submit` would send; nothing is written.

    Args:
        study: the study.
        store: folder of its store, which need not exist.
        request: the options.
        failed: as for `submit`.

    Raises:
        ValueError: as `submit`; no points are left.
    """
    _check_place(store)
    try:
        largest = largest_array()
    except ValueError:
        largest = DEFAULT_ARRAY
    kept = StudyStore(store) if (store / "store.json").is_file() else None
    folder = store.resolve() / "slurm" / "DATE-TIME"
    before = _now() if failed else None
    return [
        (array, _script(array, request, study, folder, before))
        for array in _arrays(study, kept, request, largest, failed)
    ]


def submit(
    study: Study,
    store: Path,
    request: Request,
    *,
    command: str,
    again: bool = False,
    failed: bool = False,
    say: Callable[[str], None] = print,
) -> Submission:
    """Send the points of a study that are left.

    Every distinct need becomes one array. The study is frozen in the submission's folder, so editing its file
    does not change what is queued.

    Args:
        study: the study.
        store: folder of its store; made if it is not there.
        request: the options.
        command: the command line, for the record.
        again: send although tasks of this study are queued or at work; they would share the points.
        failed: also send the points that have failed by now, each once.
        say: takes lines for the user.

    Raises:
        ValueError: no points are left, tasks of this study are queued or at work already or squeue does not
            tell, SLURM is not here or refuses (arrays that it took before are cancelled again), or options
            or a folder that cannot be.
    """
    _check_place(store)
    if request.via == "submitit":
        from qrt_tn.studies.cluster.through_submitit import check_installed

        check_installed()
    largest = largest_array()
    kept = StudyStore.make(store, study)
    planned = _arrays(study, kept, request, largest, failed)
    if not again:
        _refuse_twice(store, study)
    kept.keep(study)
    folder = new_folder(store)
    made = Submission(
        folder=folder,
        study=study.name,
        digest=study.digest,
        quick=study.quick,
        via=request.via,
        command=command,
        options=asdict(request),
        date=_now(),
    )
    try:
        _write(folder / "study.toml", study.text)
        for array in planned:
            if warning := array.warning():
                say(warning)
            made = made.with_job(_send(array, request, study, folder, made.date if failed else None))
            made.write()
        made = Submission(**{**vars(made), "complete": True})
        made.write()
    except BaseException as error:
        raise _undone(made, error) from error
    return made


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _check_place(store: Path) -> None:
    """Raise where SLURM would take the place of its output for a pattern."""
    if "%" in str(store.resolve()):
        raise ValueError(
            f"{store.resolve()} holds a %, which SLURM replaces in paths of what tasks print; give another "
            "folder with --store"
        )


def _arrays(
    study: Study, kept: StudyStore | None, request: Request, largest: int, failed: bool
) -> tuple[Array, ...]:
    """The arrays of what is left; all of the study where there is no store yet."""
    if kept is None:
        return arrays(study, [point.id for point in study.points], request, largest)
    left = pending(study, kept, failed=failed)
    if left:
        return arrays(study, left, request, largest)
    if count := len(kept.failures(study)):
        raise ValueError(f"no points are left to run but {count} failed: submit them again with --failed")
    raise ValueError(f"no points of {study.name} are left to run, as all are done; add values to an axis")


def _refuse_twice(store: Path, study: Study) -> None:
    """Raise where tasks of this store are queued or at work, or may be."""
    known = submissions(store)
    tasks = tasks_of(known)
    if tasks.note is not None:
        raise ValueError(
            f"cannot tell whether tasks of this study are in SLURM already: {tasks.note}; try again later, "
            "or send it all the same with --again"
        )
    if tasks.live:
        live = [one for one in known if set(one.jobs) & set(tasks.jobs)]
        said = "those tasks know only the points of the study as it was"
        if any(one.digest == study.digest for one in live):
            said = "those tasks take all pending points"
        raise ValueError(
            f"this study has tasks in SLURM already ({tasks}; jobs {', '.join(tasks.jobs)}); {said}; wait, "
            "cancel them with `qrt-tn study cancel`, or send more with --again"
        )


def _send(array: Array, request: Request, study: Study, folder: Path, before: str | None) -> Sent:
    if request.via == "submitit":
        from qrt_tn.studies.cluster.through_submitit import send

        job = send(array, request, study, folder, Path.cwd(), before)
    else:
        script = folder / f"group-{array.group}.sbatch"
        _write(script, _script(array, request, study, folder, before))
        # --parsable prints the id, on federated clusters with the cluster's name behind it
        job = call(["sbatch", "--parsable", script.name], cwd=folder).split(";")[0].strip()
    if not job.isdigit():
        raise ValueError(f"sbatch answered {job!r} in place of a job id; see `squeue --me`")
    return Sent(job, array.group, array.tasks, array.points)


def _script(array: Array, request: Request, study: Study, folder: Path, before: str | None) -> str:
    return batch_script(
        array,
        request,
        study=study.name,
        folder=folder,
        store=folder.parent.parent,
        quick=study.quick,
        python=sys.executable,
        cwd=Path.cwd(),
        failed_before=before,
    )


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _undone(made: Submission, error: BaseException) -> BaseException:
    """Take back what SLURM took before an error; the error to raise."""
    if not made.jobs:
        shutil.rmtree(made.folder, ignore_errors=True)
        return error
    said = ", ".join(made.jobs)
    try:
        call(["scancel", *made.jobs])
    except ValueError as second:
        with contextlib.suppress(OSError):
            made.write()
        return ValueError(f"{error}; and the jobs {said}, sent before, could not be cancelled: {second}")
    shutil.rmtree(made.folder, ignore_errors=True)
    if not isinstance(error, Exception):
        return error  # Ctrl-C stays one
    return ValueError(f"{error}; nothing was submitted (the jobs {said}, sent before, were cancelled)")
