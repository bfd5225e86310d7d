"""Runs all points of a study that are not done: starts them as they fit, and keeps what comes out."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from qrt_tn.studies import provenance
from qrt_tn.studies.config import Point, Study
from qrt_tn.studies.config.points import order as order_of
from qrt_tn.studies.runner.choice import Choice, choose, refusal
from qrt_tn.studies.runner.process import Process, launcher, lost_node, preload
from qrt_tn.studies.runner.room import Room, Share
from qrt_tn.studies.runner.stopping import Stop
from qrt_tn.studies.runner.task import Task, earlier_attempts, slurm_job
from qrt_tn.studies.runner.watching import Running, State, Watch
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.records import disk_full, room_needed
from qrt_tn.studies.store.work import begun_by, open_work

GLANCE = 0.25  # seconds between two looks at what runs
GLANCE_AT_FILES = 20.0  # at the study's file, and at what others have ended
TRIES = 3  # of a point whose process is killed, before that counts as its failure
CROWD = 2  # tasks that have begun a point, from which on no further one helps with it
OUTCOME = ("tables", "peak_bytes", "baseline_bytes", "device")  # what a process tells


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        finished: points that it finished.
        failed: points that failed in it.
        unavailable: points that could not run for what this machine lacks.
        left: points that are neither done nor failed now.
        failed_before: points that had failed before it and were not tried again.
        refused: points that this machine cannot run, with the reason for each.
        stopped: why it stopped early, or None.
        signal: the signal that asked it to.
        seconds: how long it took.
    """

    finished: int
    failed: int
    unavailable: int
    left: int
    failed_before: int
    refused: dict[str, int]
    stopped: str | None
    signal: int | None
    seconds: float


def run_study(
    study: Study,
    folder: Path,
    *,
    group: int | None = None,
    order: Sequence[str] | None = None,
    task: tuple[int, int] | None = None,
    retry: bool | set[str] = False,
    retry_before: str | None = None,
    gpus: int | None = None,
    room: Room | None = None,
    watch: Watch | None = None,
    file: Path | None = None,
    frozen: bool = False,
) -> Summary:
    """Run what is not done of a study.

    Any number of tasks, on any machines, may work on one store; a point that two run all the same costs time
    only, and the first record stays. Of runs without `task`, one on each machine. SIGINT, SIGTERM and SIGUSR1
    end the points under way, kill -9 does too. What is finished stays.

    Args:
        study: what to run.
        folder: its store; made if it is not there.
        group: only points of these needs, by their place in `study.needs()`.
        order: ids of the points that tasks share, in an order that all of them have; left out, all points.
        task: i and n: every n-th point of the order from the i-th on, then what is left of the others' from
            the far end; left out, the study's own order.
        retry: also run points that failed before; a set names them.
        retry_before: of these, only what failed before this moment, an ISO time; left out, before now. So any
            number of tasks try each failed point again once.
        gpus: what points get that need no GPU; left out, none.
        room: what points may use; left out, all that this process may.
        watch: is told how far it is.
        file: the study's file, to say so when it changes meanwhile.
        frozen: this is the copy of a study that was submitted, and need not be the store's current one.

    Raises:
        ValueError: the store is another study's or another program's; the study is being run on this machine
            already; no point that is left can run here.
        DiskFullError: no room is left for results; those that are there stay.
    """
    store = StudyStore.make(folder, study)
    named = [slurm_job(), None if task is None else f"{task[0]}-of-{task[1]}"]
    name = "-".join(filter(None, named)) or "run"
    if task is not None and order is None:
        order = order_of(study.by_id)
    with store.lock(name) as owner, Stop() as stop:
        if not frozen:
            store.keep(study)
        room = room or Room()
        choice = choose(
            study,
            store,
            room,
            group=group,
            order=order,
            task=task or (0, 1),
            retry=retry,
            retry_before=retry_before or _now(),
            gpus=gpus,
        )
        with _run(study, store, owner, room, watch or Watch(), stop, choice) as run:
            run.go(file)
            return run.summary()


def run_point(study: Study, folder: Path, point: Point, *, watch: Watch | None = None) -> str | None:
    """Run one point, whatever became of it before, unless its record exists.

    Returns:
        Why there is no record, in one line; None where there is one.

    Raises:
        ValueError, DiskFullError: as `run_study`; another process on this machine is at this point.
    """
    store = StudyStore.make(folder, study)
    if store.results.read(point.id) is not None:
        return None
    with store.lock(point.id) as owner, Stop() as stop:
        store.keep(study)
        room = Room()
        if reason := refusal(point.needs, room):
            raise ValueError(f"this point cannot run here: it needs {reason}")
        choice = Choice({point.id}, deque([point]), {point.id}, retried={point.id}, retry_before=_now())
        with _run(study, store, owner, room, watch or Watch(), stop, choice) as run:
            run.go()
        if store.results.read(point.id) is not None:
            return None
        failure = store.failed.read(point.id)
        return stop.reason or (f"{failure['kind']}: {failure['reason']}" if failure else "it was not run")


