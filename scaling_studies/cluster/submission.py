"""What was submitted: a folder each in the store's slurm/, with frozen study, orders, scripts and job ids."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from qrt_tn.studies.store.records import write_whole

NAME = "submission.json"


class Sent(BaseModel):
    """An array that SLURM has taken: its job, and the number, tasks and points of its group."""

    job: str
    group: int
    tasks: int
    points: int


class Submission(BaseModel):
    """One call of `submit`.

    Attributes:
        study: its name.
        digest: of the study file and variant.
        command: the command line that made it.
        options: the user's.
        date: ISO time.
        sent: the arrays so far, in the order of their groups.
    """

    format: Literal["qrt-tn.submission"] = "qrt-tn.submission"
    version: Literal[1] = 1
    study: str
    digest: str
    command: str
    options: dict[str, Any]
    date: str
    sent: list[Sent] = []

    @property
    def jobs(self) -> list[str]:
        """The ids of its arrays."""
        return [one.job for one in self.sent]

    def write(self, folder: Path) -> None:
        """Keep it in its folder."""
        write_whole(folder / NAME, self.model_dump_json(indent=1))


def submissions(store: Path) -> list[Submission]:
    """All submissions of a store, oldest first; what is damaged or of a newer program is passed over."""
    found = []
    for path in sorted((store / "slurm").glob(f"*/{NAME}")):
        try:
            found.append(Submission.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return found
