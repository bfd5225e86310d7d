import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrt_tn.studies.report.moe.folder import SHEETS, load

Folder = Callable[..., Path]
SMALL: dict[str, Any] = {"criteria": ("router-change", "random"), "modes": ("keep-router",), "prune": (2, 4)}


def change(table: str, column: str, value: Any, row: int = 1) -> Callable[[Path], None]:
    """Puts a value into one row of a table."""

    def apply(folder: Path) -> None:
        path = folder / f"{table}.parquet"
        rows = pq.read_table(path).to_pylist()
        rows[row][column] = value
        pq.write_table(pa.Table.from_pylist(rows), path)

    return apply


def drop(table: str, *columns: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / f"{table}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(list(columns)), path)

    return apply


def manifest(**entries: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return apply


def test_a_whole_folder_is_read(moe_folder: Folder) -> None:
    folder = moe_folder(**SMALL)
    results = load(folder)
    for name in SHEETS:
        assert getattr(results, name) == pq.read_table(folder / f"{name}.parquet").to_pylist(), name
    assert results.routers == ["token-choice", "expert-choice"]
    assert results.seeds == 3
    assert results.experts("token-choice") == 8
    own = {row["seed"]: row["accuracy"] for row in results.networks if row["router"] == "expert-choice"}
    assert results.whole("expert-choice") == own


def test_parts_that_were_not_run_are_empty(moe_folder: Folder) -> None:
    results = load(moe_folder(**SMALL, tables=("savings",)))
    assert results.savings
    assert not any(
        (results.theory_scaling, results.theory_pruning, results.ridgelet_experts, results.ridgelet_accuracy)
    )


def test_missing_numbers_are_none_and_counts_are_whole(moe_folder: Folder) -> None:
    folder = moe_folder(**SMALL)
    for column, value in (("finetuned_accuracy", float("nan")), ("pruned", 2.0)):
        change("pruned", column, value, 0)(folder)
    row = load(folder).pruned[0]
    assert row["finetuned_accuracy"] is None
    assert isinstance(row["pruned"], int)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (
            lambda folder: (folder / "networks.parquet").unlink(),
            r"no file .*networks\.parquet; run qrt-tn moe",
        ),
        (lambda folder: (folder / "pruned.parquet").unlink(), r"no file .*pruned\.parquet"),
        (lambda folder: (folder / "manifest.json").unlink(), r"no file .*manifest\.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json is not JSON"),
        (lambda folder: (folder / "savings.parquet").write_text("torn"), r"savings\.parquet is not a whole"),
        (
            lambda folder: pq.write_table(pa.Table.from_pylist([]), folder / "pruned.parquet"),
            r"pruned\.parquet holds no rows",
        ),
        (drop("pruned", "ratio", "bytes"), r"pruned\.parquet lacks the columns ratio, bytes"),
        (drop("ridgelet_accuracy", "trained"), r"ridgelet_accuracy\.parquet lacks the columns trained"),
        (
            change("pruned", "accuracy", 1.5),
            r"pruned\.parquet has 1\.5 in row 1 .*'accuracy', a share from 0",
        ),
        (change("pruned", "accuracy", None), r"has an empty entry in row 1 of the column 'accuracy'"),
        (change("pruned", "mode", "../up"), r"has '\.\./up' in row 1 of the column 'mode', a name"),
        (change("networks", "router", "A B"), r"has 'A B' in row 1 of the column 'router', a name"),
        (change("pruned", "draw", -1), r"has -1 in row 1 of the column 'draw', a whole number from 0"),
        (change("networks", "parameters", 0), r"has 0 in row 1 of the column 'parameters', a number above 0"),
        (change("theory_scaling", "dim", 0), r"has 0 in row 1 of the column 'dim', a whole number from 1"),
        (
            change("theory_scaling", "others_size", float("inf")),
            r"has inf in row 1 .*'others_size', a number",
        ),
        (
            change("ridgelet_correlation", "spearman", 1.2),
            r"has 1\.2 in row 1 of the column 'spearman', a correlation",
        ),
        (change("pruned", "seed", 7), r"router 'token-choice' with seed 7, which networks\.parquet lacks"),
        (change("networks", "seed", 0), r"networks\.parquet has two rows of router 'token-choice', seed 0"),
        (manifest(title=3), r"manifest\.json has 3 for 'title', which must be text"),
        (manifest(command=None), r"manifest\.json has None for 'command'"),
        (manifest(notes="no list"), r"has 'no list' for 'notes', which must be a list"),
        (manifest(settings=[1]), r"has \[1\] for 'settings', which must be an object"),
        (manifest(seconds="long"), r"has 'long' for 'seconds', which must be a number"),
        (manifest(timings={"all": "long"}), r"has 'long' for 'all' in timings; it must be a number"),
        (manifest(theory={"limits": {"with": None}}), r"has None for 'with' in the limits of its theory"),
    ],
)
def test_broken_folders_are_named(moe_folder: Folder, breaking: Callable[[Path], Any], message: str) -> None:
    folder = moe_folder(**SMALL)
    load(folder)
    breaking(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*; give the output folder of qrt-tn moe study"):
        load(tmp_path / "nowhere")
