"""A table of a study for other programs, parameters joined to the rows: Parquet or CSV."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from qrt_tn.engine.files import atomic_path
from qrt_tn.studies.config import Study

SUFFIXES = (".parquet", ".csv")
Record = Mapping[str, Any]

# what every row has before its parameters, and after its metrics
_FIRST = ("id", "status", "seed")
_LAST = (
    "wall_seconds",
    "peak_bytes",
    "gpu",
    "processor",
    "job",
    "commit",
    "started",
    "finished",
    "log",
    "reason",
)
_NUMBERS = {
    "seed": pa.int64(),
    "peak_bytes": pa.int64(),
    "wall_seconds": pa.float64(),
}  # the others are texts


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
        if target.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(columns, partial)
        else:
            pyarrow.parquet.write_table(columns, partial)
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
    asked += [("record", name) for name in _LAST]
    names: dict[tuple[str, str], str] = {}
    taken = {*_FIRST, *_LAST}
    for part, name in asked:
        called = name
        while part != "record" and called in taken:
            called = f"{part}_{called}"
        taken.add(called)
        names[part, name] = called
    return names


def _columns(study: Study, records: Sequence[Record], failures: Sequence[Record], table: str) -> pa.Table:
    of_point = {one["id"]: {**one, "status": "failed", "rows": [{}]} for one in failures}
    of_point |= {one["id"]: {**one, "status": "done", "rows": one["tables"][table]} for one in records}
    known = [(point, of_point[point.id]) for point in study.points if point.id in of_point]
    found = [(point, (one.get("device") or {}) | one, row) for point, one in known for row in one["rows"]]
    columns = {}
    for (part, name), called in column_names(study, table).items():
        if part == "parameter":
            columns[called] = _array([point.parameters[name] for point, _, _ in found], pa.string())
        elif part in ("key", "metric"):
            columns[called] = _array([row.get(name) for _, _, row in found], pa.float64())
        elif name in _NUMBERS:
            columns[called] = pa.array([one.get(name) for _, one, _ in found], _NUMBERS[name])
        else:
            columns[called] = pa.array([_text(one.get(name)) for _, one, _ in found], pa.string())
    return pa.table(columns)


def _array(values: list[Any], empty: pa.DataType) -> pa.Array:
    """Values from JSON as truths, whole numbers, numbers, or else texts; `empty` where there are none."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pa.array(values, empty)
    if kinds == {bool} or (kinds == {int} and all(abs(value or 0) < 2**63 for value in values)):
        return pa.array(values)
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values])
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    """A text that UTF-8 can hold: the name of a file may bring in what it cannot."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text.encode("utf-8", "replace").decode("utf-8")
