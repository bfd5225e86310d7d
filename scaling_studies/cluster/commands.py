"""SLURM's commands, called with a time limit; what they say on failure is what the user reads."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 60.0  # seconds; a controller that answers no faster is not to be waited for


def call(command: Sequence[str], *, cwd: Path | None = None, patience: float = PATIENCE) -> str:
    """What one of SLURM's commands prints.

    Raises:
        ValueError: it is not installed, failed, or did not answer in `patience` seconds; with the mend.
    """
    name = command[0]
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=patience, check=False, errors="replace"
        )
    except FileNotFoundError:
        raise ValueError(
            f"{name} is not installed here; call this on a login node of a SLURM cluster, or run the study "
            "on this machine with `qrt-tn study run`"
        ) from None
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{name} gave no answer in {patience:.0f} s; SLURM's controller is busy or down: try again later"
        ) from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split()) or "no message"
        raise ValueError(f"{name} failed: {said}")
    return done.stdout


def largest_array() -> int:
    """How many tasks an array may have on this cluster; SLURM's own default where it does not tell."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", call(["scontrol", "show", "config"]), re.MULTILINE)
    # indices go up to MaxArraySize - 1, and ours begin with 0
    return int(found[1]) if found else 1001
