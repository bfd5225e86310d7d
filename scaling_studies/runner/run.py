"""Runs all points of a study that are not done: starts them as they fit, and keeps what comes out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from qrt_tn.studies import provenance
from qrt_tn.studies.config import Point, Study
from qrt_tn.studies.runner.choice import Choice, choose
from qrt_tn.studies.runner.process import Process, launcher, lost_node, preload
from qrt_tn.studies.runner.room import Room, Share
from qrt_tn.studies.runner.stopping import Stop
from qrt_tn.studies.runner.task import Task, earlier_attempts
from qrt_tn.studies.runner.watching import Running, State, Unwatched, Watch
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.records import disk_full, room_needed
from qrt_tn.studies.store.runners import Registration, Runner, this_runner

GLANCE = 0.25  # seconds between two looks at what runs
GLANCE_AT_FILE = 20.0
TRIES = 3  # of a point whose process is killed, before that counts as its failure
OUTCOME = ("tables", "peak_bytes", "baseline_bytes", "device")  # what a process tells


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        finished: points that it finished.
        failed: points that failed in it.
        unavailable: points that could not run for what this machine lacks.
        left: points that are neither done nor failed now.
        elsewhere: of these, at work in other runners.
        failed_before: points that had failed before it and were not tried again.
        refused: of these, points that this machine cannot run, with the reason for each.
        stopped: why it stopped early, or None.
        signal: the signal that asked it to.
        seconds: how long it took.
    """

    finished: int
    failed: int
    unavailable: int
    left: int
    elsewhere: int
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
    turns: Sequence[str] | None = None,
    retry: bool | set[str] = False,
    retry_before: str | None = None,
    gpus: int | None = None,
    room: Room | None = None,
    watch: Watch | None = None,
    file: Path | None = None,
    frozen: bool = False,
) -> Summary:
    """Run what is not done of a study.

    Any number of runners, on any machines, may work on one store. SIGINT, SIGTERM and SIGUSR1 end the points
    under way and free them for others; kill -9 does too, a little later. What is finished stays.

    Args:
        study: what to run.
        folder: its store; made if it is not there.
        group: only points of these needs, by their place in `study.needs()`.
        turns: ids of the points to run, in the order in which to run them; left out, all in the study's.
        retry: also run points that failed before; a set names them.
        retry_before: of these, only what failed before this moment, an ISO time; left out, before now. So any
            number of runners try each failed point again once.
        gpus: what points get that need no GPU; left out, none.
        room: what points may use; left out, all that this process may.
        watch: is told how far it is.
        file: the study's file, to say so when it changes meanwhile.
        frozen: this is the copy of a study that was submitted, and need not be the store's current one.

    Raises:
        ValueError: the store is another study's or a newer program's; another version of the study is being
            run in it; no point that is left can run here.
        DiskFullError: no room is left for results; those that are there stay.
    """
    store = StudyStore.make(folder, study)
    runner = this_runner(study.digest)
    with Registration(store.runners, runner), Stop() as stop:
        # before the look at others: of two that begin at the same moment, one at least sees the other
        store.remember(study)
        if not frozen:
            store.check_beside(study, runner)
            store.keep(study)
        store.claims.release_dead(beside=runner)
        room = room or Room()
        choice = choose(
            study,
            store,
            room,
            group=group,
            turns=turns,
            retry=retry,
            retry_before=retry_before or _now(),
            gpus=gpus,
        )
        run = _Run(study, store, runner, room, watch or Unwatched(), stop, choice)
        try:
            run.go(_changes(file, study))
        finally:
            run.end_all()
        return run.summary()


@dataclass(frozen=True, eq=False)
class _Begun:
    point: Point
    process: Process
    share: Share
    started: str


