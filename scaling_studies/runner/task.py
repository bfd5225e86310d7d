"""What the process of a point is told, and what it leaves behind: two files in the point's folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qrt_tn.engine.files import atomic_path

FULL_DISK = 74  # exit code of a point that could not write (EX_IOERR)


@dataclass(frozen=True)
class Task:
    """One attempt at a point.

    Attributes:
        experiment: its name.
        parameters: of the point.
        seed: likewise.
        folder: the point's own, with `task.json`, `outcome.json` and the folder `kept` for the experiment.
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
            partial.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> "Task":
        """Read it again."""
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("cores", "gpus", "launcher"):
            found[name] = tuple(found[name])
        return cls(**found)

    @property
    def kept(self) -> Path:
        """The experiment's own folder, which outlives the attempt."""
        return Path(self.folder) / "kept"

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
    """How often a point was begun before, as far as its folder knows."""
    try:
        return Task.load(folder / "task.json").attempt
    except (OSError, ValueError, KeyError, TypeError):
        return 0
