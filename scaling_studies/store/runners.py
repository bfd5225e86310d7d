"""Who is at work on a store: one file a runner, touched while it lives."""

import contextlib
import json
import math
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qrt_tn.studies.store.records import DiskFullError, room_needed, write_whole

BEAT = 5.0  # seconds between two signs of life
SILENT = 60.0  # seconds after which a runner on another machine counts as dead


@dataclass(frozen=True)
class Runner:
    """One process that runs points.

    Attributes:
        token: its name.
        host: of the machine.
        space: the boot and the space of process numbers that `pid` is of.
        pid: its process.
        born: when that process began, in the kernel's ticks, since numbers of processes come again.
        digest: of the study that it runs.
        started: ISO time.
        job: SLURM's job, with the task where it is one of an array; None outside SLURM.
        restart: how often SLURM has begun that job again.
    """

    token: str
    host: str
    space: str
    pid: int
    born: str
    digest: str
    started: str
    job: str | None
    restart: int

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


def this_runner(digest: str) -> Runner:
    """The runner that this process is."""
    return Runner(
        token=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        host=socket.gethostname(),
        space=_space(),
        pid=os.getpid(),
        born=_born(os.getpid()) or "",
        digest=digest,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        job=slurm_job(),
        restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    )


def slurm_job() -> str | None:
    """The SLURM job that this process is part of, as 12 or, in an array, 12_3."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


class Runners:
    """The folder of the runners of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, token: str) -> Path:
        """The file of a runner."""
        return self.folder / f"{token}.json"

    def read(self, token: str) -> Runner | None:
        """A runner that is registered; else None."""
        try:
            return Runner(**json.loads(self.path(token).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> list[Runner]:
        """All that are registered, dead or alive."""
        found = []
        for path in sorted(self.folder.glob("[!.]*.json")):
            runner = self.read(path.stem)
            if runner is not None:
                found.append(runner)
        return found

    def alive(self, runner: Runner, beside: Runner | None = None) -> bool:
        """Whether a runner is at work.

        On its own machine its process tells, elsewhere the age of its file. `beside` is a runner that
        asks: one that SLURM has begun again knows that its predecessor is gone.
        """
        if beside and runner.job and runner.job == beside.job and runner.restart < beside.restart:
            return False
        if runner.space == _space():
            return _born(runner.pid) == runner.born
        return self.age(self.path(runner.token)) < SILENT

    def doubtful(self, runner: Runner) -> bool:
        """Whether a runner on another machine has missed signs of life, but not yet enough to be dead."""
        return runner.space != _space() and 3 * BEAT < self.age(self.path(runner.token)) < SILENT

    def age(self, path: Path) -> float:
        """Seconds since a file, or a link, was touched; since ever where there is none."""
        try:
            return self._now() - path.lstat().st_mtime
        except FileNotFoundError:
            return math.inf

    def living(self, beside: Runner | None = None) -> list[Runner]:
        """Those at work."""
        return [runner for runner in self.all() if self.alive(runner, beside)]

    def _now(self) -> float:
        """The time as the file system tells it, whose clock may differ from ours."""
        probe = self.folder / f".clock-{os.getpid()}-{threading.get_ident()}"
        try:
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink(missing_ok=True)
        except OSError:  # a store that may only be read
            now = time.time()
        return now


class Registration:
    """This process among a store's runners, while a `with` block lasts; a thread shows that it lives."""

    def __init__(self, runners: Runners, runner: Runner) -> None:
        self.runners = runners
        self.runner = runner
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Registration":
        try:
            with room_needed(self.runners.folder):
                self.runners.folder.mkdir(parents=True, exist_ok=True)
            self._register()
        except DiskFullError:
            raise
        except OSError as error:
            raise ValueError(f"cannot write into {self.runners.folder.parent} ({error.strerror})") from error
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        self.runners.path(self.runner.token).unlink(missing_ok=True)

    def _register(self) -> None:
        write_whole(self.runners.path(self.runner.token), json.dumps(asdict(self.runner)))

    def _beat(self) -> None:
        path = self.runners.path(self.runner.token)
        while not self._done.wait(BEAT):
            try:
                os.utime(path)
            except FileNotFoundError:  # taken for dead after a long silence
                with contextlib.suppress(OSError):
                    self._register()
            except OSError:
                continue  # a file system that is away comes back, or the next write says so


def _space() -> str:
    """What numbers of processes are unique within: a boot, and a container in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _born(pid: int) -> str | None:
    """When a process began, in ticks; None where there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
