"""What a person sees while a long job runs: a bar in a terminal, a line now and then in a log."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

BETWEEN = 30.0  # seconds from a stage's line in a log to its next, at least
SILENCE = 60.0  # seconds after which a log hears of a stage whose step takes long


class Stage(Protocol):
    """One stage under way."""

    def advance(self, steps: int = 1) -> None:
        """Say that `steps` more of the stage's steps are done."""


class StageTimer:
    """Runs stages one after the other, shows them, and keeps how long each took.

    Attributes:
        seconds: wall seconds by stage name, in order.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print a line between stages."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Stage]:
        """Show a stage of a known number of steps while the block runs."""
        start = self._clock()
        show = self._bar if self._console.is_terminal else self._log
        with show(name, max(1, steps)) as stage:
            yield stage
        elapsed = self._clock() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        self.say(f"{name}: {elapsed:.1f} s")

    @contextmanager
    def _bar(self, name: str, total: int) -> Iterator[Stage]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # steps of minutes would have left a shorter period before the next is done
        with Progress(*columns, console=self._console, transient=True, speed_estimate_period=math.inf) as bar:
            task = bar.add_task(name, total=total)

            class Steps:
                def advance(self, steps: int = 1) -> None:
                    bar.advance(task, steps)

            yield Steps()

    @contextmanager
    def _log(self, name: str, total: int) -> Iterator[Stage]:
        self.say(f"{name} ...")
        lines = _Lines(name, total, self.say, self._clock)
        ended = threading.Event()

        def watch() -> None:  # a step that takes long cannot speak for itself
            while not ended.wait(SILENCE):
                lines.tell()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield lines
        finally:
            ended.set()
            thread.join()


class _Lines:
    """A stage's lines in a log between its first and its last."""

    def __init__(self, name: str, total: int, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._name = name
        self._total = total
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._done = 0
        self._start = self._told = clock()

    def advance(self, steps: int = 1) -> None:
        with self._lock:
            self._done += steps
        if self._done < self._total:  # else the stage's last line is near
            self.tell()

    def tell(self) -> None:
        """Print how far the stage is, unless a line told it a moment ago."""
        with self._lock:
            now = self._clock()
            if now - self._told < BETWEEN:
                return
            self._told = now
            elapsed = now - self._start
            line = f"{self._name}: {self._done} of {self._total} after {_rounded(elapsed)}"
            if 0 < self._done < self._total:
                left = elapsed / self._done * (self._total - self._done)
                line += f", about {_rounded(left)} left"
            self._say(line)


def _rounded(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
