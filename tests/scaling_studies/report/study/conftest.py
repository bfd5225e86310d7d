"""Synthetic records of real studies: plausible numbers of no experiment, for tests of the report only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from qrt_tn.studies.config import Study, parse_study
from qrt_tn.studies.config import study as study_room
from qrt_tn.studies.config.points import Point
from qrt_tn.studies.experiments.catalogue import Experiment, Metric, Settings, Table, one_row

Record = dict[str, Any]
DEVICE = {"processor": "Fast 9000", "cores": 8, "memory_gib": 64.0, "gpu": None}


class Roofed(Settings):
    """Parameters of a made-up contraction."""

    size: int = 1
    backend: str = "numpy"
    dtype: str = "complex128"
    widths: list[int] = Field([1])


ROOFED = Experiment(
    name="roofed",
    summary="a made-up contraction",
    settings=Roofed,
    function="nowhere:none",
    tables=one_row(
        {
            "flops": Metric("operations", "flop"),
            "bytes_moved": Metric("bytes moved", "B"),
            "seconds": Metric("time", "s", measured=True),
            "peak_flops": Metric("peak", "flop/s", measured=True),
            "bandwidth": Metric("bandwidth", "B/s", measured=True),
            "bond": Metric("largest bond"),
            "error": Metric("test error", "%"),
        }
    ),
    labels={"size": "linear size"},
)


def study_of(text: str, experiment: Experiment | None = None) -> Study:
    """A study file's text as a study, of a made-up experiment where one is given."""
    with pytest.MonkeyPatch.context() as patch:
        if experiment is not None:
            patch.setattr(study_room, "experiment", lambda name: experiment)
        return parse_study(text, "test.toml")


def record(study: Study, point: Point, values: Mapping[str, float | None], **changes: Any) -> Record:
    """A finished point with some of its metrics; the rest are null."""
    kinds = study.experiment.metrics
    known = {"wall_seconds": 1.5, "peak_bytes": 350_000_000} | {
        name: value for name, value in values.items() if name not in kinds
    }
    return {
        "format": "qrt-tn.point",
        "version": 1,
        "id": point.id,
        "study": study.name,
        "experiment": study.experiment.name,
        "revision": 1,
        "parameters": dict(point.parameters),
        "seed": point.seed,
        "tables": {"points": [{name: values.get(name) for name in kinds}]},
        **known,
        "baseline_bytes": 310_000_000,
        "started": "2026-01-02T03:04:05Z",
        "finished": "2026-01-02T03:04:07Z",
        "attempt": 1,
        "device": DEVICE,
        "ranks": 1,
        "job": None,
        "versions": {"python": "3.12.1", "numpy": "2.4.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "log": f"logs/{point.id[:2]}/{point.id}.log",
    } | changes


def records(
    study: Study,
    values: Callable[[Mapping[str, Any], int], Mapping[str, float | None]],
    points: Sequence[Point] | None = None,
) -> list[Record]:
    """A record for each point, its metrics a function of parameters and seed."""
    chosen = study.points if points is None else points
    return [record(study, point, values(point.parameters, point.seed)) for point in chosen]


def failure(study: Study, point: Point, reason: str, kind: str = "error", **changes: Any) -> Record:
    """A failed point."""
    return {
        "format": "qrt-tn.failure",
        "version": 1,
        "id": point.id,
        "study": study.name,
        "experiment": study.experiment.name,
        "revision": 1,
        "parameters": dict(point.parameters),
        "seed": point.seed,
        "reason": reason,
        "kind": kind,
        "traceback": "Traceback (most recent call last):\n  File 'x.py'\nRuntimeError: <broken>",
        "attempt": 1,
        "wall_seconds": 0.5,
        "finished": "2026-01-02T03:04:07Z",
        "job": None,
        "log": f"logs/{point.id[:2]}/{point.id}.log",
    } | changes


def noise(seed: int, *names: Any) -> float:
    """A standard normal number of its own for each seed and names."""
    digest = [int.from_bytes(repr(name).encode()[:8].ljust(8), "big") for name in names]
    return float(np.random.default_rng([seed, *digest]).normal())


class Pruning(Settings):
    """Parameters of a made-up network that is pruned in many ways."""

    experts: int = 8


PRUNING = Experiment(
    name="pruning",
    summary="a made-up network, pruned",
    settings=Pruning,
    function="nowhere:none",
    tables={
        "pruned": Table(
            ("criterion", "left"),
            {"accuracy": Metric("accuracy"), "time": Metric("time", "s", measured=True)},
        ),
        "whole": Table((), {"size": Metric("parameters")}),
    },
    labels={"left": "experts left"},
)
PRUNED = """
name = "pruning"
experiment = "pruning"
seeds = 6
[axes]
experts = [8, 16]
[[figures]]
title = "accuracy"
x = "left"
y = "accuracy"
series = "criterion"
panels = "experts"
where = { criterion = ["random", "norm"], left = [1, 2, 4] }
"""


def pruned(study: Study, rng: np.random.Generator) -> list[Record]:
    """Records of some of the points, each with some rows of both tables."""
    made = []
    for point in study.points:
        if rng.random() < 0.2:
            continue
        rows = [
            {"criterion": name, "left": left, "accuracy": float(rng.random()), "time": None}
            for name in ("random", "norm", "change")
            for left in (1, 2, 4, 6)
            if rng.random() < 0.8
        ]
        tables = {"pruned": rows, "whole": [{"size": int(rng.integers(100))}]}
        made.append(record(study, point, {}) | {"tables": tables})
    return made
