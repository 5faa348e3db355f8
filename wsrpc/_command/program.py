"""The program ``wsrpc``: finds the command that its first argument names, and imports only that."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches

from .failures import USAGE
from .running import complain

__all__ = ["COMMANDS", "main"]

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
"""The module of each command, which has a function of the command's name, and what the command does."""


def main(words: list[str]) -> int:
    """Run the command with these arguments, and return its exit code."""
    name = words[0] if words else ""
    if name in COMMANDS:
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        command: Callable[[list[str]], int] = getattr(module, name)
        try:
            return command(words[1:])
        except SystemExit as exc:  # argparse has said what is wrong, or has helped
            return exc.code if isinstance(exc.code, int) else 0
    if name in ("-h", "--help"):
        print(_help())  # noqa: T201
        return 0
    if name == "--version":
        from .. import __version__

        print(f"wsrpc {__version__}")  # noqa: T201
        return 0
    close = get_close_matches(name, COMMANDS, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    what = f"{name!r} is not a command{hint}" if name else "no command is given"
    complain(f"{what}: it is one of {', '.join(COMMANDS)}; see wsrpc --help")
    return USAGE


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
            "wsrpc COMMAND --help says more. Exit codes: 0; 1 the server refused or failed; 2 usage; 3 not sent;",
            "4 the connection was lost, so the request may have run; 5 timeout; 130 interrupted.",
        )
    )
