"""The command line: qrt-tn."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from scaling_studies.cli.bench import bench
from scaling_studies.cli.moe import moe
from scaling_studies.cli.options import command, listed, numbers, run_folder, words
from scaling_studies.experiments.ticket_config import TicketConfig
from scaling_studies.progress import StageTimer

INTERRUPTED = 130  # the shell's code for a program that Ctrl-C ended; Typer gives it too

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The Quantum Ridgelet Transform on tensor networks: winning tickets, sampled exactly.",
)
app.add_typer(bench, name="bench")
app.add_typer(moe, name="moe")


@app.callback()
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="show the version and stop")] = False,
) -> None:
    """Show the help where no command is named."""
    if version:
        from scaling_studies import provenance

        print(provenance.versions()["qrt-tn"])
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def info(
    measure: Annotated[bool, typer.Option("--measure", help="measure the rates anew")] = False,
) -> None:
    """Show backends, devices, versions and measured rates; for what is missing, why and what to do."""
    from scaling_studies.machine import show_machine

    show_machine(Console(), measure=measure, timer=StageTimer())


@app.command()
def ticket(
    data: Annotated[
        Path | None, typer.Option(help="npz (arrays x, y), csv or parquet; left out: digits")
    ] = None,
    target: Annotated[str | None, typer.Option(help="the target's array or column")] = None,
    quantiser: Annotated[
        str, typer.Option(help="auto, uniform, quantile or pca-quantile")
    ] = TicketConfig.quantiser,
    levels: Annotated[int, typer.Option(help="levels of a feature")] = TicketConfig.levels,
    modulus: Annotated[
        int, typer.Option(help="the prime P; P / levels is the guard band")
    ] = TicketConfig.modulus,
    components: Annotated[int | None, typer.Option(help="principal components of pca-quantile")] = None,
    activation: Annotated[str, typer.Option(help="names to choose from, by commas")] = listed(
        TicketConfig.activations
    ),
    smoothing: Annotated[str, typer.Option(help="widths to choose from, by commas")] = listed(
        TicketConfig.smoothings
    ),
    tolerance: Annotated[
        float, typer.Option(help="relative error of a smoothed state")
    ] = TicketConfig.tolerance,
    broad: Annotated[
        float, typer.Option(help="width of the comparison with the filter; 0 for none")
    ] = TicketConfig.broad or 0.0,
    broad_tolerance: Annotated[
        float, typer.Option(help="relative error of that state")
    ] = TicketConfig.broad_tolerance,
    nodes: Annotated[str, typer.Option(help="node counts, by commas")] = listed(TicketConfig.nodes),
    seeds: Annotated[int, typer.Option(help="how many seeds")] = TicketConfig.seeds,
    epochs: Annotated[
        int, typer.Option(help="epochs of training all parameters; 0 for none")
    ] = TicketConfig.epochs,
    methods: Annotated[str, typer.Option(help="what to compare, by commas")] = listed(TicketConfig.methods),
    backend: Annotated[str, typer.Option(help="auto, numpy, cupy or cuquantum")] = TicketConfig.backend,
    out: Annotated[Path | None, typer.Option(help="output folder; left out: runs/ticket-<time>")] = None,
) -> None:
    """Draw winning tickets from data and compare them; writes nodes, weights, metrics and a report."""
    folder = out or run_folder("ticket")
    config = TicketConfig(
        data=data,
        target=target,
        quantiser=quantiser,
        levels=levels,
        modulus=modulus,
        components=components,
        activations=words(activation),
        smoothings=numbers(smoothing, float, "smoothing"),
        tolerance=tolerance,
        broad=broad or None,
        broad_tolerance=broad_tolerance,
        nodes=numbers(nodes, int, "nodes"),
        seeds=seeds,
        epochs=epochs,
        methods=words(methods),
        backend=backend,
        out=folder,
    )
    from scaling_studies.experiments.ticket import run_ticket

    written = run_ticket(config, command(), StageTimer())
    print(f"report: {written}")


@app.command()
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
        Path | None, typer.Option(help="output folder; left out: runs/lottery-<preset>. Goes on if begun")
    ] = None,
) -> None:
    """Find lottery tickets by iterative magnitude pruning, with every control; writes tables and a report."""
    from models.lottery import CONTROLS
    from models.lottery import preset as settings
    from scaling_studies.experiments.lottery.config import LotteryConfig, overrides
    from scaling_studies.experiments.lottery.run import run_lottery

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
        out=out or Path("runs") / f"lottery-{preset}",
    )
    written = run_lottery(config, command(), StageTimer())
    print(f"report: {written}")


def main() -> None:
    """Run the command line; bad input ends in one line and exit code 2, an interrupt in 130."""
    try:
        code = app(standalone_mode=False) or 0
    except (ValueError, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        print(f"qrt-tn: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("qrt-tn: interrupted; nothing was left half-written", file=sys.stderr)
    sys.exit(code)
