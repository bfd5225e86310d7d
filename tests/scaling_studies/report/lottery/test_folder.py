import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrt_tn.studies.report.lottery.folder import load
from qrt_tn.studies.report.lottery.series import Point, curve, falls_below

Folder = Callable[..., Path]
SMALL: dict[str, Any] = {"levels": (1, 3, 7, 9), "methods": ("dense", "imp", "reinit"), "evaluations": 12}


def test_points_are_the_statistics_of_the_rows(lottery_folder: Folder) -> None:
    folder = lottery_folder(**SMALL)
    rows = pq.read_table(folder / "runs.parquet").to_pylist()
    found = load(folder).points("reinit", "early_test_accuracy")
    assert list(found) == [1, 3, 7, 9]
    for level, point in found.items():
        own = [row for row in rows if (row["method"], row["level"]) == ("reinit", level)]
        values = [row["early_test_accuracy"] for row in own]
        assert point.runs == len(values) == 6
        assert (point.low, point.high) == (min(values), max(values))
        assert point.mean == pytest.approx(statistics.fmean(values))
        assert point.median == pytest.approx(statistics.median(values))
        assert point.remaining == pytest.approx(own[0]["remaining"])


def test_tickets_begin_at_the_dense_network(lottery_folder: Folder) -> None:
    results = load(lottery_folder(**SMALL))
    column = "final_test_accuracy"
    assert results.points("imp", column)[0] == results.points("dense", column)[0]
    assert 0 not in results.points("reinit", column)
    assert results.points("snip", column) == {}


def test_missing_numbers_are_left_out(lottery_folder: Folder) -> None:
    results = load(lottery_folder(**SMALL))
    mine = (results.runs["method"] == "imp") & (results.runs["level"] == 3)
    results.runs["final_test_accuracy"][mine & (results.runs["trial"] == 0)] = np.nan
    assert results.points("imp", "final_test_accuracy")[3].runs == 2
    results.runs["final_test_accuracy"][mine] = np.nan
    assert 3 not in results.points("imp", "final_test_accuracy")


def test_the_nearest_level_is_nearest_in_ratio(lottery_folder: Folder) -> None:
    results = load(lottery_folder(**SMALL))
    assert [results.level_near(share) for share in (0.211, 0.135, 0.01, 1.0)] == [7, 9, 9, 1]
    assert results.level_near(0.01, within=1.1) is None
    assert results.share(7) == pytest.approx(0.2107, abs=1e-4)
    assert results.share(0) == 1
    assert load(lottery_folder(**SMALL | {"methods": ("dense",)})).level_near(0.2) is None


def test_a_curve_is_the_mean_and_the_range_at_each_iteration(lottery_folder: Folder) -> None:
    folder = lottery_folder(**SMALL)
    rows = pq.read_table(folder / "curves.parquet").to_pylist()
    found = curve(load(folder).curves, "reinit", 7, "test_accuracy")
    assert found is not None
    values: dict[int, list[float]] = {}
    for row in rows:
        if (row["method"], row["level"]) == ("reinit", 7):
            values.setdefault(row["iteration"], []).append(row["test_accuracy"])
    assert found.iteration.tolist() == sorted(values)
    ordered = [values[at] for at in sorted(values)]
    np.testing.assert_allclose(found.mean, [statistics.fmean(part) for part in ordered])
    np.testing.assert_array_equal(found.low, [min(part) for part in ordered])
    np.testing.assert_array_equal(found.high, [max(part) for part in ordered])
    thin = curve(load(folder).curves, "reinit", 7, "test_accuracy", most=5)
    assert thin is not None
    assert len(thin.iteration) == 5
    assert (thin.iteration[0], thin.iteration[-1]) == (min(values), max(values))
    assert curve(load(folder).curves, "reinit", 2, "test_accuracy") is None


