"""Cancelling what was submitted, so that nothing half-written is left and all can be submitted again."""

import time
from collections.abc import Callable
from pathlib import Path

from qrt_tn.studies.cluster.commands import call
from qrt_tn.studies.cluster.submission import submissions
from qrt_tn.studies.cluster.tasks import Tasks, tasks_of

PATIENCE = 120.0  # seconds until the tasks must be gone; SLURM kills what is left after its KillWait, 30 s
_POLL = 1.0  # seconds


def cancel(store: Path, *, patience: float = PATIENCE, say: Callable[[str], None] = print) -> Tasks:
    """Cancel all tasks of a store's submissions, and wait until they are gone.

    Finished points stay; points under way go on from the steps that they have kept when they run again.

    Args:
        store: the folder of the store.
        patience: seconds to wait for the tasks to end.
        say: takes a line a moment while there is something to wait for.

    Returns:
        The tasks as they were.

    Raises:
        ValueError: nothing was submitted, SLURM does not answer, or tasks do not end.
    """
    known = submissions(store)
    if not known:
        raise ValueError(f"nothing of {store} was submitted from here; stop a runner with Ctrl-C instead")
    found = tasks = tasks_of(known)
    if tasks.note is not None:
        raise ValueError(f"cannot cancel: {tasks.note}")
    if tasks.jobs:
        call(["scancel", *tasks.jobs])
        until = time.monotonic() + patience
        while tasks.live or tasks.note is not None:
            if time.monotonic() > until:
                raise ValueError(f"tasks have not ended within {patience:.0f} s ({tasks}); see `squeue --me`")
            say(f"waiting for {tasks.live} tasks to end ...")
            time.sleep(_POLL)
            tasks = tasks_of(known)
    return found
