"""What a ticket run found, in the terminal: a verdict and a table of scores."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from qrt_tn.studies.report.comparison import MARKS

_LEGEND = """\
Means over seeds. ✓ the fitted ticket (first row) is ahead of this method, = a tie, ✗ it is behind, ? too few
seeds; methods without nodes: beside the ticket of the most nodes. Filter alone: what tickets are drawn from
before they look at the targets. Greedy features: the best of 16 times as many random features."""


def show(found: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print verdict, scores and where the files are.

    Args:
        found: of `report.comparison.summary`.
        folder: of the run.
        console: where to print; standard output if left out.
    """
    console = console or Console(highlight=False)
    console.print()
    console.print(found["verdict"], style="bold", markup=False, soft_wrap=True)
    for line in found["findings"]:
        console.print(line, markup=False, soft_wrap=True)
    console.print()
    console.print(scores(found))
    console.print(_LEGEND, style="dim", soft_wrap=True)
    nodes = found["model"]["nodes"]
    for what, path in (("report", folder / "report.html"), (f"model of {nodes:,} nodes", folder / "model")):
        console.print(f"{what}: {path}", markup=False, soft_wrap=True)
    new = "new.csv" if found["model"]["table"] else "new.npz"
    console.print(f"predict: qrt-tn predict {folder} {new}", markup=False, soft_wrap=True)


def scores(found: dict[str, Any]) -> Table:
    """Test scores: a row a method, a column a node count."""
    counts = sorted({row["nodes"] for row in found["scores"] if row["nodes"] is not None})
    what = "accuracy" if found["score"] == "accuracy" else "R²"
    table = Table(title=f"test {what}", title_justify="left")
    table.add_column("method", no_wrap=True)
    for nodes in counts:
        table.add_column(f"{nodes:,} nodes", justify="right")
    if any(row["nodes"] is None for row in found["scores"]):
        table.add_column("no nodes", justify="right")
    cells: dict[str, dict[Any, str]] = {}
    for row in found["scores"]:
        title = row["name"]
        if row["training"] == "trained" and row["method"] != "dense":
            title += ", trained"
        mark = MARKS.get(row.get("ticket_is", ""), " ")
        cells.setdefault(title, {})[row["nodes"]] = f"{row['mean']:.3f} {mark}"
    for title, by_nodes in cells.items():
        own = [by_nodes.get(nodes, "") for nodes in counts]
        if None in [row["nodes"] for row in found["scores"]]:
            own.append(by_nodes.get(None, ""))
        table.add_row(title, *own)
    return table
