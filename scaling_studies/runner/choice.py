"""Which points of a study a run is to do."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from qrt_tn.studies.config import Point, Study
from qrt_tn.studies.config.points import Needs, shares
from qrt_tn.studies.runner.process import launcher_missing
from qrt_tn.studies.runner.room import Room
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import damaged_results, read_failures


@dataclass(eq=False)
class Choice:
    """What a run begins with.

    Attributes:
        points: ids of the study's points, or of the group's, or of the order's.
        queue: those to run, in their order.
        own: ids of those that no other task is to do first.
        retried: ids of points that failed before, to be run again.
        retry_before: when they must have failed for that, an ISO time.
        done: how many are finished already.
        failed: how many failed before and stay so.
        unmended: of those that stay failed, how many did not just lack something here; none where others
            are tried again.
        damaged: results that are not whole; their points run again.
        gpus: what points get that need none, or None.
        refused: points that this machine cannot run, by what they would need.
    """

    points: set[str]
    queue: deque[Point]
    own: set[str]
    retried: set[str]
    retry_before: str
    done: int = 0
    failed: int = 0
    unmended: int = 0
    damaged: int = 0
    gpus: int | None = None
    refused: dict[str, int] = field(default_factory=dict)

    def needs(self, point: Point) -> Needs:
        """What a point needs, with the GPUs that the user wants it to have."""
        needs = point.needs
        return needs if needs.gpus or not self.gpus else needs.model_copy(update={"gpus": self.gpus})

    def tries_again(self, failure: dict[str, Any]) -> bool:
        """Whether a point that has failed is to be run: not where another run has tried it meanwhile."""
        return failure["id"] in self.retried and _failed_before(failure, self.retry_before)


def choose(
    study: Study,
    store: StudyStore,
    room: Room,
    *,
    group: int | None,
    order: Sequence[str] | None,
    task: tuple[int, int],
    retry: bool | set[str],
    retry_before: str,
    gpus: int | None,
) -> Choice:
    """Find out which points to run; see `run_study` for the arguments.

    Raises:
        ValueError: there is no such group, or points are left and none can run here.
    """
    points = study.points
    if group is not None:
        needs = study.needs()
        if not 0 <= group < len(needs):
            raise ValueError(f"group is {group}; this study has groups 0 to {len(needs) - 1}")
        points = tuple(point for point in points if point.needs == needs[group])
    share: Sequence[str] = [point.id for point in points]
    if order is not None:
        known = {point.id: point for point in points}
        mine, others = shares([name for name in order if name in known], *task)
        points, share = tuple(known[name] for name in (*mine, *others)), mine
    own = {point.id for point in points}
    damaged = damaged_results(store)
    standing = store.standing(study)
    done, failed = standing.done - damaged, standing.failed & own
    store.tidy(done)
    failures = read_failures(store, failed)
    asked = failed if retry is True else failed & (retry or set())
    again = {one["id"] for one in failures if one["id"] in asked and _failed_before(one, retry_before)}
    kinds = Counter() if again else Counter(one["kind"] for one in failures)
    again |= failed - {one["id"] for one in failures}  # nobody can tell any more how these failed
    choice = Choice(
        points=own,
        queue=deque(),
        own=set(),
        done=len(done & own),
        failed=len(failed - again),
        retried=again,
        retry_before=retry_before,
        unmended=kinds.total() - kinds["unavailable"],
        damaged=len(damaged),
        gpus=gpus,
    )
    reasons: dict[Needs, str | None] = {}
    for point in points:
        if point.id in done or point.id in failed - again:
            continue
        if point.needs not in reasons:
            reasons[point.needs] = refusal(choice.needs(point), room)
        reason = reasons[point.needs]
        if reason is None:
            choice.queue.append(point)
        else:
            choice.refused[reason] = choice.refused.get(reason, 0) + 1
    choice.own = {point.id for point in choice.queue} & set(share)
    if choice.refused and not choice.queue:
        said = "; ".join(f"{count} need {reason}" for reason, count in choice.refused.items())
        raise ValueError(f"no point that is left can run here: {said}")
    return choice


def refusal(needs: Needs, room: Room) -> str | None:
    """What a point lacks here, as its needs; None where it can run."""
    missing = launcher_missing() if needs.ranks > 1 else None
    return f"{needs.ranks} MPI ranks, and {missing}" if missing else room.refusal(needs)


def _failed_before(failure: dict[str, Any], moment: str) -> bool:
    """Whether a failure is older than a moment, both ISO times."""
    finished = failure.get("finished")
    return finished is None or datetime.fromisoformat(finished) < datetime.fromisoformat(moment)
