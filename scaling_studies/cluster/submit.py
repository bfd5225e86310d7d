"""Sending a study's pending points to SLURM: all of its arrays, or none."""

import contextlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from engine.atomic import atomic_path
from scaling_studies.cluster.arrays import Array, arrays
from scaling_studies.cluster.commands import call, largest_array
from scaling_studies.cluster.request import Request
from scaling_studies.cluster.script import batch_script
from scaling_studies.cluster.submission import Sent, Submission, new_folder, submissions
from scaling_studies.cluster.tasks import tasks_of
from scaling_studies.config import Study
from scaling_studies.store import StudyStore

DEFAULT_ARRAY = 1001  # SLURM's own limit, where a dry run finds no cluster to ask


def pending(study: Study, store: StudyStore) -> list[str]:
    """Ids of the points that are neither done nor failed, in the study's order."""
    over = store.done(study) | store.failures(study)
    return [point.id for point in study.points if point.id not in over]


def preview(study: Study, store: Path, request: Request) -> list[tuple[Array, str]]:
    """The arrays and the scripts that `submit` would send; nothing is written.

    Args:
        study: the study.
        store: folder of its store, which need not exist.
        request: the options.

    Raises:
        ValueError: as `submit`; no points are left.
    """
    try:
        largest = largest_array()
    except ValueError:
        largest = DEFAULT_ARRAY
    left = [point.id for point in study.points]
    if (store / "store.json").is_file():
        left = pending(study, StudyStore(store))
    folder = store.resolve() / "slurm" / "DATE-TIME"
    return [
        (array, _script(array, request, study, folder)) for array in _arrays(study, left, request, largest)
    ]


def submit(
    study: Study,
    store: Path,
    request: Request,
    *,
    command: str,
    again: bool = False,
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
        say: takes lines for the user.

    Raises:
        ValueError: no points are left, tasks of this study are queued or at work already, SLURM is not here
            or refuses (arrays that it took before are cancelled again), or options that cannot be.
    """
    if request.via == "submitit":
        from scaling_studies.cluster.through_submitit import check_installed

        check_installed()
    largest = largest_array()
    kept = StudyStore.make(store, study)
    kept.check_beside(study)
    left = pending(study, kept)
    planned = _arrays(study, left, request, largest)
    if not again:
        _refuse_twice(store)
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
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        _write(folder / "study.toml", study.text)
        for array in planned:
            if warning := array.warning():
                say(warning)
            made = made.with_job(_send(array, request, study, folder))
            made.write()
        made = Submission(**{**vars(made), "complete": True})
        made.write()
    except BaseException as error:
        raise _undone(made, error) from error
    return made


def _arrays(study: Study, left: list[str], request: Request, largest: int) -> tuple[Array, ...]:
    if not left:
        raise ValueError(
            f"no points of {study.name} are left to run; add values to an axis, or call "
            "`qrt-tn study retry --failed` where some failed"
        )
    return arrays(study, left, request, largest)


def _refuse_twice(store: Path) -> None:
    """Raise where tasks of this store are queued or at work: they take the pending points already."""
    tasks = tasks_of(submissions(store))
    if tasks.live:
        raise ValueError(
            f"this study has tasks in SLURM already ({tasks}; jobs {', '.join(tasks.jobs)}), which take all "
            "pending points; wait, cancel them with `qrt-tn study cancel`, or send more with --again"
        )


def _send(array: Array, request: Request, study: Study, folder: Path) -> Sent:
    if request.via == "submitit":
        from scaling_studies.cluster.through_submitit import send

        job = send(array, request, study, folder, Path.cwd())
    else:
        script = folder / f"group-{array.group}.sbatch"
        _write(script, _script(array, request, study, folder))
        # --parsable prints the id, on federated clusters with the cluster's name behind it
        job = call(["sbatch", "--parsable", script.name], cwd=folder).split(";")[0].strip()
    if not job.isdigit():
        raise ValueError(f"sbatch answered {job!r} in place of a job id; see `squeue --me`")
    return Sent(job, array.group, array.tasks, array.points)


def _script(array: Array, request: Request, study: Study, folder: Path) -> str:
    return batch_script(
        array,
        request,
        study=study.name,
        folder=folder,
        store=folder.parent.parent,
        quick=study.quick,
        python=sys.executable,
        cwd=Path.cwd(),
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
