"""Studies of rehearsals run in this process, for tests of the runner."""

from pathlib import Path
from typing import Any

from qrt_tn.studies.config import Study, parse_study
from qrt_tn.studies.runner import Room, Summary
from qrt_tn.studies.runner import run_study as run_here
from qrt_tn.studies.runner.watching import State
from qrt_tn.studies.store import StudyStore
from qrt_tn.studies.store.index import read_results

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
