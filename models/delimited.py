"""Delimited text read as a table: its delimiter, its header and its decimal marks are told or asked for."""

import csv
import io
import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE = 50  # lines that are looked at to find the delimiter
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,?\d+([eE][+-]?\d+)?")
# What pandas takes for missing, or for a truth value.
_NO_NAMES = {"", "?", "na", "n/a", "nan", "-nan", "null", "none", "<na>", "#n/a", "true", "false"}


def parse_text(
    name: str,
    content: bytes,
    header: bool | None = None,
    preferred: str | None = None,
    text: Callable[[list[str]], Iterable[int]] | None = None,
) -> tuple["pd.DataFrame", bool, str, list[str]]:
    """Parse delimited UTF-8 text into a DataFrame; `tables.read_table` says how, and what is refused.

    Args:
        name: what errors call the text.
        content: with or without a byte-order mark.
        header: whether the first line holds names; None to find out.
        preferred: the delimiter to take if it splits the first lines into equally many cells.
        text: which columns, of those names, are text as it is written, whatever it looks like.

    Returns:
        The fields of a `tables.Table`.
    """
    delimiter, first, rows, padded = _scan(name, content, preferred)
    if header is not False:
        if rows == 1:
            raise ValueError(f"{name} is empty below its only line; it needs a row for each point")
        frame, commas = _parse(name, content, delimiter, len(first), True)
        header = _is_header(name, first, frame) if header is None else header
    names = [f"column {i}" for i in range(len(first))]
    if header:
        names = [cell.strip() or f"Unnamed: {i}" for i, cell in enumerate(first)]
        check_names(name, names)
    texts = list(text(names)) if text else []
    if texts or not header:
        frame, commas = _parse(name, content, delimiter, len(first), header, texts)
    if len(frame) != rows - header:
        raise ValueError(f"{name}: of {rows - header} rows {len(frame)} could be read; check its quotes")
    frame.columns = names
    how = [f"{_DELIMITERS[delimiter]} between cells"] if delimiter != "," else []
    how += ["decimal commas"] * commas + ["no names in the first line"] * (not header)
    return frame, header, ", ".join(how), [names[i] for i in sorted(padded)]


def check_names(name: str, names: list[str]) -> None:
    """Raise ValueError if two columns have one name."""
    first = {column: position for position, column in reversed(list(enumerate(names)))}
    for position, column in enumerate(names):
        if first[column] != position:
            raise ValueError(
                f"{name} has two columns or arrays named {shown([column])}, at positions {first[column]} and"
                f" {position} (0 is the first); rename one"
            )


