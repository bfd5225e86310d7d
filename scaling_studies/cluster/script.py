"""The batch script of one array, from the template `job.sbatch.j2`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from qrt_tn.studies.cluster.arrays import Array
from qrt_tn.studies.cluster.request import Request


def batch_script(
    array: Array,
    request: Request,
    study: str,
    target: Sequence[str],
    *,
    order: Path | None = None,
    failed_before: str | None = None,
) -> str:
    """The script of an array, which runs in the current folder and writes its logs where sbatch is called.

    Args:
        array: its tasks.
        request: the user's options.
        study: name.
        target: what `qrt-tn study run` is to run, and where: its arguments.
        order: file of the array's points.
        failed_before: ISO time; points that failed before it run again.
    """
    import jinja2

    asked = {
        "job-name": f"qrt-tn-{study}",
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "array": f"0-{array.tasks - 1}" + (f"%{request.limit}" if request.limit else ""),
        "ntasks": array.needs.ranks,
        "cpus-per-task": array.cpus,
        "gpus-per-task": array.gpus,
        "time": array.minutes,
    }
    command = [sys.executable, "-m", "qrt_tn.studies.cli", "study", "run", *target, "--plain"]
    command += ["--group", str(array.group), "--requeues", str(request.requeues)]
    for name, value in (("order", order), ("gpus", array.granted), ("failed-before", failed_before)):
        if value is not None:
            command += [f"--{name}", str(value)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("job.sbatch.j2").render(
        array=array,
        needs=array.needs,
        request=request,
        study=study,
        asked={name: shlex.quote(str(value)) for name, value in asked.items() if value is not None},
        cwd=shlex.quote(str(Path.cwd())),
        command=shlex.join(command),
    )
