"""Tables of a benchmark, for the console and in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        title: what it shows.
        note: how to read it.
        head: the names of the columns.
        rows: the cells.
        whole: columns that a narrow terminal must not wrap.
    """

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    whole: tuple[str, ...] = ()


def as_rich(sheet: Sheet) -> Table:
    """A table for the console."""
    table = Table(title=sheet.title, caption=sheet.note, box=SIMPLE, caption_justify="left", pad_edge=False)
    for number, name in enumerate(sheet.head):
        # a narrow terminal wraps names rather than figures
        table.add_column(name, no_wrap=name in sheet.whole, min_width=4 if number else 16)
    for cells in sheet.rows:
        table.add_row(*map(escape, cells))
    return table


def markdown(title: str, result: Mapping[str, Any], sheets: Sequence[Sheet]) -> str:
    """Tables under a title, with what was measured on above them.

    Args:
        title: of the page.
        result: with machine, threads, versions, date and command.
        sheets: the tables.
    """
    machine = result["machine"]
    threads = max(result["threads"].values(), default=1)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"# {title}",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {threads} thread{'s' * (threads > 1)} of linear "
        f"algebra, {result['date']}. {versions}.",
        "",
        f"    {result['command']}",
    ]
    for sheet in sheets:
        lines += ["", f"## {sheet.title}", "", sheet.note, ""]
        lines += [_line(sheet.head), _line(["---"] * len(sheet.head)), *map(_line, sheet.rows)]
    return "\n".join(lines) + "\n"


def grouped(rows: Sequence[tuple[str, ...]], columns: int) -> list[tuple[str, ...]]:
    """The rows with their first cells left out where they repeat those above."""
    made: list[tuple[str, ...]] = []
    before: tuple[str, ...] = ()
    for cells in rows:
        key = cells[:columns]
        made.append(("",) * columns + cells[columns:] if key == before else cells)
        before = key
    return made


def seconds(value: float) -> str:
    """A duration with its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def spread(ratio: Mapping[str, float]) -> str:
    """A ratio as median [least, greatest]."""
    return f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
