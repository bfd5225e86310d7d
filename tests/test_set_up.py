"""The script that makes the virtual environment, with a Python whose pip only talks."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "constraints" / "set-up"
# Stands for the interpreter that is asked for, and for the environment's.
PYTHON = """#!/bin/sh
case "$*" in
    *version_info*) echo 3.11 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*--editable*)
        echo 'Obtaining file:///project'
        echo 'Collecting numpy>=2.0 (from project)'
        echo '  Downloading numpy-2.4.0-cp311-manylinux_2_17_x86_64.whl.metadata (62 kB)'
        echo 'Processing /wheels/jax-0.10.2-py3-none-any.whl (from project)'
        echo 'Requirement already satisfied: setuptools>=77 in here'
        echo 'Downloading numpy-2.4.0-cp311-manylinux_2_17_x86_64.whl (16.8 MB)'
        echo 'a \\\\ odd % line %s'
        if [ -n "${BROKEN:-}" ]; then
            echo 'ERROR: no room' >&2
            exit 2
        fi
        echo 'Installing collected packages: numpy, jax'
        ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the script and a project of its own."""
    (tmp_path / "constraints").mkdir()
    (tmp_path / "constraints" / "py311.txt").write_text("numpy==2.4.0\n")
    (tmp_path / "constraints" / "set-up").write_text(SCRIPT.read_text())
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def set_up(project: Path, **environment: str) -> tuple[int, list[str]]:
    """How it ended, and the lines that it showed."""
    done = subprocess.run(
        ["/bin/sh", str(project / "constraints" / "set-up"), ".venv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=os.environ | {"PYTHON": str(project / "python"), "BROKEN": ""} | environment,
    )
    return done.returncode, done.stdout.splitlines()


def test_it_shows_a_line_a_package_and_installs_once(project: Path) -> None:
    code, lines = set_up(project)
    assert code == 0
    assert lines[1:] == [
        "  Collecting numpy>=2.0",
        "  Processing jax-0.10.2-py3-none-any.whl",
        "  Downloading numpy-2.4.0-cp311-manylinux_2_17_x86_64.whl",
        "  Unpacking ...",
        ".venv is ready.",
    ]
    assert set_up(project) == (0, [])


def test_where_pip_fails_it_fails_and_shows_why(project: Path) -> None:
    code, lines = set_up(project, BROKEN="yes")
    assert code == 1
    assert "ERROR: no room" in lines
    assert lines[-1] == "qrt-tn: set-up stopped; see pip's message above. The next make starts it again."
    assert not (project / ".venv" / "ready").exists()
    assert set_up(project)[1][-1] == ".venv is ready."
