"""Studies of rehearsals run in this process, for tests of the runner."""

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qrt_tn.studies.config import Study, parse_study
from qrt_tn.studies.runner import Room, Summary
from qrt_tn.studies.runner import run_study as run_here
from qrt_tn.studies.runner.watching import State
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_results
from qrt_tn.studies.store.runners import Runner, this_runner

HEAD = 'name = "s"\nexperiment = "rehearsal"\n'
FIXED = "[fixed]\nseconds = 0.0\n"


class Watch:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.lines: list[str] = []

    def show(self, state: State) -> None:
        self.states.append(state)

    def say(self, text: str) -> None:
        self.lines.append(text)

    @property
    def most(self) -> int:
        return max(len(state.running) for state in self.states)


def study(text: str = "", *, fixed: str = FIXED, head: str = "") -> Study:
    return parse_study(HEAD + head + fixed + text, "s.toml")


def numbers(*values: int) -> str:
    return f"[axes]\nnumber = {list(values)}\n"


def run_study(asked: Study, place: Path, **options: Any) -> Summary:
    """On two cores and enough memory, whatever this machine has."""
    given = {"room": Room(cores=(0, 1), gpus=[], memory=2**36)}
    return run_here(asked, place, **(given | options))


def records(place: Path) -> dict[Any, dict[str, Any]]:
    found, damaged = read_results(StudyStore(place))
    assert damaged == []
    return {record["parameters"]["number"]: record for record in found}


def attempts(place: Path, asked: Study) -> list[int]:
    """How often each point was begun, as its log tells."""
    logs = (StudyStore(place).log(point.id) for point in asked.points)
    return [log.read_text(encoding="utf-8").count("=== attempt ") if log.exists() else 0 for log in logs]


def put(place: Path, token: str, age: float = 0.0, **facts: Any) -> Runner:
    """Another runner of a store: of this process, and so alive, unless `facts` say otherwise."""
    runner = replace(this_runner(20 * "0"), token=token, **facts)
    path = StudyStore(place).runners.path(token)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(runner)), encoding="utf-8")
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return runner
