"""The command line: qrt-tn."""

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

INTERRUPTED = 130  # the shell's code for a program that Ctrl-C ended; Typer gives it too
LONGEST = 120  # characters of a file's name that a message shows
# Commands by name, each in a room of its own that is loaded when it is called: the status of a study should
# not wait for JAX.
_COMMANDS = {
    "info": "info:info_app",
    "ticket": "ticket:ticket_app",
    "predict": "predict:predict_app",
    "lottery": "lottery:lottery_app",
    "moe": "moe:moe",
    "study": "study:study",
    "bench": "bench:bench",
}


class _Commands(TyperGroup):
    """The commands, loaded by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, or None."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        found = get_command(getattr(importlib.import_module(f"qrt_tn.studies.cli.{module}"), name))
        found.name = cmd_name
        return found


app = typer.Typer(
    cls=_Commands,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The Quantum Ridgelet Transform on tensor networks: winning tickets, sampled exactly.",
)


@app.callback()
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="show the version and stop")] = False,
) -> None:
    """Show the help where no command is named."""
    if version:
        from qrt_tn.studies import provenance

        print(provenance.versions()["qrt-tn"])
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line; bad input ends in one line and exit code 2, an interrupt in 130."""
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone
        code = 1  # as Typer and rich give where they meet it first
    except (ValueError, OSError, TyperException) as error:
        print(f"qrt-tn: {_lines(_said(error))}", file=sys.stderr)
        code = 2
    except typer.Abort:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("qrt-tn: interrupted; nothing was left half-written", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # Python would try once more as it ends, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _lines(text: str) -> str:
    """A message in one line, but for the commands it offers, which begin lines of their own."""
    first, *commands = text.split("\n  qrt-tn ")
    return "\n  qrt-tn ".join([" ".join(first.split()), *(line.replace("\n", " ") for line in commands)])


def _said(error: Exception) -> str:
    if isinstance(error, TyperException):
        return error.format_message()
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if error.filename is None:
        return error.strerror
    name = str(error.filename)
    if len(name) > LONGEST:
        name = f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"
    return f"{error.strerror}: {name}"
