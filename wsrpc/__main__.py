"""The command ``python -m wsrpc types app:server -o events.d.ts``: events as TypeScript or as JSON Schema."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import msgspec

from ._loading import CannotLoad, load
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
    types.add_argument(
        "target", metavar="module:name", help="the server, such as app:server, or a function that returns it"
    )
    types.add_argument("-o", "--output", metavar="FILE", type=Path, help="write to this file instead of stdout")
    types.add_argument("--json", action="store_true", help="JSON Schema instead of TypeScript")
    types.add_argument("--check", action="store_true", help="write nothing; exit with 1 if FILE is not up to date")
    return parser


def _text(description: Description, as_json: bool) -> str:
    if as_json:
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
    try:
        with redirect_stdout(sys.stderr):  # output of the application must not get into the file
            loaded = load(options.target)
        description = describe(loaded)
    except CannotLoad as exc:
        _complain(f"{exc}")
        return 2
    for event in description.events:
        where = event.event if event.channel is None else f"{event.channel}:{event.event}"
        for note in event.notes:
            _complain(f"{where}: {note}")
    text = _text(description, options.json)
    if output is None:
        stdout: Any = sys.stdout
        if isinstance(stdout, TextIOWrapper):
            stdout.reconfigure(encoding="utf-8")  # as in a file, whatever the locale
        stdout.write(text)
        return 0
    try:
        if options.check:
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
