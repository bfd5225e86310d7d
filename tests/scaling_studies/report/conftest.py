"""Synthetic output folders of `qrt-tn ticket`: plausible random numbers, for tests of the report only."""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrt_tn.engine.files import save_tensors

ALL = ("residual", "qrt", "filter", "random-features", "dense", "linear", "svm")
COLUMNS = "method training nodes seed score error rmse smoothing beta seconds parameters"
TRAININGS = {"dense": ["trained"], "residual": ["fitted", "trained"]}


def write_ticket_folder(
    folder, regression=False, image=(8, 8), seeds=(0, 1, 2), methods=ALL, counts=(16, 64), **changes
) -> Path:
    """Write metrics, showcase and manifest, with `changes`; no image: a table of five columns.

    `scores` of fits, by method and node count, list one a seed; random where they are not given.
    """
    scores, rng = changes.pop("scores", {}), np.random.default_rng(7)
    rows = []
    for method in methods:
        for training in TRAININGS.get(method, ["fitted"]):
            for nodes in [None] if method in ("linear", "svm") else counts:
                drawn = 1 - rng.uniform(1, 1.3, len(seeds)) * (nodes or 40) ** -0.75
                given = scores.get((method, nodes), drawn) if training == "fitted" else drawn
                for seed, score in zip(seeds, given, strict=True):
                    rmse, beta = 3 - score if regression else None, 64.0 if method == "residual" else None
                    row = (method, training, nodes, seed, float(score), float(1 - score), rmse)
                    rows.append(dict(zip(COLUMNS.split(), (*row, 0.4, beta, 1.5, nodes), strict=True)))
    pq.write_table(pa.Table.from_pylist(rows), folder / "metrics.parquet")
    dim, t = math.prod(image or (5,)), np.arange(127)
    shares = np.exp(-np.minimum(t, 127 - t))
    arrays = {f"{name}_spectrum": shares / shares.sum() for name in ("residual", "filter", "qrt")}
    arrays |= {"a": rng.integers(-3, 4, (3, dim)) % 127, "b": np.array([3, 60.5, 126])}
    save_tensors(folder / "showcase.safetensors", arrays, {"format": "qrt-tn.showcase"})
    state = {"smoothing": 0.6, "site_dimension": 5, "bond_dimensions": [5] * (dim - 1), "tolerance": 0.05}
    state |= {"truncation_error": 0.04, "schmidt_values": [0.7, 0.1], "schmidt_spectra": [[0.5]] * dim}
    chosen = {"method": "residual", "quantizer": "uniform", "levels": 17, "smoothing": 0.4, "beta": 64.0}
    dataset = {"name": "synthetic", "description": "400 random points", "points": 400, "dim": dim}
    dataset |= {"names": [f"column {k}" for k in range(dim)], "target": "y", "image_shape": image}
    dataset |= {"classes": None, "chance": None} if regression else {"classes": ["a", "b"], "chance": 0.6}
    dataset |= {"train": 267, "validation": 53, "test": 80}
    manifest = {"title": "synthetic: hidden nodes compared", "command": "qrt-tn ticket", "config": {}}
    manifest |= {"modulus": 127, "tolerance": 0.05, "seeds": list(seeds)}
    manifest |= {
        key: [one | {"seed": s} for s in seeds] for key, one in (("chosen", chosen), ("states", state))
    }
    manifest |= {"versions": {"python": "3.11.9"}, "machine": {"cores": 2, "memory_gib": 7.6}}
    manifest |= {"date": "2026-06-01T12:00:00+00:00", "commit": "0123456789abcdef", "notes": ["A note."]}
    manifest |= {"model": {"nodes": 64, "smoothing": 0.4, "beta": 64.0}, "left_out": [], "seconds": 16.0}
    manifest |= {"timings": {"Training all parameters": 14.0, "Report": 1.5}}
    manifest |= changes | {"dataset": dataset | changes.get("dataset", {})}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def ticket_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a fresh synthetic folder; its options are those of `write_ticket_folder`."""
    return lambda **options: write_ticket_folder(tmp_path_factory.mktemp("ticket"), **options)


VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a browser would see: tags that balance, attributes, words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]

    @property
    def sections(self) -> list[str]:
        return [value for tag, name, value in self.attributes if (tag, name) == ("section", "id")]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="session")
def read_page() -> Callable[[Path], Page]:
    """Reads a report as a browser would."""
    return Page
