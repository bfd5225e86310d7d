"""Synthetic output folders of `qrt-tn lottery`: plausible random numbers, for tests of the report only."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LAYERS = {"hidden 1": 235_200, "hidden 2": 30_000, "output": 1_000}
# (gain of the ticket at its best, share at which accuracy has fallen by a point, slowing by pruning)
SHAPES = {
    "imp": (0.004, 0.02, -0.5),
    "reinit": (-0.001, 0.11, 0.6),
    "random": (-0.002, 0.18, 0.9),
    "oneshot": (0.003, 0.045, -0.3),
    "oneshot-reinit": (-0.001, 0.12, 0.6),
    "magnitude-init": (-0.001, 0.09, 0.5),
    "snip": (0.0, 0.05, 0.2),
    "synflow": (0.0, 0.06, 0.3),
    "sign-reinit": (0.002, 0.035, -0.2),
}
SHALLOW = {  # accuracy at many nodes, nodes needed to come near it, whether only trained
    "qrt-smoothed": (0.978, 20),
    "qrt-teacher": (0.979, 17),
    "qrt-ridge": (0.977, 21),
    "uniform": (0.105, 10),
    "filter": (0.976, 24),
    "leverage": (0.977, 19),
    "imp-nodes": (0.981, 22),
    "imp-nodes-random": (0.972, 30),
    "imp-weights": (0.976, 15),
}


def kept(level: int) -> dict[str, int]:
    """Weights left by layer: a fifth is pruned a round, half of that of the output layer."""
    return {
        name: round(count * (0.9 if name == "output" else 0.8) ** level) for name, count in LAYERS.items()
    }


def share(level: int) -> float:
    return sum(kept(level).values()) / sum(LAYERS.values())


def write_lottery_folder(
    folder: Path,
    *,
    levels: Sequence[int] = tuple(range(1, 16)),
    methods: Sequence[str] = ("dense", *SHAPES),
    trials: int = 3,
    repeats: int = 2,
    iterations: int = 50_000,
    evaluations: int = 120,
    base: float = 0.978,
    savings: bool = True,
    shallow: bool = True,
    overlap: bool = True,
    architecture: str = "lenet",
    manifest_changes: dict[str, Any] | None = None,
) -> Path:
    """Write all files of a run with random content; what is switched off is left out."""
    rng = np.random.default_rng(11)
    folder.mkdir(parents=True, exist_ok=True)
    _write_runs(folder, rng, levels, methods, trials, repeats, iterations, evaluations, base)
    if savings:
        _write_savings(folder / "savings.parquet", rng, levels)
    if shallow:
        _write_shallow(folder / "shallow.parquet", rng)
    if overlap:
        _write_overlap(folder / "overlap.parquet", rng)
    manifest = {
        "title": "Lottery tickets of Lenet",
        "command": "qrt-tn lottery lenet --out runs/synthetic",
        "preset": {
            "name": "lenet",
            "architecture": architecture,
            "data": "mnist",
            "rate": 0.2,
            "conv_rate": 0.0,
            "output_rate": 0.1,
            "scope": "layer",
            "rewind": 0,
            "levels": max(levels, default=0),
            "trials": trials,
            "reinitialisations": repeats,
            "validation": 5000,
            "recipe": {
                "optimizer": "adam",
                "learning_rate": 1.2e-3,
                "momentum": 0.0,
                "weight_decay": 0.0,
                "drops": [],
                "warmup": 0,
                "batch_size": 60,
                "iterations": iterations,
                "evaluate_every": iterations // evaluations,
                "augment": False,
            },
        },
        "dataset": {
            "name": "mnist",
            "train": 55_000,
            "validation": 5_000,
            "test": 10_000,
            "image_shape": [28, 28, 1],
            "outputs": 10,
        },
        "weights": {"all": 266_610, "prunable": 266_200},
        "layers": [{"level": at, "remaining": share(at), "kept": kept(at)} for at in (0, *levels)],
        "timings": {"load": 1.2, "tickets": 820.0, "controls": 1430.0, "savings": 21.0, "shallow": 66.0},
        "seconds": 2340.0,
        "versions": {"python": "3.11.9", "numpy": "2.4.6", "jax": "0.10.1"},
        "machine": {"processor": "a processor", "cores": 2, "memory_gib": 7.6},
        "date": "2026-06-01T12:00:00+00:00",
        "commit": "0123456789abcdef",
    }
    manifest.update(manifest_changes or {})
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _write_runs(
    folder: Path,
    rng: np.random.Generator,
    levels: Sequence[int],
    methods: Sequence[str],
    trials: int,
    repeats: int,
    iterations: int,
    evaluations: int,
    base: float,
) -> None:
    runs, curves = [], []
    steps = np.linspace(0, iterations, evaluations + 1)[1:].astype(int)
    for method in methods:
        gain, fall, slowing = SHAPES.get(method, (0.0, 0.02, 0.0))
        for level in (0,) if method == "dense" else levels:
            left = share(level)
            for trial in range(trials):
                for repeat in range(repeats if "reinit" in method else 1):
                    depth = min(-np.log10(left), 1.2)
                    best = (
                        base + gain * np.sin(np.pi * min(depth, 1)) - 0.01 * (fall / left) ** 1.6 * (left < 1)
                    )
                    best = float(np.clip(best + 0.0006 * rng.standard_normal(), 0.1, 1))
                    stop = (
                        0.2 * iterations * 2 ** (slowing * depth * 1.4) * np.exp(0.1 * rng.standard_normal())
                    )
                    rise = 1 - np.exp(-((steps / (0.1 * stop)) ** 0.55))
                    late = np.maximum(steps / stop - 1, 0)
                    accuracy = 0.1 + (best - 0.1) * rise - 0.0005 * np.minimum(late, 3)
                    accuracy = np.clip(accuracy + 0.0006 * rng.standard_normal(len(steps)), 0, 1)
                    loss = 2.3 * (1 - rise) + 3 * (1 - best) + 0.02 * late
                    at = int(np.argmin(loss))
                    row = {
                        "method": method,
                        "level": level,
                        "remaining": left,
                        "trial": trial,
                        "repeat": repeat,
                    }
                    runs.append(
                        row
                        | {
                            "kept": sum(kept(level).values()),
                            "early_iteration": int(steps[at]),
                            "early_validation_loss": float(loss[at]),
                            "early_test_accuracy": float(accuracy[at]),
                            "final_test_accuracy": float(accuracy[-1]),
                            "final_train_loss": float(1e-4 / left),
                            "iterations": iterations,
                            "seconds": 75.0,
                        }
                    )
                    curves += [
                        row
                        | {
                            "iteration": int(steps[k]),
                            "train_loss": float(0.5 * loss[k]),
                            "validation_loss": float(loss[k]),
                            "validation_accuracy": float(accuracy[k]),
                            "test_loss": float(loss[k]),
                            "test_accuracy": float(accuracy[k]),
                        }
                        for k in range(len(steps))
                    ]
    pq.write_table(pa.Table.from_pylist(runs), folder / "runs.parquet")
    pq.write_table(pa.Table.from_pylist(curves), folder / "curves.parquet")


def _write_savings(path: Path, rng: np.random.Generator, levels: Sequence[int]) -> None:
    dense = 4 * sum(LAYERS.values())
    rows = []
    for level in levels:
        left = share(level)
        forms = {  # bytes on disk, bytes in memory, operations, time, of the dense network's
            "dense": (1, 1, 1, 1),
            "dense with mask": (1.03, 1.25, 1, 1.15),
            "compacted": (0.3 + 0.7 * left, 0.3 + 0.7 * left, 0.3 + 0.7 * left, 0.4 + 0.6 * left),
            "BCOO": (3 * left, 3 * left, left, 1 + 30 * left),
            "BCSR": (2 * left, 2 * left, left, 2 + 40 * left),
        }
        for form, ratios in forms.items():
            for batch in (1, 256):
                rows.append(
                    {
                        "level": level,
                        "remaining": left,
                        "form": form,
                        "batch": batch,
                        "disk_bytes": int(dense * ratios[0]),
                        "memory_bytes": int(dense * ratios[1]),
                        "flops": int(2 * sum(LAYERS.values()) * ratios[2]),
                        "seconds": 4e-5
                        * batch**0.7
                        * ratios[3]
                        * float(np.exp(0.05 * rng.standard_normal())),
                    }
                )
    pq.write_table(pa.Table.from_pylist(rows), path)
    kinds = {"dense": 1.0, "mask and values": None, "CSR": 2.0}
    files = [
        {
            "level": level,
            "remaining": share(level),
            "file": kind,
            "bytes": int(
                dense * (1 / 32 + share(level) if factor is None else max(factor * share(level), 1e-3))
            )
            if kind != "dense"
            else dense,
        }
        for level in levels
        for kind, factor in kinds.items()
    ]
    pq.write_table(pa.Table.from_pylist(files), path.with_name("files.parquet"))


def _write_shallow(path: Path, rng: np.random.Generator) -> None:
    rows = []
    for method, (ceiling, scale) in SHALLOW.items():
        for training in ("trained",) if method == "imp-weights" else ("fitted", "trained"):
            for nodes in (16, 32, 64, 128, 256):
                for seed in range(3):
                    boost = 1.5 if training == "trained" else 1.0
                    error = 1 - ceiling + (ceiling - 0.1) * np.exp(-((boost * nodes / scale) ** 0.6))
                    error = float(np.clip(error * np.exp(0.08 * rng.standard_normal()), 0, 1))
                    work = 1e7 * nodes * boost * (40 if method.startswith("imp") else 1)
                    rows.append(
                        {
                            "method": method,
                            "training": training,
                            "budget": nodes,
                            "nodes": nodes,
                            "parameters": nodes * 75 + 10,
                            "seed": seed,
                            "validation_accuracy": 1 - error,
                            "test_accuracy": float(np.clip(1 - error + 0.003 * rng.standard_normal(), 0, 1)),
                            "test_risk": 0.02 + 0.5 * error,
                            "flops": work,
                            "seconds": 0.2 + work / 1e10,
                        }
                    )
    pq.write_table(pa.Table.from_pylist(rows), path)


def _write_overlap(path: Path, rng: np.random.Generator) -> None:
    rows = []
    for measure in ("direction overlap", "subspace overlap"):
        for k, group in enumerate(("pruned nodes, QRT", "pruned weights, QRT")):
            for nodes in (16, 64, 256):
                for seed in range(3):
                    low = 0.2 + 0.05 * np.log2(nodes)
                    rows.append(
                        {
                            "measure": measure,
                            "group": group,
                            "nodes": nodes,
                            "seed": seed,
                            "value": float(low + 0.02 + 0.06 * k + 0.004 * rng.standard_normal()),
                            "null_low": float(low),
                            "null_high": float(low + 0.04),
                        }
                    )
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="session")
def lottery_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a fresh synthetic folder; its options are those of `write_lottery_folder`."""

    def make(**options: Any) -> Path:
        return write_lottery_folder(tmp_path_factory.mktemp("lottery"), **options)

    return make
