"""The command line's way to a cluster: qrt-tn study submit, qrt-tn study cancel."""

from typing import Annotated

import typer
from rich.console import Console

from qrt_tn.studies.cli.options import command
from qrt_tn.studies.cli.study_status import follow_status
from qrt_tn.studies.cli.study_target import Quick, StoreOption, Target, found


def register(app: typer.Typer) -> None:
    """Add the commands to those of `qrt-tn study`."""
    app.command("submit")(submit)
    app.command("cancel")(cancel)


def submit(
    target: Target,
    quick: Quick = False,
    store: StoreOption = None,
    partition: Annotated[str | None, typer.Option(help="of the cluster")] = None,
    gpus: Annotated[int | None, typer.Option(help="of each rank; points that need none get them too")] = None,
    time_limit: Annotated[
        str | None,
        typer.Option("--time", help="of a task at most, as SLURM takes it: minutes, 2:00:00, 1-12"),
    ] = None,
    account: Annotated[str | None, typer.Option(help="that pays")] = None,
    qos: Annotated[str | None, typer.Option(help="quality of service")] = None,
    constraint: Annotated[str | None, typer.Option(help="features that nodes must have")] = None,
    mem: Annotated[str | None, typer.Option(help="of a node, as 16G; left out: as points need")] = None,
    cpus: Annotated[int | None, typer.Option(help="cores of each rank; left out: as points need")] = None,
    tasks: Annotated[
        int | None, typer.Option(help="of each array; left out: one a point, at most 64")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="tasks at work at once")] = None,
    requeues: Annotated[
        int, typer.Option(help="restarts of a task, for whatever reason, after which it gives up")
    ] = 20,
    grace: Annotated[
        int, typer.Option(help="seconds before the limit at which a task is told to stop")
    ] = 120,
    module: Annotated[list[str] | None, typer.Option(help="to load; may be given again")] = None,
    env_file: Annotated[str | None, typer.Option(help="NAME=value lines to export")] = None,
    setup: Annotated[
        list[str] | None, typer.Option(help="a line of shell to run first; again for more")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="also points that failed, each once")] = False,
    via: Annotated[str, typer.Option(help="sbatch, or submitit (the extra 'slurm')")] = "sbatch",
    again: Annotated[bool, typer.Option("--again", help="even if tasks are queued or at work")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the scripts; send and write nothing")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="stay and show progress")] = False,
) -> None:
    """Send a study's pending points to SLURM, as an array for each kind of need; tasks requeue and resume."""
    from qrt_tn.studies import cluster

    study, folder, _ = found(target, quick, store)
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
        setup=cluster.setup_lines(tuple(module or ()), env_file, tuple(setup or ())),
        via=via,  # type: ignore[arg-type]  # checked there
    )
    if dry_run:
        for array, script in cluster.preview(study, folder, request, failed=failed):
            if warning := array.warning():
                typer.echo(f"note: {warning}", err=True)
            typer.echo(script)
        return
    made = cluster.submit(study, folder, request, command=command(), again=again, failed=failed, say=_note)
    for sent in made.sent:
        typer.echo(f"job {sent.job}: {sent.tasks} tasks for {sent.points} points (group {sent.group})")
    typer.echo(f"scripts and logs: {made.folder}")
    if follow:
        follow_status(study, folder, Console())


def cancel(target: Target, quick: Quick = False, store: StoreOption = None) -> None:
    """Cancel all that was submitted for a study, and wait until it has ended; nothing finished is lost."""
    from qrt_tn.studies import cluster

    _, folder, _ = found(target, quick, store)
    done = cluster.cancel(folder, say=_note)
    jobs = f" of job {', '.join(done.jobs)}" if done.jobs else ""
    typer.echo(f"cancelled {done.tasks} tasks{jobs}; {done.left} points are left to run")


def _note(text: str) -> None:
    typer.echo(text, err=True)
