"""Read tables from delimited text, Excel and Parquet files: whole or refused, never guessed in silence."""

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet", ".xlsx", ".npz")

_CHUNK = 2**20
_PARSED = 8  # times as much memory as its text a table takes while it is parsed
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE = 50  # lines that are looked at to find the delimiter
_NUMBER = re.compile(r"[+-]?((\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?|inf(inity)?)", re.IGNORECASE)
_DECIMAL_COMMA = r"[+-]?\d*,?\d+([eE][+-]?\d+)?"
# What pandas takes for missing, or for a truth value.
_NO_NAMES = {"", "?", "na", "n/a", "nan", "-nan", "null", "none", "<na>", "#n/a", "true", "false"}


@dataclass(frozen=True, eq=False)
class Table:
    """What a file of rows and columns holds.

    Attributes:
        frame: its columns have distinct names; "column 0", "column 1", ... where the file names none.
        header: whether the names were in the file.
        how: what of the reading is not as in most files, such as "decimal commas".
        written: gives the columns of some positions as text; None where columns have types of their own.
    """

    frame: "pd.DataFrame"
    header: bool
    how: str = ""
    written: Callable[[Sequence[int]], "pd.DataFrame"] | None = None

    def as_written(self, names: Sequence[str]) -> "pd.DataFrame":
        """Some columns as the text in the file, such as "007"; as they are where a file has types."""
        if self.written is None or not names:
            return self.frame[list(names)]
        return self.written([self.frame.columns.get_loc(name) for name in names]).set_axis(names, axis=1)


def check_source(path: str | Path) -> None:
    """Raise ValueError if a path is no file of SUFFIXES; the content is not read."""
    source = Path(path)
    suffix = suffix_of(source)
    if source.is_dir():
        raise ValueError(f"{source} is a folder; give the path of a data file")
    if suffix not in SUFFIXES:
        raise ValueError(f"{source} has suffix {suffix!r}; give a file of {', '.join(SUFFIXES)}")
    if not source.is_file():
        raise ValueError(f"no file {source}; give the path of a data file")


def suffix_of(source: str | Path) -> str:
    """The ending that tells the format, in lower case; .gz is taken together with what it follows."""
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


class TooLargeError(ValueError):
    """A file whose content would not fit in memory."""


def memory_limit() -> int:
    """How many bytes the content of a file may take: a quarter of the memory that is free."""
    from qrt_tn.engine.backends import device_memory

    total, free = device_memory("numpy")
    return (free or total or 2**32) // 4


def check_memory(what: object, size: int) -> None:
    """Raise TooLargeError if so many bytes are more than `memory_limit`."""
    limit = memory_limit()
    if size > limit:
        raise TooLargeError(
            f"{what} takes {size / 2**20:.3g} MiB or more, but a quarter of the free memory is"
            f" {limit / 2**20:.3g} MiB; give a smaller one"
        )


def read_table(path: str | Path, header: bool | None = None) -> Table:
    """Read a table of .csv, .tsv (both also gzipped), .txt, .xlsx or .parquet; its first bytes tell which.

    Text is UTF-8. The delimiter (comma, semicolon, tab or bar) is the one that splits the first lines into
    equally many cells. Numbers may have decimal commas where the delimiter is another. Empty cells, "?" and
    what pandas takes for missing ("NA", "nan", ...) are missing. Quoted numbers are numbers.

    Args:
        path: the file.
        header: whether the first line holds the names of the columns, as it always does in Parquet. None to
            find out: names are told by a column that is text there and numbers below, or by 0, 1, 2, ...

    Raises:
        ValueError: as `check_source`; torn files, text that is not UTF-8, rows of several lengths, two
            columns of one name, no rows, a first line that could be either, or more than `memory_limit`.
    """
    check_source(path)
    source = Path(path)
    if suffix_of(source) == ".npz":
        raise ValueError(f"{source} holds arrays, not a table; give a file of .csv, .tsv, .xlsx or .parquet")
    with source.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        if header is False:
            raise ValueError(f"{source}: a Parquet file always names its columns; leave out --no-header")
        table = Table(_read_parquet(source), True)
    elif start == b"PK\x03\x04":
        table = _read_text(source, _workbook(source), ",", header)
    else:
        preferred = "\t" if suffix_of(source).startswith(".tsv") else None
        table = _read_text(source, _content(source, start), preferred, header)
    names = table.frame.columns
    if names.has_duplicates:
        raise ValueError(
            f"{source} has several columns named {shown(names[names.duplicated()])}; rename them"
        )
    return table


