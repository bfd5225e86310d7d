"""A study killed with -9 again and again: what of it is lost, repeated or unreadable afterwards."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qrt_tn.studies.config import Study, load_study
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_results

STUDY = """name = "{name}"
experiment = "rehearsal"
[fixed]
seconds = {seconds}
[axes]
number = {{ range = [1, {points}], step = 1 }}
[resources]
memory = 0.25
"""


def write_study(folder: Path, name: str, points: int, seconds: float) -> Path:
    """A study of so many points that each take so long."""
    file = folder / f"{name}.toml"
    file.write_text(STUDY.format(name=name, seconds=float(seconds), points=points), encoding="utf-8")
    return file


def begin(file: Path, store: Path) -> subprocess.Popen[bytes]:
    """A runner, as the command line starts it."""
    command = [sys.executable, "-m", "qrt_tn.studies.cli", "study", "run", str(file), "--store", str(store)]
    return subprocess.Popen(
        [*command, "--plain", "--no-report", "--processes", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


CERTAIN = ("value", "ranks")  # metrics that do not depend on machine and moment


def kill_often(
    folder: Path,
    kills: int,
    *,
    points: int = 200,
    seconds: float = 0.25,
    latest: float = 3.0,
    seed: int = 0,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Kill runners of a study at random moments, and look at the store after every kill.

    Where a study is finished before the kills are, another one is begun.

    Args:
        folder: for stores.
        kills: how many.
        points: of each study.
        seconds: of each point.
        latest: a runner is killed between 0 and so many seconds after it began.
        seed: of the moments.
        done: called after each kill.

    Returns:
        Counts: `kills`, `at_work` (of these, with points under way), `studies`, `finished` points, and what
        must be 0: `lost` and `changed` (finished points that were gone, or other bytes, after a later kill),
        `repeated` (points begun again after they were finished), `unreadable` records, `orphans` (processes
        that outlived their runner by five seconds), `different` (results that are not those of a run without
        kills).
    """
    rng = random.Random(seed)
    counts = dict.fromkeys(
        ("kills", "at_work", "studies", "finished", "lost", "changed", "repeated", "unreadable", "orphans"), 0
    )
    values: dict[int, Any] = {}
    different = 0
    while counts["kills"] < kills:
        number = counts["studies"]
        counts["studies"] += 1
        file = write_study(folder, f"killed-{number}", points, seconds)
        study, place = load_study(file), folder / f"store-{number}"
        kept: dict[str, bytes] = {}
        while counts["kills"] < kills and len(kept) < points:
            runner = begin(file, place)
            time.sleep(rng.uniform(0, latest))
            counts["at_work"] += _under_way(place)
            os.kill(runner.pid, signal.SIGKILL)
            runner.communicate()
            counts["kills"] += 1
            counts["orphans"] += _orphans(place)
            _look(place, kept, counts)
            done()
        last = begin(file, place)
        _, said = last.communicate()
        if last.returncode:
            raise RuntimeError(f"the run after the kills failed: {said.decode()}")
        _look(place, kept, counts)
        counts["lost"] += points - len(kept)
        counts["finished"] += len(kept)
        counts["repeated"] += _repeated(StudyStore(place), study)
        records = {
            record["parameters"]["number"]: {name: record["tables"]["points"][0][name] for name in CERTAIN}
            for record in read_results(StudyStore(place))[0]
        }
        different += sum(values.setdefault(name, metrics) != metrics for name, metrics in records.items())
    return {**counts, "different": different + _different(values)}


def _look(place: Path, kept: dict[str, bytes], counts: dict[str, int]) -> None:
    """Compare a store with what it held before."""
    if not (place / "store.json").is_file():
        return
    store = StudyStore(place)
    found, damaged = read_results(store)
    counts["unreadable"] += len(damaged)
    now = {record["id"]: store.results.path(record["id"]).read_bytes() for record in found}
    counts["lost"] += len(kept.keys() - now.keys())
    counts["changed"] += sum(kept[point] != now[point] for point in kept.keys() & now.keys())
    kept.update(now)


def _repeated(store: StudyStore, study: Study) -> int:
    """Points whose log tells of an attempt after the one that finished them."""
    count = 0
    for point in study.points:
        record = store.results.read(point.id)
        begun = store.log(point.id).read_text(encoding="utf-8").count("=== attempt ")
        count += record is None or begun != record["attempt"]
    return count


def _different(values: dict[int, Any]) -> int:
    """Results that a direct call of the experiment does not give."""
    from qrt_tn.studies.experiments.catalogue import Context
    from qrt_tn.studies.experiments.rehearsal.run import rehearse
    from qrt_tn.studies.experiments.rehearsal.settings import Rehearsal

    count = 0
    for number, metrics in values.items():
        straight = rehearse(Rehearsal(number=number, seconds=0.0), 0, Context(Path("/nonexistent")))
        count += any(straight[name] != value for name, value in metrics.items())
    return count


def _under_way(place: Path) -> bool:
    return any(place.glob("work/*"))


def _orphans(place: Path) -> int:
    """Processes of points that live on five seconds after their runner."""
    import psutil

    logs = place.resolve() / "logs"
    for _ in range(50):
        left = [pid for pid in psutil.pids() if _writes_into(pid, logs)]
        if not left:
            return 0
        time.sleep(0.1)
    return len(left)


def _writes_into(pid: int, logs: Path) -> bool:
    """Whether a process prints into a log of this store."""
    try:
        return logs in Path(f"/proc/{pid}/fd/1").readlink().parents
    except OSError:
        return False
