"""Signals that ask a runner to stop: Ctrl-C, the end of a job, its time limit."""

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "asked to end",
    signal.SIGUSR1: "near its time limit",
}


class Stop:
    """Remembers the first signal that asks to stop, while a `with` block lasts; SIGUSR1 gives way to another.

    A second Ctrl-C is the usual one. Outside the main thread no signals arrive.

    Attributes:
        reason: in words, once one has come.
        number: of that signal.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def ask(self, reason: str) -> None:
        """Stop for a reason that is no signal."""
        self.reason = self.reason or reason

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.reason is None or self.number == signal.SIGUSR1:
            self.reason, self.number = SIGNALS[signal.Signals(number)], number
