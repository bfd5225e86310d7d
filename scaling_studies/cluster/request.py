"""What a user asks of SLURM: the options of a submission, checked before anything is written."""

import re
from dataclasses import dataclass
from typing import Literal

WAYS = ("sbatch", "submitit")
_TEXTS = ("partition", "account", "qos", "constraint", "memory")
_LEAST = {"gpus": 0, "time": 1, "cpus": 1, "tasks": 1, "limit": 1, "requeues": 0, "grace": 1}


@dataclass(frozen=True)
class Request:
    """Options of one submission; None leaves a choice to the study's needs or to the cluster.

    Attributes:
        partition: where the tasks run.
        gpus: of each rank (a point without MPI is one rank), in place of what its points need; points that
            need none are given all of them, one point at a time.
        time: minutes of one task at most.
        account: that pays.
        qos: quality of service.
        constraint: features that nodes must have.
        memory: of a node, as SLURM takes it ("16G"), in place of what the points need.
        cpus: cores of each rank, in place of what its points need.
        tasks: of each array.
        limit: tasks of an array that run at once.
        requeues: restarts of a task, for whatever reason (SLURM_RESTART_COUNT: time limit, preemption, lost
            node), after which it gives up at its time limit; by submitit, of time limits alone.
        grace: seconds before the time limit at which a task is told to stop.
        setup: lines of shell that run first: modules, environment; where one fails, no point runs.
        via: "sbatch" writes plain scripts, "submitit" leaves the scripts to that package.

    Raises:
        ValueError: a value that SLURM could not take.
    """

    partition: str | None = None
    gpus: int | None = None
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
    setup: tuple[str, ...] = ()
    via: Literal["sbatch", "submitit"] = "sbatch"

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; give a whole number, at least {least}")
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None and (not value.strip() or not value.isprintable()):
                raise ValueError(f"{name} is {value!r}; give one line of text, or leave it out")
        if self.memory is not None and not re.fullmatch(r"\d+[KMGTkmgt]?", self.memory):
            raise ValueError(f"memory is {self.memory!r}; give a number and a unit, such as 16G or 4000M")
        if self.via not in WAYS:
            raise ValueError(f"via is {self.via!r}; choose from {', '.join(WAYS)}")
        if self.time is not None and self.time * 60 <= self.grace:
            raise ValueError(
                f"time is {self.time} minutes and grace is {self.grace} s, so a task would be told to stop "
                "as it starts; give more time, or less grace"
            )


def minutes(text: str) -> int:
    """A time as SLURM takes it, in minutes, rounded up.

    Args:
        text: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or
            days-hours:minutes:seconds (`man sbatch`, --time).

    Raises:
        ValueError: none of these, or no time at all.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not found:
        raise ValueError(
            f"time is {text!r}; give minutes, hours:minutes:seconds, or days-hours:minutes:seconds"
        )
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    alone = {1: [60], 2: [60, 1], 3: [3600, 60, 1]}
    units = [3600, 60, 1] if days is not None else alone[len(parts)]
    seconds = int(days or 0) * 86_400 + sum(part * unit for part, unit in zip(parts, units, strict=False))
    if seconds == 0:
        raise ValueError(f"time is {text!r}; give at least a minute")
    return -(-seconds // 60)


def setup_lines(modules: tuple[str, ...], env_file: str | None, lines: tuple[str, ...]) -> tuple[str, ...]:
    """Shell that makes the environment, in this order: modules, a file of variables, the user's own lines.

    Args:
        modules: to load.
        env_file: a file of NAME=value lines, as a shell reads them; its variables are exported.
        lines: of shell, as they are.

    Raises:
        ValueError: no such file, or a module or line that is not one line.
    """
    import shlex
    from pathlib import Path

    for one in (*modules, *lines):
        if not one.strip() or "\n" in one:
            raise ValueError(f"{one!r} is not one line of shell; give --module and --setup once for each")
    made = [f"module load {shlex.quote(module)}" for module in modules]
    if env_file is not None:
        path = Path(env_file).resolve()
        if not path.is_file():
            raise ValueError(f"there is no file {env_file}; give a file of NAME=value lines with --env-file")
        made += ["set -a", f". {shlex.quote(str(path))}", "set +a"]
    return (*made, *lines)
