"""What a run tells whoever watches it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qrt_tn.studies.config import Point


@dataclass(frozen=True)
class Running:
    """A point under way, for so many seconds; `memory()` looks up the bytes that it holds now."""

    point: Point
    seconds: float
    memory: Callable[[], int]


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        total: points of the study (or the group) in all.
        done: finished, now or earlier.
        failed: failed, now or earlier.
        elsewhere: at work in other runners.
        running: under way here.
        finished_now: by this run.
        seconds: since this run began.
    """

    total: int
    done: int
    failed: int
    elsewhere: int
    running: Sequence[Running]
    finished_now: int
    seconds: float

    @property
    def left(self) -> int:
        """Points that are neither done nor failed."""
        return self.total - self.done - self.failed

    @property
    def seconds_left(self) -> float | None:
        """At the rate of this run so far; None before its first point."""
        return self.seconds * self.left / self.finished_now if self.finished_now else None


class Watch(Protocol):
    """Whoever watches."""

    def show(self, state: State) -> None:
        """Called often, a few times a second."""

    def say(self, text: str) -> None:
        """A line that is to stay."""


class Unwatched:
    """Nobody does."""

    def show(self, state: State) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
