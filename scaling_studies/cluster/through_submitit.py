"""Submission by submitit: an array of callables that start the same runner and resubmit themselves."""

import importlib.util
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from qrt_tn.studies.cluster.arrays import Array
from qrt_tn.studies.cluster.request import Request
from qrt_tn.studies.cluster.script import guarded, run_command
from qrt_tn.studies.config import Study

STOPPED = 75  # the runner's code when it was told to stop and points are left


class Task:
    """What one task of the array calls: the runner, as a process of its own.

    Submitit calls `checkpoint` at its signal, shortly before the time limit, and requeues the job with what
    that returns.

    Args:
        command: of the runner.
        cwd: where it runs.
    """

    def __init__(self, command: list[str], cwd: str) -> None:
        self.command = command
        self.cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()

    def __call__(self) -> int:
        """Run until no points are left; the runner's code.

        Raises:
            RuntimeError: the runner could not run, by its code.
        """
        # SLURM signals every process of the task: the runner must not die of what is meant for submitit
        deaf = f"trap '' {_signal_name()}; exec \"$@\""
        self._process = subprocess.Popen(["/bin/sh", "-c", deaf, "sh", *self.command], cwd=self.cwd)
        # waited for by a thread: `checkpoint` interrupts this one, which must hold no lock then
        threading.Thread(target=self._wait, args=(self._process,), daemon=True).start()
        code = self._code(self._process)
        if code not in (0, 1, STOPPED):
            raise RuntimeError(f"the runner left with code {code}: {shlex.join(self.command)}")
        return code

    def checkpoint(self) -> Any:
        """Stop the runner, and ask for the same again."""
        import submitit

        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)
            self._code(self._process)
        return submitit.helpers.DelayedSubmission(Task(self.command, self.cwd))

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        self._ended.set()

    def _code(self, process: "subprocess.Popen[bytes]") -> int:
        while not self._ended.is_set():
            time.sleep(0.1)
        code = process.returncode
        assert code is not None
        return code

    def __getstate__(self) -> dict[str, Any]:
        return {"command": self.command, "cwd": self.cwd}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def check_installed() -> None:
    """Raise ValueError where submitit is missing."""
    if importlib.util.find_spec("submitit") is None:
        raise ValueError(
            "--via submitit needs the package submitit; pip install 'qrt-tn[slurm]', or leave --via out"
        )


def send(
    array: Array, request: Request, study: Study, folder: Path, cwd: Path, failed_before: str | None = None
) -> str:
    """Submit one array; the id of its job. Arguments as of `batch_script`.

    Raises:
        ValueError: submitit is missing, or SLURM refuses.
    """
    check_installed()
    import submitit

    if array.needs.ranks > 1:
        raise ValueError(
            "points of several ranks cannot go by submitit, which starts each task by srun; use sbatch"
        )
    option, _, amount = array.memory.partition("=")
    more: dict[str, Any] = {"requeue": True, option.removeprefix("--"): amount}
    parameters = {
        "job_name": f"qrt-tn-{study.name}",
        "time": array.minutes,
        "ntasks_per_node": 1,
        "nodes": 1,
        "cpus_per_task": array.cpus,
        "gpus_per_task": array.gpus or None,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "exclusive": array.needs.exclusive or None,
        "signal_delay_s": request.grace,
        "array_parallelism": request.limit or array.tasks,
        "setup": guarded(request.setup) or None,
        "additional_parameters": more,
    }
    try:
        executor = submitit.SlurmExecutor(folder / f"group-{array.group}", max_num_timeout=request.requeues)
        executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
        command = run_command(
            sys.executable,
            folder / "study.toml",
            folder.parent.parent,
            array.group,
            study.quick,
            gpus=array.granted,
            failed_before=failed_before,
        )
        tasks = [Task(command, str(cwd)) for _ in range(array.tasks)]
        # one task alone would not be an array
        jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
    except (RuntimeError, submitit.core.utils.FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise ValueError(f"submitit could not submit: {' '.join(str(error).split())}") from error
    return str(jobs[0].job_id).partition("_")[0]


def _signal_name() -> str:
    """The signal that submitit asks SLURM for."""
    from submitit.core.job_environment import JobEnvironment

    return JobEnvironment.USR_SIG
