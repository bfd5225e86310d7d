import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.studies.report.folder import load

Folder = Callable[..., Path]
METRICS, MANIFEST, SHOWCASE = "metrics.parquet", "manifest.json", "showcase.safetensors"


def test_bands_are_the_means_and_ranges_of_the_rows(ticket_folder: Folder) -> None:
    folder = ticket_folder(seeds=(0, 1, 2, 5))
    results, band = load(folder), load(folder).band("residual", "trained", "error")
    assert band is not None
    assert (band.nodes.tolist(), band.seeds) == ([16, 64], 4)
    for place, nodes in enumerate((16, 64)):
        rows = [row for row in pq.read_table(folder / METRICS).to_pylist() if row["nodes"] == nodes]
        own = {r["seed"]: r["error"] for r in rows if (r["method"], r["training"]) == ("residual", "trained")}
        assert results.values("residual", "trained", nodes, "error") == own
        assert (band.low[place], band.high[place]) == (min(own.values()), max(own.values()))
        assert band.mean[place] == pytest.approx(sum(own.values()) / 4)
    assert list(results.bands(("dense", "filter", "linear"), "fitted", "error")) == ["filter"]
    assert list(results.values("linear", "fitted", None)) == [0, 1, 2, 5]


def spoil(path: Path, change: Any) -> None:
    """Damage a file: None removes it, text replaces it, else what is in it is changed, or "gone"."""
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    elif path.name == MANIFEST:
        entries = json.loads(path.read_text())
        change = change | {"dataset": entries["dataset"] | change.get("dataset", {})}
        path.write_text(json.dumps(entries | change))
    elif path.name == METRICS:
        rows = [row | change for row in pq.read_table(path).to_pylist()]
        kept = pa.table({name: [row[name] for row in rows] for name in rows[0] if change.get(name) != "gone"})
        pq.write_table(kept.slice(0, change.get("rows")), path)
    else:
        arrays, metadata = load_tensors(path, "qrt-tn.showcase")
        arrays = {name: change.get(name, array) for name, array in arrays.items()}
        save_tensors(path, {name: a for name, a in arrays.items() if not isinstance(a, str)}, metadata)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((name, None, f"no file .*{name}") for name in (MANIFEST, METRICS, SHOWCASE)),
        (MANIFEST, "{", "not JSON"),
        (MANIFEST, "[1]", "holds a list"),
        (METRICS, "torn", "not a whole parquet file"),
        (SHOWCASE, "torn", "not a whole safetensors file"),
        (MANIFEST, {"title": None}, "None for 'title'"),
        (MANIFEST, {"modulus": True}, "True for 'modulus'"),
        (MANIFEST, {"states": {}}, "{} for 'states'"),
        (MANIFEST, {"model": [1]}, r"\[1\] for 'model'"),
        (MANIFEST, {"dataset": {"test": None}}, "None for 'test'"),
        (MANIFEST, {"dataset": {"names": ["a"]}}, "1 names for 64"),
        (MANIFEST, {"dataset": {"image_shape": [8, 9]}}, r"image_shape \[8, 9\]"),
        (MANIFEST, {"dataset": {"image_shape": ["8", 8]}}, r"image_shape \['8', 8\]"),
        (METRICS, {"error": "gone", "beta": "gone"}, "lacks the columns error, beta"),
        (METRICS, {"rows": 0}, "no rows"),
        (METRICS, {"nodes": "many"}, "text in the column 'nodes'"),
        (METRICS, {"seed": None}, "empty entry in the column 'seed'"),
        (METRICS, {"method": "dense"}, "no scores of a fitted 'residual'"),
        (METRICS, {"score": None}, "no scores of a fitted 'residual'"),
        (SHOWCASE, {"a": "gone"}, "lacks the array 'a'"),
        (SHOWCASE, {"a": np.zeros((3, 5), np.int64)}, r"'a' of shape \(3, 5\)"),
        (SHOWCASE, {"qrt_spectrum": np.full(127, np.nan)}, "'qrt_spectrum' that is not finite"),
    ],
)
def test_damage_is_named_in_one_line(ticket_folder: Folder, name: str, change: Any, message: str) -> None:
    folder = ticket_folder()
    spoil(folder / name, change)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        load(folder / "nowhere")
