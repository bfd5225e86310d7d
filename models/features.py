"""Which columns of a table are features and which is the target; where that is unclear, the user is asked."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from qrt_tn.models.columns import Column, Columns, Encode, as_texts
from qrt_tn.models.tables import Table, check_memory, kind_of, shown
from qrt_tn.models.targets import REGRESSION, Targets, read_targets, reading

if TYPE_CHECKING:
    import pandas as pd

_TARGETS = {"target", "label", "class", "y"}
_IDENTIFIER = re.compile(r"(|.*_)id|index|key|no|number|rowid|unnamed: \d+|", re.IGNORECASE)
_FEWEST = 3  # rows from which on a column can be told to be a number of the row
_MOSTLY = 0.9  # a column with this share of numbers is one of numbers with mistakes, not of categories
_FREE_TEXT = 20  # text that differs in each of more rows than this is no category


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a table is taken for: points (M, D), NaN where missing, and why columns were left out."""

    x: np.ndarray
    columns: Columns
    targets: Targets
    left_out: tuple[tuple[str, str], ...]


def choose_columns(
    table: Table,
    *,
    target: str | None = None,
    task: str | None = None,
    drop: Sequence[str] = (),
    encode: Encode | None = None,
    impute: bool = False,
    command: str = "qrt-tn ticket --data PATH",
    name: str = "the table",
) -> Chosen:
    """Choose the target and the features of a table, and read both.

    Columns that tell nothing are left out: one value throughout, or a number for each row.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"id": [1, 2, 3, 4], "a": [0.5, 1, 2, 4], "y": ["n", "m", "n", "m"]})
    >>> chosen = choose_columns(Table(frame, True))
    >>> chosen.columns.names, chosen.targets.classes, chosen.left_out
    (('a',), ('m', 'n'), (('id', 'a different whole number in every row'),))

    The options are those of `datasets.load_file`; a table without names needs a target. Errors call the table
    `name`.

    Raises:
        ValueError: no such column, a target or task that is unclear, text without an encoding, missing
            values, or no features left.
    """
    frame = table.frame
    names = list(frame.columns)
    if len(names) < 2:
        raise ValueError(
            f"{name} has one column, {shown(names)}; it needs one for each feature and one for the target,"
            " split by commas, semicolons, tabs or bars"
        )
    dropped = [_find(names, given, "drop", name) for given in drop]
    kept = [column for column in names if column not in dropped]
    if target is not None:
        chosen = _find(names, target, "target", name)
        if chosen in dropped:
            raise ValueError(f"{name}: column {shown([chosen])} is the target and to be dropped; choose one")
    elif not kept:
        raise ValueError(f"{name} has no columns left; drop fewer")
    else:
        chosen = _default_target(table, kept, task, command, name)
    values = frame[chosen]
    if task != REGRESSION and kind_of(values) == "numbers":
        text = table.as_written([chosen])[chosen]
        # 007 and 07 are two labels, and no numbers
        values = text if text.astype(str).str.fullmatch(r"0\d+").any() else values
    targets = read_targets(values, f"{name}: target {shown([chosen])}", task)
    rest = [column for column in kept if column != chosen]
    if encode is not None:
        for column in rest:
            _check_mostly_text(frame[column], column, name)
    reasons = {column: _useless(column, frame[column], encode) for column in rest}
    left_out = dict.fromkeys(dropped, "--drop") | {column: why for column, why in reasons.items() if why}
    features = [column for column in rest if column not in left_out]
    if not features:
        told = ", ".join(f"{shown([column])} ({reason})" for column, reason in left_out.items())
        raise ValueError(f"{name} has no features left beside its target {shown([chosen])}; left out: {told}")
    encoded = _encoded(frame, features, encode, name)
    columns = Columns(tuple(encoded), chosen, table.header, len(names))
    size = 8 * len(frame) * len(columns.names)
    check_memory(f"{name} of {len(columns.names)} coordinates (--encode ordinal has fewer)", size)
    if not impute:
        _check_missing(frame, encoded, name)
    try:
        x = columns.matrix(frame)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return Chosen(x, columns, targets, tuple(left_out.items()))


def _find(names: list[str], given: str, what: str, name: str) -> str:
    """The column of a name, or else of a position."""
    if given in names:
        return given
    if re.fullmatch(r"[+-]?\d+", given.strip()) and -len(names) <= int(given) < len(names):
        return names[int(given)]
    raise ValueError(
        f"{name} has no column {given!r} for {what}; it has {shown(names, 20)} (or give a position, 0 to"
        f" {len(names) - 1} or -1 for the last)"
    )


