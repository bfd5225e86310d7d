"""The command line's benchmarks: qrt-tn bench."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qrt_tn.studies.cli.options import command, numbers, run_folder, words
from qrt_tn.studies.progress import StageTimer

bench = typer.Typer(add_completion=False, invoke_without_command=True)


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
    from qrt_tn.studies.benchmarks.engine import report, run
    from qrt_tn.studies.benchmarks.sheets import as_rich

    folder = out or run_folder("bench-engine")
    result = run.run(folder, run.full() if full else run.quick(), command(), StageTimer())
    console = Console()
    for sheet in report.sheets(result):
        console.print(as_rich(sheet))
    print(f"written: {folder}")


@bench.command("gpu")
def bench_gpu(
    backend: Annotated[
        str, typer.Option("--as", help="cupy, or numpy to try the run out without a GPU")
    ] = "cupy",
    only: Annotated[str, typer.Option(help="parts, by commas; left out: all")] = "",
    budget: Annotated[float, typer.Option(help="seconds for all parts together")] = 600.0,
    out: Annotated[
        Path | None, typer.Option(help="a JSON file for the results; left out: runs/bench-gpu-<time>.json")
    ] = None,
) -> None:
    """Compare every path on a GPU with other means, and time them; exit code 1 where one is wrong."""
    from qrt_tn.studies.benchmarks.gpu import run

    file = out or run_folder("bench-gpu").with_suffix(".json")
    parts = run.run(backend, file, only=words(only), budget=budget, command=command())
    print(f"written: {file}")
    if any(part["state"] == "failed" for part in parts.values()):
        raise typer.Exit(1)


@bench.command("states")
def bench_states(
    nodes: Annotated[int, typer.Option(help="how many nodes are drawn from each state")] = 256,
    out: Annotated[
        Path | None, typer.Option(help="output folder; left out: runs/bench-states-<time>")
    ] = None,
) -> None:
    """Time and memory of drawing nodes from D = 100 to 10,000; writes a table, a plot and JSON."""
    from qrt_tn.studies.benchmarks.sheets import as_rich
    from qrt_tn.studies.benchmarks.states import report, run

    if nodes < 1:
        raise ValueError(f"nodes is {nodes}; give at least 1")
    folder = out or run_folder("bench-states")
    result = run.run(folder, run.Sizes(nodes=nodes), command(), StageTimer())
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
    from qrt_tn.studies.benchmarks import sample_state

    if runs < 1:
        raise ValueError(f"runs is {runs}; give at least 1")
    sample_state.main(["--runs", str(runs), *([str(out)] if out else [])])


@bench.command("sample-mps")
def bench_sample_mps(
    rounds: Annotated[int, typer.Option(help="how often each sampler is timed")] = 5,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Time the samplers of matrix product states against the bare matrix products, and quimb's."""
    from qrt_tn.studies.benchmarks import sample_mps

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
    from qrt_tn.studies.benchmarks import smoothed_images

    counts = [str(number) for number in numbers(points, int, "points")]
    arguments = [str(folder), *([str(out)] if out else [])]
    if counts:
        arguments += ["--points", *counts]
    smoothed_images.main([*arguments, "--smoothing", *words(smoothing), "--tolerance", str(tolerance)])


@bench.command("lottery")
def bench_lottery(
    networks: Annotated[str, typer.Option(help="architectures, by commas")] = "lenet,conv2",
    rounds: Annotated[int, typer.Option(help="how often each is timed")] = 5,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Time training lottery trials against a plain Flax loop, and eight together against one."""
    from qrt_tn.models.vision import ARCHITECTURES
    from qrt_tn.studies.benchmarks import lottery

    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; give at least 1")
    for name in words(networks):
        if name not in ARCHITECTURES:
            raise ValueError(f"unknown network {name!r}; choose from {', '.join(ARCHITECTURES)}")
    arguments = ["--architectures", *words(networks), "--rounds", str(rounds)]
    lottery.main([*([str(out)] if out else []), *arguments])


@bench.command("moe")
def bench_moe(
    experts: Annotated[str, typer.Option(help="experts of a layer, by commas")] = "8,32",
    rounds: Annotated[int, typer.Option(help="how often each is timed")] = 7,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Time layers of experts: the forms of dispatch against bare products, and what pruning saves."""
    from qrt_tn.studies.benchmarks import moe

    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; give at least 1")
    counts = [str(number) for number in numbers(experts, int, "experts")]
    moe.main([*([str(out)] if out else []), "--experts", *counts, "--rounds", str(rounds)])


@bench.command("mixtures")
def bench_mixtures(
    seeds: Annotated[int, typer.Option(help="how many networks are trained")] = 5,
    steps: Annotated[int, typer.Option(help="of the first training; half as many after pruning")] = 400,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Prune experts first and then weights, against weights only: accuracy on the digits."""
    from qrt_tn.studies.benchmarks import mixtures

    mixtures.main([*([str(out)] if out else []), "--seeds", str(seeds), "--steps", str(steps)])


@bench.command("checkpoints")
def bench_checkpoints(
    megabytes: Annotated[int, typer.Option(help="size of the tree")] = 600,
    shards: Annotated[int, typer.Option(help="files with data")] = 4,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Measure the peak memory of reading and writing vmoe's checkpoints, over the size of their trees."""
    from qrt_tn.studies.benchmarks import checkpoints

    if megabytes < 1 or shards < 1:
        raise ValueError(f"megabytes is {megabytes}, shards {shards}; give at least 1 of each")
    checkpoints.main([*([str(out)] if out else []), "--megabytes", str(megabytes), "--shards", str(shards)])


@bench.command("compare")
def bench_compare(
    a: Annotated[Path, typer.Argument(help="what a benchmark wrote: a JSON file, or its folder")],
    b: Annotated[Path, typer.Argument(help="a later run of the same benchmark")],
    threshold: Annotated[float, typer.Option(help="factor from which a difference counts")] = 1.05,
    fail: Annotated[
        bool, typer.Option("--fail", help="exit code 1 where something is slower beyond its interval")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the comparison")] = None,
) -> None:
    """Set two runs of one benchmark side by side: B over A with intervals, slower figures marked."""
    from qrt_tn.studies.benchmarks.compare import as_json, compare, read_run, sentences, sheets
    from qrt_tn.studies.benchmarks.sheets import as_rich
    from qrt_tn.studies.folders import write_json

    found = compare(read_run(a), read_run(b), threshold=threshold)
    console = Console()
    for sheet in sheets(found):
        console.print(as_rich(sheet))
    for sentence in sentences(found):
        console.print(sentence, markup=False, highlight=False)
    if out is not None:
        write_json(out, as_json(found))
    if fail and found.slower:
        raise typer.Exit(1)


@bench.command("studies")
def bench_studies(
    kills: Annotated[int, typer.Option(help="how often a running study is killed")] = 100,
    points: Annotated[int, typer.Option(help="finished points of a large store")] = 100_000,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the results")] = None,
) -> None:
    """Kill studies at random moments, let eight writers at a store, and time one of 100,000 points."""
    from qrt_tn.studies.benchmarks.sheets import as_rich
    from qrt_tn.studies.benchmarks.studies import run

    if kills < 1:
        raise ValueError(f"kills is {kills}; give at least 1")
    if points < 200:
        raise ValueError(f"points is {points}; give at least 200")
    found = run.run(kills, points, out, StageTimer())
    console = Console()
    for sheet in run.sheets(found):
        console.print(as_rich(sheet))
