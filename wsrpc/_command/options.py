"""Options that several commands have, and the parser that reads them."""

from __future__ import annotations

import argparse
import math
import re
from argparse import Action, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from .failures import UsageError
from .running import show

__all__ = ["Command", "Parser", "add_arguments", "add_connection", "add_header", "add_take", "add_upload"]


class Parser(argparse.ArgumentParser):
    """Parser of one command. Options may stand before, between and after arguments. An error is one sentence."""

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
        if re.match(r"unrecognized arguments: (.* )?-[0-9.]", message):  # argparse knows -2 as a number, but not -1e3
            message += "; write -- before arguments that begin with -"
        raise UsageError(f"{message}; see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        if file is not None:
            super().print_help(file)
        else:
            show(self.format_help())  # argparse would ignore that it cannot be written

    @property
    def options(self) -> dict[str, Action]:
        """The options by name."""
        return {name: action for action in self._actions for name in action.option_strings}

    @property
    def positionals(self) -> list[Action]:
        """The arguments that have no name."""
        return [action for action in self._actions if not action.option_strings]

    def parse_begun(self, words: Sequence[str]) -> Namespace:
        """Parse the beginning of a command line, of which only the first positional argument is required.

        Raises:
            UsageError: the beginning is wrong already.
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
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (0 < seconds < math.inf):
        raise argparse.ArgumentTypeError(f"expected a number of seconds greater than 0, got {text!r}")
    return seconds


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return number


def _token(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the token is empty")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f'expected "Name: value", got {text!r}')
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
        help="send this header when connecting to a URL; may be repeated",
    )


def add_connection(parser: argparse.ArgumentParser, *, channels: bool = False) -> None:
    """Add the URL, and the options that say how to connect.

    Args:
        channels: let ``--channel`` be given several times.
    """
    parser.add_argument("url", metavar="URL", help="the ws:// or wss:// URL of the server")
    if channels:
        parser.add_argument(
            "--channel", metavar="NAME", action="append", help="only this named channel; may be repeated"
        )
    else:
        parser.add_argument("--channel", metavar="NAME", help="a named channel (default: the main channel)")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_positive,
        help="stop waiting after this time (default: 30 for connecting, 60 for an answer)",
    )
    parser.add_argument(
        "--retry",
        metavar="N",
        type=_count,
        default=0,
        help="try again up to N times, with growing delays, as long as nothing has run",
    )
    parser.add_argument(
        "--answer",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="answer the server's requests for NAME with this value; may be repeated",
    )
    group = parser.add_argument_group("connection")
    add_header(group)
    group.add_argument(
        "--token",
        metavar="TOKEN",
        type=_token,
        help="send this bearer token (default: the environment variable WSRPC_TOKEN, which other users cannot see)",
    )
    group.add_argument(
        "--subprotocol", metavar="NAME", action="append", help="offer this subprotocol; may be repeated, best first"
    )
    group.add_argument("--cacert", metavar="FILE", help="trust the authorities in FILE, instead of the system's")
    group.add_argument("--cert", metavar="FILE", help="the client's certificate; its key, too, without --key")
    group.add_argument("--key", metavar="FILE", help="the key of the client's certificate")
    group.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    group.add_argument("--compress", action="store_true", help="offer to compress messages")
    group.add_argument(
        "--profile",
        choices=("go", "ws-wrapper-3"),
        help="the other side: ws-server-wrapper-go, or ws-wrapper 3, which has no streams",
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
    """Add the options of an upload."""
    parser.add_argument(
        "--send", metavar="FILE", help="upload the items in FILE; an argument - uploads items from stdin instead"
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
