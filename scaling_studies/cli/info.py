"""The command line's look at this machine: qrt-tn info."""

from typing import Annotated

import typer
from rich.console import Console

from qrt_tn.studies.progress import StageTimer

info_app = typer.Typer(add_completion=False)


@info_app.command("info")
def info(
    measure: Annotated[bool, typer.Option("--measure", help="measure the rates anew")] = False,
) -> None:
    """Show backends, devices, versions and measured rates; for what is missing, why and what to do."""
    from qrt_tn.studies.machine import show_machine

    show_machine(Console(), measure=measure, timer=StageTimer())
