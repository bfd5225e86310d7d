"""The command line's main job: qrt-tn ticket."""

from pathlib import Path
from typing import Annotated

import typer

from qrt_tn.studies.cli.options import command, listed, numbers, run_folder, words
from qrt_tn.studies.experiments.ticket_config import TicketConfig
from qrt_tn.studies.progress import StageTimer

ticket_app = typer.Typer(add_completion=False)


@ticket_app.command("ticket")
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
    from qrt_tn.studies.experiments.ticket import run_ticket

    written = run_ticket(config, command(), StageTimer())
    print(f"report: {written}")
