"""The store of one study: what is in the folder, and what may be done with it."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from qrt_tn.studies.config import Study, parse_study
from qrt_tn.studies.folders import is_locked, locked
from qrt_tn.studies.provenance import relative
from qrt_tn.studies.store.records import DiskFullError, Records, room_needed, write_whole

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
    points keep, `locks/` one file for each run at work on a machine, `slurm/` what was submitted,
    `index.parquet` the contents of results for speed. Records are renamed into place, and the same whoever
    writes them: any number of runs, on any machines, may work on one store.

    Args:
        folder: an existing store.

    Raises:
        ValueError: it is no store, or of another version of this program.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._head = _read_head(self.folder)
        self.results = Records(self.folder / "results")
        self.failed = Records(self.folder / "failed")

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
            if not (folder / HEAD).exists():  # another run may have made it just now
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
        """Make a study the store's current one."""
        facts = {"text": study.text, "source": relative(study.source), "quick": study.quick}
        if self._current() != facts:
            write_whole(self.folder / "study.json", json.dumps(facts))

    def study(self) -> Study:
        """The study that was run last.

        Raises:
            ValueError: there is none, or this version of the program refuses it.
        """
        facts = self._current()
        if facts is None:
            raise ValueError(f"{self.folder} holds no study yet; give the study's file")
        return parse_study(facts["text"], facts["source"], quick=facts["quick"])

    def _current(self) -> dict[str, Any] | None:
        """What `keep` was given last."""
        facts = _read_facts(self.folder / "study.json") or {}
        kinds = {"text": str, "source": str, "quick": bool}
        well = all(isinstance(facts.get(name), kind) for name, kind in kinds.items())
        return {name: facts[name] for name in kinds} if well else None

    # who is at work

    @contextmanager
    def lock(self, name: str) -> Iterator[str]:
        """Hold the lock of one run on this machine, which a dead process does not; yields its full name.

        Raises:
            ValueError: another process here holds it, or the folder cannot be written.
        """
        owner = f"{name}@{_host()}"
        refusal = (
            f"{self.folder} is being run on this machine already ({name}); wait until that ends, or stop it"
        )
        with ExitStack() as stack:
            try:
                with room_needed(self.folder):
                    (self.folder / "locks").mkdir(exist_ok=True)
                    stack.enter_context(locked(self.folder / "locks" / owner, refusal))
            except DiskFullError:
                raise
            except OSError as error:
                raise ValueError(f"cannot write into {self.folder} ({error.strerror})") from error
            yield owner

    def at_work_here(self) -> list[str]:
        """Names of the runs at work on this machine, as their locks tell."""
        paths = sorted(self.folder.glob(f"locks/*@{_host()}"))
        return [path.name.partition("@")[0] for path in paths if is_locked(path)]

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
        self.clear(point)

    def publish_failure(self, record: dict[str, Any]) -> None:
        """Keep why a point failed."""
        self.failed.write(record["id"], record)

    def clear(self, point: str) -> None:
        """Remove what a point kept while it was unfinished."""
        shutil.rmtree(self.work(point), ignore_errors=True)

    def tidy(self, done: set[str]) -> None:
        """Remove what kills left behind: what finished points kept, and files under way."""
        folder = self.folder / "work"
        for name in {path.name for path in folder.iterdir()} & done if folder.is_dir() else ():
            self.clear(name)
        self.results.sweep()
        self.failed.sweep()

    def work(self, point: str) -> Path:
        """The folder of an unfinished point."""
        return self.folder / "work" / point

    def log(self, point: str) -> Path:
        """Where what a point prints goes."""
        return self.folder / "logs" / point[:2] / f"{point}.log"


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _read_head(folder: Path) -> dict[str, Any]:
    path = folder / HEAD
    if not path.is_file():
        raise ValueError(f"{folder} is no store of a study (it has no {HEAD}); give the folder of one")
    head = _read_facts(path)
    if head is None or head.get("format") != FORMAT:
        raise ValueError(f"{path} is not the head of a store of a study; give another folder")
    if head.get("version") != VERSION:
        raise ValueError(
            f"{folder} was written by another version of this program (store version "
            f"{head.get('version')!r:.20}, this one reads {VERSION}); use that one, or give another folder"
        )
    return head


def _read_facts(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None
