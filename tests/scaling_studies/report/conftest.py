"""Synthetic output folders of `qrt-tn ticket`: plausible random numbers, for tests of the report only."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrt_tn.engine.atomic import save_tensors

MODULUS = 127
CEILINGS = {  # (accuracy at many nodes, nodes needed to come near it)
    "qrt-smoothed": (0.978, 20),
    "qrt-unsmoothed": (0.11, 10),
    "filter": (0.976, 24),
    "uniform": (0.105, 10),
    "random-features": (0.982, 22),
    "dense": (0.972, 14),
    "qrt-broad": (0.93, 60),
    "filter-broad": (0.90, 90),
    "qrt-importance": (0.62, 300),
}


def write_ticket_folder(
    folder: Path,
    *,
    regression: bool = False,
    image: bool = True,
    seeds: tuple[int, ...] = (0, 1, 2),
    methods: tuple[str, ...] = tuple(CEILINGS),
    node_counts: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024),
    nodes_shown: int = 3,
    manifest_changes: dict[str, Any] | None = None,
) -> Path:
    """Write manifest.json, metrics.parquet and showcase.safetensors with random content."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    dim = 64 if image else 11
    _write_metrics(
        folder / "metrics.parquet",
        rng,
        regression=regression,
        seeds=seeds,
        methods=methods,
        node_counts=node_counts,
    )
    _write_showcase(folder / "showcase.safetensors", rng, dim, image, nodes_shown)
    manifest = {
        "title": "A ticket from tabular data" if regression else "A ticket from handwritten digits",
        "command": "qrt-tn ticket --seeds 3 --out runs/synthetic",
        "dataset": {
            "name": "synthetic table" if regression else "synthetic digits",
            "points": 1797,
            "dim": dim,
            "classes": None if regression else [str(k) for k in range(10)],
            "image_shape": [8, 8] if image else None,
            "train": 1200,
            "validation": 237,
            "test": 360,
        },
        "modulus": MODULUS,
        "levels": 17,
        "guard_band": 7.47,
        "activation": "triangle",
        "smoothing": 0.7,
        "tolerance": 0.03,
        "seeds": list(seeds),
        "node_counts": list(node_counts),
        "selection": [
            {
                "method": "qrt-smoothed",
                "activation": activation,
                "smoothing": w,
                "nodes": nodes,
                "validation_risk" if regression else "validation_accuracy": (
                    0.95 - 0.05 * w + 0.01 * rng.standard_normal(len(seeds))
                ).tolist(),
            }
            for activation in ("triangle", "cosine", "relu")
            for w in (0.5, 0.7, 1.0)
            for nodes in (64, 256)
        ],
        "chosen": [{"method": "qrt-smoothed", "activation": "cosine", "smoothing": 0.7, "nodes": 64}],
        "states": [
            {
                "seed": seed,
                "smoothing": w,
                "bond_dimensions": _bonds(rng, dim, rank),
                "truncation_error": float(0.02 + 0.005 * rng.random()),
                "tolerance": 0.03,
                "site_dimension": 9,
                "schmidt_values": np.exp(-np.arange(rank) / rank * 4).tolist(),
                "schmidt_spectra": [[0.5, 0.1][: 1 + site % 2] for site in range(dim)],
            }
            for w, rank in ((0.7, 16), (2.0, 60))
            for seed in seeds
        ],
        "diagnosis": {
            "nodes": 1024,
            "dim": dim,
            "modulus": MODULUS,
            "entropy": {"value": 45.25, "error": 0.5},
            "log_participation": {"value": 23.0, "error": 0.46},
            "log_ess_uniform": {"value": -230.0, "error": 0.46},
            "log_ess_filter": {"value": -4.6, "error": 0.046},
        },
        "broad": {"smoothing": 2.0, "tolerance": 0.1},
        "timings": {
            "load and quantise": 0.4,
            "states": 9.3,
            "sampling": 6.1,
            "fitting": 11.2,
            "training": 64.0,
            "report": 3.0,
        },
        "seconds": 94.0,
        "versions": {"python": "3.11.9", "numpy": "2.4.6", "jax": "0.10.1", "quimb": "1.12.0"},
        "machine": {"processor": "a processor", "cores": 2, "memory_gib": 7.6, "backend": "numpy"},
        "date": "2026-06-01T12:00:00+00:00",
        "commit": "0123456789abcdef",
        "notes": ["These numbers are random; they measure nothing."],
    }
    manifest.update(manifest_changes or {})
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _bonds(rng: np.random.Generator, dim: int, rank: int) -> list[int]:
    edge = np.minimum(np.arange(1, dim), np.arange(dim - 1, 0, -1))
    return (
        np.maximum(1, np.minimum(9.0 ** np.minimum(edge, 5), rank + rng.integers(-2, 3, dim - 1)))
        .astype(int)
        .tolist()
    )


