"""The batch script of one array: plain sbatch, to be read by people; it needs nothing but the package."""

import shlex
from pathlib import Path

from scaling_studies.cluster.arrays import Array
from scaling_studies.cluster.request import Request

# The scripts in scaling_studies/slurm/ hold the same lines; a test compares them.
SIGNALS = r"""say() { printf '%s qrt-tn: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"; }

# SLURM sends USR1 shortly before the time limit (--signal above), and TERM when it takes the job away or when
# somebody cancels it. The runner stops its points on either, and leaves with code 75 where some are left.
# Bash runs a trap only between commands: hence a runner in the background, and `wait`, which a signal ends.
told='' runner=''
forward() {
    told=$1
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
    case $code in 138 | 143) code=75 ;; esac
}

# Back into the queue at the time limit only: SLURM itself requeues what it preempts or loses with a node.
finish() {
    if [ "$code" -eq 75 ] && [ "$told" = USR1 ]; then
        job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "$requeues" ]; then
            say "the time is up after $requeues requeues; points are left: submit the study again"
        elif scontrol requeue "${job:-$SLURM_JOB_ID}"; then
            say "the time is nearly up: back in the queue, after ${SLURM_RESTART_COUNT:-0} requeues so far"
        else
            say "the time is nearly up and scontrol requeue failed; submit the study again"
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
    command = run_command(python, folder / "study.toml", store, array.group, quick)
    setup = "\n".join(request.setup) or "# (nothing: --module, --env-file and --setup of qrt-tn study submit)"
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


def run_command(python: str, study: Path, store: Path, group: int, quick: bool) -> list[str]:
    """The command of one task: the same runner as on a machine without SLURM."""
    command = [python, "-m", "scaling_studies.cli", "study", "run", str(study), "--store", str(store)]
    return [*command, "--group", str(group), "--plain", *(["--quick"] if quick else [])]
