"""Synthetic output folders of `qrt-tn moe study`: plausible random numbers, for tests of the report only."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Row = dict[str, Any]
EXPERTS = 8
GAINS = {  # points above random where most can be gained
    "router-change": 0.06,
    "router-change-abs": 0.04,
    "router-difference": 0.03,
    "router-norm": 0.05,
    "expert-norm": 0.01,
    "stable-rank": -0.03,
    "frequency": 0.07,
    "gate-mass": 0.075,
    "activation-sum": 0.06,
    "activation-mean": 0.02,
    "weighted-activation": 0.08,
    "reap": 0.05,
    "aimer": -0.02,
    "reconstruction": 0.09,
    "merge": 0.055,
    "random": 0.0,
}
INITS = {"uniform": ("data", "smoothed"), "clusters": ("data", "smoothed", "cluster-share")}
TABLES = ("savings", "theory_scaling", "theory_pruning", "ridgelet_experts", "ridgelet_correlation")
TABLES += ("ridgelet_controls", "ridgelet_accuracy")


def write_moe_folder(
    folder: Path,
    *,
    routers: Sequence[str] = ("token-choice", "expert-choice"),
    criteria: Sequence[str] = tuple(GAINS),
    modes: Sequence[str] = ("keep-router", "drop-router", "renormalize"),
    prune: Sequence[int] = (2, 4, 6),
    seeds: int = 3,
    draws: int = 4,
    tables: Sequence[str] = TABLES,
    manifest_changes: Row | None = None,
) -> Path:
    """Write all files of a run with random content; tables that are not named are left out."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    networks, pruned = _networks(rng, routers, criteria, modes, prune, seeds, draws)
    made = {"networks": networks, "pruned": pruned, "savings": _savings(rng, routers)}
    made |= {"theory_scaling": _scaling(rng), "theory_pruning": _theory_pruning(rng)} | _ridgelets(rng)
    for name in ("networks", "pruned", *tables):
        pq.write_table(pa.Table.from_pylist(made[name]), folder / f"{name}.parquet")
    manifest = {
        "title": "Pruned experts: digits, fine-tuned on digits",
        "command": "qrt-tn moe study --preset quick --out runs/synthetic",
        "preset": "quick",
        "settings": {"pretrain": "digits:0-4", "seeds": seeds, "modes": list(modes), "hidden": 32},
        "datasets": {
            "pretrain": {"name": "digits:0-4", "train": 700, "test": 180, "classes": ["0", "1"]},
            "finetune": {"name": "digits:5-9", "train": 400, "test": 496},
        },
        "networks": {"token-choice": {"hidden": 32, "router": {"selected": 2}}},
        "theory": {
            "setting": {"dim": 128, "experts": 16},
            "limits": {"without": 0.5, "with": 0.875, "both_signs": 0.6875},
        },
        "notes": ["These numbers are random; they measure nothing."],
        "timings": {"Pre-training": 31.0, "Accuracy after pruning": 40.0},
        "seconds": 120.0,
        "versions": {"python": "3.11.9", "jax": "0.10.1"},
        "machine": {"processor": "a processor", "cores": 2, "memory_gib": 7.6},
        "date": "2026-06-01T12:00:00+00:00",
        "commit": "0123456789abcdef",
    }
    manifest.update(manifest_changes or {})
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _networks(
    rng: np.random.Generator,
    routers: Sequence[str],
    criteria: Sequence[str],
    modes: Sequence[str],
    prune: Sequence[int],
    seeds: int,
    draws: int,
) -> tuple[list[Row], list[Row]]:
    networks, pruned = [], []
    for router in routers:
        for seed in range(seeds):
            whole = float(0.95 + 0.01 * rng.standard_normal())
            networks.append(
                {
                    "router": router,
                    "seed": seed,
                    "pretrained_accuracy": 0.97,
                    "accuracy": whole,
                    "parameters": 120_000,
                    "seconds": 4.0,
                }
            )
            ways = [(c, m) for m in modes for c in criteria if c != "merge"]
            ways += [("merge", "merge")] if "merge" in criteria else []
            for criterion, mode in ways:
                for count in prune:
                    for draw in range(draws if criterion == "random" else 1):
                        lost = 0.5 * (count / EXPERTS) ** 2 * (1.2 if mode == "renormalize" else 1.0)
                        noise = 0.03 if criterion == "random" else 0.01
                        got = whole - lost + 2 * GAINS.get(criterion, 0.0) * count / EXPERTS
                        got = float(np.clip(got + noise * rng.standard_normal(), 0.1, 0.99))
                        tuned = mode in ("keep-router", "merge") and criterion in (
                            *("router-change", "reap", "random", "merge"),
                        )
                        pruned.append(
                            {
                                "router": router,
                                "seed": seed,
                                "draw": draw,
                                "criterion": criterion,
                                "mode": mode,
                                "pruned": count,
                                "ratio": count / EXPERTS,
                                "parameters": 120_000 - 10_000 * count,
                                "bytes": 4 * (120_000 - 10_000 * count),
                                "accuracy": got,
                                "finetuned_accuracy": min(0.99, got + 0.5 * (whole - got)) if tuned else None,
                            }
                        )
    return networks, pruned


