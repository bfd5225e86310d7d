"""Cancelling what was submitted, so that nothing half-written is left and all can be submitted again."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qrt_tn.studies.cluster.commands import call
from qrt_tn.studies.cluster.submission import submissions
from qrt_tn.studies.cluster.submit import pending
from qrt_tn.studies.cluster.tasks import tasks_of
from qrt_tn.studies.store import StudyStore

PATIENCE = 120.0  # seconds until the tasks must be gone; SLURM kills what is left after its KillWait, 30 s
_POLL = 1.0  # seconds


@dataclass(frozen=True)
class Cancelled:
    """What a cancel did.

    Attributes:
        jobs: ids that had tasks pending or running.
        tasks: how many those were.
        left: points that are neither done nor failed, in all.
    """

    jobs: tuple[str, ...]
    tasks: int
    left: int


def cancel(store: Path, *, patience: float = PATIENCE, say: Callable[[str], None] = print) -> Cancelled:
    """Cancel all tasks of a store's submissions, and wait until they are gone.

    Finished points stay; points in flight are pending again, and those that keep steps go on from there.

    Args:
        store: the folder of the store.
        patience: seconds to wait for the tasks to end.
        say: takes a line a moment while there is something to wait for.

    Raises:
        ValueError: it is no store, nothing was submitted, SLURM does not answer, or tasks do not end.
    """
    kept = StudyStore(store)
    known = submissions(store)
    if not known:
        raise ValueError(f"nothing of {store} was submitted from here; stop a runner with Ctrl-C instead")
    tasks = tasks_of(known)
    if tasks.note is not None:
        raise ValueError(f"cannot cancel: {tasks.note}")
    live, jobs = tasks.live, tasks.jobs
    if jobs:
        call(["scancel", *jobs])
        until = time.monotonic() + patience
        while tasks.live or tasks.note is not None:
            if time.monotonic() > until:
                raise ValueError(f"tasks have not ended within {patience:.0f} s ({tasks}); see `squeue --me`")
            say(f"waiting for {tasks.live} tasks to end ...")
            time.sleep(_POLL)
            tasks = tasks_of(known)
    return Cancelled(jobs, live, len(pending(kept.study(), kept)))
