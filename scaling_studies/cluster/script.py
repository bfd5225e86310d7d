"""The batch script of one array: plain sbatch, to be read by people; it needs nothing but the package."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from qrt_tn.studies.cluster.arrays import Array
from qrt_tn.studies.cluster.request import Request

# The scripts in scaling_studies/slurm/ hold the same lines; a test compares them.
SIGNALS = r"""say() { printf '%s qrt-tn: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"; }

# SLURM sends USR1 shortly before the time limit (--signal above), and TERM when it takes the job away or when
# somebody cancels it. The runner stops its points on either, and leaves with code 75 where some are left.
# Bash runs a trap only between commands: hence a runner in the background, and `wait`, which a signal ends.
told='' runner=''
forward() {
    if [ "$told" != TERM ]; then told=$1; fi
    heard=yes
    if [ -n "$runner" ]; then kill -s "$1" "$runner" 2>/dev/null; fi
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM

start() {
    "$@" &
    runner=$!
    if [ -n "$told" ]; then kill -s "$told" "$runner"; fi
    code=127
    while :; do
        heard=''
        wait "$runner"
        answer=$?
        # 127: bash has told the code already, in the turn before
        if [ "$answer" -ne 127 ]; then code=$answer; fi
        if [ -z "$heard" ]; then break; fi
    done
    # ended by the signal itself: it came before the runner listened
    if [ -n "$told" ]; then case $code in 138 | 143) code=75 ;; esac; fi
}

# Back into the queue where points are left: near the time limit, or as the runner stopped by itself since a
# node of its job is lost. Not after TERM: SLURM itself requeues what it preempts or loses.
finish() {
    if [ "$code" -eq 75 ] && [ "$told" != TERM ]; then
        why='the time is nearly up'
        if [ -z "$told" ]; then why='the runner stopped by itself'; fi
        job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
        # SLURM counts a restart of the task for whatever reason: these, preemptions and lost nodes
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "$requeues" ]; then
            say "$why, and after $requeues restarts, for whatever reason, this task gives up:" \
                "points are left, submit the study again"
        else
            # said before, as SLURM ends this script while it takes it back
            say "$why: back in the queue, after ${SLURM_RESTART_COUNT:-0} restarts so far"
            scontrol requeue "${job:-$SLURM_JOB_ID}" || say "scontrol requeue failed; submit the study again"
        fi
    fi
    exit "$code"
}"""


def batch_script(
    array: Array,
    request: Request,
    *,
    study: str,
    folder: Path,
    store: Path,
    quick: bool,
    python: str,
    cwd: Path,
    failed_before: str | None = None,
) -> str:
    """The script of an array.

    Args:
        array: its tasks.
        request: the user's options.
        study: name, for the job and the comment.
        folder: of the submission, which holds study.toml and takes the logs; sbatch must be called there.
        store: of the study.
        quick: whether its quick variant runs.
        python: the interpreter that has the package.
        cwd: where the study runs, so that relative paths in it mean the same as at home.
        failed_before: ISO time; points that failed before it run again.
    """
    needs = array.needs
    asked = {
        "job-name": f"qrt-tn-{study}",
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "array": f"0-{array.tasks - 1}" + (f"%{request.limit}" if request.limit else ""),
        "ntasks": needs.ranks,
        "cpus-per-task": array.cpus,
        "gpus-per-task": array.gpus or None,
        "time": array.minutes,
    }
    lines = [
        f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in asked.items() if value is not None
    ]
    lines.append(f"#SBATCH {array.memory}")
    if needs.exclusive:
        lines.append("#SBATCH --exclusive")
    # relative to where sbatch is called, so that no path has to be quoted for sbatch
    lines += ["#SBATCH --output=log-%A_%a.txt", "#SBATCH --open-mode=append", "#SBATCH --requeue"]
    lines.append(f"#SBATCH --signal=B:USR1@{request.grace}")
    command = run_command(
        python,
        folder / "study.toml",
        store,
        array.group,
        quick,
        gpus=array.granted,
        failed_before=failed_before,
    )
    setup = (
        "\n".join(guarded(request.setup))
        or "# (nothing: --module, --env-file and --setup of qrt-tn study submit)"
    )
    each = f"{needs.ranks} rank(s) of {needs.cores} core(s) and {needs.gpus} GPU(s), {needs.memory:g} GiB"
    return f"""#!/bin/bash
# Group {array.group} of the study {study}: {array.points} points are left.
# Each point needs {each}, and takes {needs.minutes:g} minutes at most.
# The tasks are alike: each takes points from the store until none are left. So any of them may be lost, ended
# or requeued at any time, and the same study may be submitted again at any time.
# Written by qrt-tn study submit. To send it by hand, in this folder: sbatch group-{array.group}.sbatch
{chr(10).join(lines)}

# what this cluster needs first
{setup}

set -u
requeues={request.requeues}
cd {shlex.quote(str(cwd))} || exit 2

{SIGNALS}

say "task ${{SLURM_ARRAY_TASK_ID:-0}} on $(hostname), start $((${{SLURM_RESTART_COUNT:-0}} + 1))"
start {shlex.join(command)}
say "the runner left with code $code"
finish
"""


def guarded(setup: Sequence[str]) -> list[str]:
    """Lines of setup, of which the first that fails ends the task before any point runs.

    A trap and not `set -e`, which would end the task inside of `module`, of an environment's own script, or
    of anything else that may fail on its way.
    """
    if not setup:
        return []
    # in a file that a line reads (.), only the outcome of the whole counts
    trap = (
        """trap 'failed=$?; if [ "${#BASH_SOURCE[@]}" -le 1 ]; then """
        """echo "qrt-tn: a line of the setup failed with code $failed (see above), so no point runs" >&2; """
        """exit 2; fi' ERR"""
    )
    return [trap, *setup, "trap - ERR", "set +e"]


def run_command(
    python: str,
    study: Path,
    store: Path,
    group: int,
    quick: bool,
    *,
    gpus: int | None = None,
    failed_before: str | None = None,
) -> list[str]:
    """The command of one task: the same runner as on a machine without SLURM.

    Args:
        python: the interpreter.
        study: its file.
        store: folder.
        group: number of the needs whose points run.
        quick: the study's quick variant.
        gpus: what each point is given that needs no GPU; None leaves it without.
        failed_before: ISO time; points that failed before it run again, each once.
    """
    command = [python, "-m", "qrt_tn.studies.cli", "study", "run", str(study), "--store", str(store)]
    command += ["--group", str(group), "--plain", *(["--quick"] if quick else [])]
    if gpus is not None:
        command += ["--gpus", str(gpus)]
    if failed_before is not None:
        command += ["--failed-before", failed_before]
    return command
