import csv
import json
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from pydantic import Field

from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, one_row
from qrt_tn.studies.store.export import column_names, write_export
from tests.scaling_studies.report.study.conftest import PRUNED, PRUNING, failure, pruned, record, study_of


class Clashing(Settings):
    """Parameters called like columns, and of every type."""

    zeta: float = 0.5
    log: str = "mine"
    text: str = ""
    on: bool = False
    sizes: list[int] = Field([1, 2])
    count: int = 3
    status: int = 1


CLASHING = Experiment(
    name="clashing",
    summary="names that clash",
    settings=Clashing,
    function="nowhere:none",
    tables=one_row(
        {
            "count": Metric("a metric called like a parameter"),
            "id": Metric("one called like a column", measured=True),
            "bond": Metric("whole numbers"),
            "never": Metric("never there"),
        }
    ),
)
TEXTS = ['say "x", y', "two\nlines\r\nmore", "ünï, 漢字 😀", "=1+1", "007", "", " spaced ", "null"]


def made():
    axes = "\n".join(("[axes]", f"text = {json.dumps(TEXTS, ensure_ascii=False)}", "on = [true, false]"))
    study = study_of(f'name = "c"\nexperiment = "clashing"\nseeds = [5, 2]\n{axes}', CLASHING)
    done = [
        record(study, p, {"count": 0.1 * k, "id": 1 / 3, "bond": k if k != 1 else None})
        for k, p in enumerate(study.points[:20])
    ]
    broken = [
        failure(study, study.points[25], 'broke, "badly"\nwith lines'),
        failure(study, study.points[3], "failed before it was done"),
    ]
    foreign = record(study, study.points[0], {"bond": 9}, id="0" * 20)
    return study, [*done[::-1], foreign], broken


NAMES = [
    *("id", "status", "seed"),
    *("zeta", "parameter_log", "text", "on", "sizes", "count", "parameter_status"),
    *("metric_count", "metric_id", "bond", "never"),
    *("wall_seconds", "peak_bytes", "gpu", "processor", "job", "commit", "started", "finished"),
    *("log", "reason"),
]


def check(rows: list[dict], study) -> None:
    """Rows as both forms give them back."""
    points = [*study.points[:20], study.points[25]]
    assert [row["id"] for row in rows] == [point.id for point in points]
    for k, (row, point) in enumerate(zip(rows, points, strict=True)):
        p = point.parameters
        assert list(row) == NAMES
        assert (row["seed"], row["text"], row["on"]) == (point.seed, p["text"], p["on"])
        assert (row["zeta"], row["count"], json.loads(row["sizes"])) == (0.5, 3, [1, 2])
        assert row["parameter_log"] == "mine"
        assert row["never"] is None
        if k < 20:
            assert row["status"] == "done"
            assert row["metric_count"] == 0.1 * k  # to the bit
            assert row["metric_id"] == 1 / 3
            assert row["bond"] == (None if k == 1 else k)
            assert (row["wall_seconds"], row["peak_bytes"]) == (1.5, 350_000_000)
            assert (row["processor"], row["gpu"], row["reason"]) == ("Fast 9000", None, None)
        else:
            assert row["status"] == "failed"
            assert row["reason"] == 'broke, "badly"\nwith lines'
            assert (row["metric_count"], row["bond"], row["wall_seconds"]) == (None, None, 0.5)
        assert row["log"] == f"logs/{point.id[:2]}/{point.id}.log"


def test_parquet(tmp_path: Path) -> None:
    study, done, broken = made()
    path = write_export(tmp_path / "all.parquet", study, done, broken)
    table = pyarrow.parquet.read_table(path)
    check(table.to_pylist(), study)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["bond"], kinds["metric_count"], kinds["on"], kinds["sizes"]) == (
        "int64",
        "double",
        "bool",
        "string",
    )


def test_csv_survives_a_round_trip(tmp_path: Path) -> None:
    study, done, broken = made()
    path = write_export(str(tmp_path / "all.CSV"), study, done, broken)
    texts = {name: pa.string() for name in ("text", "reason", "gpu", "job")}
    options = pyarrow.csv.ConvertOptions(
        column_types=texts | {"never": pa.float64()},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    check(pyarrow.csv.read_csv(path, convert_options=options, parse_options=parse).to_pylist(), study)
    # Python's own reader, which knows nothing of types
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [
        p.parameters["text"] for p in [*study.points[:20], study.points[25]]
    ]
    assert [float(row["metric_count"]) for row in rows[:20]] == [0.1 * k for k in range(20)]
    assert rows[20]["reason"] == 'broke, "badly"\nwith lines'


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_study_without_results_has_columns_and_no_rows(tmp_path: Path, suffix: str) -> None:
    study, _, _ = made()
    path = write_export(tmp_path / f"none{suffix}", study, [], [])
    read = pyarrow.parquet.read_table if suffix == ".parquet" else pyarrow.csv.read_csv
    table = read(path)
    assert table.column_names == NAMES == list(column_names(study, "points").values())
    assert table.num_rows == 0


def test_mixed_and_huge_values_become_texts(tmp_path: Path) -> None:
    study, _, _ = made()
    rows = [
        record(study, study.points[0], {"bond": 2**70}),
        record(study, study.points[1], {"bond": 1}, job="odd \udc80 name"),
    ]
    table = pyarrow.parquet.read_table(write_export(tmp_path / "a.parquet", study, rows, []))
    assert table["bond"].to_pylist() == [float(2**70), 1.0]
    assert table["job"].to_pylist() == [None, "odd ? name"]


@pytest.mark.parametrize("name", ["all.xlsx", "all", "all.csv.gz"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    study, done, broken = made()
    with pytest.raises(ValueError, match=r"give a name ending in \.parquet or \.csv"):
        write_export(tmp_path / name, study, done, broken)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, done, broken = made()
    path = tmp_path / "all.csv"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pyarrow.csv, "write_csv", full)
    with pytest.raises(OSError, match="no space"):
        write_export(path, study, done, broken)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["all.csv"]
    with pytest.raises(ValueError, match="does not exist"):
        write_export(tmp_path / "nowhere" / "all.csv", study, done, broken)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_has_a_row_for_each_of_its_rows(tmp_path: Path, suffix: str) -> None:
    study = study_of(PRUNED, PRUNING)
    done = pruned(study, np.random.default_rng(0))
    left = next(point for point in study.points if point.id not in {one["id"] for one in done})
    read = pandas.read_csv if suffix == ".csv" else pandas.read_parquet
    for table, columns in (("pruned", ["criterion", "left", "accuracy"]), ("whole", ["size"])):
        path = write_export(
            tmp_path / f"{table}{suffix}", study, done, [failure(study, left, "broke")], table
        )
        found = read(path)
        wanted = pandas.DataFrame(
            [
                {"id": one["id"], "seed": one["seed"], "experts": one["parameters"]["experts"], **row}
                for point in study.points
                for one in done
                if one["id"] == point.id
                for row in one["tables"][table]
            ]
        )
        names = ["id", "seed", "experts", *columns]
        rows = found[found.status == "done"].reset_index(drop=True)
        pandas.testing.assert_frame_equal(rows[names], wanted[names], check_dtype=False)
        failed = found[found.status == "failed"]
        assert (list(failed.id), failed[columns].isna().all().all()) == ([left.id], True)
    with pytest.raises(ValueError, match="no table 'all'; choose from pruned, whole"):
        write_export(tmp_path / f"all{suffix}", study, done, [], "all")
