"""A table of a study for other programs, parameters joined to the rows: Parquet or CSV."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qrt_tn.engine.files import atomic_path
from qrt_tn.studies.config import Study

SUFFIXES = (".parquet", ".csv")
Record = Mapping[str, Any]

# what every row has before its parameters, and after its metrics
_FIRST = ("id", "status", "seed")
_LAST = ("wall_seconds", "peak_bytes", "gpu", "processor", "job", "commit", "started", "finished")
_END = ("log", "reason")
_FLOATS = ("wall_seconds",)
_WHOLE = ("seed", "peak_bytes")


def write_export(
    path: str | Path,
    study: Study,
    records: Sequence[Record],
    failures: Sequence[Record],
    table: str | None = None,
) -> Path:
    """Write every row of a table, and one of each failed point, in the study's order.

    Columns: id, status ("done" or "failed"), seed, the parameters in the order of the experiment's settings,
    the table's keys and metrics, and what was recorded of the run. A parameter, key or metric called like a
    column before it gets the prefix "parameter_", "key_" or "metric_". Lists and tables are JSON texts. What
    a row has not is null, in CSV empty; there, an empty text is two quotes, and truths are true and false.

    Args:
        path: of the file; its suffix says which form.
        study: whose points these are; records of no point of it are left out.
        records: of finished points.
        failures: of failed points; those of points that are done by now are left out.
        table: its name; None for the experiment's first.

    Returns:
        The path.

    Raises:
        ValueError: another suffix, a folder that does not exist, or a table that the experiment has not.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{target.name} ends in {target.suffix!r}; give a name ending in .parquet or .csv")
    tables = study.experiment.tables
    name = next(iter(tables)) if table is None else table
    if name not in tables:
        raise ValueError(f"{study.experiment.name} has no table {name!r}; choose from {', '.join(tables)}")
    columns = _columns(study, records, failures, name)
    with atomic_path(target) as partial:
        _write(partial, columns, as_csv=target.suffix.lower() == ".csv")
    return target


def column_names(study: Study, table: str) -> dict[tuple[str, str], str]:
    """What each column is called: ("parameter", "key", "metric" or "record", its name there) -> its name.

    In the order of the columns. Names differ: Parquet and those who read it take no name twice.
    """
    experiment = study.experiment
    asked = [("record", name) for name in _FIRST]
    asked += [("parameter", name) for name in experiment.settings.model_fields]
    asked += [("key", name) for name in experiment.tables[table].keys]
    asked += [("metric", name) for name in experiment.tables[table].metrics]
    asked += [("record", name) for name in (*_LAST, *_END)]
    reserved = {*_FIRST, *_LAST, *_END}
    names: dict[tuple[str, str], str] = {}
    taken = set(reserved)
    for part, name in asked:
        called = name
        while part != "record" and called in taken:
            called = f"{part}_{called}"
        taken.add(called)
        names[part, name] = called
    return names


def _columns(
    study: Study, records: Sequence[Record], failures: Sequence[Record], table: str
) -> dict[str, tuple[str, list[Any]]]:
    """Kind ("text", "whole", "number" or "truth") and values of each column."""
    places = {point.id: place for place, point in enumerate(study.points)}
    of_point = {record["id"]: record for record in failures if record["id"] in places}
    done = {record["id"]: record for record in records if record["id"] in places}
    of_point |= done
    nothing: list[Record] = [{}]  # a failed point has a row without keys and metrics
    ordered, rows = [], []
    for point_id in sorted(of_point, key=places.__getitem__):
        record = of_point[point_id]
        for row in record["tables"][table] if point_id in done else nothing:
            ordered.append(record)
            rows.append(row)
    points = [study.points[places[record["id"]]] for record in ordered]
    columns: dict[str, tuple[str, list[Any]]] = {}
    for (part, name), called in column_names(study, table).items():
        if part == "parameter":
            columns[called] = _typed([point.parameters[name] for point in points])
        elif part in ("key", "metric"):
            columns[called] = _typed([row.get(name) for row in rows], empty="number")
        elif name == "status":
            columns[called] = ("text", ["done" if row["id"] in done else "failed" for row in ordered])
        elif name == "seed":
            columns[called] = ("whole", [point.seed for point in points])
        elif name in ("gpu", "processor"):
            columns[called] = ("text", [_text((row.get("device") or {}).get(name)) for row in ordered])
        elif name in _FLOATS:
            values = [row.get(name) for row in ordered]
            columns[called] = ("number", [None if value is None else float(value) for value in values])
        elif name in _WHOLE:
            values = [row.get(name) for row in ordered]
            columns[called] = ("whole", [None if value is None else int(value) for value in values])
        else:
            columns[called] = ("text", [_text(row.get(name)) for row in ordered])
    return columns


def _typed(values: list[Any], *, empty: str = "text") -> tuple[str, list[Any]]:
    """Values of one kind: truths, whole numbers, numbers, or else texts.

    Args:
        values: as JSON has them.
        empty: the kind of a column that holds nothing.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return empty, values
    if kinds == {bool}:
        return "truth", values
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return "whole", values
    if kinds <= {int, float}:
        return "number", [None if value is None else float(value) for value in values]
    return "text", [value if value is None or isinstance(value, str) else _json(value) for value in values]


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _whole_text(text: str) -> str:
    """A text that UTF-8 can hold: the name of a file may bring in what it cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _table(columns: Mapping[str, tuple[str, list[Any]]]) -> Any:
    """The columns as an Arrow table."""
    import pyarrow as pa

    kinds = {"text": pa.string(), "whole": pa.int64(), "number": pa.float64(), "truth": pa.bool_()}
    arrays = {}
    for name, (kind, values) in columns.items():
        cells = (
            [None if value is None else _whole_text(value) for value in values] if kind == "text" else values
        )
        arrays[name] = pa.array(cells, type=kinds[kind])
    return pa.table(arrays)


def _write(path: Path, columns: Mapping[str, tuple[str, list[Any]]], *, as_csv: bool) -> None:
    """The file; in CSV texts are quoted and floats are their shortest text that reads back the same."""
    import pyarrow.csv
    import pyarrow.parquet

    if as_csv:
        pyarrow.csv.write_csv(_table(columns), path)
    else:
        pyarrow.parquet.write_table(_table(columns), path)
