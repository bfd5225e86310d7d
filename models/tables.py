"""Tables in files: delimited text, Excel and Parquet, read whole or refused, never guessed in silence."""

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from qrt_tn.models.delimited import check_names, parse_text, shown

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet", ".xlsx", ".npz")

_CHUNK = 2**20
_PARSED = 8  # times as much memory as its text a table takes while it is parsed
# How files begin that are often given a wrong suffix.
_FOREIGN = {
    b"PK\x03\x04": "is a zip archive or an Excel workbook, not text; name it .xlsx if it is a workbook",
    b"\x1f\x8b": "is compressed by gzip; give its name the ending .gz",
    b"PAR1": "is a Parquet file; give its name the ending .parquet",
}


@dataclass(frozen=True, eq=False)
class Table:
    """What a file of rows and columns holds.

    Attributes:
        frame: a pandas DataFrame whose column names are distinct texts; "column 0", "column 1", ... where
            the file names none.
        header: whether the names were in the file.
        how: what of the reading is not as in most files, such as "decimal commas".
        padded: the columns that hold whole numbers with zeros before them, such as 007.
    """

    frame: "pd.DataFrame"
    header: bool
    how: str = ""
    padded: Sequence[str] = ()


def check_source(path: str | Path) -> None:
    """Refuse a path that is no data file, by its suffix and by what is there; the content is not read.

    Raises:
        ValueError: another suffix than SUFFIXES, no such file, or a folder.
    """
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
    """Refuse what takes so many bytes if that is more than `memory_limit`.

    Raises:
        TooLargeError: it is.
    """
    limit = memory_limit()
    if size > limit:
        raise TooLargeError(
            f"{what} takes {size / 2**20:.3g} MiB or more, but a quarter of the free memory is"
            f" {limit / 2**20:.3g} MiB; give a smaller one"
        )


def read_table(
    path: str | Path,
    header: bool | None = None,
    text: Callable[[list[str]], Iterable[int]] | None = None,
) -> Table:
    """Read a table of .csv, .tsv (both also .gz), .txt, .xlsx or .parquet.

    Text is UTF-8. The delimiter (comma, semicolon, tab or bar) is the one that splits the first lines
    into equally many cells. Numbers may have decimal commas where the delimiter is another. Empty cells,
    "?" and what pandas takes for missing ("NA", "nan", ...) are missing. Quoted numbers are numbers.

    A first line of names is told by a column that is text there and numbers below, or by the names 0, 1,
    2, ... that pandas writes.

    Args:
        path: the file; its suffix tells the format.
        header: whether the first line holds the names of the columns; None to find out. A Parquet file
            always names its columns.
        text: gives, from the names of all columns, the positions of those that are text as it is written even
            where it looks like numbers; not asked for a Parquet file, whose columns have types.

    Returns:
        The table, with at least one row.

    Raises:
        ValueError: as `check_source`; torn files, text that is not UTF-8, rows of several lengths, two
            columns of one name, no rows, a first line that could be either, or more content than
            `memory_limit`.
    """
    check_source(path)
    source = Path(path)
    suffix = suffix_of(source)
    if suffix == ".npz":
        raise ValueError(f"{source} holds arrays, not a table; give a file of .csv, .tsv, .xlsx or .parquet")
    if suffix == ".parquet":
        if header is False:
            raise ValueError(f"{source}: a Parquet file always names its columns; leave out --no-header")
        return Table(_read_parquet(source), True)
    content = _workbook(source) if suffix == ".xlsx" else _content(source)
    preferred = {".xlsx": ",", ".tsv": "\t", ".tsv.gz": "\t"}.get(suffix)
    return Table(*parse_text(str(source), content, header, preferred, text))


def kind_of(column: "pd.Series") -> str:
    """What a column holds: "numbers", "booleans", "categories", "dates" or "text"."""
    from numbers import Real

    from pandas.api import types

    if isinstance(column.dtype, types.CategoricalDtype):
        return "categories"
    if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        return "dates"
    # booleans with gaps, and whole numbers of more than 64 bits, are kept as objects
    kept = column.dropna() if column.dtype == object else ()
    if types.is_bool_dtype(column.dtype) or (len(kept) and all(isinstance(value, bool) for value in kept)):
        return "booleans"
    if types.is_numeric_dtype(column.dtype) or (len(kept) and all(isinstance(v, Real) for v in kept)):
        return "numbers"
    return "text"


def _content(source: Path) -> bytes:
    """The bytes of a text file, unpacked, and never more of them than the limit."""
    content = bytearray()
    try:
        with source.open("rb") as raw:
            packed = source.suffix.lower() == ".gz"
            stream: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if packed else raw
            while part := stream.read(_CHUNK):
                content += part
                check_memory(source, _PARSED * len(content))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{source} is not a whole gzip file ({first_line(error)})") from error
    for start, problem in _FOREIGN.items():
        if content.startswith(start):
            raise ValueError(f"{source} {problem}")
    if b"\0" in content or content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(
            f"{source} is not UTF-8 text (perhaps UTF-16); convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"
        )
    return bytes(content)


def _workbook(source: Path) -> bytes:
    """The only sheet of an Excel workbook as comma-separated text, so that one reader judges both."""
    import importlib.util

    import pandas as pd

    if importlib.util.find_spec("openpyxl") is None:
        raise ValueError(
            f"{source} needs openpyxl, which is not installed: pip install 'qrt-tn[excel]', or save it as csv"
        )
    try:
        with zipfile.ZipFile(source) as archive:
            check_memory(source, sum(member.file_size for member in archive.infolist()))
        # cells as they are: types and missing values are told by the reader of text
        read = pd.read_excel(source, None, header=None, dtype=object, na_filter=False)
    except (PermissionError, TooLargeError):
        raise
    except Exception as error:  # openpyxl raises whatever a part that is missing makes it raise
        raise ValueError(f"{source} is not a whole .xlsx workbook ({first_line(error)})") from error
    sheets = {name: frame[(frame != "").any(axis=1)] for name, frame in read.items()}
    filled = {name: frame for name, frame in sheets.items() if len(frame)}
    if len(filled) > 1:
        raise ValueError(f"{source} has several sheets ({shown(filled)}); save the one to read as a file")
    return b"".join(frame.to_csv(index=False, header=False).encode() for frame in filled.values())


def _read_parquet(source: Path) -> "pd.DataFrame":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source) as opened:
            metadata, schema = opened.metadata, opened.schema_arrow
            names = list(schema.names)
            check_names(str(source), names)
            for name, kind in zip(names, schema.types, strict=True):
                if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                    raise ValueError(
                        f"{source}: column {shown([name])} holds {kind}; give a number or text in each row"
                    )
            size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            # dictionaries and runs of one value unpack to far more than their bytes
            check_memory(source, max(size, 8 * metadata.num_rows * len(names)))
            table = opened.read()
    except PermissionError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{source} is not a whole Parquet file ({first_line(error)})") from error
    if not table.num_rows or not names:
        raise ValueError(
            f"{source} is empty ({table.num_rows} rows, {len(names)} columns); it needs a row for each point"
        )
    for i, kind in enumerate(schema.types):
        if pa.types.is_decimal(kind):
            table = table.set_column(i, names[i], table.column(i).cast(pa.float64()))
    # an index that pandas stored is a column like the others
    return table.to_pandas(ignore_metadata=True)


def first_line(error: Exception) -> str:
    """The first line of an error, short enough for one line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