def _default_target(table: Table, kept: list[str], task: str | None, command: str, name: str) -> str:
    if table.header:
        usual = [column for column in kept if column.strip().lower() in _TARGETS]
        if len(usual) > 1:
            raise ValueError(f"{name}: the target could be any of {shown(usual)}; name it with --target")
        return usual[0] if usual else kept[-1]
    names = list(table.frame.columns)  # positions count all columns, dropped ones too
    choices = {names.index(kept[0]): kept[0], names.index(kept[-1]) - len(names): kept[-1]}
    lines = [
        f"  {command} --target {position:<3} {reading(table.frame[column], task)}"
        for position, column in choices.items()
    ]
    question = f"{name} does not name its columns; say which is the target, such as the first or the last:"
    raise ValueError("\n".join([question, *lines]))


def _useless(name: str, values: "pd.Series", encode: Encode | None) -> str:
    """Why a column tells nothing about a target, or ""."""
    if values.isna().all():
        return "no value in any row"
    if values.notna().all() and values.nunique() == 1:
        return "the same value in every row"
    if len(values) < _FEWEST or values.isna().any() or values.nunique() < len(values):
        return ""
    kind = kind_of(values)
    if kind == "text" and encode is not None and len(values) > _FREE_TEXT:
        return "a different text in every row"
    if kind == "numbers":
        numbers = np.sort(values.to_numpy(dtype=np.float64))
        whole = (numbers == np.round(numbers)).all()
        consecutive = (np.diff(numbers) == 1).all()
        if whole and (consecutive or _IDENTIFIER.fullmatch(name.strip())):
            return "a different whole number in every row"
    return ""


def _encoded(frame: "pd.DataFrame", features: list[str], encode: Encode | None, name: str) -> list[Column]:
    """The features, each with its categories if it holds no numbers."""
    texts = [column for column in features if kind_of(frame[column]) not in ("numbers", "booleans")]
    if texts and encode is None:
        notes = {column: f"such as {_first_text(frame[column])}" for column in texts}
        raise ValueError(
            f"{name}: text, categories or dates are in {_listed(notes)}; say --encode onehot or --encode"
            f" ordinal, or {_drop(frame, texts)}"
        )
    found = []
    for column in features:
        if column not in texts or encode is None:
            found.append(Column(column))
            continue
        values = as_texts(frame[column])
        known: list[str | None] = sorted({value for value in values if value is not None})
        if encode == "onehot" and frame[column].isna().any():
            known.append(None)
        found.append(Column(column, tuple(known), encode))
    return found


def _first_text(values: "pd.Series") -> str:
    """The first value that is no number."""
    present = values.dropna()
    odd = present[_odd(present)]
    return shown([str(value) for value in (odd if len(odd) else present)[:1]])


def _odd(present: "pd.Series") -> np.ndarray:
    """Which values are no numbers."""
    import pandas as pd

    return pd.to_numeric(present.astype(str), errors="coerce").isna().to_numpy()


def _check_mostly_text(values: "pd.Series", column: str, name: str) -> None:
    """Refuse a column of numbers with a few that are misspelt: it would become a category for each number."""
    present = values.dropna()
    odd = int(_odd(present).sum())
    if kind_of(values) == "text" and 0 < odd <= (1 - _MOSTLY) * len(present):
        raise ValueError(
            f"{name}: column {shown([column])} holds numbers but {odd} of its {len(present)} values are not,"
            f" such as {_first_text(values)}; correct these or --drop it"
        )


def _check_missing(frame: "pd.DataFrame", features: list[Column], name: str) -> None:
    counts = {
        column.name: int(frame[column.name].isna().sum()) for column in features if column.encode != "onehot"
    }
    gaps = {column: count for column, count in counts.items() if count}
    if gaps:
        raise ValueError(
            f"{name}: values are missing in {_listed(gaps)} of {len(frame)} rows; say --impute mean, median"
            f" or most_frequent, or {_drop(frame, gaps)}"
        )


def _listed(notes: Mapping[str, Any]) -> str:
    """The first columns, each with what is to be said of it."""
    told = ", ".join(f"{shown([column])} ({note})" for column, note in islice(notes.items(), 6))
    return f"{told} and {len(notes) - 6} more" if len(notes) > 6 else told


def _drop(frame: "pd.DataFrame", columns: Iterable[str]) -> str:
    """The option that drops columns: by name, or by position where a name would not pass."""
    words = [
        column if re.fullmatch(r"[^,\s][^,]{0,40}", column) else str(frame.columns.get_loc(column))
        for column in columns
    ]
    return f"--drop {shlex.quote(','.join(words[:6]))}{' and so on' if len(words) > 6 else ''}"
