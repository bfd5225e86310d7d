"""The script that unpacks SLURM for tests, where there is nothing to do or nothing to be had."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "constraints" / "set-up-slurm"
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")


def call(folder, *programs, tmp_path):
    """Call it where only these programs are to be had; it adds the usual places of SLURM to PATH itself."""
    own = tmp_path / "bin"
    own.mkdir()
    for name in programs:
        (own / name).write_text("#!/bin/sh\nexit 99\n")
        (own / name).chmod(0o755)
    # the places that the script adds are left out, whatever this machine has there
    text = SCRIPT.read_text().replace("PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin", "")
    environment = dict(os.environ) | {"PATH": str(own)}
    command = ["/bin/sh", "-c", text, "set-up-slurm", *folder]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_nothing_to_do_where_slurm_is_installed(tmp_path):
    done = call([str(tmp_path / "slurm")], *NEEDED, tmp_path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "slurm").exists()


@pytest.mark.parametrize("there", [NEEDED[:-1], ()])
def test_without_apt_it_says_so_and_succeeds(tmp_path, there):
    done = call([str(tmp_path / "slurm")], *there, tmp_path=tmp_path)
    assert done.returncode == 0
    assert "no SLURM for its tests (there is no apt-get here); they are skipped" in done.stderr
    assert not (tmp_path / "slurm").exists()


def test_usage(tmp_path):
    assert call([], tmp_path=tmp_path).returncode == 2
