"""The whole benchmark of states, and the folder that it writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrt_tn.studies.benchmarks.record import origin
from qrt_tn.studies.benchmarks.states import growth, report
from qrt_tn.studies.folders import check_new, whole_folder, write_json
from qrt_tn.studies.progress import StageTimer

FORMAT = "qrt-tn.bench-states"
VERSION = 1


@dataclass(frozen=True)
class Sizes:
    """What is run.

    Attributes:
        dims: dimensions D of the states that grow linearly.
        dense: dimensions of the dense transform.
        nodes: how many nodes are drawn.
        rounds: how often each drawing is timed.
    """

    dims: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    dense: tuple[int, ...] = (1, 2, 3)
    nodes: int = 256
    rounds: int = 3


def run(folder: Path, sizes: Sizes, command: str, timer: StageTimer) -> dict[str, Any]:
    """Measure all kinds and write states.json, states.md and states.svg, whole or not at all.

    Args:
        folder: a new or empty folder.
        sizes: what to run.
        command: what the user typed.
        timer: shows the stages.

    Returns:
        What states.json holds.

    Raises:
        ValueError: the folder exists and is not empty, or cannot be made.
        RuntimeError: a log-probability that is not finite; nothing is written.
    """
    check_new(folder)
    with whole_folder(folder) as partial:
        result = measure(sizes, command, timer)
        write_json(partial / "states.json", result)
        (partial / "states.md").write_text(report.as_markdown(result), encoding="utf-8")
        report.draw(result, partial / "states.svg")
    return result


def measure(sizes: Sizes, command: str, timer: StageTimer) -> dict[str, Any]:
    """Every figure of the benchmark.

    Args:
        sizes: what to run.
        command: what the user typed.
        timer: shows the stages.
    """
    rows: list[dict[str, Any]] = []
    for kind, make in growth.KINDS.items():
        with timer.stage(f"{kind}, D = {sizes.dims[0]} to {sizes.dims[-1]}", len(sizes.dims)) as stage:
            for row in growth.measure(kind, make, sizes.dims, sizes.nodes, sizes.rounds):
                rows.append(row)
                stage.advance()
    with timer.stage("the dense transform", len(sizes.dense)) as stage:
        for row in growth.measure("dense", growth.dense, sizes.dense, sizes.nodes, sizes.rounds):
            rows.append(row)
            stage.advance()
    fits = []
    for kind in growth.KINDS:
        own = [row for row in rows if row["kind"] == kind]
        dims = [row["dim"] for row in own]
        powers = {what: growth.exponent(dims, [row[what] for row in own]) for what in report.FITTED}
        fits.append({"kind": kind, **powers})
    return {
        "format": FORMAT,
        "version": VERSION,
        "command": command,
        **origin(),
        "modulus": growth.MODULUS,
        "activation": growth.ACTIVATION,
        "rows": rows,
        "exponents": fits,
        "seconds": dict(timer.seconds),
    }
