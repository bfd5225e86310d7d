"""What a small benchmark measured, with what it was measured on, as one JSON file."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.atomic import atomic_path
from scaling_studies import provenance
from scaling_studies.benchmarks.timing import threads


def record(path: Path | None, benchmark: str, rows: Sequence[Any], **facts: Any) -> None:
    """Write rows as JSON, whole or not at all; nothing where no path is given.

    Args:
        path: the file.
        benchmark: its name.
        rows: the figures.
        facts: what all rows share.
    """
    if path is None:
        return
    result = {
        "benchmark": benchmark,
        **facts,
        "rows": list(rows),
        "date": datetime.date.today().isoformat(),
        "threads": threads(),
        "machine": provenance.machine("numpy"),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
