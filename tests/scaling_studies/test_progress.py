import io
import threading

import pytest
from rich.console import Console

from qrt_tn.studies import progress
from qrt_tn.studies.progress import StageTimer


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Awaited(io.StringIO):
    """A log that says when a line with some text was written to it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.written = threading.Event()

    def write(self, text: str) -> int:
        if self.text in text:
            self.written.set()
        return super().write(text)


def test_a_log_has_a_line_at_the_start_and_the_end_of_a_stage() -> None:
    text = io.StringIO()
    timer = StageTimer(Console(file=text, force_terminal=False))
    for _ in range(2):
        with timer.stage("Counting", 3) as stage:
            stage.advance()
            stage.advance(2)
    lines = text.getvalue().splitlines()
    assert lines[0] == "Counting ..."
    assert lines[1].startswith("Counting: ")
    assert list(timer.seconds) == ["Counting"]
    assert timer.seconds["Counting"] > 0


def run(steps: int, times: list[tuple[float, int]]) -> list[str]:
    """The lines of a stage whose steps are done at these seconds after its start."""
    text, clock = io.StringIO(), Clock()
    with StageTimer(Console(file=text, force_terminal=False, width=20), clock).stage(
        "Counting", steps
    ) as stage:
        for second, done in times:
            clock.now = 1000.0 + second
            stage.advance(done)
    return text.getvalue().splitlines()


@pytest.mark.parametrize(
    ("steps", "times", "lines"),
    [
        (45, [(29.0, 11), (30.0, 1)], ["12 of 45 after 30 s, about 1 min left"]),
        (9, [(31.0, 1), (60.0, 1), (60.5, 1)], ["1 of 9 after 31 s, about 4 min left"]),
        (
            3,
            [(40.0, 1), (72.0, 1)],
            ["1 of 3 after 40 s, about 1 min left", "2 of 3 after 1 min, about 36 s left"],
        ),
        (100, [(3600.0, 1)], ["1 of 100 after 60 min, about 99.0 h left"]),
        (2, [(90.0, 2)], []),
        (0, [(90.0, 1)], []),
        (2, [(90.0, 0)], ["0 of 2 after 2 min"]),
    ],
)
def test_a_log_hears_now_and_then_how_far_a_stage_is(
    steps: int, times: list[tuple[float, int]], lines: list[str]
) -> None:
    said = [f"Counting: {line}" for line in lines]
    assert run(steps, times) == ["Counting ...", *said, f"Counting: {times[-1][0]:.1f} s"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.001)


@pytest.mark.usefixtures("impatient")
def test_a_log_hears_of_a_step_that_takes_long() -> None:
    text, clock = Awaited("3 of 9"), Clock()
    before = threading.active_count()
    with StageTimer(Console(file=text, force_terminal=False), clock).stage("Counting", 9) as stage:
        stage.advance(3)
        clock.now += 120.0
        assert text.written.wait(60)
    assert threading.active_count() == before
    assert "Counting: 3 of 9 after 2 min, about 4 min left" in text.getvalue()


@pytest.mark.usefixtures("impatient")
def test_the_thread_ends_with_a_block_that_fails() -> None:
    before = threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        StageTimer(Console(quiet=True, force_terminal=False)).stage("Counting", 9),
    ):
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_a_terminal_shows_the_time_left() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    with StageTimer(console).stage("Counting [x]", 3) as stage:
        stage.advance()
    shown = text.getvalue()
    assert "Counting [x]" in shown
    assert "-:--:--" in shown