def _write_metrics(
    path: Path,
    rng: np.random.Generator,
    *,
    regression: bool,
    seeds: tuple[int, ...],
    methods: tuple[str, ...],
    node_counts: tuple[int, ...],
) -> None:
    rows = []
    for method in methods:
        ceiling, scale = CEILINGS[method]
        broad = method.endswith("broad")
        trainings = ("trained",) if method == "dense" else ("fitted",) if broad else ("fitted", "trained")
        if method == "qrt-importance":
            trainings = ("none",)
        for training in trainings:
            for nodes in node_counts[-2:] if method == "qrt-importance" else node_counts:
                for seed in seeds:
                    boost = 1.6 if training == "trained" else 1.0
                    error = 1 - ceiling + (ceiling - 0.1) * np.exp(-((boost * nodes / scale) ** 0.6))
                    error = float(np.clip(error * np.exp(0.08 * rng.standard_normal()), 0, 1))
                    accuracy = None if regression else 1 - error
                    risk = 0.02 + 0.5 * error
                    rows.append(
                        {
                            "method": method,
                            "training": training,
                            "nodes": nodes,
                            "seed": seed,
                            "smoothing": 0.7
                            if method in ("qrt-smoothed", "filter")
                            else 2.0
                            if broad
                            else None,
                            "train_accuracy": None if regression else 1 - 0.3 * error,
                            "validation_accuracy": accuracy,
                            "test_accuracy": accuracy,
                            "train_risk": 0.6 * risk,
                            "validation_risk": risk,
                            "test_risk": risk,
                            "seconds": 0.1 + 0.01 * nodes,
                            "parameters": nodes * 10 + 10,
                        }
                    )
    pq.write_table(pa.Table.from_pylist(rows), path)


def _write_showcase(path: Path, rng: np.random.Generator, dim: int, image: bool, count: int) -> None:
    t = np.arange(MODULUS)
    centred = np.where(t <= MODULUS // 2, t, t - MODULUS)
    u = np.rint(rng.standard_normal((count, dim)) * 0.7).astype(np.int64)
    if image:
        u = u.reshape(count, 8, 8)
        u[:, :, 0] = 0
        u = u.reshape(count, dim)
    phase = rng.random((count, 1)) * 2 * np.pi
    amplitudes = np.cos(2 * np.pi * t / MODULUS + phase) + 0.2 * np.cos(6 * np.pi * t / MODULUS + 2 * phase)
    smoothed = np.exp(-(np.abs(centred) ** 1.6) / 0.9)
    exact = np.exp(-(centred**2) / 0.49)
    flat = rng.multinomial(65536, np.full(MODULUS, 1 / MODULUS)) / 65536
    spectrum = np.where(centred % 2 != 0, 1.0 / np.maximum(np.abs(centred), 1) ** 4, 0.0)
    probability = amplitudes**2 / (amplitudes**2).sum(axis=1, keepdims=True)
    tensors = {
        "a": u,
        "b": np.array([rng.choice(MODULUS, p=row) for row in probability]),
        "v": rng.choice([1, -1, 1, -1, 3], count),
        "u": u,
        "profiles": amplitudes,
        "probability": probability,
        "node_spectrum_smoothed": rng.multinomial(65536, smoothed / smoothed.sum()) / 65536,
        "node_spectrum_unsmoothed": flat,
        "filter_spectrum": exact / exact.sum(),
        "activation": np.abs(centred).astype(np.float64),
        "ridgelet_spectrum": spectrum / spectrum.sum(),
    }
    save_tensors(path, tensors, {"format": "qrt-tn.showcase"})


@pytest.fixture(scope="session")
def ticket_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a fresh synthetic folder; its options are those of `write_ticket_folder`."""

    def make(**options: Any) -> Path:
        return write_ticket_folder(tmp_path_factory.mktemp("ticket"), **options)

    return make


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

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

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
