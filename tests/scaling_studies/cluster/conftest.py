"""SLURM's commands as small programs that remember what they were asked, and answer as they are told to."""

import json
import os
import sys
from pathlib import Path

import pytest

PROGRAM = """#!{python}
import json, os, sys
from pathlib import Path
folder = Path({folder!r})
name = Path(sys.argv[0]).name
with (folder / "calls").open("a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
answers = json.loads((folder / "answers").read_text())
answer = answers.get(name, [[0, ""]])
count = sum(json.loads(line)[0] == name for line in (folder / "calls").read_text().splitlines())
code, text = answer[min(count, len(answer)) - 1]
(sys.stderr if code else sys.stdout).write(text)
sys.exit(code)
"""
PYTHON = sys.executable  # a test may put another in its place


class Fakes:
    """Commands on PATH; `answers` holds (exit code, text) of each call in turn, the last for all others."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        self.answers = {}
        self.tell()

    def tell(self, **answers):
        self.answers |= answers
        (self.folder / "answers").write_text(json.dumps(self.answers))
        for name in self.answers:
            path = self.folder / "bin" / name
            path.write_text(PROGRAM.format(python=PYTHON, folder=str(self.folder)))
            path.chmod(0o755)

    def calls(self, name):
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster without jobs, whose jobs are numbered 101, 102, ..."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    made = Fakes(folder)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}/bin{os.pathsep}/usr/bin")
    made.tell(
        sbatch=[[0, "101\n"], [0, "102\n"], [0, "103\n"]],
        squeue=[[0, ""]],
        scancel=[[0, ""]],
        scontrol=[[0, "Configuration data\nMaxArraySize            = 11\nMaxJobCount = 10000\n"]],
    )
    return made


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    """A machine without SLURM."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def study_file(tmp_path):
    """A function that writes a study of rehearsals and gives its path."""

    def write(numbers=(1, 2, 3), **resources):
        path = tmp_path / "tried.toml"
        lines = ['name = "tried"', 'experiment = "rehearsal"', "[axes]", f"number = {list(numbers)}"]
        lines += ["[resources]", *(f"{name} = {json.dumps(value)}" for name, value in resources.items())]
        Path(path).write_text("\n".join(lines) + "\n")
        return path

    return write
