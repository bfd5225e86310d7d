"""What a user asks of SLURM for one submission."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """Options of one submission; None leaves a choice to the points' needs or to the cluster.

    Attributes:
        partition: where the tasks run.
        gpus: of each rank (a point without MPI is one), with a type if need be: "2", "a100:1". Points that
            need none are given all of them, one point at a time.
        time: minutes of one task at most.
        account: that pays.
        qos: quality of service.
        constraint: features that nodes must have.
        memory: of a node, as SLURM takes it ("16G").
        cpus: cores of each rank.
        tasks: of each array.
        limit: tasks of an array that run at once.
        requeues: restarts of a task, for whatever reason, after which it gives up at its time limit.
        grace: seconds before the time limit at which a task is told to stop.
        sbatch: more options of sbatch, as they are: "--reservation=x".
        setup: lines of shell that run first; where one fails, no point runs.

    Raises:
        ValueError: a value that would break the script, or leave a task no time.
    """

    partition: str | None = None
    gpus: str | None = None
    time: int | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    memory: str | None = None
    cpus: int | None = None
    tasks: int | None = None
    limit: int | None = None
    requeues: int = 20
    grace: int = 120
    sbatch: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = [("sbatch", option) for option in self.sbatch] + [("setup", line) for line in self.setup]
        texts += [
            (name, getattr(self, name)) for name in ("partition", "account", "qos", "constraint", "memory")
        ]
        for name, text in texts:
            if text is not None and (not text.strip() or not text.replace("\t", " ").isprintable()):
                raise ValueError(f"{name} is {text!r}; give one line of text")
        for option in self.sbatch:
            if not option.startswith("-"):
                raise ValueError(f"sbatch is {option!r}; give an option as sbatch takes it: --reservation=x")
        if self.gpus is not None and not re.fullmatch(r"([\w.-]+:)?\d+", self.gpus):
            raise ValueError(f"gpus is {self.gpus!r}; give a number, or a type and a number: a100:1")
        # SLURM looks every half minute, and sends the signal early rather than late
        if self.time is not None and self.time * 60 <= self.grace + 30:
            raise ValueError(
                f"time is {self.time} minutes and grace is {self.grace} s, so a task would be told to stop "
                "as it starts; give more time, or less grace"
            )

    @property
    def gpu_count(self) -> int | None:
        """How many GPUs that is."""
        return None if self.gpus is None else int(self.gpus.rpartition(":")[2])


def minutes(text: str) -> int:
    """A time as SLURM takes it (`man sbatch`, --time), in minutes, rounded up.

    Raises:
        ValueError: it is none, or zero.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    parts = [int(part) for part in found.groups() if part is not None] if found else []
    if found and found[1] is not None:
        units = [86_400, 3600, 60, 1]
    else:
        units = {1: [60], 2: [60, 1]}.get(len(parts), [3600, 60, 1])
    seconds = sum(part * unit for part, unit in zip(parts, units, strict=False))
    if seconds == 0:
        raise ValueError(
            f"time is {text!r}; give minutes, hours:minutes:seconds, or days-hours:minutes:seconds"
        )
    return -(-seconds // 60)
