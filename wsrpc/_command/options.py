"""Options that several commands have, and the parser that reads them."""

from __future__ import annotations

import argparse
import math
from argparse import Action, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from .failures import UsageError

__all__ = ["Command", "Parser", "add_arguments", "add_connection", "add_header", "add_take", "add_upload"]


class Parser(argparse.ArgumentParser):
    """Parser of one command. Options may stand anywhere, also between arguments. An error is one sentence."""

    def __init__(self, usage: str, about: str, examples: str = "") -> None:
        """
        Args:
            usage: the name of the command, and its arguments.
        """
        super().__init__(
            prog=f"wsrpc {usage.partition(' ')[0]}",
            usage=f"wsrpc {usage} [OPTION ...]",
            description=about,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    @property
    def options(self) -> dict[str, Action]:
        """The options by name."""
        return {name: action for action in self._actions for name in action.option_strings}

    @property
    def positionals(self) -> list[Action]:
        """The arguments that have no name."""
        return [action for action in self._actions if not action.option_strings]

    def parse_begun(self, words: Sequence[str]) -> Namespace:
        """Parse a command of which only the beginning has been written.

        Raises:
            UsageError: it is wrong so far.
        """
        for action in self.positionals[1:]:
            action.nargs = "*"
        return self.parse_intermixed_args(words)


class Command(NamedTuple):
    """A command of the program."""

    parser: Callable[[], Parser]
    run: Callable[[Namespace], int]
    """Runs the command and returns its exit code. It may raise a `Failure`."""


def _positive(text: str) -> float:
    seconds = float(text)
    if not (0 < seconds < math.inf):
        raise ValueError(text)
    return seconds


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


_positive.__name__ = "number of seconds"  # argparse names the type in its errors
_count.__name__ = "whole number of 1 or more"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f'a header is "Name: value", got {text!r}')
    return name.strip(), value.strip()


class HasArguments(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **options: Any) -> Action: ...


def add_header(parser: HasArguments) -> None:
    """Add ``--header``."""
    parser.add_argument(
        "--header",
        metavar='"NAME: VALUE"',
        type=_header,
        action="append",
        default=[],
        help="a header of the request that connects to a URL; may be repeated",
    )


def add_connection(parser: argparse.ArgumentParser, *, channels: bool = False) -> None:
    """Add the URL, and the options that say how to connect.

    Args:
        channels: let ``--channel`` be given several times.
    """
    parser.add_argument("url", metavar="URL", help="the ws:// or wss:// URL of the server")
    if channels:
        parser.add_argument("--channel", metavar="NAME", action="append", help="a named channel; may be repeated")
    else:
        parser.add_argument("--channel", metavar="NAME", help="a named channel (default: the main channel)")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_positive, help="the time for connecting and for the answer (default: 60)"
    )
    parser.add_argument(
        "--retry",
        metavar="N",
        type=_count,
        default=0,
        help="try again up to N times, with growing delays, while nothing has run",
    )
    parser.add_argument(
        "--answer",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="answer requests of the server for NAME with this value; may be repeated",
    )
    group = parser.add_argument_group("connection")
    add_header(group)
    group.add_argument(
        "--token", metavar="TOKEN", help="a bearer token (default: the environment's WSRPC_TOKEN, which nobody sees)"
    )
    group.add_argument(
        "--subprotocol", metavar="NAME", action="append", help="a subprotocol to offer; may be repeated, best first"
    )
    group.add_argument("--cacert", metavar="FILE", help="the authorities that the server's certificate may be of")
    group.add_argument("--cert", metavar="FILE", help="the client's certificate, and its key unless --key names it")
    group.add_argument("--key", metavar="FILE", help="the key of the client's certificate")
    group.add_argument("--insecure", action="store_true", help="accept any certificate of the server")
    group.add_argument("--compress", action="store_true", help="offer to compress messages")
    group.add_argument(
        "--profile", choices=("go",), help="the server is ws-server-wrapper-go, which closes for what others ignore"
    )
    group.add_argument("--verbose", action="store_true", help="show the library's log and each message on stderr")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the event and its arguments."""
    parser.add_argument("event", metavar="EVENT", help="the name of the event")
    parser.add_argument(
        "args",
        metavar="ARG",
        nargs="*",
        default=[],
        help="an argument: JSON, such as 2 or '\"Ada\"'; @FILE for the JSON in a file, @text:FILE for its text, "
        "@bytes:FILE for its bytes; after --, it may begin with -",
    )


def add_upload(parser: argparse.ArgumentParser) -> None:
    """Add what says which items are uploaded."""
    parser.add_argument(
        "--send", metavar="FILE", help="upload the items in a file; an argument - uploads those of stdin"
    )
    parser.add_argument(
        "--as",
        dest="form",
        choices=("json", "text", "bytes"),
        default="json",
        help="an item is the JSON of a line (the default), the text of a line, or up to 16 KiB of bytes",
    )


def add_take(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--take``."""
    parser.add_argument("--take", metavar="N", type=_count, help=f"end after N {what}")
