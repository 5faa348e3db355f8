"""The commands ``types`` and ``client``, which write a server's events as TypeScript and as a Python client."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

import msgspec

from .._codegen.checking import InvalidDescription
from ..errors import printable
from ..python_client import client_module
from ..schema import Description, describe
from ..typescript import declarations
from .asking import ask, checked, written
from .failures import USAGE, Failure, UsageError
from .loading import load, read
from .options import Command, Parser, add_header
from .running import complain, show

__all__ = ["client", "types"]


def _types_parser() -> Parser:
    parser = _parser(
        "types TARGET", "Write TypeScript declarations of the events that a server, client or router has handlers for."
    )
    parser.add_argument("--json", action="store_true", help="write JSON Schema instead of TypeScript")
    parser.add_argument(
        "--ws-wrapper",
        type=int,
        choices=(3, 4),
        help="the version of ws-wrapper that the client uses (default: 4); version 3 has no streams, uploads "
        "and conversations, so they are left out",
    )
    return parser


def _client_parser() -> Parser:
    parser = _parser(
        "client TARGET", "Write a Python module with the types of a server, and a typed proxy for each of its channels."
    )
    parser.add_argument(
        "--models",
        choices=("structs", "dataclasses"),
        default="structs",
        help="make the types msgspec.Structs (the default), or dataclasses where that is possible",
    )
    return parser


def _parser(usage: str, about: str) -> Parser:
    parser = Parser(usage, about)
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="a server in a module, such as app:server, or a function that returns it; a description in a .json "
        "file; or the ws:// or wss:// URL of a server that offers its description",
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write to this file instead of stdout")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if FILE is not up to date")
    add_header(parser)
    return parser


def _types(options: argparse.Namespace) -> int:
    if options.json and options.ws_wrapper is not None:
        raise UsageError("--ws-wrapper is for TypeScript: leave out --json")
    version: Literal[3, 4] = options.ws_wrapper or 4
    return _generate(
        options, _as_json if options.json else lambda description: declarations(description, ws_wrapper=version)
    )


def _client(options: argparse.Namespace) -> int:
    return _generate(options, lambda description: client_module(description, models=options.models))


def _generate(options: argparse.Namespace, text_of: Callable[[Description], str]) -> int:
    """Write what ``text_of`` makes of the description, and return the exit code."""
    output: Path | None = options.output
    if options.check and output is None:
        raise UsageError("--check compares with a file: say which, with -o")
    if options.header and "://" not in options.target:
        raise UsageError("--header is for the URL of a server")
    try:
        description = _description(options)
        text = written(lambda: text_of(description))
    except InvalidDescription as exc:
        raise UsageError(f"{options.target} has no usable description: {exc}") from exc
    for event in description.events:
        where = event.event if event.channel is None else f"{event.channel}:{event.event}"
        for note in event.notes:
            complain(f"{where}: {note}")
    if output is not None:
        return _write(text, output, check=options.check)
    show(text)
    return 0


def _description(options: argparse.Namespace) -> Description:
    target: str = options.target
    if "://" in target:
        try:
            return checked(ask(target, dict(options.header)))
        except Failure as exc:  # 1 says that a file is not up to date
            raise UsageError(f"{exc}") from exc
    if target.endswith(".json"):
        return checked(read(target))
    with redirect_stdout(sys.stderr):  # output of the application must not get into the file
        loaded = load(target)
    return describe(loaded)


def _as_json(description: Description) -> str:
    return printable(msgspec.json.format(msgspec.json.encode(description), indent=2).decode()) + "\n"


def _write(text: str, output: Path, *, check: bool) -> int:
    try:
        if check:
            current = output.read_text("utf-8", errors="replace") if output.exists() else None
            if current == text:
                return 0
            complain(f"{output} is not up to date")
            return 1
        output.write_text(text, "utf-8", newline="\n")
    except OSError as exc:
        complain(f"{output}: {exc.strerror}")
        return USAGE
    return 0


types = Command(_types_parser, _types)
client = Command(_client_parser, _client)