class _Run:
    """One run under way."""

    def __init__(
        self,
        study: Study,
        store: StudyStore,
        runner: Runner,
        room: Room,
        watch: Watch,
        stop: Stop,
        choice: Choice,
    ) -> None:
        self.study = study
        self.store = store
        self.runner = runner
        self.room = room
        self.watch = watch
        self.stop = stop
        self.choice = choice
        self.queue, self.done, self.failed = choice.queue, choice.done, choice.failed
        self.elsewhere: list[Point] = []
        self.running: list[_Begun] = []
        self.finished_now = self.failed_now = self.unavailable_now = 0
        self.tries: dict[str, int] = {}
        self.origin: dict[str, Any] | None = None
        self.began = time.monotonic()
        if choice.damaged:
            watch.say(f"{choice.damaged} results are not whole; their points run again")
        for reason, count in choice.refused.items():
            watch.say(f"{count} points are left for another machine: they need {reason}")

    def go(self, changed: Callable[[], bool]) -> None:
        """Run until nothing is left to do here, or a signal comes."""
        if self.queue:
            preload(self.study.experiment.function.partition(":")[0])
            self.origin = {"versions": provenance.versions(), "commit": provenance.commit()}
        looked = time.monotonic()
        while not self.stop.reason:
            self._start_what_fits()
            self._show()
            if not self.running and not self.queue and not self._wait_for_doubtful():
                return
            wait([begun.process.sentinel for begun in self.running], GLANCE)
            for begun in list(self.running):
                if begun.process.ended:
                    self._collect(begun)
                elif begun.process.seconds > 60 * begun.point.needs.minutes:
                    begun.process.end()
                    limit = f"{begun.point.needs.minutes:g} minutes"
                    self._fail(begun, "timeout", f"it took more than {limit}; raise resources.minutes")
            if time.monotonic() - looked > GLANCE_AT_FILE:
                looked = time.monotonic()
                if changed():
                    self.watch.say(
                        "the study's file has changed; this run goes on with what it read. Give the command "
                        "again for what is new."
                    )

    def _start_what_fits(self) -> None:
        while self.queue and not self.stop.reason:
            point = self.queue[0]
            share = self.room.take(self.choice.needs(point))
            if share is None:
                return
            self.queue.popleft()
            try:
                started = self._start(point, share)
            except BaseException:
                self.room.give_back(share)
                self.store.claims.release(point.id, self.runner)
                raise
            if not started:
                self.room.give_back(share)

    def _start(self, point: Point, share: Share) -> bool:
        """Begin a point, unless another runner has it or has done it."""
        store = self.store
        with room_needed(store.folder):
            if not store.claims.take(point.id, self.runner):
                self.elsewhere.append(point)
                return False
        # looked at once the claim is ours: another runner may have ended it just before
        done = store.results.read(point.id) is not None
        earlier = store.failed.read(point.id)
        if done or (earlier and not self.choice.tries_again(earlier)):
            store.claims.release(point.id, self.runner)
            self.choice.retried.discard(point.id)
            if done:
                self.done += 1
            else:
                self.failed += 1
            return False
        work, log = store.work(point.id), store.log(point.id)
        attempt = 1 + max(earlier_attempts(work), int((earlier or {}).get("attempt", 0)))
        started = _now()
        with room_needed(store.folder):
            (work / "kept").mkdir(parents=True, exist_ok=True)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(f"=== attempt {attempt}, {self.runner.host}, {started}: {point}\n")
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
        if not self.store.claims.owns(begun.point.id, self.runner):
            # this runner was silent for so long that it was taken for dead: another one has the point now
            begun.process.close()
            self._let_go(begun)
            self.elsewhere.append(begun.point)
            return
        outcome = begun.process.task.outcome()
        if begun.process.disk_full:
            begun.process.close()
            self._let_go(begun)
            raise disk_full(self.store.folder)
        if outcome is None:
            self._collect_killed(begun)
        elif "kind" in outcome:
            self._fail(begun, outcome["kind"], outcome["reason"], outcome.get("traceback"))
        else:
            begun.process.close()
            try:
                self.store.publish(
                    {"format": "qrt-tn.point"}
                    | self._record(begun, outcome["seconds"])
                    | {"ranks": begun.point.needs.ranks, "started": begun.started}
                    | {name: outcome[name] for name in OUTCOME}
                    | (self.origin or {})
                )
            finally:
                self._let_go(begun)
            self.done += 1
            self.finished_now += 1
            self.choice.retried.discard(begun.point.id)

    def _collect_killed(self, begun: _Begun) -> None:
        """A point whose process vanished: its own fault, or that of whatever ended more than it."""
        time.sleep(GLANCE)  # what ends a whole job reaches its processes in any order
        point, ending = begun.point, begun.process.ending()
        tries = self.tries[point.id] = self.tries.get(point.id, 0) + 1
        if not self.stop.reason and point.needs.ranks > 1 and lost_node():
            self.stop.ask("a node of this job is lost")
        if self.stop.reason:
            begun.process.close()
            self._let_go(begun)
        elif tries < TRIES:
            begun.process.close()
            self._let_go(begun)
            self.queue.appendleft(point)
            self.watch.say(f"{ending}; it is tried again (attempt {tries + 1} of {TRIES})")
        else:
            self._fail(begun, "killed", f"{ending}, {TRIES} times")

    def _fail(self, begun: _Begun, kind: str, reason: str, traceback: str | None = None) -> None:
        point, seconds = begun.point, begun.process.seconds
        begun.process.close()
        record = {"format": "qrt-tn.failure"} | self._record(begun, seconds)
        try:
            self.store.publish_failure(record | {"kind": kind, "reason": reason, "traceback": traceback})
        finally:
            self._let_go(begun)
        self.failed += 1
        self.choice.retried.discard(point.id)
        if kind == "unavailable":
            self.unavailable_now += 1
        else:
            self.failed_now += 1
        said = ", ".join(f"{name}={point.parameters[name]}" for name in self.study.varied)
        self.watch.say(f"failed ({kind}): {said or point.id}, seed={point.seed}: {reason}")

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
            "host": self.runner.host,
            "job": self.runner.job,
            "log": str(self.store.log(point.id).relative_to(self.store.folder)),
        }

    def _let_go(self, begun: _Begun) -> None:
        self.running.remove(begun)
        self.room.give_back(begun.share)
        self.store.claims.release(begun.point.id, self.runner)

    def _wait_for_doubtful(self) -> bool:
        """Whether points of runners that have fallen silent are worth waiting for; frees them once dead."""
        held = self.store.claims.held()
        waiting = False
        for point in list(self.elsewhere):
            owner = self.store.runners.read(held[point.id]) if point.id in held else None
            if owner is not None and self.store.runners.doubtful(owner):
                waiting = True
            elif owner is None or not self.store.runners.alive(owner, self.runner):
                # done, given back, or its runner is dead: looked at again when it is begun
                self.elsewhere.remove(point)
                self.queue.append(point)
        return waiting or bool(self.queue)

    def _show(self) -> None:
        running = [Running(one.point, one.process.seconds, one.process.memory) for one in self.running]
        self.watch.show(
            State(
                total=len(self.choice.own),
                done=self.done,
                failed=self.failed,
                elsewhere=len(self.elsewhere),
                running=running,
                finished_now=self.finished_now,
                seconds=time.monotonic() - self.began,
            )
        )

    def end_all(self) -> None:
        """End what still runs, and free it for others."""
        for begun in list(self.running):
            begun.process.end()
            self._let_go(begun)

    def summary(self) -> Summary:
        """What was done, and what is left in the store now, whoever did it."""
        standing = self.store.standing(self.study)
        over = (standing.done | standing.failed) - self.choice.retried
        return Summary(
            finished=self.finished_now,
            failed=self.failed_now,
            unavailable=self.unavailable_now,
            left=len(self.choice.own - over),
            elsewhere=len({point.id for point in self.elsewhere} - over),
            failed_before=self.choice.unmended,
            refused=self.choice.refused,
            stopped=self.stop.reason,
            signal=self.stop.number,
            seconds=time.monotonic() - self.began,
        )


def _changes(file: Path | None, study: Study) -> Callable[[], bool]:
    """A function that tells, once, that the study's file is not what it was."""
    told = False

    def changed() -> bool:
        nonlocal told
        if file is None or told:
            return False
        try:
            told = file.read_text(encoding="utf-8") != study.text
        except OSError:
            return False
        return told

    return changed


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
