"""The command line's studies: qrt-tn study."""

import json
import shlex
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from qrt_tn.studies.cli import study_cluster
from qrt_tn.studies.cli.study_target import Quick, StoreOption, Target, found
from qrt_tn.studies.config import Study, load_study
from qrt_tn.studies.config.study import shipped
from qrt_tn.studies.store import StudyStore

if TYPE_CHECKING:
    from qrt_tn.studies.runner import Summary

STOPPED = 75  # points are left, and another call goes on with them (EX_TEMPFAIL)
INTERRUPTED = 130

study = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Run a study from a TOML file, here or under SLURM; resume it, look at it, draw it.",
)


Processes = Annotated[
    int | None, typer.Option(help="points beside each other at most; left out: as many as fit")
]
Plain = Annotated[bool, typer.Option("--plain", help="lines instead of a live display")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="draw the report at the end")]


@study.command("list")
def list_studies() -> None:
    """List the studies that come with the package."""
    from rich.table import Table

    table = Table("study", "experiment", "points", "quick", "what it shows", box=None, pad_edge=False)
    for name in shipped():
        whole = load_study(name)
        try:
            quick = f"{len(load_study(name, quick=True).points):,}"
        except ValueError:
            quick = "-"
        table.add_row(name, whole.experiment.name, f"{len(whole.points):,}", quick, whole.title)
    Console().print(table)


@study.command("run")
def run(
    target: Target,
    quick: Quick = False,
    store: StoreOption = None,
    processes: Processes = None,
    group: Annotated[
        int | None, typer.Option(help="only points of these needs: the number of a submitted group")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs for each point that needs none; left out: none")
    ] = None,
    failed_before: Annotated[
        str | None, typer.Option(help="also what failed before this ISO time, once")
    ] = None,
    order: Annotated[
        Path | None, typer.Option(help="a file of the ids of points, which tasks share; left out: all points")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="i/n from 0/n on: do every n-th point, then what is left of the others'"),
    ] = None,
    requeues: Annotated[
        int | None,
        typer.Option(help="put this SLURM job back into the queue at its time limit, so many times"),
    ] = None,
    plain: Plain = False,
    report: Report = True,
) -> None:
    """Run what is not done of a study; killed or stopped, the same command goes on."""
    if gpus is not None and gpus < 0:
        raise ValueError(f"gpus is {gpus}; give 0 or more")
    if failed_before is not None:
        try:
            aware = datetime.fromisoformat(failed_before).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            raise ValueError(
                f"failed-before is {failed_before!r}; give an ISO time, as 2026-01-31T12:00:00+00:00"
            )
    asked, folder, file = found(target, quick, store)
    options = {
        "group": group,
        "order": None if order is None else _order(asked, order),
        "task": None if task is None else _task(task),
        "gpus": gpus,
        "retry": failed_before is not None,
        "retry_before": failed_before,
    }
    _run(asked, folder, file, processes, plain, report, requeues, **options)


def _order(asked: Study, file: Path) -> list[str]:
    """The points of a frozen order."""
    ids = file.read_text(encoding="utf-8").split()
    if foreign := set(ids) - asked.by_id.keys():
        raise ValueError(f"{file} holds {foreign.pop()!r:.60}, no point of {asked.name}")
    return ids


def _task(given: str) -> tuple[int, int]:
    number, _, tasks = given.partition("/")
    if not (number.isdecimal() and tasks.isdecimal() and int(number) < int(tasks)):
        raise ValueError(f"task is {given!r}; give i/n with i from 0 to n - 1, such as 0/8")
    return int(number), int(tasks)


@study.command("point")
def point(
    target: Target,
    id: Annotated[str, typer.Argument(help="of the point, or how it begins")],
    quick: Quick = False,
    store: StoreOption = None,
) -> None:
    """Run one point, for schedulers of any kind: exit code 0 where its record exists, now or already."""
    from qrt_tn.studies.runner import run_point

    asked, folder, _ = found(target, quick, store)
    named = [point for point in asked.points if point.id.startswith(id)]
    if len(named) != 1:
        raise ValueError(f"{len(named) or 'no'} points of {asked.name} have an id that begins with {id!r}")
    if reason := run_point(asked, folder, named[0]):
        print(f"qrt-tn: point {named[0].id}: {reason}", file=sys.stderr)
        raise typer.Exit(1)


@study.command("resume")
def resume(
    target: Target,
    quick: Quick = False,
    store: StoreOption = None,
    processes: Processes = None,
    plain: Plain = False,
    report: Report = True,
) -> None:
    """Go on with a study that was begun, as its store has it."""
    _, folder, _ = found(target, quick, store)
    _run(StudyStore(folder).study(), folder, None, processes, plain, report)


@study.command("retry")
def retry(
    target: Target,
    failed: Annotated[bool, typer.Option("--failed", help="points that failed, and points not done")] = False,
    kind: Annotated[
        str | None,
        typer.Option(help="only failures of this kind: error, unavailable, timeout, killed or metrics"),
    ] = None,
    quick: Quick = False,
    store: StoreOption = None,
    processes: Processes = None,
    plain: Plain = False,
    report: Report = True,
) -> None:
    """Run points again that failed."""
    if not failed:
        raise ValueError("say what to try again: qrt-tn study retry --failed")
    asked, folder, file = found(target, quick, store)
    chosen: bool | set[str] = True
    if kind is not None:
        from qrt_tn.studies.store.index import FAILURES, read_failures

        if kind not in FAILURES:
            raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(FAILURES)}")
        kept = StudyStore(folder)
        chosen = {one["id"] for one in read_failures(kept, kept.failures(asked)) if one["kind"] == kind}
    _run(asked, folder, file, processes, plain, report, retry=chosen)


