"""What a person sees while a study runs: a bar and what is under way, or a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qrt_tn.studies.config import Study
from qrt_tn.studies.runner.watching import State, Watch

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal
REFRESH = 0.5
SHOWN = 8  # points under way that are listed


@contextmanager
def watching(study: Study, console: Console, *, plain: bool = False) -> Iterator[Watch]:
    """Show a run: live in a terminal, else a line every ten seconds.

    Args:
        study: what runs.
        console: where to.
        plain: lines in a terminal too.
    """
    if plain or not console.is_terminal:
        yield _Lines(study, console)
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield _Display(study, live)


class _Lines(Watch):
    """A line now and then."""

    def __init__(self, study: Study, console: Console) -> None:
        self.study = study
        self.console = console
        self._last: float | None = None

    def show(self, state: State) -> None:
        now = time.monotonic()
        if self._last is not None and now - self._last < LINE_EVERY:
            return
        self._last = now
        memory = sum(one.memory() for one in state.running)
        self.say(f"{self.study.name}: {', '.join(_parts(state, memory))}")

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Display(Watch):
    """A bar, the numbers, and the points under way."""

    def __init__(self, study: Study, live: Live) -> None:
        self.study = study
        self.live = live
        self._last = 0.0

    def show(self, state: State) -> None:
        now = time.monotonic()
        if now - self._last < REFRESH:
            return
        self._last = now
        self.live.update(self._drawn(state), refresh=True)

    def say(self, text: str) -> None:
        self.live.console.print(text, highlight=False, markup=False)

    def _drawn(self, state: State) -> RenderableType:
        memory = [one.memory() for one in state.running]
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, state.total), completed=state.done + state.failed, width=24)
        parts = _parts(state, sum(memory))
        head.add_row(Text(self.study.name, style="bold"), bar, Text(", ".join(parts[:2])))
        more = Text("  " + ", ".join(parts[2:]))
        table = Table.grid(padding=(0, 2))
        for one, size in list(zip(state.running, memory, strict=True))[:SHOWN]:
            said = ", ".join(f"{name}={one.point.parameters[name]}" for name in self.study.varied)
            label = Text(f"{said}, seed={one.point.seed}" if said else f"seed={one.point.seed}")
            table.add_row(
                Text("  running", style="dim"), label, Text(duration(one.seconds)), Text(_bytes(size))
            )
        if len(state.running) > SHOWN:
            table.add_row("", Text(f"and {len(state.running) - SHOWN} more", style="dim"))
        return Group(head, *([more] if parts[2:] else []), table)


def _parts(state: State, memory: int) -> list[str]:
    """The numbers of a run, in words."""
    parts = [f"{state.done:,} of {state.total:,} done"]
    if state.running:
        parts.append(f"{len(state.running)} running")
    if state.failed:
        parts.append(f"{state.failed:,} failed")
    if state.left and state.seconds_left is not None:
        parts.append(f"{duration(state.seconds_left)} left")
    if memory:
        parts.append(f"{_bytes(memory)} of memory")
    return parts


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    whole = int(seconds)
    for size, unit, smaller, name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {name}"
    return f"{whole} s"


def _bytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
