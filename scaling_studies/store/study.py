"""The store of one study: what is in the folder, and what may be done with it."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from qrt_tn.studies.config import Study, parse_study
from qrt_tn.studies.store.claims import Claims
from qrt_tn.studies.store.records import DiskFullError, Records, room_needed, write_whole
from qrt_tn.studies.store.runners import Runner, Runners

FORMAT = "qrt-tn.study-store"
VERSION = 2
HEAD = "store.json"


class Standing(NamedTuple):
    """What became of a study's points.

    Attributes:
        done: ids of those that are finished.
        failed: ids of those that failed and are not finished.
        other: how many finished points the store has that the study does not ask for.
    """

    done: set[str]
    failed: set[str]
    other: int


class StudyStore:
    """The folder of one study.

    `results/` and `failed/` hold a record a point, `logs/` what points printed, `work/` what unfinished
    points keep, `claims/` and `runners/` who is at work, `history/` every version of the study file that was
    run, `slurm/` what was submitted, `index.parquet` the contents of results for speed.

    Args:
        folder: an existing store.

    Raises:
        ValueError: it is no store, or of a newer version of this program.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._head = _read_head(self.folder)
        self.results = Records(self.folder / "results")
        self.failed = Records(self.folder / "failed")
        self.runners = Runners(self.folder / "runners")
        self.claims = Claims(self.folder / "claims", self.runners)

    @classmethod
    def make(cls, folder: Path, study: Study) -> "StudyStore":
        """The store of a study, made if it is not there.

        Raises:
            ValueError: the folder holds other files, or another study.
            DiskFullError: no room is left.
        """
        folder = Path(folder)
        if (folder / HEAD).exists():
            store = cls(folder)
            store._check(study)
            return store
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; give a folder with --store")
        if folder.is_dir() and any(path.name[0] != "." for path in folder.iterdir()):
            if not (folder / HEAD).exists():  # another runner may have made it just now
                raise ValueError(f"{folder} holds other files; give another folder with --store")
            return cls.make(folder, study)
        try:
            with room_needed(folder):
                folder.mkdir(parents=True, exist_ok=True)
                head = {"format": FORMAT, "version": VERSION}
                head |= {"study": study.name, "experiment": study.experiment.name}
                write_whole(folder / HEAD, json.dumps(head))
        except DiskFullError:
            raise
        except OSError as error:
            raise ValueError(
                f"cannot make the store {folder} ({error.strerror}); give another with --store"
            ) from error
        return cls(folder)

    def _check(self, study: Study) -> None:
        for what, own, other in (
            ("study", self._head.get("study"), study.name),
            ("experiment", self._head.get("experiment"), study.experiment.name),
        ):
            if own != other:
                raise ValueError(
                    f"{self.folder} holds the {what} {own!r}, not {other!r}; give another folder with --store"
                )

    # the study file

    def keep(self, study: Study) -> None:
        """Make a study the store's current one; earlier ones stay in `history/`."""
        self.remember(study)
        if (self.current() or {}).get("digest") != study.digest:
            write_whole(self.folder / "study.json", json.dumps(_facts(study)))

    def remember(self, study: Study) -> None:
        """Put a study into `history/`, where others see what is being run."""
        history = self.folder / "history"
        with room_needed(self.folder):
            history.mkdir(exist_ok=True)
        if _read_facts(history / f"{study.digest}.json") is None:
            write_whole(history / f"{study.digest}.json", json.dumps(_facts(study)))

    def current(self) -> dict[str, Any] | None:
        """What `keep` was given last."""
        return _read_facts(self.folder / "study.json")

    def study(self) -> Study:
        """The study that was run last.

        Raises:
            ValueError: there is none, or this version of the program refuses it.
        """
        facts = self.current()
        if facts is None:
            raise ValueError(f"{self.folder} holds no study yet; give the study's file")
        return parse_study(facts["text"], facts["source"], quick=facts["quick"])

    def check_beside(self, study: Study, runner: Runner | None = None) -> None:
        """Refuse a study that is not the one that others are running here, nor an extension of it.

        Raises:
            ValueError: it names the runner, and what to do.
        """
        for other in self.runners.living(runner):
            if other.digest == study.digest:
                continue
            facts = _read_facts(self.folder / "history" / f"{other.digest}.json")
            if facts is None:
                continue
            theirs = parse_study(facts["text"], facts["source"], quick=facts["quick"])
            if not set(theirs.by_id) <= set(study.by_id):
                missing = len(set(theirs.by_id) - set(study.by_id))
                raise ValueError(
                    f"{other} is running another version of this study in {self.folder}: {missing} of its "
                    "points are not in the file any more; wait until it has ended, stop it, or give another "
                    "folder with --store (adding points is fine at any time)"
                )

    # points

    def standing(self, study: Study) -> Standing:
        """What became of the study's points so far."""
        results, own = self.results.ids(), study.by_id.keys()
        done = results & own
        return Standing(done, (self.failed.ids() & own) - results, len(results) - len(done))

    def done(self, study: Study) -> set[str]:
        """Ids of the study's finished points."""
        return self.standing(study).done

    def failures(self, study: Study) -> set[str]:
        """Ids of the study's points that failed and are not finished."""
        return self.standing(study).failed

    def publish(self, record: dict[str, Any]) -> None:
        """Keep a finished point's record; from then on it is done."""
        point = record["id"]
        self.results.write(point, record)
        self.failed.remove(point)
        shutil.rmtree(self.work(point), ignore_errors=True)

    def publish_failure(self, record: dict[str, Any]) -> None:
        """Keep why a point failed."""
        self.failed.write(record["id"], record)

    def tidy(self, done: set[str]) -> None:
        """Remove what finished points kept while they were not, where a kill came in between."""
        folder = self.folder / "work"
        for name in {path.name for path in folder.iterdir()} & done if folder.is_dir() else ():
            shutil.rmtree(folder / name, ignore_errors=True)

    def work(self, point: str) -> Path:
        """The folder of an unfinished point."""
        return self.folder / "work" / point

    def log(self, point: str) -> Path:
        """Where what a point prints goes."""
        return self.folder / "logs" / point[:2] / f"{point}.log"


def _facts(study: Study) -> dict[str, Any]:
    return {"digest": study.digest, "quick": study.quick, "source": study.source, "text": study.text}


def _read_head(folder: Path) -> dict[str, Any]:
    path = folder / HEAD
    if not path.is_file():
        raise ValueError(f"{folder} is no store of a study (it has no {HEAD}); give the folder of one")
    head = _read_facts(path)
    if head is None or head.get("format") != FORMAT:
        raise ValueError(f"{path} is not the head of a store of a study; give another folder")
    version = head.get("version")
    if version != VERSION:
        raise ValueError(
            f"{folder} was written by another version of this program (store version {version!r}, this one "
            f"reads {VERSION}); take that version of qrt-tn, or another folder"
        )
    return head


def _read_facts(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
