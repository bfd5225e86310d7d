"""The command line's main job: qrt-tn ticket."""

import json
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from qrt_tn.studies.cli.options import command, listed, numbers, run_folder, words
from qrt_tn.studies.config.messages import checked
from qrt_tn.studies.experiments.ticket.settings import KNOWN, Ticket
from qrt_tn.studies.progress import StageTimer

ticket_app = typer.Typer(add_completion=False)
_DEFAULTS = Ticket()


@ticket_app.command("ticket")
def ticket(
    data: Annotated[
        Path | None,
        typer.Option(help="csv, tsv, parquet or xlsx; or npz (arrays x, y; images too). Left out: digits"),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="the target's column, by name or position (0 first, -1 last), or array")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification or regression; left out: as the target tells")
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header", help="whether the first line holds names; left out: as the lines tell"
        ),
    ] = None,
    drop: Annotated[str, typer.Option(help="columns to leave out, by name or position, by commas")] = "",
    encode: Annotated[
        str | None, typer.Option(help="what text becomes: onehot or ordinal; left out: refused")
    ] = None,
    impute: Annotated[
        str | None,
        typer.Option(help="what missing numbers become: mean, median or most_frequent; left out: refused"),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            help=f"what to compare, by commas, of {listed(KNOWN)}; left out: all but the last three and what "
            "takes too long"
        ),
    ] = "",
    nodes: Annotated[str, typer.Option(help="node counts, by commas")] = listed(_DEFAULTS.nodes),
    seeds: Annotated[
        int, typer.Option(help="how many random splits; three or more decide")
    ] = _DEFAULTS.seeds,
    epochs: Annotated[
        int | None,
        typer.Option(help="epochs of training all parameters; left out: 30, or none if that takes too long"),
    ] = None,
    quantizer: Annotated[str, typer.Option(help="auto, uniform or quantile")] = _DEFAULTS.quantizer,
    levels: Annotated[str, typer.Option(help="levels of a feature, or auto")] = "auto",
    modulus: Annotated[
        int, typer.Option(help="the prime P; P / levels is the guard band")
    ] = _DEFAULTS.modulus,
    smoothing: Annotated[str, typer.Option(help="width of the filter, or auto")] = "auto",
    beta: Annotated[str, typer.Option(help="inverse temperature of tickets, or auto")] = "auto",
    backend: Annotated[str, typer.Option(help="auto, numpy, cupy or cuquantum")] = _DEFAULTS.backend,
    as_json: Annotated[bool, typer.Option("--json", help="print what was found as JSON")] = False,
    out: Annotated[Path | None, typer.Option(help="output folder; left out: runs/ticket-<time>")] = None,
) -> None:
    """Draw tickets from your data and set them against every other way; keeps the model and a report."""
    asked = {
        "data": data,
        "target": target,
        "task": task,
        "header": header,
        "drop": words(drop),
        "encode": encode,
        "impute": impute,
        "methods": words(methods) or None,
        "nodes": numbers(nodes, int, "nodes"),
        "seeds": seeds,
        "epochs": epochs,
        "quantizer": quantizer,
        "levels": _or_auto(levels, int, "levels"),
        "modulus": modulus,
        "smoothing": _or_auto(smoothing, float, "smoothing"),
        "beta": _or_auto(beta, float, "beta"),
        "backend": backend,
    }
    settings = checked(Ticket, asked, "")
    folder = out or run_folder("ticket")
    # what is cheap to see is seen before the science is imported
    from qrt_tn.studies.folders import check_new

    check_new(folder)
    if data is not None:
        from qrt_tn.models.tables import check_source

        check_source(data)
    from qrt_tn.studies.cli.findings import show
    from qrt_tn.studies.experiments.ticket.run import run_ticket

    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a batch system's end leaves nothing, as Ctrl-C
    found = run_ticket(settings, folder, command(), StageTimer())
    if as_json:
        print(json.dumps(found | {"folder": str(folder)}, indent=1))
    else:
        show(found, folder)


def _or_auto(text: str, kind: type, name: str) -> Any:
    if text == "auto":
        return text
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} is {text!r}; give {wanted}, or auto") from None
