"""What a benchmark was measured on, and the JSON file that a small one is."""

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qrt_tn.engine import backends
from qrt_tn.studies import provenance
from qrt_tn.studies.benchmarks.timing import threads
from qrt_tn.studies.folders import write_json


def origin() -> dict[str, Any]:
    """Date, commit, versions, machine (with its GPU where one answers) and threads of linear algebra."""
    gpu = backends()["cupy"]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "machine": {
            **provenance.machine("numpy"),
            "load_average": os.getloadavg()[0],
            **({"gpu": gpu.device} if gpu.available else {}),
        },
        "threads": threads(),
    }


def record(path: Path | None, benchmark: str, rows: Sequence[Any], **facts: Any) -> None:
    """Write rows as JSON, whole or not at all; nothing where no path is given.

    Args:
        path: the file.
        benchmark: its name.
        rows: the figures. What rounds gave is in `samples` of a row, under the names of the figures, so that
            runs can be compared with intervals.
        facts: what all rows share.
    """
    if path is not None:
        write_json(path, {"benchmark": benchmark, **facts, "rows": list(rows), **origin()})
