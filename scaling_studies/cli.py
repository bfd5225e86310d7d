"""The command line: qrt-tn."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

from scaling_studies.config import TicketConfig
from scaling_studies.progress import StageTimer

INTERRUPTED = 130  # the shell's code for a program that Ctrl-C ended; Typer gives it too


def _listed(values: tuple[Any, ...]) -> str:
    """A list as an option takes it."""
    return ",".join(map(str, values))


app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The Quantum Ridgelet Transform on tensor networks: winning tickets, sampled exactly.",
)


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
    activation: Annotated[str, typer.Option(help="names to choose from, by commas")] = _listed(
        TicketConfig.activations
    ),
    smoothing: Annotated[str, typer.Option(help="widths to choose from, by commas")] = _listed(
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
    nodes: Annotated[str, typer.Option(help="node counts, by commas")] = _listed(TicketConfig.nodes),
    seeds: Annotated[int, typer.Option(help="how many seeds")] = TicketConfig.seeds,
    epochs: Annotated[
        int, typer.Option(help="epochs of training all parameters; 0 for none")
    ] = TicketConfig.epochs,
    methods: Annotated[str, typer.Option(help="what to compare, by commas")] = _listed(TicketConfig.methods),
    backend: Annotated[str, typer.Option(help="auto, numpy, cupy or cuquantum")] = TicketConfig.backend,
    out: Annotated[Path | None, typer.Option(help="output folder; left out: runs/ticket-<time>")] = None,
) -> None:
    """Draw winning tickets from data and compare them; writes nodes, weights, metrics and a report."""
    folder = out or _run_folder("ticket")
    config = TicketConfig(
        data=data,
        target=target,
        quantiser=quantiser,
        levels=levels,
        modulus=modulus,
        components=components,
        activations=_words(activation),
        smoothings=_numbers(smoothing, float, "smoothing"),
        tolerance=tolerance,
        broad=broad or None,
        broad_tolerance=broad_tolerance,
        nodes=_numbers(nodes, int, "nodes"),
        seeds=seeds,
        epochs=epochs,
        methods=_words(methods),
        backend=backend,
        out=folder,
    )
    from scaling_studies.experiments.ticket import run_ticket

    written = run_ticket(config, _command(), StageTimer())
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
        controls=CONTROLS if controls == "all" else _words(controls),
        control_levels=_numbers(control_levels, int, "control-levels") or None,
        rewinding=rewinding,
        shallow=shallow,
        seed=seed,
        together=together,
        out=out or Path("runs") / f"lottery-{preset}",
    )
    written = run_lottery(config, _command(), StageTimer())
    print(f"report: {written}")


bench = typer.Typer(invoke_without_command=True)
app.add_typer(bench, name="bench")


@bench.callback()
def list_benchmarks(context: typer.Context) -> None:
    """Time parts of this program on this machine; without a name, list the benchmarks."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@bench.command("engine")
def bench_engine(
    full: Annotated[
        bool,
        typer.Option("--full/--quick", help="larger networks and long searches; about a minute if quick"),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="output folder; left out: runs/bench-engine-<time>")
    ] = None,
) -> None:
    """Compare with cotengra, opt_einsum, quimb and cuTensorNet; writes a table, a plot and JSON."""
    from scaling_studies.benchmarks.engine import report, run
    from scaling_studies.benchmarks.sheets import as_rich

    folder = out or _run_folder("bench-engine")
    result = run.run(folder, run.full() if full else run.quick(), _command(), StageTimer())
    console = Console()
    for sheet in report.sheets(result):
        console.print(as_rich(sheet))
    print(f"written: {folder}")


@bench.command("states")
def bench_states(
    nodes: Annotated[int, typer.Option(help="how many nodes are drawn from each state")] = 256,
    out: Annotated[
        Path | None, typer.Option(help="output folder; left out: runs/bench-states-<time>")
    ] = None,
) -> None:
    """Time and memory of drawing nodes from D = 100 to 10,000; writes a table, a plot and JSON."""
    from scaling_studies.benchmarks.sheets import as_rich
    from scaling_studies.benchmarks.states import report, run

    if nodes < 1:
        raise ValueError(f"nodes is {nodes}; give at least 1")
    folder = out or _run_folder("bench-states")
    result = run.run(folder, run.Sizes(nodes=nodes), _command(), StageTimer())
    console = Console()
    for sheet in report.sheets(result):
        console.print(as_rich(sheet))
    print(f"written: {folder}")


@bench.command("sample-state")
def bench_sample_state(
    runs: Annotated[int, typer.Option(help="how often each size is timed")] = 7,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Time sampling from the state of the data against the bare matrix product that it rests on."""
    from scaling_studies.benchmarks import sample_state

    if runs < 1:
        raise ValueError(f"runs is {runs}; give at least 1")
    sample_state.main(["--runs", str(runs), *([str(out)] if out else [])])


@bench.command("sample-mps")
def bench_sample_mps(
    rounds: Annotated[int, typer.Option(help="how often each sampler is timed")] = 5,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Time the samplers of matrix product states against the bare matrix products, and quimb's."""
    from scaling_studies.benchmarks import sample_mps

    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; give at least 1")
    sample_mps.main(["--rounds", str(rounds), *([str(out)] if out else [])])


@bench.command("smoothed-images")
def bench_smoothed_images(
    folder: Annotated[Path, typer.Argument(help="images and labels as MNIST's gzipped IDX files")],
    points: Annotated[str, typer.Option(help="how many images, by commas; left out: all")] = "",
    smoothing: Annotated[str, typer.Option(help="auto, or widths, by commas")] = "auto",
    tolerance: Annotated[float, typer.Option(help="relative error of the state")] = 0.05,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Time compressing smoothed images, and tell the bond, its error and what tickets score."""
    from scaling_studies.benchmarks import smoothed_images

    counts = [str(number) for number in _numbers(points, int, "points")]
    arguments = [str(folder), *([str(out)] if out else [])]
    if counts:
        arguments += ["--points", *counts]
    smoothed_images.main([*arguments, "--smoothing", *_words(smoothing), "--tolerance", str(tolerance)])


@bench.command("lottery")
def bench_lottery(
    networks: Annotated[str, typer.Option(help="architectures, by commas")] = "lenet,conv2",
    rounds: Annotated[int, typer.Option(help="how often each is timed")] = 5,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Time training lottery trials against a plain Flax loop, and eight together against one."""
    from models.vision import ARCHITECTURES
    from scaling_studies.benchmarks import lottery

    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; give at least 1")
    for name in _words(networks):
        if name not in ARCHITECTURES:
            raise ValueError(f"unknown network {name!r}; choose from {', '.join(ARCHITECTURES)}")
    arguments = ["--architectures", *_words(networks), "--rounds", str(rounds)]
    lottery.main([*([str(out)] if out else []), *arguments])


def _run_folder(kind: str) -> Path:
    import datetime

    return Path("runs") / f"{kind}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _command() -> str:
    return shlex.join(["qrt-tn", *sys.argv[1:]])


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str, kind: type, name: str) -> tuple[Any, ...]:
    numbers = []
    for word in _words(text):
        try:
            numbers.append(kind(word))
        except ValueError:
            wanted = "whole numbers" if kind is int else "numbers"
            raise ValueError(f"{name} holds {word!r}; give {wanted} separated by commas") from None
    return tuple(numbers)


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


if __name__ == "__main__":
    main()