def _savings(rng: np.random.Generator, routers: Sequence[str]) -> list[Row]:
    rows = []
    for router in routers:
        for experts in (8, 32):
            for mode in ("keep-router", "drop-router"):
                for share in (0.0, 0.25, 0.5, 0.75):
                    ratio = 1.0 if not share else float(1 - 0.7 * share + 0.02 * rng.standard_normal())
                    rows.append(
                        {
                            "router": router,
                            "experts": experts,
                            "mode": mode,
                            "pruned": int(share * experts),
                            "parameters": int(1e6 * (1 - 0.9 * share)),
                            "bytes": int(4e6 * (1 - 0.9 * share)),
                            "flops": int(3e8 * (1 - (0.1 if mode == "keep-router" else 0.6) * share)),
                            "latency_ms": 12 * ratio,
                            "latency_low": 11.5 * ratio,
                            "latency_high": 13 * ratio,
                            "ratio": ratio,
                            "ratio_low": ratio - 0.03 * (share > 0),
                            "ratio_high": ratio + 0.04 * (share > 0),
                        }
                    )
    return rows


def _scaling(rng: np.random.Generator) -> list[Row]:
    rows = []
    for dim in (64, 128, 256, 512):
        for seed in range(3):
            wobble = np.exp(0.05 * rng.standard_normal(4))
            rows.append(
                {
                    "dim": dim,
                    "seed": seed,
                    "batch_size": dim,
                    "relevant_min": float(0.9 * wobble[0]),
                    "others_max": float(0.8 * wobble[1] / dim),
                    "others_size": float(wobble[2] / dim),
                    "others_moved": float(wobble[3] / dim**0.5),
                    "accuracy": 1.0,
                }
            )
    return rows


def _theory_pruning(rng: np.random.Generator) -> list[Row]:
    ends = {("router-change", 0): 0.5, ("router-change", 30): 0.75, ("random", 0): 0.1, ("random", 30): 0.3}
    rows = []
    for seed in range(3):
        for order in ("router-change", "random", "reversed"):
            for ratio in np.arange(16) / 16:
                for steps in (0, 30):
                    end = ends.get((order, steps), 0.0)
                    got = 0.995 if ratio <= end else max(0.5, 0.9 - (ratio - end) + 0.01 * rng.random())
                    rows.append(
                        {
                            "seed": seed,
                            "order": order,
                            "ratio": float(ratio),
                            "fine_tune_steps": steps,
                            "accuracy": float(got),
                            "both_signs": bool(ratio <= end),
                        }
                    )
    return rows


def _ridgelets(rng: np.random.Generator) -> dict[str, list[Row]]:
    experts, correlation, accuracy, controls = [], [], [], []
    for init, measures in INITS.items():
        for place, measure in enumerate(measures):
            about = {"init": init, "measure": measure}
            middle = (0.05, 0.2, 0.6)[place]
            correlation.append(
                about
                | {"spearman": middle, "kendall": middle, "low": middle - 0.3, "high": middle + 0.3}
                | {"p_value": 0.2, "seeds": 4, "experts": 10}
            )
            for seed in range(4):
                for expert in range(10):
                    mass = float(rng.standard_normal())
                    change = middle * mass + float(rng.standard_normal())
                    experts.append(about | {"seed": seed, "expert": expert, "mass": mass, "change": change})
        row = correlation[-1] | {"measure": "load-before", "spearman": None, "low": None, "high": None}
        controls.append(row | {"p_value": None, "seeds": 0})
        for seed in range(4):
            for trained, by, got in (
                *((False, "none", 0.8), (True, "none", 0.95), (True, "change", 0.9)),
                *((True, "mass", 0.85 if init == "uniform" else 0.75), (True, "random", 0.8)),
            ):
                row = {"init": init, "seed": seed, "trained": trained, "pruned_by": by}
                accuracy.append(row | {"accuracy": got + 0.005 * seed})
    return {
        "ridgelet_experts": experts,
        "ridgelet_correlation": correlation,
        "ridgelet_controls": controls,
        "ridgelet_accuracy": accuracy,
    }


@pytest.fixture(scope="session")
def moe_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a fresh synthetic folder; its options are those of `write_moe_folder`."""

    def make(**options: Any) -> Path:
        return write_moe_folder(tmp_path_factory.mktemp("moe"), **options)

    return make