@pytest.mark.parametrize(
    ("means", "share"),
    [
        ((0.9, 0.9, 0.7, 0.6), 0.25),
        ((0.7, 0.9, 0.9, 0.6), 0.125),
        ((0.7, 0.7, 0.7, 0.7), 1.0),
        ((0.7, 0.7, 0.7, 0.8), None),
    ],
)
def test_where_a_column_falls_below(means: tuple[float, ...], share: float | None) -> None:
    found = {at: Point(0.5**at, mean, mean, mean, mean, 1) for at, mean in enumerate(means)}
    assert falls_below(found, 0.8) == share


def test_parts_that_were_not_run_are_none(lottery_folder: Folder) -> None:
    results = load(lottery_folder(**SMALL, savings=False, shallow=False, overlap=False))
    assert (results.savings, results.shallow, results.overlap) == (None, None, None)


def change(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))

    return write


def column(name: str, key: str, values: Callable[[int], Any]) -> Callable[[Path], None]:
    """Replace a column of a file, or drop it where `values` gives nothing."""

    def write(folder: Path) -> None:
        table = pq.read_table(folder / name)
        found = values(table.num_rows)
        table = table.drop_columns([key])
        if found is not None:
            table = table.append_column(key, pa.array(found))
        pq.write_table(table, folder / name)

    return write


def fill(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def empty(folder: Path) -> None:
    table = pq.read_table(folder / "runs.parquet")
    pq.write_table(table.slice(0, 0), folder / "runs.parquet")


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json", "no file"),
        (lambda folder: (folder / "runs.parquet").unlink(), "runs.parquet", "no file"),
        (lambda folder: (folder / "curves.parquet").unlink(), "curves.parquet", "no file"),
        (fill("manifest.json", "{"), "manifest.json", "not JSON"),
        (fill("manifest.json", "[]"), "manifest.json", "holds a list"),
        (fill("runs.parquet", "torn"), "runs.parquet", "not a whole parquet file"),
        (fill("savings.parquet", "torn"), "savings.parquet", "not a whole parquet file"),
        (change(title=3), "manifest.json", "3 for 'title', which must be a str"),
        (change(preset={"name": "a", "architecture": "lenet"}), "manifest.json", "no entry for 'recipe'"),
        (change(timings={"load": "long"}), "manifest.json", "'long' for 'load', which must be a number"),
        (change(layers=[{"level": 0, "kept": {"a": 0.5}}]), "manifest.json", "0.5 for 'a'"),
        (change(layers=["a"]), "manifest.json", "'a' among its layers"),
        (empty, "runs.parquet", "holds no rows"),
        (column("runs.parquet", "kept", lambda n: None), "runs.parquet", "lacks the columns kept"),
        (
            column("runs.parquet", "method", lambda n: [1] * n),
            "runs.parquet",
            "numbers in the column 'method'",
        ),
        (column("runs.parquet", "level", lambda n: [None, *range(n - 1)]), "runs.parquet", "empty entry"),
        (column("runs.parquet", "level", lambda n: ["a"] * n), "runs.parquet", "text in the column 'level'"),
        (column("runs.parquet", "remaining", lambda n: [0.0] * n), "runs.parquet", "above 0"),
        (column("runs.parquet", "remaining", lambda n: [21.1] * n), "runs.parquet", "21.1 in the column"),
        (
            column("curves.parquet", "test_accuracy", lambda n: [97.0] * n),
            "curves.parquet",
            "97 in the column 'test_accuracy'; give shares from 0 to 1",
        ),
        (column("savings.parquet", "form", lambda n: [None] * n), "savings.parquet", "empty entry"),
        (column("shallow.parquet", "flops", lambda n: None), "shallow.parquet", "lacks the columns flops"),
        (column("overlap.parquet", "value", lambda n: ["a"] * n), "overlap.parquet", "text in the column"),
    ],
)
def test_a_malformed_folder_is_refused_by_name(
    lottery_folder: Folder, damage: Callable[[Path], None], file: str, message: str
) -> None:
    folder = lottery_folder(levels=(1,), methods=("dense", "imp"), evaluations=2, trials=1)
    damage(folder)
    with pytest.raises(ValueError, match=file) as caught:
        load(folder)
    assert message in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        load(tmp_path / "nowhere")
