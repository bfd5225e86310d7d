"""The command line's way to a cluster: qrt-tn study submit, qrt-tn study cancel."""

from typing import Annotated

import typer
from rich.console import Console

from qrt_tn.studies.cli.options import command
from qrt_tn.studies.cli.study_status import follow_status
from qrt_tn.studies.cli.study_target import Quick, StoreOption, Target, found
from qrt_tn.studies.config.study import shipped


def register(app: typer.Typer) -> None:
    """Add the commands to those of `qrt-tn study`."""
    app.command("submit")(submit)
    app.command("cancel")(cancel)


def submit(
    target: Target,
    quick: Quick = False,
    store: StoreOption = None,
    partition: Annotated[str | None, typer.Option(help="of the cluster")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="of each rank, as 2 or a100:1; points that need none get them too")
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option("--time", help="of a task at most, as SLURM takes it: minutes, 2:00:00, 1-12"),
    ] = None,
    account: Annotated[str | None, typer.Option(help="that pays")] = None,
    qos: Annotated[str | None, typer.Option(help="quality of service")] = None,
    constraint: Annotated[str | None, typer.Option(help="features that nodes must have")] = None,
    mem: Annotated[str | None, typer.Option(help="of a node, as 16G; left out: as points need")] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="cores of each rank; left out: as points need")
    ] = None,
    tasks: Annotated[
        int | None, typer.Option(min=1, help="of each array; left out: one a point, at most 64")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="tasks at work at once")] = None,
    requeues: Annotated[
        int, typer.Option(min=0, help="restarts of a task, for whatever reason, after which it gives up")
    ] = 20,
    grace: Annotated[
        int, typer.Option(min=1, help="seconds before the limit at which a task is told to stop")
    ] = 120,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(help="any other option of sbatch, as --sbatch=--reservation=x; again for more"),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(help="a line of shell to run first, as 'module load cuda'; again for more"),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="also points that failed, each once")] = False,
    again: Annotated[bool, typer.Option("--again", help="even if tasks are queued or at work")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print scripts to send by hand; send and write nothing")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="stay and show progress")] = False,
) -> None:
    """Send a study's pending points to SLURM, as an array for each kind of need; tasks requeue and resume."""
    from qrt_tn.studies import cluster

    study, folder, file = found(target, quick, store)
    request = cluster.Request(
        partition=partition,
        gpus=gpus,
        time=None if time_limit is None else cluster.minutes(time_limit),
        account=account,
        qos=qos,
        constraint=constraint,
        memory=mem,
        cpus=cpus,
        tasks=tasks,
        limit=limit,
        requeues=requeues,
        grace=grace,
        sbatch=tuple(sbatch or ()),
        setup=tuple(setup or ()),
    )
    if dry_run:
        by_hand = [str(file or target), "--store", str(folder), *(["--quick"] if quick else [])]
        if not file and target not in shipped():
            by_hand = [str(folder)]  # a store, which knows its study
        for array, script in cluster.preview(study, folder, request, by_hand, failed=failed):
            if array.warning:
                _note(array.warning)
            typer.echo(script, nl=False)
        return
    made, place = cluster.submit(
        study, folder, request, command=command(), again=again, failed=failed, say=_note
    )
    for sent in made.sent:
        typer.echo(f"job {sent.job}: {sent.tasks} tasks for {sent.points} points (group {sent.group})")
    typer.echo(f"scripts and logs: {place}")
    if follow:
        follow_status(study, folder, Console())


def cancel(target: Target, quick: Quick = False, store: StoreOption = None) -> None:
    """Cancel all that was submitted for a study, and wait until it has ended; nothing finished is lost."""
    from qrt_tn.studies import cluster
    from qrt_tn.studies.store import StudyStore

    _, folder, _ = found(target, quick, store)
    kept = StudyStore(folder)
    tasks = cluster.cancel(folder, say=_note)
    jobs = f" of job {', '.join(tasks.jobs)}" if tasks.jobs else ""
    left = len(cluster.pending(kept.study(), kept))
    typer.echo(f"cancelled {tasks.live} tasks{jobs}; {left} points are left to run")


def _note(text: str) -> None:
    typer.echo(text, err=True)
