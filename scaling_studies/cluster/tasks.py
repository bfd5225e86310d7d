"""How the tasks of a store's submissions fare, as SLURM tells; the store itself tells how the points fare."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qrt_tn.studies.cluster.commands import call
from qrt_tn.studies.cluster.submission import Submission

PATIENCE = 15.0  # seconds; a status line is not worth more
LIVE = ("running", "pending", "requeued")  # states of tasks that may still do something
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}


@dataclass(frozen=True)
class Tasks:
    """The tasks of some submissions.

    Attributes:
        counts: by state, without zeros: "running", "pending" for the first time, "requeued" and waiting
            again, "completed" with code 0, "cancelled", "failed", "ended" before what squeue remembers.
        jobs: ids of arrays that have live tasks.
        reasons: why tasks wait, with counts, as SLURM says it.
        note: why SLURM could not be asked, or None.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None

    @property
    def live(self) -> int:
        """How many may still do something."""
        return sum(self.counts.get(state, 0) for state in LIVE)

    def __str__(self) -> str:
        return self.note or ", ".join(f"{count} {name}" for name, count in self.counts.items()) or "none"


def tasks_of(known: Iterable[Submission], *, patience: float = PATIENCE) -> Tasks:
    """The tasks of some submissions; with a note where squeue is missing or takes more than `patience` s."""
    sizes = {sent.job: sent.tasks for one in known for sent in one.sent}
    if not sizes:
        return Tasks()
    columns = "ArrayJobID:.24,ArrayTaskID:.24,State:.24,RestartCnt:.12,Reason:.64"
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        f"--user={os.getuid()}",
        f"--Format={columns}",
    ]
    try:
        listed = call(command, patience=patience)
    except ValueError as error:
        return Tasks(note=str(error))
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    jobs = set()
    for line in listed.splitlines():
        job, _, state, restarts, *reason = line.split(maxsplit=4) or [""] * 4
        if job not in sizes:
            continue
        kind = _kind(state)
        counts["requeued" if kind == "pending" and restarts not in ("0", "N/A") else kind] += 1
        if kind in LIVE:
            jobs.add(job)
        if kind == "pending":
            reasons.update(text.strip() for text in reason)
    counts["ended"] = sum(sizes.values()) - counts.total()
    order = (*LIVE, "completed", "cancelled", "failed", "ended")
    return Tasks({kind: counts[kind] for kind in order if counts[kind] > 0}, tuple(sorted(jobs)), reasons)


def _kind(state: str) -> str:
    """One of our words for one of SLURM's states."""
    if state in _PENDING:
        return "pending"
    if state in _RUNNING:
        return "running"
    return {"COMPLETED": "completed", "CANCELLED": "cancelled"}.get(state, "failed")
