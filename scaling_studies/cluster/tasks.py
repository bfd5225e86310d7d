"""How the tasks of a store's submissions fare, as SLURM tells; the store itself tells how the points fare."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qrt_tn.studies.cluster.commands import call
from qrt_tn.studies.cluster.submission import Submission

PATIENCE = 15.0  # seconds; a status line is not worth more
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}


@dataclass(frozen=True)
class Tasks:
    """Counts of tasks.

    Attributes:
        pending: waiting for the first time.
        requeued: waiting again, after a time limit, a preemption or a lost node.
        running: at work, or just ending.
        completed: ended with code 0.
        cancelled: by somebody.
        failed: ended otherwise: points failed, time-outs that were not requeued, lost nodes.
        ended: known to be over, but nobody knows how, as the cluster keeps no accounts.
        jobs: ids of arrays that have tasks pending or running.
        reasons: why tasks wait, with counts, as SLURM says it.
        note: why SLURM could not be asked, or None.
    """

    pending: int = 0
    requeued: int = 0
    running: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    ended: int = 0
    jobs: tuple[str, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None

    @property
    def live(self) -> int:
        """Tasks that may still do something."""
        return self.pending + self.requeued + self.running

    @property
    def counts(self) -> dict[str, int]:
        """The counts by name, without zeros."""
        names = ("running", "pending", "requeued", "completed", "cancelled", "failed", "ended")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def __str__(self) -> str:
        if self.note is not None:
            return f"tasks unknown: {self.note}"
        return ", ".join(f"{count} {name}" for name, count in self.counts.items()) or "none"


def tasks_of(known: Iterable[Submission], *, patience: float = PATIENCE) -> Tasks:
    """The tasks of some submissions.

    Args:
        known: the submissions.
        patience: seconds that each of SLURM's commands may take.

    Returns:
        Their counts; with a note where squeue is missing or does not answer: the store alone still tells
        which points are done.
    """
    sizes = {sent.job: sent.tasks for one in known for sent in one.sent}
    if not sizes:
        return Tasks()
    if shutil.which("squeue") is None:
        return Tasks(note="squeue is not installed on this machine")
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
    seen: dict[tuple[str, str], str] = {}
    counts: Counter[str] = Counter()
    live, reasons = set(), Counter[str]()
    for line in listed.splitlines():
        words = line.split(maxsplit=4)
        if len(words) < 4 or words[0] not in sizes:
            continue
        job, task, state, restarts = words[:4]
        seen[job, task] = state
        kind = _kind(state)
        waits_again = kind == "pending" and restarts.isdigit() and int(restarts) > 0
        counts["requeued" if waits_again else kind] += 1
        if kind in ("pending", "running"):
            live.add(job)
            if kind == "pending" and len(words) > 4:
                reasons[words[4].strip()] += 1
    forgotten = sum(sizes.values()) - len(seen)
    if forgotten > 0:
        accounts = _accounts(sizes, patience)
        for (job, task), state in accounts.items():
            if (job, task) not in seen and forgotten > 0:
                kind = _kind(state)
                # squeue would list what is alive: the account is late
                counts[kind if kind in ("completed", "cancelled", "failed") else "ended"] += 1
                forgotten -= 1
    counts["ended"] += max(0, forgotten)
    return Tasks(
        pending=counts["pending"],
        running=counts["running"],
        requeued=counts["requeued"],
        completed=counts["completed"],
        cancelled=counts["cancelled"],
        failed=counts["failed"],
        ended=counts["ended"],
        jobs=tuple(sorted(live)),
        reasons=dict(reasons),
    )


def _kind(state: str) -> str:
    """One of our words for one of SLURM's states."""
    word = state.split(maxsplit=1)[0].rstrip("+")
    if word in _PENDING:
        return "pending"
    if word in _RUNNING:
        return "running"
    return {"COMPLETED": "completed", "CANCELLED": "cancelled"}.get(word, "failed")


def _accounts(sizes: Mapping[str, int], patience: float) -> dict[tuple[str, str], str]:
    """States by job and task from SLURM's accounts, where it keeps any."""
    if shutil.which("sacct") is None:
        return {}
    command = ["sacct", "--allocations", "--array", "--noheader", "--parsable2", "--format=JobID,State"]
    try:
        listed = call([*command, f"--jobs={','.join(sizes)}"], patience=patience)
    except ValueError:
        return {}
    found = {}
    for line in listed.splitlines():
        name, _, state = line.partition("|")
        job, _, task = name.partition("_")
        if job in sizes and task.isdigit() and state:
            found[job, task] = state
    return found
