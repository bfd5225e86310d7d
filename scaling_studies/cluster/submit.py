"""Sending a study's pending points to SLURM: all of its arrays, or none."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from qrt_tn.studies.cluster.arrays import Array, arrays
from qrt_tn.studies.cluster.commands import call, largest_array
from qrt_tn.studies.cluster.request import Request
from qrt_tn.studies.cluster.script import batch_script
from qrt_tn.studies.cluster.submission import Sent, Submission, submissions
from qrt_tn.studies.cluster.tasks import tasks_of
from qrt_tn.studies.config import Study
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.study import HEAD

DEFAULT_ARRAY = 1001  # SLURM's own limit, where a dry run finds no cluster to ask


def pending(study: Study, store: StudyStore, *, failed: bool = False) -> list[str]:
    """Ids of the points that are neither done nor failed, in the study's order; with `failed`, those too."""
    standing = store.standing(study)
    over = standing.done if failed else standing.done | standing.failed
    return [point.id for point in study.points if point.id not in over]


def preview(
    study: Study, store: Path, request: Request, target: Sequence[str], *, failed: bool = False
) -> list[tuple[Array, str]]:
    """The arrays that `submit` would send, and scripts of them for sending by hand; nothing is written.

    Args:
        study: the study.
        store: folder of its store, which need not exist.
        request: the options.
        target: what `qrt-tn study run` is to run, and where.
        failed: also points that have failed by now, each once.

    Raises:
        ValueError: no points are left, or options that cannot be.
    """
    try:
        largest = largest_array()
    except ValueError:
        largest = DEFAULT_ARRAY
    if (store / HEAD).is_file():
        planned = _planned(study, StudyStore(store), request, largest, failed)
    else:
        planned = arrays(study, [point.id for point in study.points], request, largest)
    before = _now() if failed else None
    return [
        (array, batch_script(array, request, study.name, target, failed_before=before)) for array in planned
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
) -> tuple[Submission, Path]:
    """Send the points of a study that are left: an array for each of their needs.

    The study and the order of its points are frozen in the submission's folder, so editing its file does not
    change what is queued.

    Args:
        study: the study.
        store: folder of its store; made if it is not there.
        request: the options.
        command: the command line, for the record.
        again: send although tasks of this study are queued or at work; they would share the points.
        failed: also send the points that have failed by now, each once.
        say: takes lines for the user.

    Returns:
        The submission, and its folder.

    Raises:
        ValueError: no points are left, tasks of this study are queued or at work already or squeue does not
            tell, SLURM is not here or refuses (arrays that it took before are cancelled again), or options
            or a folder that cannot be.
    """
    place = store.resolve()
    for sign in "%\\":
        if sign in str(place):
            raise ValueError(
                f"{place} holds a {sign}, which SLURM replaces in paths of what tasks print; give another "
                "folder with --store"
            )
    largest = largest_array()
    kept = StudyStore.make(store, study)
    planned = _planned(study, kept, request, largest, failed)
    if not again:
        _refuse_twice(store, study)
    kept.keep(study)
    made = Submission(
        study=study.name, digest=study.digest, command=command, options=asdict(request), date=_now()
    )
    folder = place / "slurm" / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
    folder.mkdir(parents=True)
    frozen = folder / "study.toml"
    target = [str(frozen), "--store", str(place), *(["--quick"] if study.quick else [])]
    try:
        frozen.write_text(study.text, encoding="utf-8")
        for array in planned:
            if array.warning:
                say(array.warning)
            order = folder / f"order-{array.group}.txt"
            order.write_text("".join(f"{point}\n" for point in array.points), encoding="utf-8")
            before = made.date if failed else None
            text = batch_script(array, request, study.name, target, order=order, failed_before=before)
            script = folder / f"group-{array.group}.sbatch"
            script.write_text(text, encoding="utf-8")
            # --parsable prints the id, on federated clusters with the cluster's name behind it
            job = call(["sbatch", "--parsable", script.name], cwd=folder).split(";")[0].strip()
            if not job.isdigit():
                raise ValueError(f"sbatch answered {job!r} in place of a job id; see `squeue --me`")
            made.sent.append(Sent(job=job, group=array.group, tasks=array.tasks, points=len(array.points)))
            made.write(folder)
    except BaseException as error:
        try:
            if made.sent:
                call(["scancel", *made.jobs])
        except ValueError as second:
            raise ValueError(
                f"{error}; and the jobs {', '.join(made.jobs)}, sent before, could not be cancelled: {second}"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return made, folder


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _planned(
    study: Study, kept: StudyStore, request: Request, largest: int, failed: bool
) -> tuple[Array, ...]:
    """The arrays of what is left."""
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
        same = any(one.digest == study.digest for one in known if set(one.jobs) & set(tasks.jobs))
        said = "take all pending points" if same else "know only the points of the study as it was"
        raise ValueError(
            f"this study has tasks in SLURM already ({tasks}; jobs {', '.join(tasks.jobs)}); those tasks "
            f"{said}; wait, cancel them with `qrt-tn study cancel`, or send more with --again"
        )
