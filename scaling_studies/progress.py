"""What a person sees while a long job runs: a bar in a terminal, a line a stage in a log."""

import time
from collections.abc import Iterator
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
)


class Stage(Protocol):
    """One stage under way."""

    def advance(self, steps: int = 1) -> None:
        """Say that `steps` more of the stage's steps are done."""


class StageTimer:
    """Runs stages one after the other, shows them, and keeps how long each took.

    Attributes:
        seconds: wall seconds by stage name, in order.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print a line between stages."""
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Stage]:
        """Show a stage of a known number of steps while the block runs."""
        start = time.perf_counter()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        live = self._console.is_terminal
        if not live:
            self._console.print(f"{name} ...", highlight=False)
        with Progress(*columns, console=self._console, transient=True, disable=not live) as bar:
            task = bar.add_task(name, total=max(1, steps))

            class Steps:
                def advance(self, steps: int = 1) -> None:
                    bar.advance(task, steps)

            yield Steps()
        elapsed = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        self._console.print(f"{name}: {elapsed:.1f} s", highlight=False)