@dataclass(frozen=True, eq=False)
class _Begun:
    point: Point
    process: Process
    share: Share
    started: str


@contextmanager
def _run(*arguments: Any) -> Iterator["_Run"]:
    """A run, of which nothing runs on when the block ends."""
    run = _Run(*arguments)
    try:
        yield run
    finally:
        for begun in list(run.running):
            begun.process.end()
            run.let_go(begun)


class _Run:
    """One run under way; `owner` is the name of its folders under those of points."""

    def __init__(
        self,
        study: Study,
        store: StudyStore,
        owner: str,
        room: Room,
        watch: Watch,
        stop: Stop,
        choice: Choice,
    ) -> None:
        self.study = study
        self.store = store
        self.owner = owner
        self.room = room
        self.watch = watch
        self.stop = stop
        self.choice = choice
        self.queue, self.done, self.failed = choice.queue, choice.done, choice.failed
        self.ahead = set(choice.own)  # of its own points, those that it has not ended
        self.put_off: set[str] = set()
        self.running: list[_Begun] = []
        self.finished_now = self.failed_now = self.unavailable_now = 0
        self.tries: dict[str, int] = {}
        self.origin: dict[str, Any] | None = None
        self.began = time.monotonic()
        if choice.damaged:
            watch.say(f"{choice.damaged} results are not whole; their points run again")
        for reason, count in choice.refused.items():
            watch.say(f"{count} points are left for another machine: they need {reason}")

    def go(self, file: Path | None = None) -> None:
        """Run until nothing is left to do here, or a signal comes; tells once where the file changes."""
        if self.queue:
            preload(self.study.experiment.function.partition(":")[0])
            self.origin = {"versions": provenance.versions(), "commit": provenance.commit()}
        looked = time.monotonic()
        while not self.stop.reason:
            self._start_what_fits()
            self._show()
            if not self.running and not self.queue:
                return
            wait([begun.process.sentinel for begun in self.running], GLANCE)
            glance = time.monotonic() - looked > GLANCE_AT_FILES
            for begun in list(self.running):
                minutes = begun.point.needs.minutes
                if begun.process.ended:
                    self._collect(begun)
                elif glance and self._has_record(begun.point):
                    self._leave_to_others(begun)
                elif begun.process.overdue(minutes):
                    begun.process.end()
                    reason = f"it took more than {minutes:g} minutes; raise resources.minutes"
                    self._fail(begun, "timeout", reason)
            if glance:
                looked = time.monotonic()
                if file is not None and self._differs(file):
                    file = None
                    self.watch.say(
                        "the study's file has changed; this run goes on with what it read. Give the command "
                        "again for what is new."
                    )

    def _differs(self, file: Path) -> bool:
        try:
            return file.read_text(encoding="utf-8") != self.study.text
        except (OSError, UnicodeDecodeError):
            return False

    def _start_what_fits(self) -> None:
        while self.queue and not self.stop.reason:
            point = self.queue[0]
            share = self.room.take(self.choice.needs(point))
            if share is None:
                return
            self.queue.popleft()
            started = False
            try:
                started = self._is_to_run(point) and self._start(point, share)
            except (FileNotFoundError, ValueError):
                if not self._has_record(point):
                    raise
                self.queue.append(point)  # another task has ended it just now, and removed its folder
            finally:
                if not started:
                    self.room.give_back(share)

    def _has_record(self, point: Point) -> bool:
        """Whether a point has one that is whole."""
        return self.store.results.read(point.id) is not None

    def _is_to_run(self, point: Point) -> bool:
        """Whether to run a point now: not one that others have ended, nor at once one they have begun."""
        earlier = self.store.failed.read(point.id)
        done = self._has_record(point)
        if done or (earlier and not self.choice.tries_again(earlier)):
            self.done += done
            self.failed += not done
            self._over(point)
            return False
        others = begun_by(self.store.work(point.id)) - {self.owner}
        if slurm_job():  # this task may have begun it on another machine
            others = {one for one in others if one.partition("@")[0] != self.owner.partition("@")[0]}
        if others and point.id not in self.put_off:
            self.put_off.add(point.id)
            self.queue.append(point)
            return False
        return point.id in self.choice.own or len(others) < CROWD

    def _start(self, point: Point, share: Share) -> bool:
        store = self.store
        folder, log = store.work(point.id), store.log(point.id)
        earlier = store.failed.read(point.id) or {}
        before = earlier_attempts(folder) if folder.exists() else 0
        attempt = 1 + max(before, int(earlier.get("attempt", 0)))
        started = _now()
        with room_needed(store.folder):
            work = open_work(folder, self.owner)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(f"=== attempt {attempt}, {self.owner}, {started}: {point}\n")
            task = Task(
                experiment=self.study.experiment.name,
                parameters=point.parameters,
                seed=point.seed,
                folder=str(work.resolve()),
                log=str(log.resolve()),
                attempt=attempt,
                ranks=point.needs.ranks,
                cores=share.cores,
                gpus=share.gpus,
                launcher=launcher(point.needs.ranks),
            )
            task.save()
        self.running.append(_Begun(point, Process(task), share, started))
        return True

    def _collect(self, begun: _Begun) -> None:
        """Keep what a point that has ended left behind."""
        point, outcome = begun.point, begun.process.task.outcome()
        if self._has_record(point):
            self._leave_to_others(begun)
        elif begun.process.disk_full:
            self.let_go(begun)
            raise disk_full(self.store.folder)
        elif outcome is None:
            self._collect_killed(begun)
        elif "kind" in outcome:
            self._fail(begun, outcome["kind"], outcome["reason"], outcome.get("traceback"))
        else:
            self.let_go(begun)
            self.store.publish(
                {"format": "qrt-tn.point"}
                | self._record(begun, outcome["seconds"])
                | {"ranks": point.needs.ranks, "started": begun.started}
                | {name: outcome[name] for name in OUTCOME}
                | (self.origin or {})
            )
            self.done += 1
            self.finished_now += 1
            self._over(point)

    def _leave_to_others(self, begun: _Begun) -> None:
        """End a point that another task has finished meanwhile."""
        begun.process.end()
        self.let_go(begun)
        self.store.clear(begun.point.id)
        self.done += 1
        self._over(begun.point)

    def _collect_killed(self, begun: _Begun) -> None:
        """A point whose process vanished: its own fault, or that of whatever ended more than it."""
        time.sleep(GLANCE)  # what ends a whole job reaches its processes in any order
        point, ending = begun.point, begun.process.ending()
        tries = self.tries[point.id] = self.tries.get(point.id, 0) + 1
        if not self.stop.reason and point.needs.ranks > 1 and lost_node():
            self.stop.ask("a node of this job is lost")
        if self.stop.reason:
            self.let_go(begun)
        elif tries < TRIES:
            self.let_go(begun)
            self.queue.appendleft(point)
            self.watch.say(f"{ending}; it is tried again (attempt {tries + 1} of {TRIES})")
        else:
            self._fail(begun, "killed", f"{ending}, {TRIES} times")

    def _fail(self, begun: _Begun, kind: str, reason: str, traceback: str | None = None) -> None:
        point, seconds = begun.point, begun.process.seconds
        self.let_go(begun)
        record = {"format": "qrt-tn.failure"} | self._record(begun, seconds)
        self.store.publish_failure(record | {"kind": kind, "reason": reason, "traceback": traceback})
        self.failed += 1
        self._over(point)
        if kind == "unavailable":
            self.unavailable_now += 1
        else:
            self.failed_now += 1
        said = ", ".join(f"{name}={point.parameters[name]}" for name in self.study.varied)
        self.watch.say(f"failed ({kind}): {said or point.id}, seed={point.seed}: {reason}")

    def _over(self, point: Point) -> None:
        self.ahead.discard(point.id)
        self.choice.retried.discard(point.id)

    def _record(self, begun: _Begun, seconds: float) -> dict[str, Any]:
        """What records of finished and failed points share."""
        point = begun.point
        return {
            "version": 2,
            "id": point.id,
            "study": self.study.name,
            "experiment": self.study.experiment.name,
            "revision": self.study.experiment.revision,
            "parameters": dict(point.parameters),
            "seed": point.seed,
            "wall_seconds": seconds,
            "finished": _now(),
            "attempt": begun.process.task.attempt,
            "job": slurm_job(),
            "log": str(self.store.log(point.id).relative_to(self.store.folder)),
        }

    def let_go(self, begun: _Begun) -> None:
        """Forget a point whose process has ended."""
        begun.process.close()
        self.running.remove(begun)
        self.room.give_back(begun.share)

    def _show(self) -> None:
        running = [Running(one.point, one.process.seconds, one.process.memory) for one in self.running]
        self.watch.show(
            State(
                total=len(self.choice.points),
                done=self.done,
                failed=self.failed,
                left=len(self.ahead) or len(self.queue) + len(running),
                running=running,
                ended_now=self.finished_now + self.failed_now + self.unavailable_now,
                seconds=time.monotonic() - self.began,
            )
        )

    def summary(self) -> Summary:
        """What was done, and what is left in the store now, whoever did it."""
        standing = self.store.standing(self.study)
        over = (standing.done | standing.failed) - self.choice.retried
        return Summary(
            finished=self.finished_now,
            failed=self.failed_now,
            unavailable=self.unavailable_now,
            left=len(self.choice.points - over),
            failed_before=self.choice.unmended,
            refused=self.choice.refused,
            stopped=self.stop.reason,
            signal=self.stop.number,
            seconds=time.monotonic() - self.began,
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
