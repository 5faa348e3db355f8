"""The commands ``python -m wsrpc types`` and ``client``: events as TypeScript, and as a Python client."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import msgspec

from ._asking import ask
from ._codegen.checking import InvalidDescription, check_description
from ._loading import CannotLoad, load, read
from .python_client import client_module
from .schema import Description, describe
from .typescript import declarations

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wsrpc")
    commands = parser.add_subparsers(dest="command", required=True)
    types = commands.add_parser(
        "types",
        help="declare a server's events for TypeScript",
        description="Write TypeScript declarations of the events that a server, client or router has handlers for.",
    )
    types.add_argument("--json", action="store_true", help="JSON Schema instead of TypeScript")
    client = commands.add_parser(
        "client",
        help="make a Python client for a server",
        description="Write a Python module with the types of a server, and a typed proxy for each of its channels.",
    )
    client.add_argument(
        "--models",
        choices=("structs", "dataclasses"),
        default="structs",
        help="make the types msgspec.Structs (the default), or dataclasses where that is possible",
    )
    for command in (types, client):
        command.add_argument(
            "target",
            metavar="TARGET",
            help="a server in a module, such as app:server, or a function that returns it; a description in a .json "
            "file; or the ws:// or wss:// URL of a server that offers its description",
        )
        command.add_argument("-o", "--output", metavar="FILE", type=Path, help="write to this file instead of stdout")
        command.add_argument(
            "--check", action="store_true", help="write nothing; exit with 1 if FILE is not up to date"
        )
        command.add_argument(
            "--header",
            metavar='"NAME: VALUE"',
            type=_header,
            action="append",
            default=[],
            help="a header of the request that connects to a URL; may be repeated",
        )
    return parser


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f'a header is "Name: value", got {text!r}')
    return name.strip(), value.strip()


def _description(target: str, headers: Mapping[str, str]) -> Description:
    """Return the description of what ``target`` names.

    Raises:
        CannotLoad, InvalidDescription: there is none; the text says why.
    """
    if "://" in target:
        found: Any = ask(target, headers)
    elif target.endswith(".json"):
        found = read(target)
    else:
        with redirect_stdout(sys.stderr):  # output of the application must not get into the file
            loaded = load(target)
        return describe(loaded)
    if found.__class__ is dict:
        found = {"emits": [], **found}  # of a wsrpc that described no events that are emitted
    try:
        description = msgspec.convert(found, Description)
    except msgspec.ValidationError as exc:
        raise InvalidDescription(f"{exc}") from exc
    check_description(description)
    return description


def _text(options: argparse.Namespace, description: Description) -> str:
    if options.command == "client":
        return client_module(description, models=options.models)
    if options.json:
        return msgspec.json.format(msgspec.json.encode(description), indent=2).decode() + "\n"
    return declarations(description)


def _complain(text: str) -> None:
    sys.stderr.write(f"wsrpc: {text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0; 1 if a file is not up to date; 2 for an error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    output: Path | None = options.output
    if options.check and output is None:
        parser.error("--check compares with a file: say which, with -o")
    if options.header and "://" not in options.target:
        parser.error("--header is for the URL of a server")
    try:
        description = _description(options.target, dict(options.header))
        text = _text(options, description)
    except CannotLoad as exc:
        _complain(f"{exc}")
        return 2
    except InvalidDescription as exc:
        _complain(f"{options.target} has no usable description: {exc}")
        return 2
    for event in description.events:
        where = event.event if event.channel is None else f"{event.channel}:{event.event}"
        for note in event.notes:
            _complain(f"{where}: {note}")
    return _print(text) if output is None else _write(text, output, check=options.check)


def _print(text: str) -> int:
    stdout: Any = sys.stdout
    if isinstance(stdout, TextIOWrapper):
        stdout.reconfigure(encoding="utf-8")  # as in a file, whatever the locale
    stdout.write(text)
    return 0


def _write(text: str, output: Path, *, check: bool) -> int:
    try:
        if check:
            current = output.read_text("utf-8", errors="replace") if output.exists() else None
            if current == text:
                return 0
            _complain(f"{output} is not up to date")
            return 1
        output.write_text(text, "utf-8", newline="\n")
    except OSError as exc:
        _complain(f"{output}: {exc.strerror}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
