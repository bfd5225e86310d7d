"""The command line: qrt-tn."""

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

INTERRUPTED = 130  # the shell's code for a program that Ctrl-C ended; Typer gives it too
# Commands by name, each in a room of its own that is loaded when it is called: the status of a study should
# not wait for JAX.
_COMMANDS = {
    "info": "info:info_app",
    "ticket": "ticket:ticket_app",
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
    from qrt_tn.studies.store import DiskFullError

    try:
        code = app(standalone_mode=False) or 0
    except (ValueError, TyperException, DiskFullError) as error:
        message = error.format_message() if isinstance(error, TyperException) else _said(error)
        print(f"qrt-tn: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("qrt-tn: interrupted; nothing was left half-written", file=sys.stderr)
    sys.exit(code)


def _said(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, OSError) else str(error)
