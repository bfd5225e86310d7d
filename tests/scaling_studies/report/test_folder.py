import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrt_tn.engine.atomic import load_tensors, save_tensors
from qrt_tn.studies.report.folder import load

Folder = Callable[..., Path]


def test_bands_are_the_medians_and_ranges_of_the_rows(ticket_folder: Folder) -> None:
    folder = ticket_folder(seeds=(0, 1, 2, 3))
    results = load(folder)
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    band = results.band("filter", "trained", "test_risk")
    assert band is not None
    assert band.seeds == 4
    for nodes in (16, 256, 1024):
        values = [
            row["test_risk"]
            for row in rows
            if (row["method"], row["training"], row["nodes"]) == ("filter", "trained", nodes)
        ]
        assert band.at(nodes) == pytest.approx((min(values), statistics.median(values), max(values)))
    assert band.at(17) is None
    assert results.band("filter", "fitted", "test_accuracy") is not None
    assert results.band("dense", "fitted", "test_accuracy") is None
    assert results.band("no such method", "fitted", "test_accuracy") is None


def test_gain_pairs_seeds(ticket_folder: Folder) -> None:
    """Medians of differences are not differences of medians; one method's lone seed takes no part."""
    folder = ticket_folder(methods=("qrt-broad", "filter-broad"))
    template = pq.read_table(folder / "metrics.parquet").to_pylist()[0]
    scores = {"qrt-broad": {0: 0.9, 1: 0.5, 2: 0.7, 3: 0.1}, "filter-broad": {0: 0.1, 1: 0.6, 2: 0.5}}
    rows = [
        template | {"method": method, "training": "fitted", "nodes": 64, "seed": seed, "test_accuracy": value}
        for method, by_seed in scores.items()
        for seed, value in by_seed.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "metrics.parquet")
    gain = load(folder).gain("qrt-broad", "filter-broad", "fitted", "test_accuracy")
    assert gain is not None
    assert gain.at(64) == pytest.approx((-0.1, 0.2, 0.8))
    assert load(folder).gain("qrt-broad", "dense", "fitted", "test_accuracy") is None


def test_regression_scores_by_risk(ticket_folder: Folder) -> None:
    results = load(ticket_folder(regression=True, image=False))
    assert not results.classification
    assert results.class_count is None
    assert results.score("test") == "test_risk"
    assert np.isnan(results.metrics["test_accuracy"]).all()


def change_manifest(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest.update(changes)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return change


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def fill(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def drop_column(folder: Path) -> None:
    table = pq.read_table(folder / "metrics.parquet")
    pq.write_table(table.drop_columns(["test_risk"]), folder / "metrics.parquet")


def text_column(folder: Path) -> None:
    table = pq.read_table(folder / "metrics.parquet")
    words = pa.array(["many"] * table.num_rows)
    place = table.column_names.index("nodes")
    pq.write_table(table.set_column(place, "nodes", words), folder / "metrics.parquet")


def no_rows(folder: Path) -> None:
    table = pq.read_table(folder / "metrics.parquet")
    pq.write_table(table.slice(0, 0), folder / "metrics.parquet")


def change_showcase(name: str, value: np.ndarray | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "showcase.safetensors"
        tensors, metadata = load_tensors(path, "qrt-tn.showcase")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
        save_tensors(path, tensors, metadata)

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("manifest.json"), r"no file .*manifest\.json"),
        (drop("metrics.parquet"), r"no file .*metrics\.parquet"),
        (drop("showcase.safetensors"), r"no file .*showcase\.safetensors"),
        (fill("manifest.json", "{"), "not JSON"),
        (fill("manifest.json", "[1]"), "holds a list"),
        (fill("metrics.parquet", "torn"), "not a whole parquet file"),
        (fill("showcase.safetensors", "torn"), "not a whole safetensors file"),
        (change_manifest(title=None), "None for 'title'"),
        (change_manifest(modulus="127"), "'127' for 'modulus'"),
        (change_manifest(modulus=True), "True for 'modulus'"),
        (change_manifest(dataset={"points": 3}), "no entry for 'dim'"),
        (change_manifest(dataset={"points": 3, "dim": 64, "image_shape": [8, 9]}), r"image_shape \[8, 9\]"),
        (change_manifest(states={}), "{} for 'states'"),
        (change_manifest(timings=[1]), r"\[1\] for 'timings'"),
        (change_manifest(modulus=131), r"'probability' of shape \(3, 127\)"),
        (drop_column, "lacks the columns test_risk"),
        (text_column, "text in the column 'nodes'"),
        (no_rows, "no rows"),
        (change_showcase("u", None), "lacks the array 'u'"),
        (change_showcase("u", np.zeros((3, 5), np.int64)), r"'u' of shape \(3, 5\)"),
        (change_showcase("probability", np.full((3, 127), np.nan)), "'probability' that is not finite"),
    ],
)
def test_damage_is_named_in_one_line(
    ticket_folder: Folder, damage: Callable[[Path], None], message: str
) -> None:
    folder = ticket_folder()
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")