def _run(
    asked: Study,
    folder: Path,
    file: Path | None,
    processes: int | None,
    plain: bool,
    report: bool,
    requeues: int | None = None,
    **options: Any,
) -> None:
    """Run, show it, and end with the exit code that says how it went."""
    from qrt_tn.studies.cli.study_display import watching
    from qrt_tn.studies.runner import Room, run_study

    if processes is not None and processes < 1:
        raise ValueError(f"processes is {processes}; give at least 1")
    # a submission's own copy of the study
    frozen = file is not None and (folder / "slurm").resolve() in file.resolve().parents
    console = Console(stderr=True)
    with watching(asked, console, plain=plain) as watch:
        room = Room(most=processes)
        summary = run_study(asked, folder, room=room, watch=watch, file=file, frozen=frozen, **options)
    print(_told(asked, folder, summary))
    if summary.stopped:
        again = "retry --failed" if options.get("retry") else "resume"
        print(f"{summary.stopped}; go on with: qrt-tn study {again} {shlex.quote(str(folder))}")
    group = options.get("group")
    if report and group is None and not summary.stopped:
        print(f"report: {_report(asked, folder)}")
    if summary.stopped and summary.left:
        # SLURM itself requeues what it preempts or loses, and what somebody cancels is to stay away
        if requeues is not None and summary.signal not in (signal.SIGTERM, signal.SIGINT):
            from qrt_tn.studies.cluster.requeue import requeue

            requeue(requeues, print)
        raise typer.Exit(INTERRUPTED if summary.signal == signal.SIGINT else STOPPED)
    # one of many tasks answers for what it did itself
    if summary.failed or (summary.failed_before and group is None):
        raise typer.Exit(1)


def _told(asked: Study, folder: Path, summary: "Summary") -> str:
    counts = {
        f"failed (see qrt-tn study status {shlex.quote(str(folder))})": summary.failed,
        f"failed before (qrt-tn study retry --failed {shlex.quote(str(folder))})": summary.failed_before,
        "cannot run on this machine": summary.unavailable,
        "left": summary.left,
    }
    parts = [
        f"{summary.finished:,} points finished",
        *(f"{n:,} {what}" for what, n in counts.items() if n > 0),
    ]
    return f"{asked.name}: {', '.join(parts)}; results in {folder}"


@study.command("status")
def status(
    target: Target,
    quick: Quick = False,
    store: StoreOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="go on showing it until nothing runs")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Tell how far a study is, what runs, and what failed and why."""
    from qrt_tn.studies.cli.study_status import follow_status, look, print_status

    asked, folder, _ = found(target, quick, store)
    if follow:
        follow_status(asked, folder, Console())
    elif as_json:
        print(json.dumps(look(asked, folder).plain()))
    else:
        print_status(look(asked, folder), Console())


@study.command("report")
def report(target: Target, quick: Quick = False, store: StoreOption = None) -> None:
    """Draw the report of a study from what is done: one page, self-contained."""
    asked, folder, _ = found(target, quick, store)
    print(f"report: {_report(asked, folder)}")


def _report(asked: Study, folder: Path) -> Path:
    from qrt_tn.studies.progress import StageTimer
    from qrt_tn.studies.report import study as pages
    from qrt_tn.studies.store.index import read_failures, read_results

    kept = StudyStore(folder)
    timer = StageTimer()
    with timer.stage("Reading results", 1) as stage:
        records, damaged = read_results(kept)
        failures = read_failures(kept, kept.failures(asked))
        stage.advance()
    for line in _not_whole(kept, damaged):
        timer.say(line)
    if records and not failures and not any(record["id"] in asked.by_id for record in records):
        raise ValueError(
            f"none of the {len(records):,} results in {folder} are points of {asked.source} as it is; run "
            f"it first, or draw what was run: qrt-tn study report {shlex.quote(str(folder))}"
        )
    with timer.stage("Report", 1) as stage:
        try:
            written = pages.write(asked, folder, records, failures, commands=_commands(asked, folder))
        except PermissionError as error:
            raise ValueError(f"cannot write the report into {folder} ({error.strerror})") from error
        stage.advance()
    return written


def _not_whole(kept: StudyStore, damaged: list[str]) -> list[str]:
    again = "is not whole; the next run does that point again"
    return [f"{kept.results.path(point)} {again}" for point in damaged]


def _commands(asked: Study, folder: Path) -> list[str]:
    """What repeats a study and its report, from the store alone."""
    from qrt_tn.studies.provenance import relative

    quick = " --quick" if asked.quick else ""
    place = shlex.quote(relative(str(folder)))
    return [
        f"qrt-tn study run {shlex.quote(relative(asked.source))}{quick} --store {place}",
        f"qrt-tn study retry --failed {place}",
        f"qrt-tn study report {place}",
    ]


@study.command("export")
def export(
    target: Target,
    out: Annotated[Path, typer.Argument(help="a .parquet or .csv file")],
    quick: Quick = False,
    store: StoreOption = None,
    table: Annotated[str | None, typer.Option(help="of the study's; left out, the first")] = None,
) -> None:
    """Write a table: parameters, keys, metrics, times and where it ran."""
    from qrt_tn.studies.store.export import write_export
    from qrt_tn.studies.store.index import read_failures, read_results

    asked, folder, _ = found(target, quick, store)
    kept = StudyStore(folder)
    records, damaged = read_results(kept)
    for line in _not_whole(kept, damaged):
        typer.echo(line, err=True)
    write_export(out, asked, records, read_failures(kept, kept.failures(asked)), table)
    print(f"written: {out}")


study_cluster.register(study)
