"""The process of one point, seen from both sides: how it is set up, watched and ended."""

import contextlib
import faulthandler
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from threadpoolctl import ThreadpoolController

from qrt_tn.studies.runner.task import FULL_DISK, Task

BEGUN = "begun"  # the file that tells that the ranks of a point have begun
PATIENCE = 3.0  # seconds between asking a process to end and ending it
# forked from a server that has imported what points need, and has started nothing that a fork would break
_context = get_context("forkserver")


def preload(module: str) -> None:
    """Have the server import a module, from its start on; once it runs, this changes nothing."""
    _context.set_forkserver_preload([module, "qrt_tn.studies.runner.measure"])


class Process:
    """One attempt at a point, under way.

    It is the leader of a session of its own, so that it ends with all that it started; and it ends with the
    runner, whatever ends that: the runner alone holds the other end of a pipe that it waits on.

    Args:
        task: what it is to do; its folder exists.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.started = time.monotonic()
        self._begun = self.started if task.ranks == 1 else None
        for name in ("outcome.json", BEGUN):
            (Path(task.folder) / name).unlink(missing_ok=True)
        theirs, self._lifeline = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_live, args=(task, theirs), daemon=False)
        self._process.start()
        self._closed = False
        theirs.close()

    @property
    def sentinel(self) -> int:
        """What becomes ready when it ends."""
        return self._process.sentinel

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.started

    def overdue(self, minutes: float) -> bool:
        """Whether it has run for longer. Ranks count from their start, for which they have as long again."""
        if self._begun is None and (Path(self.task.folder) / BEGUN).exists():
            self._begun = time.monotonic()
        begun = self.started + 60 * minutes if self._begun is None else self._begun
        return time.monotonic() - begun > 60 * minutes

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._process.exitcode is not None

    @property
    def disk_full(self) -> bool:
        """Whether it ended for want of room on the disk."""
        return self._process.exitcode == FULL_DISK

    def memory(self) -> int:
        """Bytes that it and its children hold now."""
        import psutil

        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self._process.pid)
            return sum(one.memory_info().rss for one in (own, *own.children(recursive=True)))
        return 0

    def ending(self) -> str:
        """How it ended, in words."""
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"the process ended with exit code {code} before it had a result"
        name = signal.Signals(-code).name
        hint = "; out of memory, perhaps" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}"

    def end(self) -> None:
        """End it and all that it started, now."""
        if self._closed:
            return
        pid = self._process.pid
        if not self.ended and pid is not None:
            import psutil

            started = []  # also what has left the session
            with contextlib.suppress(psutil.Error):
                started = psutil.Process(pid).children(recursive=True)
            self._send(signal.SIGTERM)
            until = time.monotonic() + PATIENCE
            # of the whole group, as a launcher has ranks to end after its leader is gone
            while self._send(0) and time.monotonic() < until:
                self._process.join(0.02)
            self._send(signal.SIGKILL)
            for one in started:
                with contextlib.suppress(psutil.Error):
                    one.kill()
        self.close()

    def close(self) -> None:
        """Forget it, once it has ended; again does no harm."""
        if self._closed:
            return
        self._closed = True
        self._process.join()
        self._send(signal.SIGKILL)  # to what it left behind
        self._lifeline.close()
        self._process.close()

    def _send(self, number: int) -> bool:
        """Signal the process and its group; whether there are any."""
        pid, found = self._process.pid, False
        targets = ((os.killpg, True), (os.kill, not self.ended))  # not yet the leader of its session
        for send, there in targets:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if there and pid is not None:
                    send(pid, number)
                    found = True
        return found


def _live(task: Task, lifeline: Connection) -> None:
    """The life of a point's process."""
    with contextlib.suppress(PermissionError):
        os.setsid()
    threading.Thread(target=_end_with_runner, args=(lifeline,), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable()
    take_share(task.cores, task.gpus)
    if task.ranks > 1:
        sys.exit(_run_ranks(task))
    from qrt_tn.studies.runner.measure import measure

    measure(task)
    # the outcome is written: threads that an experiment left behind are not waited for long
    leave = threading.Timer(PATIENCE, os._exit, (0,))
    leave.daemon = True
    leave.start()


def _end_with_runner(lifeline: Connection) -> None:
    """Wait for the runner's end of the pipe to close, which only its own end does."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os.killpg(os.getpid(), signal.SIGKILL)


def take_share(cores: tuple[int, ...], gpus: tuple[str, ...]) -> None:
    """Keep this process to its cores and GPUs, with as many threads as cores.

    Threads are counted by the cores that a process may run on, here as in NumPy's and JAX's libraries; those
    that counted before the fork are told.
    """
    if cores:
        with contextlib.suppress(OSError):  # cores that a cluster has taken away meanwhile
            os.sched_setaffinity(0, cores)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = str(len(cores))
        thread_pools().limit(limits=len(cores))
        if "numba" in sys.modules:
            import numba

            begun = numba.get_num_threads()
            # read again whenever numba compiles, which refuses a change once its threads have begun
            os.environ["NUMBA_NUM_THREADS"] = str(begun)
            numba.set_num_threads(min(len(cores), begun))
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)


@functools.cache
def thread_pools() -> ThreadpoolController:
    """The thread pools of the libraries that are loaded; looking for them takes longer than a short point."""
    return ThreadpoolController()


def _run_ranks(task: Task) -> int:
    """Start a program of this point's MPI ranks and wait for it; returns its exit code."""
    command = [*task.launcher, sys.executable, "-m", "qrt_tn.studies.runner.ranks"]
    if task.gpus and os.environ.get("SLURM_JOB_NUM_NODES", "1") != "1":
        del os.environ["CUDA_VISIBLE_DEVICES"]  # numbers of this node: SLURM tells each its own
    found = subprocess.run([*command, f"{task.folder}/task.json"], stdin=subprocess.DEVNULL, check=False)
    return 0 if task.outcome() is not None else found.returncode


def launcher(ranks: int) -> tuple[str, ...]:
    """The command that starts MPI ranks: QRT_TN_MPIEXEC with {ranks} in it, else mpiexec; none for one."""
    if ranks == 1:
        return ()
    given = os.environ.get("QRT_TN_MPIEXEC")
    if given:
        return tuple(part.replace("{ranks}", str(ranks)) for part in shlex.split(given))
    beside = Path(sys.executable).with_name("mpiexec")
    return (str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec", "-n", str(ranks))


def lost_node() -> bool:
    """Whether a node of this SLURM job of several does not answer any more."""
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    if nodes == "1" or not shutil.which("srun"):
        return False
    ask = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "true"]
    try:
        return subprocess.run(ask, capture_output=True, timeout=30, check=False).returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        return True


def launcher_missing() -> str | None:
    """Why points of several ranks cannot be started here; None where they can."""
    program = launcher(2)[0]
    if Path(program).exists() or shutil.which(program):
        return None
    return (
        f"there is no {program} to start MPI ranks with; pip install 'qrt-tn[mpi]', load the cluster's MPI, "
        "or set QRT_TN_MPIEXEC, such as 'srun --mpi=pmi2 --kill-on-bad-exit=1 -n {ranks}'"
    )
