"""What a run tells whoever watches it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        total: points of the study, the group or the order in all.
        done: finished, now or earlier.
        failed: failed, now or earlier.
        left: points that this run has still to end: its own, then those of the others that it does.
        running: under way here.
        ended_now: finished or failed in this run.
        seconds: since this run began.
    """

    total: int
    done: int
    failed: int
    left: int
    running: Sequence[Running]
    ended_now: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """At the rate of this run so far; None before its first point."""
        return self.seconds * self.left / self.ended_now if self.ended_now else None


class Watch:
    """Whoever watches; this one does not."""

    def show(self, state: State) -> None:
        """Called often, a few times a second."""

    def say(self, text: str) -> None:
        """A line that is to stay."""
