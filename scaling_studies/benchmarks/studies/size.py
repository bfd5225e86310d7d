"""A store of very many finished points: how long status, report, export and the first new point take."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qrt_tn.studies import provenance
from qrt_tn.studies.config import load_study
from qrt_tn.studies.store import StudyStore

STUDY = """name = "many"
experiment = "rehearsal"
seeds = {seeds}
[fixed]
seconds = 0.0
[axes]
number = {{ range = [1, {numbers}], step = 1 }}
label = ["a", "b", "c", "d"]
[resources]
memory = 0.25
[[figures]]
title = "Values"
x = "number"
y = "value"
series = "label"
[[figures]]
title = "Times"
x = "number"
y = "wall_seconds"
scale = "log-log"
fit = "power"
"""


def fill(folder: Path, points: int, done: Callable[[int], None] = lambda count: None) -> tuple[Path, Path]:
    """A study of about so many points and its store with all of them finished, written straight.

    Returns:
        The study's file and the store.
    """
    numbers = 50
    seeds = max(1, points // (4 * numbers))
    file, place = folder / "many.toml", folder / "store"
    file.write_text(STUDY.format(seeds=seeds, numbers=numbers), encoding="utf-8")
    study = load_study(file)
    store = StudyStore.make(place, study)
    store.keep(study)
    origin = {"versions": provenance.versions(), "commit": provenance.commit()}
    device = {**provenance.host(), "gpu": None}
    for count, point in enumerate(study.points):
        seconds = 0.01 * point.parameters["number"] * (1 + 0.1 * (count % 7))
        record = {
            "format": "qrt-tn.point",
            "version": 2,
            "id": point.id,
            "study": study.name,
            "experiment": "rehearsal",
            "revision": 1,
            "parameters": point.parameters,
            "seed": point.seed,
            "tables": {
                "points": [
                    {
                        "value": count / len(study.points),
                        "ranks": 1,
                        "resumed": 0,
                        "gpus_seen": 0,
                        "seconds_passed": seconds,
                    }
                ]
            },
            "wall_seconds": seconds,
            "peak_bytes": 50_000_000,
            "baseline_bytes": 49_000_000,
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:00:01+00:00",
            "attempt": 1,
            "ranks": 1,
            "job": None,
            "log": f"logs/{point.id[:2]}/{point.id}.log",
            "device": device,
            **origin,
        }
        path = store.results.path(point.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record) + "\n", encoding="utf-8")
        if count % 1000 == 999:
            done(1000)
    return file, place


def measure(folder: Path, points: int, done: Callable[[int], None] = lambda count: None) -> dict[str, Any]:
    """Wall seconds of the commands on a store of about so many finished points, each a fresh process.

    Returns:
        `points`, and seconds of `status`, `report_first` (every record is read), `report` (with the index),
        `export`, and `first_point`: from the start of `study run` to the start of the one point that is new.
    """
    file, place = fill(folder, points, done)
    count = len(load_study(file).points)
    seconds: dict[str, Any] = {"points": count, "bytes_of_results": _size(place / "results")}
    seconds["status"] = _timed("study", "status", str(file), "--store", str(place))
    seconds["report_first"] = _timed("study", "report", str(file), "--store", str(place))
    seconds["report"] = _timed("study", "report", str(file), "--store", str(place))
    seconds["export"] = _timed("study", "export", str(place), str(folder / "many.parquet"))
    file.write_text(
        file.read_text(encoding="utf-8").replace('"c", "d"]', '"c", "d", "new"]'), encoding="utf-8"
    )
    new = next(point for point in load_study(file).points if point.parameters["label"] == "new")
    began = time.time()
    command = [sys.executable, "-m", "qrt_tn.studies.cli", "study", "run", str(file), "--store", str(place)]
    with subprocess.Popen(
        [*command, "--no-report"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        log = StudyStore(place).log(new.id)
        while not log.exists() and time.time() - began < 120:
            time.sleep(0.01)
        run.terminate()
    first = min(path.stat().st_mtime for path in (place / "logs").glob("*/*.log"))
    seconds["first_point"] = first - began
    return seconds


def _timed(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "qrt_tn.studies.cli", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for place in os.scandir(folder) for entry in os.scandir(place.path))
