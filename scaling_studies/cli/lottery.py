"""The command line's tickets by pruning: qrt-tn lottery."""

from pathlib import Path
from typing import Annotated

import typer

from qrt_tn.studies.cli.options import command, numbers, words
from qrt_tn.studies.progress import StageTimer

lottery_app = typer.Typer(add_completion=False)


@lottery_app.command("lottery")
def lottery(
    preset: Annotated[
        str, typer.Option(help="quick, or a network of the paper: lenet, conv2, ...")
    ] = "quick",
    data: Annotated[
        str | None, typer.Option(help="digits, mnist, fashion-mnist, cifar10, cifar100, or a file or folder")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="a setting of the preset, as name=value; may be given again"),
    ] = None,
    controls: Annotated[str, typer.Option(help="controls, by commas; all if left out")] = "all",
    control_levels: Annotated[
        str, typer.Option(help="rounds with controls, by commas; left out: all (quick: every other)")
    ] = "",
    rewinding: Annotated[str, typer.Option(help="weights, or rate: of the learning rate alone")] = "weights",
    shallow: Annotated[
        bool, typer.Option("--shallow/--no-shallow", help="set the QRT against pruning on shallow networks")
    ] = True,
    seed: Annotated[int, typer.Option(help="of the split into training and validation points")] = 0,
    together: Annotated[
        int | None,
        typer.Option(help="networks that train at once under vmap; 0: one a core. Left out: by the device"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="output folder; left out: runs/<preset>-lottery. Goes on if begun")
    ] = None,
) -> None:
    """Find lottery tickets by iterative magnitude pruning, with every control; writes tables and a report."""
    from qrt_tn.models.lottery import CONTROLS
    from qrt_tn.models.lottery import preset as settings
    from qrt_tn.studies.experiments.lottery.config import LotteryConfig, overrides
    from qrt_tn.studies.experiments.lottery.run import run_lottery

    changed = overrides(change or [])
    if data is not None:
        changed["data"] = data
    config = LotteryConfig(
        name=preset,
        preset=settings(preset, **changed),
        controls=CONTROLS if controls == "all" else words(controls),
        control_levels=numbers(control_levels, int, "control-levels") or None,
        rewinding=rewinding,
        shallow=shallow,
        seed=seed,
        together=together,
        out=out or Path("runs") / f"{preset}-lottery",
    )
    written = run_lottery(config, command(), StageTimer())
    print(f"report: {written}")
