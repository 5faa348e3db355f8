"""The program ``wsrpc``: finds and runs the command that its first argument names. It imports no other command."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from difflib import get_close_matches

from .. import __version__
from .failures import Failure, UsageError
from .options import Command
from .running import complain, show

__all__ = ["COMMANDS", "command_of", "main"]

COMMANDS = {
    "call": ("calling", "send a request and print its answer"),
    "stream": ("calling", "request a stream and print its items"),
    "upload": ("calling", "send a request with a stream of items"),
    "emit": ("calling", "send an event"),
    "listen": ("listening", "print the events that a server emits"),
    "describe": ("describing", "print what a server offers"),
    "types": ("generating", "declare a server's events for TypeScript"),
    "client": ("generating", "make a Python client for a server"),
    "completion": ("completion", "print a script that lets a shell complete commands"),
}
"""The module of each command, which has a `Command` of that name, and what the command does."""
HIDDEN = {"complete": ("completion", "")}
"""Commands for the scripts of ``wsrpc completion``, not for people."""


def command_of(name: str) -> Command:
    """Return a command by its name, which is one of `COMMANDS` or of `HIDDEN`."""
    module, _ = COMMANDS.get(name) or HIDDEN[name]
    command: Command = getattr(importlib.import_module(f".{module}", __package__), name)
    return command


def main(words: list[str]) -> int:
    """Run the command with these arguments, and return its exit code."""
    name = words[0] if words else ""
    hide_token(words)
    try:
        if name in ("-h", "--help"):
            show(_help())
            return 0
        if name == "--version":
            show(f"wsrpc {__version__}\n")
            return 0
        if name not in COMMANDS and name not in HIDDEN:
            raise UsageError(_unknown(name))
        command = command_of(name)
        options = command.parser().parse_intermixed_args(words[1:])
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `wsrpc_command` leaves it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return command.run(options)
    except Failure as exc:
        if text := str(exc):
            complain(text, exc.details)
        return exc.code
    except SystemExit:  # argparse has shown the help
        return 0
    except KeyboardInterrupt:  # in a command that does not handle signals itself
        complain("interrupted")
        return 128 + signal.SIGINT


def hide_token(words: list[str]) -> None:
    """Replace the process by one that has the token in its environment, if ``--token`` is among its arguments.

    All users of a machine can see the arguments of a process while it runs. Only its own user can see its environment.
    """
    if os.name != "posix":  # elsewhere the new program would be another process
        return
    for number, word in enumerate(words):
        name, equals, token = word.partition("=")
        if word == "--":
            return
        if not equals:
            token = words[number + 1] if number + 1 < len(words) else ""
        if name == "--token" and token:
            after = number + 1 if equals else number + 2
            before = sys.orig_argv[1 : len(sys.orig_argv) - len(words)]
            os.environ["WSRPC_TOKEN"] = token
            os.execv(sys.executable, [sys.executable, *before, *words[:number], *words[after:]])


def _unknown(name: str) -> str:
    close = get_close_matches(name, COMMANDS, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    what = f"{name!r} is not a command{hint}" if name else "no command is given"
    return f"{what}: it is one of {', '.join(COMMANDS)}; see wsrpc --help"


def _help() -> str:
    lines = [f"  {name:<11} {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        (
            "usage: wsrpc COMMAND ...",
            "",
            "Calls and explores servers that speak wsrpc or ws-wrapper.",
            "",
            "commands:",
            *lines,
            "",
            "wsrpc COMMAND --help shows the arguments and options of a command.",
            "",
            "exit codes:",
            "  0    done",
            "  1    the server refused the request, or its handler failed",
            "  2    wrong usage, or a file that cannot be read or written",
            "  3    not sent: no connection, or a message that is too large",
            "  4    the connection was lost, and the request may have run",
            "  5    no answer in time",
            "  130  interrupted by Ctrl-C",
            "  141  the reader of the output has left, such as head -1",
            "",
        )
    )