def kind_of(column: "pd.Series") -> str:
    """What a column holds: "numbers", "booleans", "categories", "dates" or "text"."""
    from numbers import Number

    from pandas.api import types

    if isinstance(column.dtype, types.CategoricalDtype):
        return "categories"
    if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        return "dates"
    # booleans with gaps, decimals, and whole numbers of more than 64 bits are kept as objects
    kept = column.dropna() if column.dtype == object else ()
    if types.is_bool_dtype(column.dtype) or (len(kept) and all(isinstance(value, bool) for value in kept)):
        return "booleans"
    if types.is_numeric_dtype(column.dtype) or (len(kept) and all(isinstance(v, Number) for v in kept)):
        return "numbers"
    return "text"


def shown(names: Iterable[object], most: int = 6) -> str:
    """The first few names, quoted and shortened, and how many more there are.

    >>> shown(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    known = [repr(name if len(str(name)) <= 60 else f"{str(name)[:57]}...") for name in names]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def first_line(error: Exception) -> str:
    """The first line of an error, short enough for one line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _content(source: Path, start: bytes) -> str:
    """A text file, unpacked, and never more of it than fits."""
    content = bytearray()
    try:
        with gzip.open(source) if start[:2] == b"\x1f\x8b" else source.open("rb") as file:
            while part := file.read(_CHUNK):
                content += part
                check_memory(source, _PARSED * len(content))
        text = content.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{source} is not a whole gzip file ({first_line(error)})") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not UTF-8 text (it holds the byte {error.object[error.start]:#x}); convert it:"
            " iconv -f LATIN1 (or UTF-16) -t UTF-8 OLD > NEW"
        ) from error
    if "\0" in text:
        raise ValueError(f"{source} is not UTF-8 text (perhaps UTF-16); convert it with iconv")
    return text


def _read_text(source: Path, text: str, preferred: str | None, header: bool | None) -> Table:
    try:
        delimiter = _delimiter(text, preferred)
        first, rows = _scan(source, text, delimiter)
    except csv.Error as error:
        raise ValueError(f"{source} is not a whole table ({error}); check its quotes") from error

    def parse(header: bool, **options: Any) -> "pd.DataFrame":
        import pandas as pd

        return pd.read_csv(
            _stream(text),
            sep=delimiter,
            header=0 if header else None,
            names=range(len(first)),
            index_col=False,
            na_values=["?"],
            skipinitialspace=True,
            low_memory=False,  # one type for a column, not one for each block of rows
            **options,
        )

    def typed(header: bool) -> tuple["pd.DataFrame", bool]:
        frame = parse(header)
        commas = delimiter != "," and _decimal_commas(source, frame)
        return (parse(header, decimal=",") if commas else frame), commas

    if rows == 1 and header is not False:
        raise ValueError(f"{source} is empty below its only line; it needs a row for each point")
    frame, commas = typed(header is not False)
    if header is None:
        header = _is_header(source, first, frame)
        frame, commas = (frame, commas) if header else typed(False)
    if len(frame) != rows - header:
        raise ValueError(f"{source}: of {rows - header} rows {len(frame)} could be read; check its quotes")
    frame.columns = [f"column {i}" for i in range(len(first))]
    if header:
        frame.columns = [cell.strip() or f"Unnamed: {i}" for i, cell in enumerate(first)]
    how = [f"{_DELIMITERS[delimiter]} between cells"] if delimiter != "," else []
    how += ["decimal commas"] * commas + ["no names in the first line"] * (not header)

    def written(positions: Sequence[int]) -> "pd.DataFrame":
        return parse(header, usecols=positions, dtype=str)[list(positions)]

    return Table(frame, header, ", ".join(how), written)


