"""The program ``wsrpc``: finds and runs the command that its first argument names. It imports no other command."""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from .. import __version__
from .command_errors import OUTPUT_CLOSED, USAGE, Failure
from .command_options import COMPLETE, ENGINE_TOKEN
from .running import complain

COMMANDS = {
    "call": "calling",
    "stream": "calling",
    "emit": "calling",
    "listen": "listening",
    "describe": "describing",
    "peers": "operating",
    "stats": "operating",
    "kick": "operating",
    "rebalance": "rebalancing",
    "waiting": "submitting",
    "submit": "submitting",
    "withdraw": "submitting",
    "types": "generating",
    "client": "generating",
    "diff": "comparing",
    "serve": "serving",
    "completion": "completion",
}
"""The module of each command."""


class Program(click.Group):
    """All commands. Each command is imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f".{COMMANDS[cmd_name]}", __package__), cmd_name)
        return command


EXIT_CODES = """\b
exit codes:
  0    done
  1    the server refused the request, or its handler failed; diff: something breaks
  2    wrong usage, or a file that cannot be read or written
  3    not sent: no connection, or a message that is too large
  4    the connection was lost, and the request may have run
  5    no response in time
  130  interrupted by Ctrl-C
  141  the reader of the output has left, such as head -1
"""
PROGRAM = Program(
    help="Calls and explores servers that speak wsrpc or ws-wrapper.",
    epilog=EXIT_CODES,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, prog_name="wsrpc", message="%(prog)s %(version)s")(PROGRAM)


def main(words: list[str]) -> int:
    """Run the command with these arguments, and return its exit code."""
    hide_token(words)
    try:
        if instruction := os.environ.get(COMPLETE):
            from .completion import complete

            return complete(PROGRAM, instruction)
        with PROGRAM.make_context("wsrpc", words) as context:
            code: int = PROGRAM.invoke(context)
            return code
    except click.exceptions.Exit as exc:  # after --help
        return exc.exit_code
    except click.UsageError as exc:
        path = "wsrpc" if exc.ctx is None else exc.ctx.command_path
        complain(f"{exc.format_message()} (see {path} --help)")
        return USAGE
    except Failure as exc:
        complain(str(exc), exc.details)
        return exc.code
    except BrokenPipeError:
        return OUTPUT_CLOSED
    except OSError as exc:
        complain(f"cannot write to stdout: {exc.strerror}")
        return USAGE
    except KeyboardInterrupt:  # in a command that does not handle signals itself
        complain("interrupted")
        return 128 + signal.SIGINT


def hide_token(words: list[str]) -> None:
    """Replace the process by one that has the token in its environment, if ``--token`` is among its arguments.

    All users of a machine can see the arguments of a process while it runs. Only its own user can see its environment.
    """
    for number, word in enumerate(words):
        name, equals, token = word.partition("=")
        if word == "--":
            return
        if not equals:
            token = words[number + 1] if number + 1 < len(words) else ""
        if name == "--token" and token:
            after = number + 1 if equals else number + 2
            before = sys.orig_argv[1 : len(sys.orig_argv) - len(words)]
            os.environ["WSRPC_TOKEN"] = os.environ[ENGINE_TOKEN] = token
            if os.name == "posix":  # elsewhere the new program would be another process
                os.execv(sys.executable, [sys.executable, *before, *words[:number], *words[after:]])
            return
