"""From the points that are left to arrays: one for each kind of need, with what each task asks for."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from qrt_tn.studies.cluster.request import Request
from qrt_tn.studies.config import Study
from qrt_tn.studies.config.points import Needs

MOST_TASKS = 64  # of an array where the user names no number; tasks share the points
DAY = 24 * 60  # minutes of a task at most where the user names no time; what is left then is requeued
RUNNER_MEMORY = 0.5  # GiB for the runner itself, beside its points


@dataclass(frozen=True)
class Array:
    """One array of tasks that are alike.

    Attributes:
        group: number of its needs in `Study.needs()`.
        needs: of each of its points.
        points: how many are left.
        tasks: how many there are.
        at_once: points that one task has room for at the same time.
        cpus: cores of each rank.
        gpus: of each rank.
        memory: "--mem=..." or "--mem-per-cpu=...".
        minutes: of each task.
        useful: minutes of each task until it may be told to stop.
    """

    group: int
    needs: Needs
    points: int
    tasks: int
    at_once: int
    cpus: int
    gpus: int
    memory: str
    minutes: int
    useful: float

    @property
    def granted(self) -> int | None:
        """GPUs that each point is given although it needs none; None where there are none of these."""
        return self.gpus if self.gpus and not self.needs.gpus else None

    def warning(self) -> str | None:
        """What a user should know before it is sent, if anything."""
        if self.needs.minutes > self.useful:
            useful = max(math.floor(self.useful), 0)
            return (
                f"a point of group {self.group} may take {self.needs.minutes:g} minutes, a task of "
                f"{self.minutes} may be told to stop after {useful}: a point that keeps no steps begins anew "
                "in each task; give a longer --time"
            )
        return None


def arrays(study: Study, pending: Iterable[str], request: Request, largest: int) -> tuple[Array, ...]:
    """The arrays that a study's pending points make.

    Args:
        study: the study.
        pending: ids of the points that are left.
        request: the user's options, which come before the points' needs.
        largest: tasks that an array may have at most.

    Raises:
        ValueError: more tasks than the cluster allows, or less than a point needs.
    """
    if request.tasks is not None and request.tasks > largest:
        raise ValueError(
            f"tasks is {request.tasks}; this cluster's arrays have at most {largest} (MaxArraySize)"
        )
    if largest < 1:
        raise ValueError(
            "this cluster allows no job arrays (MaxArraySize is 0); use scaling_studies/slurm/cpu.sbatch"
        )
    left = set(pending)
    made = []
    for number, needs in enumerate(study.needs()):
        points = sum(point.needs == needs and point.id in left for point in study.points)
        if points:
            made.append(_array(number, needs, points, request, largest))
    return tuple(made)


def _array(number: int, needs: Needs, points: int, request: Request, largest: int) -> Array:
    for name, given, needed in (("cpus", request.cpus, needs.cores), ("gpus", request.gpus, needs.gpus)):
        if given is not None and given < needed:
            raise ValueError(
                f"{name} is {given}; a point of group {number} needs {needed}, so give at least that"
            )
    at_once = _at_once(needs, request)
    wanted = math.ceil(points / at_once)
    tasks = request.tasks or min(wanted, MOST_TASKS, largest)
    tasks = min(tasks, points)
    rounds = math.ceil(points / (tasks * at_once))
    early = request.grace / 60 + 1  # SLURM may send the signal up to a minute early
    minutes = max(min(math.ceil(needs.minutes * rounds) + math.ceil(early), request.time or DAY), 1)
    cpus = request.cpus or needs.cores * at_once
    return Array(
        group=number,
        needs=needs,
        points=points,
        tasks=tasks,
        at_once=at_once,
        cpus=cpus,
        gpus=needs.gpus if request.gpus is None else request.gpus,
        memory=_memory(needs, request, at_once, cpus),
        minutes=minutes,
        useful=minutes - early,
    )


def _at_once(needs: Needs, request: Request) -> int:
    """How many points fit into one task that the user made larger than one point needs."""
    if needs.exclusive or needs.ranks > 1:
        return 1
    room = []
    if request.cpus is not None:
        room.append(request.cpus // needs.cores)
    if needs.gpus:
        room.append((needs.gpus if request.gpus is None else request.gpus) // needs.gpus)
    elif request.gpus:
        room.append(1)  # a point that needs none is given all of them
    return max(1, min(room, default=1))


def _memory(needs: Needs, request: Request, at_once: int, cpus: int) -> str:
    if request.memory is not None:
        return f"--mem={request.memory}"
    mebibytes = math.ceil((needs.memory * at_once + RUNNER_MEMORY) * 1024)
    if needs.ranks == 1:
        return f"--mem={mebibytes}M"
    # ranks may lie on several nodes, and --mem is of each node
    return f"--mem-per-cpu={math.ceil(mebibytes / (needs.ranks * cpus))}M"
