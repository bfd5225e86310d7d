"""From the points that are left to arrays: one for each kind of need, with what each task asks for."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from qrt_tn.studies.cluster.request import Request
from qrt_tn.studies.config import Study
from qrt_tn.studies.config.points import Needs, order

MOST_TASKS = 64  # of an array where the user names no number; tasks share the points
DAY = 24 * 60  # minutes of a task at most where the user names no time; what is left then is requeued
RUNNER_MEMORY = 0.5  # GiB for the runner itself, beside its points


@dataclass(frozen=True)
class Array:
    """One array of tasks that are alike.

    Attributes:
        group: number of the points' needs in `Study.needs()`.
        needs: of each point.
        points: ids of those that are left, in the order in which they are shared out.
        tasks: how many there are.
        cpus: cores of each rank.
        gpus: of each rank, as SLURM takes them; None for none.
        granted: GPUs that each point is given although it needs none; None where there are none of these.
        memory: "--mem=..." or "--mem-per-cpu=...".
        minutes: of each task.
        warning: what a user should know before it is sent, if anything.
    """

    group: int
    needs: Needs
    points: list[str]
    tasks: int
    cpus: int
    gpus: str | None
    granted: int | None
    memory: str
    minutes: int
    warning: str | None


def arrays(study: Study, pending: Collection[str], request: Request, largest: int) -> tuple[Array, ...]:
    """The arrays that a study's pending points make.

    Args:
        study: the study.
        pending: ids of the points that are left.
        request: the user's options, which come before the points' needs.
        largest: tasks that an array may have at most.

    Raises:
        ValueError: more tasks than the cluster allows, or less than a point needs.
    """
    if largest < (request.tasks or 1):
        raise ValueError(
            f"tasks is {request.tasks or 1}; this cluster's arrays have at most {largest} (MaxArraySize)"
        )
    made = []
    for group, needs in enumerate(study.needs()):
        points = [point.id for point in study.points if point.needs == needs and point.id in pending]
        if points:
            made.append(_array(group, needs, order(points), request, largest))
    return tuple(made)


def _array(group: int, needs: Needs, points: list[str], request: Request, largest: int) -> Array:
    gpus = needs.gpus if request.gpu_count is None else request.gpu_count
    for name, given, needed in (("cpus", request.cpus, needs.cores), ("gpus", gpus, needs.gpus)):
        if given is not None and given < needed:
            raise ValueError(
                f"{name} is {given}; a point of group {group} needs {needed}, so give at least that"
            )
    at_once = _at_once(needs, request, gpus)
    tasks = min(request.tasks or min(math.ceil(len(points) / at_once), MOST_TASKS, largest), len(points))
    rounds = math.ceil(len(points) / (tasks * at_once))
    early = request.grace / 60 + 1  # SLURM may send the signal up to a minute early
    minutes = max(min(math.ceil(needs.minutes * rounds) + math.ceil(early), request.time or DAY), 1)
    cpus = request.cpus or needs.cores * at_once
    warning = None
    if needs.minutes > minutes - early:
        warning = (
            f"a point of group {group} may take {needs.minutes:g} minutes, longer than a task of {minutes} "
            f"lets it, as that is told to stop {request.grace} s before its end, or a minute earlier; if it "
            "keeps no steps it begins anew in each task: give a longer --time"
        )
    return Array(
        group=group,
        needs=needs,
        points=points,
        tasks=tasks,
        cpus=cpus,
        gpus=(request.gpus or str(gpus)) if gpus else None,
        granted=gpus if gpus and not needs.gpus else None,
        memory=_memory(needs, request, at_once, cpus),
        minutes=minutes,
        warning=warning,
    )


def _at_once(needs: Needs, request: Request, gpus: int) -> int:
    """How many points fit into one task that the user made larger than one point needs."""
    if needs.exclusive or needs.ranks > 1 or (gpus and not needs.gpus):
        return 1  # a point that needs no GPU is given all of them
    room = [] if request.cpus is None else [request.cpus // needs.cores]
    if needs.gpus:
        room.append(gpus // needs.gpus)
    return max(1, min(room, default=1))


def _memory(needs: Needs, request: Request, at_once: int, cpus: int) -> str:
    if request.memory is not None:
        return f"--mem={request.memory}"
    mebibytes = math.ceil((needs.memory * at_once + RUNNER_MEMORY) * 1024)
    if needs.ranks == 1:
        return f"--mem={mebibytes}M"
    # ranks may lie on several nodes, and --mem is of each node
    return f"--mem-per-cpu={math.ceil(mebibytes / (needs.ranks * cpus))}M"
