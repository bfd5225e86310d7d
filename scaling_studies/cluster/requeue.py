"""Putting a task back into SLURM's queue when it was stopped and points are left."""

import os
from collections.abc import Callable

from qrt_tn.studies.cluster.commands import call
from qrt_tn.studies.runner.task import slurm_job


def requeue(limit: int, say: Callable[[str], None]) -> None:
    """Put the job of this process back into the queue, unless SLURM has begun it again often enough.

    SLURM counts a restart for whatever reason: time limits, preemptions and lost nodes.

    Args:
        limit: restarts after which the task gives up.
        say: takes a line.
    """
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    job = slurm_job()
    if job is None:
        say("this is no job of SLURM, so it is not requeued")
    elif restarts >= limit:
        say(
            f"after {limit} restarts, for whatever reason, this task gives up: points are left, submit the "
            "study again"
        )
    else:
        # said before, as SLURM ends this process while it takes the task back
        say(f"back in the queue, after {restarts} restarts so far")
        try:
            call(["scontrol", "requeue", job])
        except ValueError as error:
            say(f"{error}; submit the study again")
