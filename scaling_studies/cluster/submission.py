"""What was submitted: a folder each in the store's slurm/, with the frozen study, scripts and job ids."""

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from qrt_tn.studies.folders import write_json

FORMAT = "qrt-tn.submission"
VERSION = 1
NAME = "submission.json"


@dataclass(frozen=True)
class Sent:
    """One array that SLURM has taken.

    Attributes:
        job: its id.
        group: number of its needs in the study.
        tasks: of the array.
        points: that were left when it was sent.
    """

    job: str
    group: int
    tasks: int
    points: int


@dataclass(frozen=True)
class Submission:
    """One call of `submit`.

    Attributes:
        folder: with study.toml, the scripts and what the tasks print.
        study: its name.
        digest: of the study file and variant.
        quick: whether it is the quick variant.
        via: "sbatch" or "submitit".
        command: the command line that made it.
        options: the user's.
        date: ISO time.
        sent: the arrays, in the order of their groups.
        complete: False while it is being sent.
    """

    folder: Path
    study: str
    digest: str
    quick: bool
    via: str
    command: str
    options: dict[str, Any]
    date: str
    sent: tuple[Sent, ...] = ()
    complete: bool = False

    @property
    def jobs(self) -> tuple[str, ...]:
        """The ids of its arrays."""
        return tuple(one.job for one in self.sent)

    def with_job(self, sent: Sent) -> "Submission":
        """The same, with one array more."""
        return replace(self, sent=(*self.sent, sent))

    def write(self) -> None:
        """Keep it in its folder."""
        facts = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del facts["folder"]
        write_json(self.folder / NAME, facts)


def read_submission(folder: Path) -> Submission | None:
    """The submission in a folder; None where there is none, or not a whole one."""
    try:
        facts = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if facts.pop("format") != FORMAT or facts.pop("version") > VERSION:
            return None
        sent = tuple(Sent(**one) for one in facts.pop("sent"))
        return Submission(folder=folder, sent=sent, **facts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def submissions(store: Path) -> list[Submission]:
    """All submissions of a store, oldest first."""
    found = (read_submission(path.parent) for path in sorted((store / "slurm").glob(f"*/{NAME}")))
    return [one for one in found if one is not None]


def new_folder(store: Path) -> Path:
    """An empty folder of its own for a submission, named after the time.

    Raises:
        ValueError: it cannot be made.
    """
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
    for name in (stamp, *(f"{stamp}-{number}" for number in range(2, 100))):
        folder = store.resolve() / "slurm" / name
        with contextlib.suppress(FileExistsError):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                raise
            except OSError as error:
                raise ValueError(
                    f"cannot make the folder {folder} ({error.strerror}); see --store"
                ) from error
            return folder
    raise ValueError(f"{store}/slurm holds too many submissions of this second; try again")
