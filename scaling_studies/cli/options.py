"""What options of the command line have in common: lists by commas, folders of results."""

import datetime
import shlex
import sys
from pathlib import Path
from typing import Any


def run_folder(kind: str) -> Path:
    """A folder for the results of a run, named after the time."""
    return Path("runs") / f"{kind}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def command() -> str:
    """The command line that repeats this one."""
    return shlex.join(["qrt-tn", *sys.argv[1:]])


def words(text: str) -> tuple[str, ...]:
    """The parts of a list by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, kind: type, name: str) -> tuple[Any, ...]:
    """The numbers of a list by commas.

    Raises:
        ValueError: a part that is no number of this kind.
    """
    found = []
    for word in words(text):
        try:
            found.append(kind(word))
        except ValueError:
            wanted = "whole numbers" if kind is int else "numbers"
            raise ValueError(f"{name} holds {word!r}; give {wanted} separated by commas") from None
    return tuple(found)


def listed(values: tuple[Any, ...]) -> str:
    """A list as an option takes it."""
    return ",".join(map(str, values))
