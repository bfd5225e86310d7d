"""Runs what studies bear, and tells the figures."""

import tempfile
from pathlib import Path
from typing import Any

from qrt_tn.studies.benchmarks.record import record
from qrt_tn.studies.benchmarks.sheets import Sheet, seconds
from qrt_tn.studies.benchmarks.studies.kills import kill_often, write_study
from qrt_tn.studies.benchmarks.studies.size import measure
from qrt_tn.studies.benchmarks.studies.writers import write_at_once
from qrt_tn.studies.progress import StageTimer

WRITERS = 8
RECORDS = 4000
# figures that must be 0
FAULTS = ("lost", "changed", "repeated", "unreadable", "orphans", "different", "torn")
TIMES = {
    "status": "study status",
    "report_first": "study report, every record read",
    "report": "study report again, from the index",
    "export": "study export",
    "first_point": "study run, to the start of the one new point",
}


def run(kills: int, points: int, out: Path | None, timer: StageTimer) -> dict[str, dict[str, Any]]:
    """Kill studies, let tasks share a store, and fill one with very many points.

    Args:
        kills: how many.
        points: finished points of the large store.
        out: a JSON file for the results.
        timer: shows the stages.

    Returns:
        The figures of "kills", "writers" and "size".
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with timer.stage(f"{kills} kills", kills) as stage:
            killed = kill_often(place, kills, done=stage.advance)
        with timer.stage(f"{WRITERS} writers", 1) as stage:
            file = write_study(place, "writers", RECORDS, 0.0)
            written = write_at_once(file, place / "writers", WRITERS)
            stage.advance()
        with timer.stage(f"{points:,} points", points) as stage:
            size = measure(place, points, stage.advance)
    found = {"kills": killed, "writers": written, "size": size}
    record(out, "studies", [{"name": name, **figures} for name, figures in found.items()])
    return found


def sheets(found: dict[str, dict[str, Any]]) -> list[Sheet]:
    """The figures as tables."""
    killed, written, size = found["kills"], found["writers"], found["size"]
    faults = [
        (what, *(str(one[what]) if what in one else "-" for one in (killed, written))) for what in FAULTS
    ]
    return [
        Sheet(
            "What is lost",
            f"{killed['kills']} kills with -9 ({killed['at_work']} with points under way), "
            f"{killed['studies']} studies with {killed['finished']} points; {written['writers']} writers of "
            f"{written['points']} points at {written['records_per_second']:.0f} records a second.",
            ("points", "by kills", "by writers"),
            tuple(faults),
        ),
        Sheet(
            "What takes how long",
            f"{size['points']:,} finished points, {size['bytes_of_results'] / 2**20:.0f} MiB of records; "
            "each a fresh process.",
            ("command", "time"),
            tuple((name, seconds(size[key])) for key, name in TIMES.items()),
        ),
    ]
