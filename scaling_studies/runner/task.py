"""What the process of a point is told, and what it leaves behind: two files in the point's folder."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from qrt_tn.engine.files import atomic_path
from qrt_tn.studies.store.work import KEPT

FULL_DISK = 74  # exit code of a point that could not write (EX_IOERR)


class Task(BaseModel, frozen=True):
    """One attempt at a point.

    Attributes:
        folder: of this task under the point's, with `task.json`, `outcome.json` and the experiment's `kept`.
        log: where what it prints goes.
        attempt: counts from 1.
        ranks: MPI ranks.
        cores: which of this machine's it may use, those of all ranks together; empty for all.
        gpus: likewise, as CUDA numbers or names them; empty for none.
        launcher: the command that starts MPI ranks; empty for one rank.
    """

    experiment: str
    parameters: Mapping[str, Any]
    seed: int
    folder: str
    log: str
    attempt: int
    ranks: int
    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    launcher: tuple[str, ...] = ()

    def save(self) -> Path:
        """Write it into its folder; returns the file."""
        path = Path(self.folder) / "task.json"
        with atomic_path(path) as partial:
            partial.write_text(self.model_dump_json() + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> "Task":
        """Read it again."""
        return cls.model_validate_json(path.read_bytes())

    @property
    def kept(self) -> Path:
        """The experiment's own folder, which outlives the attempt."""
        return Path(self.folder) / KEPT

    def leave(self, outcome: Mapping[str, Any]) -> None:
        """Write what came out."""
        with atomic_path(Path(self.folder) / "outcome.json") as partial:
            partial.write_text(json.dumps(dict(outcome)) + "\n", encoding="utf-8")

    def outcome(self) -> dict[str, Any] | None:
        """What came out; None where the process ended without saying."""
        try:
            found = json.loads((Path(self.folder) / "outcome.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def earlier_attempts(folder: Path) -> int:
    """How often a point was begun before, by any task, as far as its folder knows."""
    most = 0
    for path in folder.glob("*/task.json"):
        with suppress(OSError, ValueError):
            most = max(most, Task.load(path).attempt)
    return most


def slurm_job() -> str | None:
    """The SLURM job that this process is part of, as 12 or, in an array, 12_3."""
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{number}" if array and number else os.environ.get("SLURM_JOB_ID")
