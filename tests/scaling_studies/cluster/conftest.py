"""SLURM's commands: what they were asked, and what they are told to answer."""

import json
import subprocess
from pathlib import Path

import pytest


class Fakes:
    """Stands in for `subprocess.run`.

    An answer is (exit code, text), without an exit code where it comes too late; the last one stays.
    """

    def __init__(self, run):
        self.run_others = run
        self.answers = {}
        self.asked = []

    def tell(self, **answers):
        self.answers |= {name: list(given) for name, given in answers.items()}

    def calls(self, name):
        return [command[1:] for command in self.asked if command[0] == name]

    def run(self, command, **options):
        if command[0] not in self.answers:
            return self.run_others(command, **options)
        self.asked.append(command)
        answers = self.answers[command[0]]
        code, text = answers.pop(0) if len(answers) > 1 else answers[0]
        if code is None:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, code, *(("", text) if code else (text, "")))


@pytest.fixture
def slurm(monkeypatch):
    """A cluster without jobs, whose jobs are numbered 101, 102, ..."""
    made = Fakes(subprocess.run)
    monkeypatch.setattr(subprocess, "run", made.run)
    made.tell(
        sbatch=[(0, "101\n"), (0, "102\n"), (0, "103\n")],
        squeue=[(0, "")],
        scancel=[(0, "")],
        scontrol=[(0, "Configuration data\nMaxArraySize            = 11\nMaxJobCount = 10000\n")],
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