def _stream(text: str) -> io.TextIOWrapper:
    """The text as a file; io.StringIO takes four bytes for each letter."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="")


def _rows(text: str, delimiter: str, strict: bool = False) -> Any:
    return csv.reader(_stream(text), delimiter=delimiter, skipinitialspace=True, strict=strict)


def _delimiter(text: str, preferred: str | None) -> str:
    """The delimiter that splits the first lines into equally many cells, two or more.

    Where several do, more of the cells are numbers under the right one: "1,5;2,5", where csv.Sniffer takes
    the comma.
    """
    scores = {}
    for delimiter in _DELIMITERS:
        sample = [row for row in islice(_rows(text, delimiter), _SAMPLE) if row] or [[""]]
        even = len(sample[0]) > 1 and len({len(row) for row in sample}) == 1
        numbers = [bool(_NUMBER.fullmatch(cell.strip())) for row in sample for cell in row]
        share = sum(numbers) / len(numbers) if even else 0
        scores[delimiter] = even, even and delimiter == preferred, share, len(sample[0])
    return max(scores, key=scores.__getitem__)


def _scan(source: Path, text: str, delimiter: str) -> tuple[list[str], int]:
    """The first row and the number of rows, which must have as many cells each: pandas fills short ones."""
    first, rows = list[str](), 0
    reader = _rows(text, delimiter, strict=True)
    for row in filter(None, reader):
        first = first or row
        rows += 1
        if len(row) != len(first):
            raise ValueError(
                f"{source}: line {reader.line_num} has {len(row)} cells, the first {len(first)}; give every"
                " row the same number (quote a cell that holds the delimiter)"
            )
    if not rows:
        raise ValueError(f"{source} is empty; it needs a row for each point")
    return first, rows


def _decimal_commas(source: Path, frame: "pd.DataFrame") -> bool:
    texts = {i: frame[i].dropna().astype(str) for i in frame if frame[i].dtype.kind == "O"}
    commas = [i for i, cells in texts.items() if cells.str.fullmatch(_DECIMAL_COMMA).all()]
    points = [i for i in frame if frame[i].dtype.kind == "f" and (frame[i].dropna() % 1 != 0).any()]
    if commas and points:
        raise ValueError(
            f"{source} has decimal commas in column {commas[0]} and decimal points in column {points[0]} (0"
            " is the first); write all numbers with points"
        )
    return bool(commas)


def _is_header(source: Path, first: list[str], body: "pd.DataFrame") -> bool:
    """Whether the first row holds names, judged by the rows below it."""
    cells = [cell.strip() for cell in first]
    numbered = cells[1:] if cells[0] == "" else cells  # pandas leaves its index without a name
    if len(numbered) >= 3 and numbered == [str(i) for i in range(len(numbered))]:
        return True
    # truth values below a name tell as much as numbers; "-" or "*" above numbers is a gap, not a name
    numbers = [cell for cell in cells if _NUMBER.fullmatch(cell)]
    names = [cell.lower() not in _NO_NAMES and any(map(str.isalpha, cell)) for cell in cells]
    telling = any(
        names[i] and cell not in numbers and body[i].dtype.kind in "biuf" and body[i].notna().any()
        for i, cell in enumerate(cells)
    )
    if telling and all(re.fullmatch(r"[+-]?\d+", cell) for cell in numbers):
        return True  # years may be names, fractions are none
    if numbers and not telling:
        return False
    raise ValueError(
        f"{source}: the first line ({shown(cells)}) could be names or a row of data; say --header"
        " (header=True) if it names the columns, --no-header (header=False) if not"
    )


def _workbook(source: Path) -> str:
    """The only sheet of an Excel workbook as comma-separated text, so that one reader judges both."""
    import pandas as pd

    try:
        with zipfile.ZipFile(source) as archive:
            check_memory(source, sum(member.file_size for member in archive.infolist()))
        # cells as they are: types and missing values are told by the reader of text
        read = pd.read_excel(source, None, header=None, dtype=object, na_filter=False)
    except TooLargeError:
        raise
    except ImportError as error:
        raise ValueError(
            f"{source}: {first_line(error)} pip install 'qrt-tn[excel]', or save as csv"
        ) from error
    except Exception as error:  # openpyxl raises whatever a part that is missing makes it raise
        raise ValueError(f"{source} is not a whole .xlsx workbook ({first_line(error)})") from error
    filled = {name: frame for name, frame in read.items() if (frame != "").any(axis=None)}
    if len(filled) > 1:
        raise ValueError(f"{source} has several sheets ({shown(filled)}); save the one to read as a file")
    sheets = [frame[(frame != "").any(axis=1)] for frame in filled.values()]
    return "".join(sheet.to_csv(index=False, header=False) for sheet in sheets)


def _read_parquet(source: Path) -> "pd.DataFrame":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source) as opened:
            about = opened.metadata
            nested = [field.name for field in opened.schema_arrow if pa.types.is_nested(field.type)]
            size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            # dictionaries and runs of one value unpack to far more than their bytes
            check_memory(source, max(size, 8 * about.num_rows * about.num_columns))
            # an index that pandas stored is a column like the others
            frame = opened.read().to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{source} is not a whole Parquet file ({first_line(error)})") from error
    if frame.empty:
        raise ValueError(f"{source} is empty; it needs columns and a row for each point")
    if nested:
        raise ValueError(
            f"{source}: {shown(nested)} hold lists or records; give a number or text in each row"
        )
    return frame