def shown(names: Iterable[object], most: int = 6) -> str:
    """The first few names, quoted and shortened, and how many more there are.

    >>> shown(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    known = [repr(name if len(str(name)) <= 60 else f"{str(name)[:57]}...") for name in names]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def _scan(name: str, content: bytes, preferred: str | None) -> tuple[str, list[str], int, set[int]]:
    """The delimiter, the first row, the number of rows, and the columns with a cell like "007".

    pandas fills short rows with missing values, and takes a column for an index where the first is short;
    here each row must have as many cells as the first.
    """
    first: list[str] = []
    rows, padded = 0, set[int]()
    try:
        delimiter = _delimiter(content, preferred)
        reader = _rows(content, delimiter)
        for row in filter(None, reader):
            first = first or row
            rows += 1
            padded.update(
                i for i, cell in enumerate(row) if cell[:1] == "0" and len(cell) > 1 and cell.isdecimal()
            )
            if len(row) != len(first):
                raise ValueError(
                    f"{name}: line {reader.line_num} has {len(row)} cells, the first {len(first)}; give every"
                    " row the same number (quote a cell that holds the delimiter)"
                )
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 text (it holds the byte {error.object[error.start]:#x}); convert it:"
            " iconv -f LATIN1 -t UTF-8 OLD > NEW"
        ) from error
    except csv.Error as error:
        raise ValueError(f"{name} is not a whole table ({error}); check its quotes") from error
    if not rows:
        raise ValueError(f"{name} is empty; it needs a row for each point")
    return delimiter, first, rows, padded


def _rows(content: bytes, delimiter: str) -> Any:
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    return csv.reader(text, delimiter=delimiter, skipinitialspace=True)


def _delimiter(content: bytes, preferred: str | None) -> str:
    """The delimiter that splits the first lines into equally many cells, two or more.

    Where several do, more of the cells are numbers under the right one: "1,5;2,5". (csv.Sniffer takes the
    comma there, and a letter where there is only one column.)
    """
    scores: dict[str, tuple[float, int]] = {}
    for delimiter in _DELIMITERS:
        sample = [row for row in islice(_rows(content, delimiter), _SAMPLE) if row]
        widths = {len(row) for row in sample}
        if len(widths) == 1 and widths != {1}:
            cells = [cell.strip() for row in sample for cell in row]
            scores[delimiter] = sum(map(_is_number, cells)) / len(cells), len(sample[0])
    if preferred in scores:
        return str(preferred)
    if scores:
        return max(scores, key=scores.__getitem__)
    # one column, or rows of several lengths, of which the scan names the first that differs
    line = next((line for line in content.decode("utf-8-sig").splitlines() if line), "")
    return max(_DELIMITERS, key=line.count)


def _parse(
    name: str, content: bytes, delimiter: str, width: int, header: bool, texts: Iterable[int] = ()
) -> tuple["pd.DataFrame", bool]:
    """The rows below the header, columns 0 .. width-1; and whether numbers have decimal commas."""
    import pandas as pd

    def parse(decimal: str) -> "pd.DataFrame":
        return pd.read_csv(
            io.BytesIO(content),
            sep=delimiter,
            header=0 if header else None,
            names=range(width),
            index_col=False,
            decimal=decimal,
            na_values=["?"],
            skipinitialspace=True,
            dtype=dict.fromkeys(texts, str),
            low_memory=False,  # one type for a column, not one for each block of rows
            encoding="utf-8-sig",
        )

    try:
        frame = parse(".")
        if delimiter == ",":
            return frame, False
        commas = [i for i in frame if _all_decimal_commas(frame[i])]
        points = [i for i in frame if frame[i].dtype.kind == "f" and (frame[i].dropna() % 1 != 0).any()]
        if commas and points:
            raise ValueError(
                f"{name} has decimal commas in column {commas[0]} and decimal points in column {points[0]}"
                " (0 is the first); write all numbers with points"
            )
        return (parse(",") if commas else frame), bool(commas)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{name} is not a whole table ({str(error).strip()[:120]})") from error


def _all_decimal_commas(column: "pd.Series") -> bool:
    cells = column.dropna()
    return len(cells) > 0 and all(isinstance(cell, str) and _DECIMAL_COMMA.fullmatch(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell) or _DECIMAL_COMMA.fullmatch(cell))


def _is_header(name: str, first: list[str], body: "pd.DataFrame") -> bool:
    """Whether the first row holds names, judged by the rows below it."""
    cells = [cell.strip() for cell in first]
    numbered = cells[1:] if cells[0] == "" else cells  # pandas leaves its index without a name
    if len(numbered) >= 3 and numbered == [str(i) for i in range(len(numbered))]:
        return True
    # truth values below a name tell as much as numbers; "-" or "*" above numbers is a gap, not a name
    telling = any(
        body[i].dtype.kind in "biuf"
        and body[i].notna().any()
        and not _is_number(cell)
        and cell.lower() not in _NO_NAMES
        and any(map(str.isalpha, cell))
        for i, cell in enumerate(cells)
    )
    numbers = [cell for cell in cells if _is_number(cell)]
    if telling and all(map(_WHOLE.fullmatch, numbers)):  # years may be names, fractions are none
        return True
    if numbers and not telling:
        return False
    raise ValueError(
        f"{name}: the first line ({shown(cells)}) could be names or a row of data; say --header (header=True)"
        " if it names the columns, --no-header (header=False) if not"
    )
