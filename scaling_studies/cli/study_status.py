"""How far a study is, from its store, the locks of this machine, and what SLURM tells."""

import shlex
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from qrt_tn.studies import cluster
from qrt_tn.studies.config import Study
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_failures

READ = 1000  # failures that are read for their reasons
SHOWN = 10
EVERY = 2.0


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        name: of the study.
        folder: of its store.
        total: its points.
        done: finished.
        failed: failed; not tried again unless asked.
        left: neither done nor failed.
        here: runs at work on this machine.
        other: finished points of earlier versions of the study.
        reasons: why points failed, with counts, the most frequent first; of at most a thousand.
        tasks: those of SLURM by state, where something was submitted and squeue answers.
        submitted: the command that submitted it last, or "".
        why: SLURM's reasons for tasks that wait, with counts.
        unknown: why SLURM could not be asked for tasks that were submitted, or "".
    """

    name: str
    folder: str
    total: int
    done: int
    failed: int
    left: int
    other: int
    here: list[str]
    reasons: list[tuple[str, int]] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    submitted: str = ""
    why: str = ""
    unknown: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @property
    def at_work(self) -> bool:
        """Whether anything runs, or waits in SLURM's queue; where nobody knows, whether anything may."""
        live = any(self.tasks.get(state) for state in cluster.LIVE)
        return bool(self.here) or live or bool(self.unknown and self.left)


def look(study: Study, folder: Path) -> Status:
    """Look at a store.

    Raises:
        ValueError: there is none.
    """
    store = StudyStore(folder)
    submitted = cluster.submissions(folder)
    tasks = cluster.tasks_of(submitted)
    done, failed, other = store.standing(study)
    reasons = Counter(
        f"{one['kind']}: {one['reason']}" for one in read_failures(store, set(sorted(failed)[:READ]))
    )
    return Status(
        name=study.name,
        folder=str(folder),
        total=len(study.points),
        done=len(done),
        failed=len(failed),
        left=len(study.points) - len(done) - len(failed),
        other=other,
        here=store.at_work_here(),
        reasons=reasons.most_common(),
        tasks=dict(tasks.counts),
        submitted=submitted[-1].command if submitted else "",
        why=", ".join(f"{reason} ({n})" for reason, n in tasks.reasons.items()),
        unknown=tasks.note or "",
    )


def print_status(status: Status, console: Console) -> None:
    """Print it."""
    console.print(_text(status), soft_wrap=True)


def follow_status(study: Study, folder: Path, console: Console) -> None:
    """Show it until nothing is at work: in place in a terminal, else whenever it has changed.

    Ctrl-C leaves what is at work alone.
    """
    shown: Text | None = None
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            status = look(study, folder)
            text = _text(status)
            if live is not None:
                live.update(text, refresh=True)
            elif text != shown:
                console.print(text, soft_wrap=True)
            shown = text
            if not status.at_work:
                return
            time.sleep(EVERY)


def _text(status: Status) -> Text:
    place = shlex.quote(status.folder)
    lines = [
        f"{status.name}: {status.total:,} points, {status.done:,} done, {status.failed:,} failed, "
        f"{status.left:,} left; in {status.folder}"
    ]
    if status.here:
        lines.append(f"  at work on this machine: {', '.join(status.here)}")
    if status.tasks:
        counts = ", ".join(f"{n:,} {state}" for state, n in status.tasks.items())
        lines.append(f"  SLURM tasks: {counts}" + (f"; waiting for: {status.why}" if status.why else ""))
    if status.unknown:
        lines.append(f"  SLURM tasks: it is not known whether any wait or run, as {status.unknown}")
    lines += [f"  failed: {count:,} of {reason}" for reason, count in status.reasons[:SHOWN]]
    if len(status.reasons) > SHOWN:
        lines.append(f"  failed: and {len(status.reasons) - SHOWN:,} other reasons (qrt-tn study report)")
    if status.other:
        lines.append(f"  {status.other:,} more are done that the study does not ask for any more")
    if status.left and not status.at_work:
        lines.append(f"  nothing is at work; go on: qrt-tn study resume {place}")
        if status.submitted:
            lines.append(f"  or as before: {status.submitted}")
    if status.failed:
        lines.append(f"  try again: qrt-tn study retry --failed {place}")
    if status.done:
        lines.append(f"  draw it: qrt-tn study report {place}")
    return Text("\n".join(lines))
